"""Figures in any pose: which limb is drawn over which, what is covered, and that old drawings stay as they were."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qwenlab.lab import world
from qwenlab.lab.pose.drawing import FULL, GROUND, draw_body, skeleton_of
from qwenlab.lab.world.figure import draw_figure
from qwenlab.lab.world.posed import Limb, TracedCanvas, render_pose
from qwenlab.lab.world.skeleton import LEFT, RIGHT, pose
from qwenlab.lab.world.styles import STYLE_OF
from qwenlab.pose.body import Body
from qwenlab.pose.camera import Camera
from qwenlab.pose.motion import action, from_directions
from qwenlab.pose.openpose import to_openpose

FRONT, RIGHTWARD, LEFTWARD = (Camera(**FULL, yaw=yaw) for yaw in (0, 90, -90))
DOWN = (torch.tensor([0.0, 1.0, 0.0]),) * 2


def scene(**changes):
    fixed = {"action": "站立", "view": "正面", "framing": "全身", "prop": "", "hands": "连指手套", 
             "clothes": "红色毛衣", "style": "日系插画"}  # fmt: skip
    return world.sample_scene(np.random.default_rng(8), split="all", **fixed | changes)


def crossing(depth: float) -> Body:
    """The right arm with its hand before (depth < 0) or behind the belly."""
    arms = {"right_arm": (torch.tensor([-0.04, 0.11, 0.2 * depth]), torch.tensor([0.1, 0.03, depth]))}
    return from_directions(arms | {name: DOWN for name in ("left_arm", "left_leg", "right_leg")})


def test_depth_of_the_usual_order_changes_no_pixel():
    rng = np.random.default_rng(0)
    for _ in range(12):
        old = world.sample_scene(rng, split="all", view="正面", hands="长袖遮手", framing="半身", prop="")
        if old.action in ("背着手", "看书"):
            continue
        pictures = []
        for depth in (None, np.array([-1.0, -1.0, 1.0, 1.0])):
            canvas = TracedCanvas(64, STYLE_OF[old.style])
            canvas.place(0.9, 0.5, 0.05)
            bones = pose(old, np.random.default_rng(1))
            draw_figure(canvas, old, replace(bones, depth=depth), world.Anatomy(), np.random.default_rng(2))
            pictures.append(canvas.rgba())
        assert np.array_equal(*pictures)


def test_the_ten_actions_are_drawn_where_the_world_draws_them():
    for name in ("站立", "挥手", "叉腰", "张开双臂", "走路"):
        old = scene(action=name)
        drawn, wanted = draw_body(old, action(name), FRONT).body, world.render(old).body
        assert np.linalg.norm(drawn[:, :2] - wanted[:, :2], axis=1).mean() < 5, name


def test_joints_are_drawn_where_the_condition_has_them():
    for camera, side in ((FRONT, False), (RIGHTWARD, True), (LEFTWARD, True)):
        body = action("走路", side)
        drawn, told = draw_body(scene(), body, camera).body, to_openpose(body, camera, 128).points
        assert np.abs(drawn[1:14, :2] - told[1:14, :2]).max() < 0.01


def test_an_arm_behind_the_body_is_covered():
    before, behind = (draw_body(scene(), crossing(depth), FRONT) for depth in (-0.05, 0.05))
    assert np.abs(before.body[:, :2] - behind.body[:, :2]).max() < 0.01
    assert before.body[4, 2] == 1 and behind.body[4, 2] == 0
    arms = [{limb.side: limb for limb in drawing.limbs if limb.kind == "arm"} for drawing in (before, behind)]
    assert arms[0]["right"].seen > 0.95 > 0.5 > arms[1]["right"].seen
    assert arms[0]["left"].seen > 0.9 and arms[1]["left"].seen > 0.9


@pytest.mark.parametrize("camera, near", [(RIGHTWARD, "right"), (LEFTWARD, "left")])
def test_the_near_arm_of_a_profile_is_the_one_of_that_side(camera, near):
    bones = skeleton_of(action("站立", True), camera)
    assert bones.side and int(np.argmin(bones.depth[:2])) == (RIGHT if near == "right" else LEFT)
    nose = draw_body(scene(), action("站立", True), camera).body[0, 0]
    assert (nose > 64) == (near == "right")


def test_a_turned_head_looks_that_way():
    left, right = (skeleton_of(action("站立"), Camera(**FULL, yaw=yaw)).placed.gaze[0] for yaw in (-20, 20))
    assert left < -0.02 and right > 0.02


def test_hands_that_point_at_the_viewer_still_have_a_direction():
    forward = torch.tensor([0.0, 0.0, -1.0])
    body = from_directions({"right_arm": (forward, forward), "left_arm": (forward, forward)})
    bones = skeleton_of(body, FRONT)
    assert np.allclose(np.linalg.norm(bones.hand_direction, axis=1), 1)
    assert np.allclose((bones.hand_direction * bones.thumb_direction).sum(1), 0, atol=1e-9)


@pytest.mark.parametrize("arms, legs", [(0, 2), (1, 3), (3, 1), (2, 0)])
def test_limbs_are_drawn_in_the_number_that_was_asked_for(arms, legs):
    body = action("张开双臂")
    drawing = draw_body(scene(), body, FRONT, anatomy=world.Anatomy(arms=arms, legs=legs))
    assert sum(limb.kind == "arm" for limb in drawing.limbs) == arms
    assert sum(limb.kind == "leg" for limb in drawing.limbs) == legs
    assert drawing.count("arm") in (arms, None) and drawing.count("leg") in (legs, None)


def test_other_numbers_of_limbs_are_refused():
    with pytest.raises(ValueError, match="arms and legs"):
        world.Anatomy(arms=4)


def test_a_jump_is_off_the_ground_and_a_stand_is_on_it():
    stand, jump = (skeleton_of(action(name), FRONT) for name in ("站立", "跳跃"))
    assert stand.lift == 0 and jump.lift > 0.03
    assert abs(float(stand.feet[..., 1].max()) - GROUND) < 0.03


def test_the_same_pose_is_the_same_drawing_at_every_size():
    bones = skeleton_of(action("挥手"), FRONT)
    small, large = (render_pose(scene(), bones, size, scale=0.86, origin=(0.5, 0.105)) for size in (64, 128))
    assert np.allclose(large.body[:, :2], 2 * small.body[:, :2], atol=1e-2)
    assert np.array_equal(large.body[:, 2], small.body[:, 2])


def test_an_arm_that_another_arm_covers_is_not_called_behind():
    covered, behind = (Limb("arm", "right", seen=0.3, crossing=0.7, over=over) for over in (True, False))
    assert covered.before is None and behind.before is False
    assert Limb("arm", "right", seen=1.0, crossing=0.7, over=True).before is True
    assert Limb("arm", "right", seen=1.0, crossing=0.1, over=True).before is None
