"""A page of sliders that turn and bend a body, with the skeleton pictures that a pose net would be shown beside it."""

from __future__ import annotations

import math
from typing import Any

import anywidget
import ipywidgets as widgets
import roma
import torch

from qwenlab.captions.vocabulary import WORDS
from qwenlab.pose.body import INDEX, Body
from qwenlab.pose.camera import Camera
from qwenlab.pose.condition import draw_condition
from qwenlab.pose.limits import limited
from qwenlab.pose.mannequin import draw_mannequin
from qwenlab.pose.motion import ACTIONS, action, walk
from qwenlab.pose.openpose import Pose2D, to_openpose
from qwenlab.show import ImageTable, StandIn, encode_image, grid, image_table

SIDE = 224  # pixels of each picture
_SEEN = ("mannequin", "colours alone", "colours and depth")
# slider: (words, joint, axis on the left side of the body, lowest, highest), degrees that are added to the pose
_ARM = (
    ("raise", "shoulder", (0.0, 0.0, -1.0), -90, 180),
    ("forward", "shoulder", (0.0, 1.0, 0.0), -90, 90),
    ("bend elbow", "elbow", (0.0, 1.0, 0.0), -90, 150),
)
_LEG = (
    ("forward", "hip", (-1.0, 0.0, 0.0), -45, 110),
    ("outward", "hip", (0.0, 0.0, -1.0), -20, 60),
    ("bend knee", "knee", (1.0, 0.0, 0.0), -60, 140),
)
_TRUNK = (
    ("lean forward", "spine1", (1.0, 0.0, 0.0), -30, 35),
    ("turn head", "neck", (0.0, -1.0, 0.0), -45, 45),
)
SLIDERS = {
    **{
        f"{side} arm: {words}": (f"{side}_{joint}", *rest) for side in ("right", "left") for words, joint, *rest in _ARM
    },
    **{
        f"{side} leg: {words}": (f"{side}_{joint}", *rest) for side in ("right", "left") for words, joint, *rest in _LEG
    },
    **{words: (joint, *rest) for words, joint, *rest in _TRUNK},
}


class _Shown(anywidget.AnyWidget):
    """Nothing to see: sends a message as soon as it is on a page, which tells that widgets run there."""

    _esm = 'export default { render({ model }) { model.send("shown"); } };'


class PoseStudio:
    """Sliders that bend a body: the last line of a cell, or `display(studio.widget)`.

    Without a front end that runs widgets, a notebook shows `figure()` in its place. What the sliders made is in `body`,
    `camera` and `pose`; joints stay within their limits.

    Attributes, all widgets: start (the pose to begin with), yaw, sliders (a dictionary by the names of SLIDERS).
    """

    def __init__(self, name: str = "挥手") -> None:
        self._stand_in = StandIn()
        names = [(WORDS["action"][word], word) for word in ACTIONS] + [("in mid-step", "step")]
        self.start = widgets.Dropdown(options=names, value=name, description="pose")
        self.yaw = widgets.IntSlider(0, -180, 180, description="turn", continuous_update=False)
        self.sliders = {
            words: widgets.IntSlider(0, low, high, continuous_update=False, layout={"width": "14em"})
            for words, (_, _, low, high) in SLIDERS.items()
        }
        self.reset = widgets.Button(description="Straighten", icon="undo", tooltip="All sliders back to 0")
        self.picture = widgets.Image(format="png", layout={"max_width": "100%"})
        self._shown = _Shown()
        self._quiet = False
        for field in (self.start, self.yaw, *self.sliders.values()):
            field.observe(lambda _: self._show(), "value")
        self.reset.on_click(lambda _: self._straighten())
        self._shown.on_msg(lambda *_: self._stand_in.remove())
        self.widget = self._layout()
        self._show()

    @property
    def body(self) -> Body:
        """The pose of `start` with what the sliders add, within the limits of the joints."""
        start = walk(0.1) if self.start.value == "step" else action(self.start.value)
        turns = roma.rotvec_to_rotmat(start.rotations)
        for words, slider in self.sliders.items():
            joint, axis, _, _ = SLIDERS[words]
            mirrored = torch.tensor([1.0, -1.0, -1.0]) if joint.startswith("right") else torch.ones(3)
            added = torch.tensor(axis) * mirrored * math.radians(slider.value)
            hinge = joint.partition("_")[2] in ("elbow", "knee")
            own, more = turns[INDEX[joint]], roma.rotvec_to_rotmat(added)
            turns[INDEX[joint]] = own @ more if hinge else more @ own
        return Body(limited(roma.rotmat_to_rotvec(turns)), start.root)

    @property
    def camera(self) -> Camera:
        """The drawn world's full-body camera, turned."""
        return Camera(yaw=self.yaw.value)

    @property
    def pose(self) -> Pose2D:
        """The 18 points in a picture of 512 x 512 pixels, with depth."""
        return to_openpose(self.body, self.camera, 512)

    def figure(self) -> ImageTable:
        """The mannequin and both skeleton pictures, which need no running kernel."""
        words = WORDS["action"].get(self.start.value, "in mid-step")
        alt = (
            f"A wooden mannequin ({words}) turned by {self.yaw.value} degrees, its skeleton in colours alone, and the "
            "same with far limbs darker."
        )
        return image_table(self._pictures(), alt=alt, heads=_SEEN)

    def _pictures(self) -> list[Any]:
        mannequin = draw_mannequin(self.body, self.camera, SIDE)
        return [mannequin, draw_condition(self.pose, SIDE), draw_condition(self.pose, SIDE, depth=True)]

    def _show(self) -> None:
        if not self._quiet:
            self.picture.value = encode_image(grid(self._pictures(), heads=_SEEN), ".png")

    def _straighten(self) -> None:
        self._quiet = True  # one picture, not one for each slider
        for slider in self.sliders.values():
            slider.value = 0
        self._quiet = False
        self._show()

    def _layout(self) -> widgets.VBox:
        def column(*starts: str) -> widgets.VBox:
            rows = []
            for words, slider in self.sliders.items():
                if words.startswith(starts):
                    rows += [widgets.HTML(f'<div style="line-height: 1.2">{words}</div>'), slider]
            return widgets.VBox(rows)

        columns = [
            column("right arm", "lean"),
            column("left arm", "turn head"),
            column("right leg"),
            column("left leg"),
        ]
        bar = widgets.HBox([self.start, self.yaw, self.reset], layout=widgets.Layout(flex_flow="row wrap"))
        bends = widgets.HBox(columns, layout=widgets.Layout(flex_flow="row wrap"))
        return widgets.VBox([bar, self.picture, bends, self._shown])

    def _ipython_display_(self) -> None:
        from IPython.display import display

        self._stand_in.show(self.figure().outputs())
        display(self.widget)
