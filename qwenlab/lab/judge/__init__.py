"""The judge: reads attributes, identity, fingers and feet from a picture, with its own errors measured.

`load_judge().read(images)` gives a `Reading` for each picture; `hand_right_rate` and its neighbours turn readings into
rates with confidence intervals. The judge is an evaluator: no training loss may ever use it (a test guards that).
"""

from qwenlab.lab.judge.rates import (
    Rate,
    attribute_rate,
    attribute_rates,
    corrected_rate,
    foot_right_rate,
    hand_right_rate,
    identity_rate,
    rate,
    wanted,
)
from qwenlab.lab.judge.reading import HandReading, Judge, Reading, load_judge

__all__ = [
    "HandReading", "Judge", "Rate", "Reading", "attribute_rate", "attribute_rates", "corrected_rate", "foot_right_rate",
    "hand_right_rate", "identity_rate", "load_judge", "rate", "wanted",
]  # fmt: skip
