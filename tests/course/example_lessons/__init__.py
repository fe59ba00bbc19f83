"""Exercises for the tests of the machinery, made of what lessons 01 and 02 teach."""
