"""Seams: nothing to see in a true drawing, an offset along the edge is seen, and where nothing can be said."""

import numpy as np
import pytest

from qwenlab.lab.editing.seams import seam_ratio, steps_across

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (12, 16, 16, 3), np.uint8)
INSIDE = np.zeros((16, 16), bool)
INSIDE[4:12, 8:] = True


def test_only_steps_across_the_edge_count():
    image = np.zeros((16, 16, 3), np.uint8)
    image[INSIDE] = 10
    assert steps_across(image, INSIDE) == 10 * (8 + 8 + 8)  # left, above and below; the right is the picture's edge
    image[0, 0] = 200
    assert steps_across(image, INSIDE) == 10 * 24


def test_an_edge_that_is_drawn_stronger_raises_the_ratio():
    true = np.array([steps_across(image // 2, INSIDE) for image in PICTURES])
    drawn = np.array([steps_across(image, INSIDE) for image in PICTURES])
    found = seam_ratio(drawn, true)
    assert found.value == pytest.approx(2, abs=0.05) and found.low > 1.9


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="shape"):
        steps_across(PICTURES[0], INSIDE[:4])
    for region in (INSIDE & False, INSIDE | True):
        with pytest.raises(ValueError, match="edge"):
            steps_across(PICTURES[0], region)
    with pytest.raises(ValueError, match="flat"):
        seam_ratio(np.ones(4), np.zeros(4))
