"""A body in 3D: places from rotations, limits, named poses, the walk, and the camera."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qwenlab.captions.vocabulary import WORDS
from qwenlab.errors import QwenlabError
from qwenlab.lab.world import skeleton
from qwenlab.lab.world.attributes import sample_scene
from qwenlab.pose.body import (
    INDEX,
    JOINTS,
    PARENTS,
    REST,
    Body,
    blend,
    face_points,
    forward_kinematics,
    mirror,
    pose_matrices,
)
from qwenlab.pose.camera import Camera
from qwenlab.pose.limits import beyond_limits, limited
from qwenlab.pose.motion import ACTIONS, GROUND, action, between, from_directions, grounded, walk
from qwenlab.pose.openpose import POINTS, to_openpose

BOTH = [(name, side) for name in ACTIONS for side in (False, True)]


def turned(joint, vector):
    rotations = torch.zeros(24, 3)
    rotations[INDEX[joint]] = torch.tensor(vector)
    return rotations


def random_rotations(count, spread=1.5):
    return torch.randn(count, 24, 3, generator=torch.Generator().manual_seed(0)) * spread


def bones(joints):
    return (joints[..., 1:, :] - joints[..., list(PARENTS[1:]), :]).norm(dim=-1)


# Forward kinematics


def test_joints_are_smpls():
    assert JOINTS[:4] == ("pelvis", "left_hip", "right_hip", "spine1") and JOINTS[-1] == "right_hand"
    assert PARENTS == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


def test_no_rotation_is_the_rest_pose_and_the_root_moves_all():
    assert torch.equal(Body().joints(), REST)
    moved = Body(root=torch.tensor([0.1, -0.2, 0.3])).joints()
    assert torch.allclose(moved - REST, torch.tensor([0.1, -0.2, 0.3]).expand(24, 3), atol=1e-6)


def test_a_joint_turns_what_hangs_on_it_and_nothing_else():
    # A quarter turn about +y takes the left forearm from the side to the front, towards the viewer.
    joints = forward_kinematics(turned("left_elbow", (0.0, math.pi / 2, 0.0)))
    elbow, wrist, hand = (joints[INDEX[f"left_{name}"]] for name in ("elbow", "wrist", "hand"))
    assert torch.allclose(wrist - elbow, torch.tensor([0, 0, -0.12]), atol=1e-6)
    assert torch.allclose(hand - wrist, torch.tensor([0, 0, -0.07]), atol=1e-6)
    still = [number for number, name in enumerate(JOINTS) if name not in ("left_wrist", "left_hand")]
    assert torch.allclose(joints[still], REST[still], atol=1e-6)


def test_rotations_add_up_along_the_chain():
    rotations = turned("left_shoulder", (0.0, math.pi / 2, 0.0)) + turned("left_elbow", (0.0, math.pi / 2, 0.0))
    joints = forward_kinematics(rotations)
    forearm = joints[INDEX["left_wrist"]] - joints[INDEX["left_elbow"]]
    assert torch.allclose(forearm, torch.tensor([-0.12, 0, 0]), atol=1e-6), "half a turn: back to the chest"


def test_batches_are_bodies_one_by_one_and_bones_keep_their_length():
    rotations, root = random_rotations(6).view(2, 3, 24, 3), torch.randn(2, 3, 3)
    joints = forward_kinematics(rotations, root)
    assert joints.shape == (2, 3, 24, 3)
    assert torch.allclose(joints[1, 2], forward_kinematics(rotations[1, 2], root[1, 2]), atol=1e-5)
    assert torch.allclose(bones(joints), bones(REST).expand(2, 3, 23), atol=1e-5)


def test_places_have_gradients_in_rotations():
    rotations = torch.zeros(24, 3, dtype=torch.float64, requires_grad=True)
    forward_kinematics(rotations)[INDEX["left_hand"]].sum().backward()
    moved = rotations.grad.abs().sum(1) > 1e-6
    assert moved[INDEX["left_elbow"]] and moved[INDEX["spine2"]] and not moved[INDEX["right_elbow"]]


def test_the_face_turns_with_the_head():
    nose, right_eye, left_eye, *_ = face_points(turned("head", (0.0, -math.pi / 2, 0.0)))
    assert nose[0] > 0.14 and abs(nose[2]) < 1e-6, "to the figure's left, the viewer's right"
    assert right_eye[2] < left_eye[2], "the right eye is nearer"


def test_poses_of_smpl_are_read_in_its_axes():
    pose = np.zeros((24, 3))
    pose[INDEX["left_shoulder"]] = (0, 0, -math.pi / 2)  # SMPL: the left arm down, z is forward
    body = Body.from_smpl(pose.flatten(), (0, 0.5, 0))
    arm = body.joints()[INDEX["left_wrist"]] - body.joints()[INDEX["left_shoulder"]]
    assert torch.allclose(arm, torch.tensor([0, 0.242, 0]), atol=1e-6) and body.root.tolist() == [0, -0.5, 0]
    with pytest.raises(QwenlabError, match="165 numbers, and 72"):
        Body.from_smpl(np.zeros(165))


@pytest.mark.parametrize(
    ("rotations", "root", "said"),
    [
        (torch.zeros(23, 3), torch.zeros(3), "rotations of a body: .23, 3. numbers"),
        (torch.zeros(24, 3), torch.zeros(2), "root of a body"),
        (torch.full((24, 3), math.nan), torch.zeros(3), "NaN"),
        (torch.zeros(24, 3), torch.tensor([0, math.inf, 0]), "infinite"),
    ],
)
def test_what_is_no_body_is_refused(rotations, root, said):
    with pytest.raises(QwenlabError, match=said):
        Body(rotations, root)


# Between poses


def test_blend_goes_from_one_to_the_other_at_constant_speed():
    first, second = action("站立"), Body(action("挥手").rotations, torch.tensor([0.2, 0.0, 0.0]))
    for share, body in ((0.0, first), (1.0, second)):
        assert torch.allclose(blend(first, second, share).joints(), body.joints(), atol=1e-5)
    bent = Body(turned("left_elbow", (0.0, 1.2, 0.0)))
    quarter = blend(Body(), bent, 0.25)
    assert torch.allclose(quarter.rotations[INDEX["left_elbow"]], torch.tensor([0, 0.3, 0]), atol=1e-5)
    assert torch.allclose(blend(first, second, 0.5).root, torch.tensor([0.1, 0, 0]))


def test_a_mirrored_body_stands_where_the_mirror_shows_it():
    body = Body(random_rotations(1, 0.6)[0], torch.tensor([0.1, 0.2, 0.3]))
    swapped = [INDEX[{"left": "right", "right": "left"}.get(n.split("_")[0], "") + n[n.find("_") :]] if "_" in n else i
               for i, n in enumerate(JOINTS)]  # fmt: skip
    expected = body.joints()[swapped] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(mirror(body).joints(), expected, atol=1e-5)
    assert torch.allclose(mirror(mirror(body)).rotations, body.rotations)


@pytest.mark.parametrize("end", [(0, -1, 0), (0, 1, 0), (1, 0, 0), (0.6, 0, -0.8)])
def test_between_turns_one_direction_into_the_other(end):
    start, end = torch.tensor([0.0, 1.0, 0.0]), torch.tensor(end, dtype=torch.float32)
    rotation = between(start, end)
    assert torch.allclose(rotation @ start, end, atol=1e-6)
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6) and torch.det(rotation) > 0.99


def test_limbs_point_where_they_are_told_below_a_turned_trunk():
    upper, lower = torch.tensor([0.3, 0.2, -0.9]), torch.tensor([0.1, -1.0, -0.2])
    body = from_directions({"left_arm": (upper, lower)}, spine={"spine1": (0.2, 0.3, 0.1)})
    joints = body.joints()
    for ends, told in ((("left_shoulder", "left_elbow"), upper), (("left_elbow", "left_wrist"), lower)):
        bone = joints[INDEX[ends[1]]] - joints[INDEX[ends[0]]]
        assert torch.allclose(bone / bone.norm(), told / told.norm(), atol=1e-5)
    _, axis, _ = body.rotations[INDEX["left_elbow"]]
    assert torch.allclose(body.rotations[INDEX["left_elbow"]], torch.tensor([0, axis, 0])), "a hinge has one axis"


# Named poses


class Still:
    """In place of a random generator: nothing moves."""

    def normal(self, *_):
        return 0.0


def drawn(name, side):
    """(18, 2) pixels of 128 where the drawn world has the points of an action."""
    scene = replace(sample_scene(np.random.default_rng(0)), action=name, prop="", hands="五指张开", framing="全身",
                    view="侧面" if side else "正面")  # fmt: skip
    return (skeleton.pose(scene, Still()).body - [0, 0.5]) * 0.86 * 128 + [64, 0.535 * 128]


@pytest.mark.parametrize(("name", "side"), BOTH)
def test_actions_lie_where_the_drawn_world_has_them(name, side):
    """Measured: from the front 0.1 pixels of 128 on average and at most 1.4; from the side 1.0 and 3.2 (an ear)."""
    points = to_openpose(action(name, side), Camera(yaw=80.0 * side), 128).points[:, :2]
    apart = np.linalg.norm(points - drawn(name, side), axis=1)
    assert apart.mean() < (1.5 if side else 0.6) and apart.max() < (3.3 if side else 1.5), POINTS[apart.argmax()]
    limbs = [POINTS.index(f"{half}_{part}") for half in ("left", "right") for part in ("elbow", "wrist", "ankle")]
    assert apart[limbs].max() < (3.1 if side else 1.5), POINTS[limbs[apart[limbs].argmax()]]


def test_actions_are_those_of_the_captions():
    assert set(ACTIONS) == set(WORDS["action"]) and POINTS == skeleton.BODY_JOINTS
    with pytest.raises(QwenlabError, match="action '飞': not among the ten"):
        action("飞")


@pytest.mark.parametrize("side", [False, True])
def test_hands_are_before_the_body_when_reading_and_behind_it_when_held_there(side):
    wrists = [INDEX["left_wrist"], INDEX["right_wrist"]]
    assert action("看书", side).joints()[wrists, 2].max() < -0.03
    assert action("背着手", side).joints()[wrists, 2].min() > 0.03


# Limits


@pytest.mark.parametrize(("name", "side"), BOTH)
def test_actions_are_within_the_limits(name, side):
    beyond = beyond_limits(action(name, side).rotations)
    assert beyond.max() == 0, JOINTS[beyond.argmax()]


def test_limited_joints_are_within_and_stay_there():
    rotations = random_rotations(200)
    inside = limited(rotations)
    assert (beyond_limits(rotations).amax(0) > 10).all(), "every joint was turned beyond its limits somewhere"
    assert beyond_limits(inside).max() == 0 and torch.allclose(limited(inside), inside, atol=1e-4)


@pytest.mark.parametrize(
    ("joint", "vector", "allowed"),
    [
        ("left_elbow", (0.0, 2.0, 0.0), True),
        ("left_elbow", (0.0, -0.6, 0.0), False),
        ("right_elbow", (0.0, -2.0, 0.0), True),
        ("right_elbow", (0.0, 0.6, 0.0), False),
        ("left_elbow", (0.0, 0.5, 0.5), False),
        ("left_knee", (2.0, 0.0, 0.0), True),
        ("right_knee", (-0.6, 0.0, 0.0), False),
        ("left_hip", (-1.6, 0.0, 0.0), True),
        ("left_hip", (1.6, 0.0, 0.0), False),
        ("left_shoulder", (0.0, 0.0, 1.57), True),
        ("left_shoulder", (3.0, 0.0, 0.0), False),
        ("neck", (0.0, 0.7, 0.0), True),
        ("neck", (0.0, 1.6, 0.0), False),
    ],
)
def test_a_joint_turns_so_far(joint, vector, allowed):
    beyond = beyond_limits(turned(joint, vector))
    assert (beyond[INDEX[joint]] == 0) == allowed
    beyond[INDEX[joint]] = 0
    assert beyond.max() == 0


# The walk


def test_a_walk_returns_and_its_second_half_mirrors_the_first():
    for phase in np.linspace(0, 0.5, 7):
        here = walk(phase)
        assert torch.allclose(walk(phase + 1).joints(), here.joints(), atol=1e-5)
        assert torch.allclose(mirror(walk(phase + 0.5)).joints(), here.joints(), atol=1e-5)


def test_a_walking_foot_is_on_the_ground_and_the_other_swings_past_it():
    ankles = torch.stack([walk(phase).joints()[[INDEX["left_ankle"], INDEX["right_ankle"]]] for phase in
                          np.arange(0, 1, 0.05)])  # fmt: skip
    assert ((ankles[:, :, 1].amax(1) - GROUND).abs() < 0.05).all()
    stride = ankles[:, 1, 2] - ankles[:, 0, 2]
    assert stride[0] < -0.2 < 0.2 < stride[10], "right in front at 0, left at half time"
    arms = walk(0.0).joints()[[INDEX["left_wrist"], INDEX["right_wrist"]], 2]
    assert arms[0] < arms[1] - 0.1, "the left arm goes with the right leg"
    assert max(beyond_limits(walk(phase).rotations).max() for phase in np.arange(0, 1, 0.1)) == 0


def test_speed_has_no_jumps():
    joints = torch.stack([walk(phase).joints() for phase in np.arange(0, 1.05, 0.05)])
    assert (joints[1:] - joints[:-1]).norm(dim=-1).max() < 0.12


def test_grounded_puts_the_lower_foot_on_the_floor():
    floating = Body(action("跳跃").rotations, torch.tensor([0.0, -0.4, 0.0]))
    joints = grounded(floating).joints()
    feet = joints[[INDEX["left_ankle"], INDEX["right_ankle"]], 1].max() - GROUND
    toes = joints[[INDEX["left_foot"], INDEX["right_foot"]], 1].max() - REST[INDEX["left_foot"], 1]
    assert abs(max(feet, toes)) < 1e-6


# The camera


def test_yaw_turns_the_figure_to_the_viewers_right():
    body = action("站立")
    front, right, back = (to_openpose(body, Camera(yaw=yaw), 100) for yaw in (0, 90, 180))
    nose, left, right_shoulder = (POINTS.index(name) for name in ("nose", "left_shoulder", "right_shoulder"))
    assert front.points[left, 0] > 50 > front.points[right_shoulder, 0] and front.depth[nose] < -0.1
    assert right.points[nose, 0] > 55 and right.depth[right_shoulder] < -0.09 < 0.09 < right.depth[left]
    assert back.points[left, 0] < 50 and back.depth[nose] > 0.1


def test_pixels_scale_with_the_picture_and_follow_centre_and_scale():
    joints = action("挥手").joints()
    small, large = (Camera(yaw=30).project(joints, size) for size in (128, 512))
    assert torch.allclose(small[:, :2] * 4, large[:, :2], atol=1e-3) and torch.equal(small[:, 2], large[:, 2])
    wide = Camera().project(joints, (200, 100))
    square = Camera().project(joints, 100)
    assert torch.allclose(wide - square, torch.tensor([50.0, 0, 0]).expand(24, 3), atol=1e-4)
    top, soles = torch.tensor([[0.0, 0, 0]]), torch.tensor([[0.0, 1, 0]])
    camera = Camera(scale=0.5, centre=(0.25, 0.5))
    assert camera.project(top, 100)[0].tolist() == [25, 25, 0] and camera.project(soles, 100)[0, 1] == 75


@pytest.mark.parametrize("camera", [{"yaw": math.nan}, {"scale": 0}, {"centre": (0.5, math.inf)}])
def test_a_camera_needs_numbers(camera):
    with pytest.raises(QwenlabError, match="of the camera"):
        Camera(**camera)


def test_world_rotations_are_products_of_those_above():
    rotations = random_rotations(1)[0]
    _, world = pose_matrices(rotations, None)
    assert torch.allclose(world @ world.transpose(-1, -2), torch.eye(3).expand(24, 3, 3), atol=1e-5)
