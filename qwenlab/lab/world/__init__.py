"""A procedural world of drawn characters: pictures with exact captions, keypoints and, on request, wrong anatomy."""

from .attributes import (
    ATTRIBUTES,
    Scene,
    as_character,
    caption,
    is_held_out,
    sample_character_scene,
    sample_scene,
)
from .hands import WRONG_FEET, WRONG_FINGERS, Anatomy
from .render import Hand, Picture, render
from .skeleton import BODY_JOINTS, FOOT_JOINTS

__all__ = [
    "ATTRIBUTES",
    "Anatomy",
    "BODY_JOINTS",
    "FOOT_JOINTS",
    "Hand",
    "Picture",
    "Scene",
    "WRONG_FEET",
    "WRONG_FINGERS",
    "as_character",
    "caption",
    "is_held_out",
    "render",
    "sample_character_scene",
    "sample_scene",
]
