"""Bodies of `qwenlab.pose` as the drawn world draws them: training data of a pose condition, and its judges."""
