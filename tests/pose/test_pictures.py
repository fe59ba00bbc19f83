"""The mannequin, its animations, and the page of sliders."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.pose.body import INDEX
from qwenlab.pose.camera import Camera
from qwenlab.pose.limits import beyond_limits
from qwenlab.pose.mannequin import PAPER, draw_mannequin, turntable, walk_cycle
from qwenlab.pose.motion import action
from qwenlab.pose.studio import SLIDERS, PoseStudio


@pytest.fixture(scope="module")
def studio():
    return PoseStudio("张开双臂")


def test_the_mannequin_stands_where_its_joints_are():
    body, camera = action("张开双臂"), Camera()
    picture = np.asarray(draw_mannequin(body, camera, 96)).astype(int)
    assert picture.shape == (96, 96, 3)
    places = camera.project(body.joints(), 96)
    for name in ("left_hand", "right_hand", "left_knee", "head"):
        x, y, _ = places[INDEX[name]].int().tolist()
        assert np.abs(picture[y, x] - PAPER).max() > 20, name
    assert picture[2, 2].tolist() == list(PAPER)


def test_its_face_looks_where_it_looks():
    body = action("站立")
    front, back = (np.asarray(draw_mannequin(body, Camera(yaw=yaw), 128)).astype(int) for yaw in (0, 180))
    head = (slice(20, 55), slice(45, 83))
    dark = [(view[head].max(-1) < 110).sum() for view in (front, back)]
    assert dark[0] > dark[1] + 8, "eyes are seen from the front alone"


def test_animations_move_and_return():
    turn, steps = turntable(action("挥手"), frames=4, size=64), walk_cycle(frames=4, size=64)
    for shown in (turn, steps):
        picture = Image.open(io.BytesIO(shown.to_bytes()))
        assert picture.format == "PNG" and picture.n_frames == 4 and picture.info["loop"] == 0
        frames = []
        for number in range(4):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")).astype(int))
        assert all(np.abs(a - b).mean() > 0.5 for a, b in zip(frames, frames[1:], strict=False))
        assert max(np.abs(a - np.asarray(b)).mean() for a, b in zip(frames, shown.frames, strict=True)) < 4


def test_sliders_bend_the_body_within_its_limits(studio):
    before, picture = studio.body.joints(), studio.picture.value
    studio.sliders["left arm: bend elbow"].value = 90
    after = studio.body.joints()
    moved = (after - before).norm(dim=-1)
    assert moved[INDEX["left_wrist"]] > 0.1 and moved[INDEX["right_wrist"]] == 0
    assert studio.picture.value != picture
    for slider in studio.sliders.values():
        with slider.hold_trait_notifications():
            studio._quiet = True
            slider.value = slider.max
    studio._quiet = False
    assert beyond_limits(studio.body.rotations).max() == 0
    studio.reset.click()
    assert torch.allclose(studio.body.joints(), before, atol=1e-5)


@pytest.mark.parametrize("words", [words for words in SLIDERS if words.startswith("right")])
def test_both_sides_bend_alike(studio, words):
    """On a symmetric pose the same slider of the other side does the same in the mirror."""
    joints = []
    for side in ("right", "left"):
        slider = studio.sliders[words.replace("right", side)]
        studio._quiet = True
        slider.value = 30
        joints.append(studio.body.joints())
        slider.value = 0
        studio._quiet = False
    swap = [INDEX[name.replace("left", "?").replace("right", "left").replace("?", "right")] for name in INDEX]
    assert torch.allclose(joints[0][swap] * torch.tensor([-1.0, 1, 1]), joints[1], atol=1e-5)


def test_sliders_say_what_they_do(studio):
    rest = studio.body.joints()
    for words, joint, axis, sign in (
        ("right arm: raise", "right_wrist", 1, -1),
        ("left arm: forward", "left_wrist", 2, -1),
        ("right leg: forward", "right_knee", 2, -1),
        ("left leg: outward", "left_ankle", 0, 1),
        ("lean forward", "neck", 2, -1),
    ):
        studio._quiet = True
        studio.sliders[words].value = 30
        assert (studio.body.joints() - rest)[INDEX[joint], axis] * sign > 0.02, words
        studio.sliders[words].value = 0
        studio._quiet = False


def test_a_page_without_widgets_shows_the_figure(studio, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(("gone", data))

    def display(value, metadata=None, raw=False, display_id=False):
        shown.append((value, metadata))
        return Handle() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    studio._ipython_display_()
    (picture, metadata), (words, _), (widget, _) = shown
    assert any(kind.startswith("image/") for kind in picture) and "mannequin (arms spread)" in words["text/plain"]
    assert widget is studio.widget and next(iter(metadata.values()))["alt"]
    studio._stand_in.remove()  # a browser says that the widgets run
    assert [kind for kind, _ in shown[3:]] == ["gone", "gone"]
    assert studio.pose.size == (512, 512) and studio.pose.depth is not None
