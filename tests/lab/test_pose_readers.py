"""Readers of poses: their examples, losses and decoding; a training that was stopped goes on to the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwenlab.errors import QwenlabError
from qwenlab.lab import world
from qwenlab.lab.pose.calibrate_readers import measure_joints, measure_limbs
from qwenlab.lab.pose.drawing import FULL, draw_body
from qwenlab.lab.pose.reader_examples import UNKNOWN, Examples, answers, examples
from qwenlab.lab.pose.readers import (
    JointNet,
    LimbNet,
    heat_targets,
    joint_places,
    load_joint_net,
    load_limb_net,
    read_limbs,
)
from qwenlab.lab.pose.sampling import sample_depth_pair
from qwenlab.lab.pose.scenes import in_scene
from qwenlab.lab.pose.train_readers import batch_loss, joint_loss, limb_loss, train
from qwenlab.pose.camera import Camera
from qwenlab.pose.motion import action


@pytest.fixture(scope="module")
def data() -> Examples:
    return examples(5, 12)


def test_examples_are_a_function_of_their_seed(data):
    again = examples(5, 4)
    assert np.array_equal(again.images, data.images[:4]) and np.array_equal(again.joints, data.joints[:4])


def test_examples_survive_a_file(data, tmp_path):
    data.save(tmp_path / "examples.safetensors")
    read = Examples.load(tmp_path / "examples.safetensors")
    assert all(np.array_equal(value, getattr(read, name)) for name, value in vars(data).items())
    (tmp_path / "examples.safetensors").write_bytes(b"broken")
    with pytest.raises(QwenlabError, match="delete it"):
        Examples.load(tmp_path / "examples.safetensors")


def test_a_missing_arm_is_no_joint_and_a_third_one_makes_them_unknown():
    scene = world.sample_scene(np.random.default_rng(8), action="站立", view="正面", framing="全身", prop="")
    told = {}
    for arms in (1, 3):
        anatomy = world.Anatomy(arms=arms)
        joints, count, legs, before = answers(
            draw_body(scene, action("张开双臂"), Camera(**FULL), anatomy=anatomy), anatomy, "全身"
        )
        told[arms] = joints[[3, 4, 6, 7], 2]
        assert legs == 2 and count in (arms, UNKNOWN) and (before == UNKNOWN).all()
    assert sorted(told[1].tolist())[:2] == [0, 0] and UNKNOWN in told[3]


def test_pairs_tell_which_arm_is_before_the_body():
    rng = np.random.default_rng(6)
    told = []
    for _ in range(3):
        *poses, side = sample_depth_pair(rng)
        for pose, before in zip(poses, (1, 0), strict=True):
            posed = in_scene(rng, pose, "全身", "all")
            answer = answers(posed.draw(), world.Anatomy(), "全身")[3][int(side == "left")]
            assert answer in (before, UNKNOWN)
            told.append(answer)
    assert 0 in told and 1 in told


def test_places_are_finer_than_a_cell():
    points = torch.tensor([[[40.7, 61.2]] * 18])
    logits = (heat_targets(points).clamp(1e-4, 1 - 1e-4)).logit()
    places = joint_places(logits)
    assert (places[..., :2] - points).abs().max() < 0.6 and places[..., 2].min() > 0.8


def test_losses_are_low_for_the_right_answer_alone(data):
    joints = torch.from_numpy(data.joints)
    heat = heat_targets(joints[..., :2]) * (joints[..., 2] == 1)[..., None, None]
    logits = heat.clamp(1e-3, 1 - 1e-3).logit()
    assert joint_loss(logits, joints) < 1e-4 < 0.01 < joint_loss(logits.roll(4, 3), joints)
    arms, legs, before = (torch.from_numpy(values) for values in (data.arms, data.legs, data.before))
    sure = [10 * torch.eye(4)[values.clamp(min=0)] for values in (arms, legs)] + [20.0 * before.clamp(min=0) - 10]
    assert (
        limb_loss(tuple(sure), arms, legs, before) < 0.01 < 1 < limb_loss(tuple(-s for s in sure), arms, legs, before)
    )


def test_unknown_answers_count_nothing():
    read = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 2)
    unknown = torch.full((3,), UNKNOWN)
    assert limb_loss(read, unknown, unknown, torch.full((3, 2), UNKNOWN)) == 0
    assert joint_loss(torch.randn(1, 18, 32, 32), torch.full((1, 18, 3), -1.0)) == 0


@pytest.mark.parametrize("kind", [JointNet, LimbNet])
def test_a_stopped_training_goes_on_to_the_same_bits(kind, data, tmp_path):
    results = []
    for name, stops in (("whole", (None,)), ("parts", (2, None))):
        for stop in stops:
            torch.manual_seed(0)
            network = train(
                kind(), data, 4, 2, tmp_path / f"{name}.safetensors", every=50, stop_at=stop, say=lambda line: None
            )
        results.append(network.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@pytest.mark.parametrize("kind", [JointNet, LimbNet])
def test_a_few_steps_learn_something(kind, data):
    torch.manual_seed(0)
    network = kind()
    before = batch_loss(network, data, 12, 0).item()
    after = batch_loss(train(network, data, 12, 4, say=lambda line: None), data, 12, 0).item()
    assert after < 0.95 * before


def test_measures_have_all_that_the_table_says(data):
    torch.manual_seed(0)
    joints, limbs = measure_joints(JointNet().eval(), data), measure_limbs(LimbNet().eval(), data)
    assert joints["all"]["of"] == int((data.joints[..., 2] == 1).sum())
    assert limbs["arms"]["of"] == int((data.arms != UNKNOWN).sum()) == np.sum(limbs["arms"]["read"])
    assert read_limbs(LimbNet().eval(), data.images).before.shape == (12, 2)


@pytest.mark.parametrize("load", [load_joint_net, load_limb_net])
@pytest.mark.parametrize("name", ["none.safetensors", "other.safetensors"])
def test_a_file_that_is_no_reader_is_one_line(tmp_path: Path, load, name):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(QwenlabError, match="train_readers"):
        load(tmp_path / name)
