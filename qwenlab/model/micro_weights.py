"""Where the shipped weights lie that fit only the micro model: all that the rooms below the laboratory know of it."""

from qwenlab.lab.weights import FOLDER

MICRO_WEIGHTS = FOLDER / "micro"  # a pipeline folder, which `load_pipeline("micro")` reads
HAND_WEIGHTS = FOLDER / "hands"  # pose network, finder and form network of the drawn world
