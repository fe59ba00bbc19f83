"""Do attention maps point at the right thing? The world knows where everything is.

Draw a scene again with another hair colour, and the pixels that changed are the hair. Pictures of attention maps always
look convincing; `localisation` scores them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from qwenlab.lab import world
from qwenlab.model.attention_maps import MIDDLE, attention_maps
from qwenlab.model.encoding import encode_image, image_tensor
from qwenlab.model.generation import native_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

CHANGED = 12  # of 255: a smaller difference between two renderings is no change
SHOWS = 0.2  # share of a patch's pixels from which on the patch counts as showing a thing


def things(scene: world.Scene) -> dict[str, tuple[str, str]]:
    """What can be located in a scene: a Latin name -> (its words in the caption, the attribute that changes it)."""
    found = {"hair": (scene.hair_color + scene.hair_style, "hair_color"), "clothes": (scene.clothes, "clothes")}
    if scene.prop:
        found["prop"] = (scene.prop, "prop")
    if scene.hands != "手插口袋" and scene.action != "背着手":
        found["hands"] = (scene.hands, "hands")
    if scene.framing == "全身":
        found["feet"] = (scene.feet, "feet")
    return found | {"background": (scene.background, "background")}


def region(scene: world.Scene, attribute: str, size: int = 128) -> np.ndarray:
    """(size, size) bool: the pixels that change whichever other value the attribute takes, so the thing itself.

    Values that move the figure (hands in pockets, nothing to hold) are left out. An outfit has shoes of its own, so
    clothes are compared barefoot.
    """
    if attribute == "clothes":
        scene = replace(scene, feet="光脚")
    image = world.render(scene, size).image.astype(int)
    mask = np.ones((size, size), bool)
    for value in world.ATTRIBUTES[attribute]:
        if value not in (getattr(scene, attribute), "", "手插口袋"):
            other = world.render(replace(scene, **{attribute: value}), size).image
            mask &= np.abs(image - other).max(axis=-1) > CHANGED
    return mask


def patches_showing(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: patches of which the mask covers a good part (`SHOWS`)."""
    rows, columns = grid
    cover = mask.reshape(rows, mask.shape[0] // rows, columns, mask.shape[1] // columns).mean(axis=(1, 3))
    return cover >= SHOWS


@dataclass(frozen=True)
class Localisation:
    """How often the most attending patch shows what the word names, over `pictures` renderings."""

    thing: str
    pictures: int
    word_reads: float  # share of pictures whose patch most read by the word shows the thing
    patch_reads: float  # share of pictures whose patch that most reads the word shows it
    other_words: float  # the same as `patch_reads` for the other things' words: what any word would reach
    chance: float  # mean share of patches that show the thing


def localisation(
    pipeline: QwenImagePipeline,
    scenes: Sequence[world.Scene],
    *,
    sigma: float = MIDDLE,
    size: int | None = None,
    seed: int = 0,
    on_picture: Callable[[], None] = lambda: None,
) -> list[Localisation]:
    """The pointing game (Zhang et al., arXiv 1608.00507) on true renderings of `scenes`, one score for each thing.

    Every scene is rendered (`size` pixels; None: the model's native size), encoded, noised to `sigma` and shown to the
    model with its caption. A word hits when the patch with the largest attention shows the thing. Things whose region
    fills no patch to a good part are not counted.
    """
    size = size or native_size(pipeline)
    hits: dict[str, list[tuple[bool, bool, float, float]]] = {}
    for index, scene in enumerate(scenes):
        latents, _ = encode_image(pipeline, image_tensor(Image.fromarray(world.render(scene, size).image)))
        maps = attention_maps(pipeline, world.caption(scene), latents, sigma=sigma, seed=seed + index)
        named = things(scene)
        top_read = {name: int(maps.read_by(word).argmax()) for name, (word, _) in named.items()}
        top_reader = {name: int(maps.readers_of(word).argmax()) for name, (word, _) in named.items()}
        for name, (_, attribute) in named.items():
            shown = patches_showing(region(scene, attribute, size), maps.grid).ravel()
            if shown.any():
                others = np.mean([shown[top_reader[other]] for other in named if other != name])
                score = (shown[top_read[name]], shown[top_reader[name]], others, shown.mean())
                hits.setdefault(name, []).append(score)
        on_picture()
    return [Localisation(name, len(rows), *(float(x) for x in np.mean(rows, axis=0))) for name, rows in hits.items()]
