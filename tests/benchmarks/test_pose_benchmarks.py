"""The benchmarks of poses in miniature."""

from benchmarks.pose.condition_through_vae import WAYS, measure
from qwenlab.lab.micro.round_trip import load_vae
from qwenlab.model.micro_weights import MICRO_WEIGHTS


def test_equal_points_cannot_be_told_apart_without_depth():
    vae = load_vae(MICRO_WEIGHTS)
    plain, deep = (measure(*WAYS[way], 8, vae) for way in ("A, 2 pixels", "B, 3 pixels"))
    for name, told in plain.items():
        if name.startswith("before or behind"):
            assert told == 0.5, "both pictures of a pair are the same"
    assert plain["limbs"] > 50 and 0 < plain["limb told from latents"] <= 1
    assert deep["before or behind, from mean colours"] != 0.5, "brightness says which arm is near"
