"""Masks that need no brush: from a word, by what the picture's patches read of it, or from keypoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from qwenlab.data.images import to_rgb
from qwenlab.data.keypoints import Keypoints
from qwenlab.data.regions import Region, feet_region, hand_region
from qwenlab.editing.latents import to_latents
from qwenlab.editing.windows import whole_window
from qwenlab.errors import QwenlabError
from qwenlab.model.attention_maps import attention_maps
from qwenlab.model.generation import native_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

SHARE = 0.3  # of the way from the patch that reads a word least to the one that reads it most
NOSE, NECK = 0, 1  # rows of the body's joints
PARTS = ("head", "right hand", "left hand", "hands", "feet")


def word_mask(
    pipeline: QwenImagePipeline, picture: Image.Image, prompt: str, word: str, *, share: float = SHARE, seed: int = 0
) -> Image.Image:
    """White tokens (16 x 16 pixels) where the picture's patches read `word` of its `prompt` most.

    A patch counts when it reads at least `share` of the way from the patch that reads least to the one that reads most
    (`qwenlab.model.attention_maps`). Attention points at the right thing more often than not, no better: look at the
    mask. Raises QwenlabError for a word that is not in the prompt, and a picture smaller than a token.
    """
    if not word or word not in prompt:
        raise QwenlabError(f"word {word!r}: is not in the prompt {prompt!r}; take a part of it as it stands there")
    window = whole_window(picture.size, native_size(pipeline))
    latents = to_latents(pipeline, window.view(np.asarray(to_rgb(picture))))
    heat = attention_maps(pipeline, prompt, latents, seed=seed).readers_of(word).numpy()
    patches = Image.fromarray(chosen_patches(heat, share)).resize(
        (window.width, window.height), Image.Resampling.NEAREST
    )
    return patches.crop((0, 0, *picture.size)).convert("L")


def chosen_patches(heat: np.ndarray, share: float) -> np.ndarray:
    """Which patches read a word enough, of what each reads of it: (rows, columns) -> (rows, columns) bool."""
    return heat >= heat.min() + share * (heat.max() - heat.min())


def joints_mask(keypoints: Keypoints, part: str) -> Image.Image:
    """A white square over a part of the body, one of `PARTS`; right and left are the person's own.

    Raises QwenlabError for another part and for one whose joints are not all seen.
    """
    if part not in PARTS:
        raise QwenlabError(f"part {part!r}: choose one of {', '.join(PARTS)}")
    mask = Image.new("L", keypoints.size, 0)
    for region in _regions(keypoints, part):
        ImageDraw.Draw(mask).rectangle(region.box(), fill=255)
    return mask


def _regions(keypoints: Keypoints, part: str) -> list[Region]:
    needed = {
        "head": [keypoints.body[[NOSE, NECK]]],
        "feet": [keypoints.feet.reshape(6, 3)],
        "right hand": [keypoints.hands[0]],
        "left hand": [keypoints.hands[1]],
        "hands": list(keypoints.hands),
    }[part]
    if not all(np.all(joints[:, 2] > 0) for joints in needed):
        raise QwenlabError(f"part {part!r}: its joints are not all seen in this picture; paint a mask")
    if part == "head":
        nose, neck = needed[0][:, :2]
        x, y = nose
        return [Region("head", float(x), float(y), 2.5 * float(np.hypot(*(neck - nose))))]
    if part == "feet":
        return [feet_region(keypoints.feet)]
    return [hand_region(joints) for joints in needed]
