"""The keypoints of a drawn picture, as a data set keeps them."""

from __future__ import annotations

from qwenlab.data.keypoints import Keypoints
from qwenlab.lab.world.render import Picture


def of_picture(picture: Picture) -> Keypoints:
    """The joints of a rendering of the world, which are known exactly."""
    height, width = picture.image.shape[:2]
    return Keypoints((width, height), picture.body, picture.hands, picture.feet)
