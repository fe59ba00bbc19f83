"""A figure that stands elsewhere, before the same background."""

import numpy as np

from qwenlab.lab import world


def test_the_figure_moves_and_the_background_stays():
    scene = world.sample_scene(np.random.default_rng(3), framing="全身", action="站立")
    middle, left = world.render(scene), world.render(scene, shift=-0.25)
    moved = left.body[:, 0] - middle.body[:, 0]
    assert np.allclose(moved, -32, atol=0.5) and np.allclose(left.body[:, 1], middle.body[:, 1])
    assert np.abs(left.head[0] - middle.head[0] + 32) < 0.5
    assert np.array_equal(left.image[:, 120:], middle.image[:, 120:])
