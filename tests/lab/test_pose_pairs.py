"""Poses to train on and poses kept out; captions; the data set of pictures and skeletons; pairs of equal points."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lab import world
from qwenlab.lab.pose.pairs import control_picture, training_scene, write_pairs
from qwenlab.lab.pose.sampling import APART, sample_pose, thigh_angle, unseen_region
from qwenlab.lab.pose.scenes import NEUTRAL, WORDS, held_out_pairs, held_out_scenes, nearest_word, skeleton_of
from qwenlab.pose.body import INDEX
from qwenlab.pose.camera import Camera
from qwenlab.pose.limits import beyond_limits
from qwenlab.pose.motion import action


@pytest.fixture(scope="module")
def poses():
    rng = np.random.default_rng(4)
    return [sample_pose(rng, framing="半身" if k % 3 == 0 else "全身") for k in range(16)]


def test_training_has_no_pose_of_the_regions(poses):
    assert not any(unseen_region(pose.body) for pose in poses)
    assert max(thigh_angle(pose.body) for pose in poses) <= APART


def test_joints_stay_within_their_limits(poses):
    rotations = torch.stack([pose.body.rotations for pose in poses])
    assert beyond_limits(rotations).max() <= 1.0


def test_cameras_see_the_front_or_a_profile(poses):
    turned = np.array([pose.camera.yaw for pose in poses])
    assert np.minimum(np.abs(turned), np.abs(np.abs(turned) - 90)).max() <= 20
    assert {pose.view for pose in poses} == {"正面", "侧面"}


def test_poses_differ_in_all_limbs(poses):
    places = np.stack([pose.body.joints().numpy() for pose in poses])
    for name in ("right_wrist", "left_wrist"):
        assert places[:, INDEX[name]].std(0).max() > 0.06, name
    for name in ("right_ankle", "left_ankle"):
        assert places[:, INDEX[name]].std(0).max() > 0.03, name


@pytest.mark.parametrize("region", ["arms", "lunge"])
def test_a_region_is_sampled_on_request(region):
    rng = np.random.default_rng(1)
    assert {unseen_region(sample_pose(rng, region=region).body) for _ in range(3)} == {region}


def test_held_out_scenes_are_of_held_out_combinations_and_half_of_unseen_regions():
    scenes = held_out_scenes(4, seed=3)
    assert [unseen_region(posed.pose.body) for posed in scenes] == ["", "arms", "", "lunge"]
    assert all(world.is_held_out(posed.scene) and posed.scene.action == NEUTRAL for posed in scenes)


def test_pairs_have_equal_points_and_another_arm_before_the_body():
    for before, behind, side in held_out_pairs(2, seed=2):
        first, second = before.points(), behind.points()
        assert np.abs(first.points - second.points).max() < 0.02
        wrist = 4 if side == "right" else 7
        assert first.depth[wrist] < 0 < second.depth[wrist]
        pictures = [control_picture(posed, condition=kind) for kind in "ab" for posed in (before, behind)]
        a, b = (np.abs(np.asarray(x, int) - np.asarray(y)).max() for x, y in (pictures[:2], pictures[2:]))
        assert a <= 2 < 20 < b
        index = 0 if side == "right" else 1
        depths = [skeleton_of(posed.pose.body, posed.pose.camera).depth[index] for posed in (before, behind)]
        assert depths[0] < 0 < depths[1]


@pytest.mark.parametrize("side", [False, True])
def test_the_nearest_word_of_an_action_is_its_own(side):
    camera = Camera(yaw=80.0 if side else 8.0)
    assert all(nearest_word(skeleton_of(action(word, side), camera)) == word for word in WORDS)


def test_half_of_the_captions_say_the_neutral_word():
    posed = [training_scene(0, number) for number in range(4)]
    assert all(scene.scene.action == NEUTRAL for scene in posed[::2])
    assert all(scene.scene.action == scene.nearest for scene in posed[1::2])


def test_the_data_set_is_read_as_written(tmp_path):
    assert write_pairs(tmp_path / "a", 3, seed=1) == 3
    rows = [json.loads(line) for line in (tmp_path / "a" / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["control"] for row in rows] == [f"control/{number:05d}.png" for number in range(3)]
    samples = read_dataset(tmp_path / "a").samples
    assert [sample.control.parent.name for sample in samples] == ["control"] * 3
    with Image.open(samples[0].control) as control:
        assert control.size == (128, 128) and np.asarray(control).max() > 200
    write_pairs(tmp_path / "b", 3, seed=1, condition="a")
    for name in ("images/00002.png", "captions.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a/control/00002.png").read_bytes() != (tmp_path / "b/control/00002.png").read_bytes()


def test_an_unknown_condition_is_one_line():
    with pytest.raises(QwenlabError, match="condition 'c'"):
        control_picture(training_scene(0, 0), condition="c")
