"""A weak perspective camera: all of a body is drawn at one scale, and what is far is only behind, not smaller."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qwenlab.errors import check_range


def width_and_height(size: int | tuple[int, int]) -> tuple[int, int]:
    """(W, H) in pixels of a `size` that is given as both or as the side of a square."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@dataclass(frozen=True)
class Camera:
    """Where a body stands in a picture, and which of its sides is seen.

    scale: height of the standing figure as a share of the picture's height.
    centre: (x, y), shares of the picture's width and height: where the standing figure's middle (0, 0.5, 0) is.
    yaw: degrees that the figure turns about its vertical axis: 0 faces the viewer, 90 the viewer's right (its own right
        side is near then), -90 the viewer's left, 180 turns its back.

    The defaults are the drawn world's full-body picture. Raises QwenlabError for numbers that are none.
    """

    scale: float = 0.86
    centre: tuple[float, float] = (0.5, 0.535)
    yaw: float = 0.0

    def __post_init__(self) -> None:
        check_range("scale of the camera", self.scale, 0.01, 100)
        check_range("yaw of the camera", self.yaw, -36000, 36000)
        for axis, value in zip("xy", self.centre, strict=True):
            check_range(f"centre of the camera, {axis}", value, -100, 100)

    def turn(self, joints: Tensor) -> Tensor:
        """Figure coordinates (..., J, 3), turned by the yaw: x to the viewer's right, y down, z away from him."""
        angle = math.radians(self.yaw)
        x, y, z = joints.unbind(-1)
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.stack([cos * x - sin * z, y, sin * x + cos * z], -1)

    def project(self, joints: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Figure coordinates (..., J, 3) -> (..., J, 3): x and y in pixels of the picture, depth in figure units.

        size: of the picture, (W, H) or the side of a square, in pixels; (0, 0) is its upper left corner. Depth grows
        away from the viewer and is 0 on the figure's vertical axis.
        """
        width, height = width_and_height(size)
        x, y, depth = self.turn(joints).unbind(-1)
        scale = self.scale * height  # pixels of a figure unit
        return torch.stack([width * self.centre[0] + scale * x, height * self.centre[1] + scale * (y - 0.5), depth], -1)
