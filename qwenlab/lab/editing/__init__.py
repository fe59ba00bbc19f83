"""Editing in the drawn world, where the true edited picture exists: the same scene with one value changed."""
