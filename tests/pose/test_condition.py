"""The skeleton picture: as public nets expect it, and with depth."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from qwenlab.errors import QwenlabError
from qwenlab.pose.body import Body, mirror
from qwenlab.pose.camera import Camera
from qwenlab.pose.condition import COLORS, draw_condition
from qwenlab.pose.motion import ACTIONS, action, walk
from qwenlab.pose.openpose import LIMBS, POINTS, Pose2D, to_openpose


def of_controlnet_aux(pose):
    """The same points as the package that made the training pictures of public nets draws them, (H, W, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose.body import Keypoint
        from controlnet_aux.open_pose.util import draw_bodypose
    width, height = pose.size
    points = [Keypoint(x / width, y / height) if seen else None for x, y, seen in pose.points]
    return draw_bodypose(np.zeros((height, width, 3), np.uint8), points)


@pytest.mark.parametrize("name", ACTIONS)
def test_pictures_are_those_of_controlnet_aux(name):
    """At the 512 pixels that its lines are made for; only edges differ: its have steps, and ends on whole pixels."""
    pose = to_openpose(action(name), Camera(yaw=20), 512)
    if name == "站立":
        pose = replace(pose, points=pose.points * np.where(np.arange(18) == 4, 0, 1)[:, None])
    ours, theirs = np.asarray(draw_condition(pose)).astype(int), of_controlnet_aux(pose).astype(int)
    apart = np.abs(ours - theirs).max(-1)
    drawn = theirs.max(-1) > 0
    assert (apart > 60).sum() < 0.25 * drawn.sum() and apart[~drawn].mean() < 1
    middles = [pose.points[list(limb), :2].mean(0) for limb in LIMBS if pose.seen[list(limb)].all()]
    for x, y in np.concatenate([middles, pose.points[pose.seen, :2]]).astype(int):
        assert apart[y, x] <= 1, (x, y)


def test_colours_are_their_own_and_swapping_sides_swaps_them():
    assert len(set(COLORS)) == 18
    body = action("张开双臂")
    pose, other = (to_openpose(each, Camera(), 256) for each in (body, mirror(body)))
    assert np.allclose(pose.points, other.points, atol=1e-3), "the pose is symmetric"
    back = to_openpose(body, Camera(yaw=180), 256)
    x, y = pose.points[POINTS.index("right_elbow"), :2].astype(int)
    front_colour, back_colour = (np.asarray(draw_condition(p))[y, x].tolist() for p in (pose, back))
    assert front_colour == list(COLORS[3]) and back_colour == list(COLORS[6])


def crossed(depth):
    """Both forearms cross in the picture; `depth` of the right arm, the left one is at 0."""
    points = np.zeros((18, 3))
    places = {"right_elbow": (30, 60), "right_wrist": (90, 66), "left_elbow": (90, 50), "left_wrist": (30, 76)}
    depths = np.zeros(18)
    for name, place in places.items():
        points[POINTS.index(name)] = (*place, 1)
        depths[POINTS.index(name)] = depth if name.startswith("right") else 0
    return Pose2D(points, (128, 128), depths)


def test_depth_says_what_is_in_front_and_colours_alone_do_not():
    before, behind = crossed(-0.1), crossed(0.1)
    assert draw_condition(before).tobytes() == draw_condition(behind).tobytes()
    near, far = (np.asarray(draw_condition(pose, depth=True)).astype(int) for pose in (before, behind))
    right, left = np.array(COLORS[3]), np.array(COLORS[5])
    middle = near[63, 60], far[63, 60]  # where they cross
    for pixel, colour in zip(middle, (right, left), strict=True):
        assert np.abs(pixel / pixel.max() - colour / 255).max() < 0.05
    assert near[61, 40].max() > far[61, 40].max() + 50, "the nearer arm is brighter, away from the crossing"


def test_without_depth_in_the_figure_both_pictures_have_the_same_limbs():
    pose = replace(to_openpose(action("站立"), Camera(), 256), depth=np.zeros(18))
    flat, deep = (np.asarray(draw_condition(pose, depth=depth)) for depth in (False, True))
    x, y = pose.points[[3, 4], :2].mean(0).astype(int)
    assert flat[y, x].tolist() == deep[y, x].tolist() == [int(0.6 * value) for value in COLORS[3]]


def test_a_pose_without_depth_is_refused():
    with pytest.raises(QwenlabError, match="has no depth: draw it with depth=False"):
        draw_condition(replace(crossed(0.1), depth=None), depth=True)


def test_lines_grow_with_the_picture_and_stay_wide_in_a_small_one():
    pose = to_openpose(action("张开双臂"), Camera(), 128)
    x = int(pose.points[[6, 7], 0].mean())
    widths = {}
    for size in (128, 512, 1024):
        column = np.asarray(draw_condition(pose, size))[:, x * size // 128].max(-1)
        widths[size] = (column > 60).sum()
    assert widths[1024] == pytest.approx(2 * widths[512], abs=2) and widths[512] == pytest.approx(8, abs=2)
    assert widths[128] >= 4
    oblong = draw_condition(pose, (256, 128))
    assert oblong.size == (256, 128) and oblong.mode == "RGB"


def test_limbs_outside_and_limbs_without_an_end_are_left_out():
    body = Body(walk(0.2).rotations)
    outside = to_openpose(body, Camera(centre=(9.0, 0.5)), 128)
    assert np.asarray(draw_condition(outside)).max() == 0
    pose = to_openpose(body, Camera(), 128)
    alone = pose.points * (np.arange(18) == 4)[:, None]
    drawn = np.asarray(draw_condition(replace(pose, points=alone)))
    assert 0 < (drawn.max(-1) > 0).sum() < 60, "a point and no limb"
