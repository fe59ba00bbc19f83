"""Which patches of a picture a word looks at, which words a patch looks at, and whether they look at the right thing.

In an MMDiT both questions have an answer: word and patch are queries and keys of one attention. Pictures of such maps
always look convincing, so `localisation` scores them. The world knows where everything is: draw a scene again with
another hair colour, and the pixels that changed are the hair.

B pictures, H heads, L text tokens (template dropped), S image tokens, N = L + S with the text first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab import world
from qwenlab.dataset import encode_image, image_tensor
from qwenlab.flow import derived_generator, interpolate
from qwenlab.mmdit import MMDiT, pack

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

MIDDLE = 0.5  # a noise level at which the model still decides what goes where
CHANGED = 12  # of 255: a smaller difference between two renderings is no change
SHOWS = 0.2  # share of a patch's pixels from which on the patch counts as showing a thing


class _BothWays(list):
    """Keeps what the streams read of each other: (H, L, S) and (H, S, L) of one picture a layer, not N x N."""

    def __init__(self, text_length: int) -> None:
        super().__init__()
        self.text_length = text_length

    def append(self, weights: Tensor) -> None:  # (1, H, N, N)
        n = self.text_length
        super().append((weights[0, :, :n, n:].float().cpu(), weights[0, :, n:, :n].float().cpu()))


@dataclass(frozen=True)
class AttentionMaps:
    """What the words of `prompt` and the patches of a picture read of each other, in every layer and head."""

    prompt: str
    spans: tuple[tuple[int, int], ...]  # of each text token, its characters of the prompt; empty for the template's
    grid: tuple[int, int]  # rows, columns of patches
    words_read: Tensor  # (layers, H, L, S): row = a text token's attention on the patches
    patches_read: Tensor  # (layers, H, S, L): row = a patch's attention on the text tokens

    def tokens_of(self, word: str) -> list[int]:
        """Places of the text tokens that hold any character of `word`, wherever the prompt has it."""
        if not word or word not in self.prompt:
            raise ValueError(f"{word!r} is not in the prompt {self.prompt!r}")
        starts = [i for i in range(len(self.prompt)) if self.prompt.startswith(word, i)]
        return [
            token
            for token, (start, end) in enumerate(self.spans)
            if any(start < at + len(word) and at < end for at in starts)
        ]

    def read_by(self, word: str, layers: slice = slice(None)) -> Tensor:
        """(rows, columns): how much the word reads of each patch, mean over its tokens, the heads and the layers."""
        return self.words_read[layers, :, self.tokens_of(word)].mean(dim=(0, 1, 2)).reshape(self.grid)

    def readers_of(self, word: str, layers: slice = slice(None)) -> Tensor:
        """(rows, columns): how much each patch reads of the word, sum over its tokens, mean over heads and layers."""
        return self.patches_read[layers, ..., self.tokens_of(word)].sum(-1).mean(dim=(0, 1)).reshape(self.grid)

    def phrases(self) -> list[str]:
        """The prompt's parts between commas."""
        return [part.strip() for part in self.prompt.replace("，", ",").split(",") if part.strip()]

    def phrases_read_by(self, row: int, column: int, layers: slice = slice(None)) -> dict[str, float]:
        """How many times as much of each phrase the patch reads as the mean patch does, the largest first.

        Shares themselves say less: some tokens are read much by every patch.
        """
        readers = {phrase: self.readers_of(phrase, layers) for phrase in self.phrases()}
        times = {phrase: float(share[row, column] / share.mean()) for phrase, share in readers.items()}
        return dict(sorted(times.items(), key=lambda item: -item[1]))


def token_spans(pipeline: QwenImagePipeline, prompt: str) -> tuple[tuple[int, int], ...]:
    """The characters (start, end) of `prompt` that each text token of the transformer stands for; (0, 0) for none."""
    before, after = pipeline.prompt_template_encode.split("{}")
    text = before + prompt + after
    offsets = pipeline.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    spans = []
    for start, end in offsets[pipeline.prompt_template_encode_start_idx :]:
        start, end = max(0, start - len(before)), min(len(prompt), end - len(before))
        spans.append((start, end) if start < end else (0, 0))
    return tuple(spans)


@torch.no_grad()
def attention_maps(
    pipeline: QwenImagePipeline, prompt: str, latents: Tensor, *, sigma: float = MIDDLE, seed: int = 0
) -> AttentionMaps:
    """Show the model `latents` at noise level `sigma` with `prompt`, and keep what words and patches read.

    Args:
        latents: the clean picture (C, h, w), normalised (`qwenlab.dataset.encode_image`).
        sigma: 0 = data, 1 = noise. seed: of the noise.
    """
    transformer = pipeline.transformer
    text, _ = pipeline.encode_prompt(prompt)  # (1, L, J)
    noise = torch.randn(latents.shape, generator=derived_generator(seed, "attention"))
    level = torch.tensor([sigma])
    x_t = pack(interpolate(latents[None], noise[None], level)).to(transformer.device, transformer.dtype)  # (1, S, C)
    grid = (latents.shape[1] // 2, latents.shape[2] // 2)
    maps = _BothWays(text.shape[1])
    MMDiT.from_stock(transformer)(x_t, text.to(x_t), level.to(x_t), grid, maps=maps)
    words_read, patches_read = (torch.stack(layers) for layers in zip(*maps, strict=True))
    return AttentionMaps(prompt, token_spans(pipeline, prompt), grid, words_read, patches_read)


def overlay(image: Image.Image, heat: Tensor, size: int | None = None) -> Image.Image:
    """The picture in grey with `heat` (rows, columns) over it: blank at its smallest value, red at its largest."""
    side = (size, size * image.height // image.width) if size else image.size
    low, high = float(heat.min()), float(heat.max())
    strength = (heat.float() - low) / max(high - low, 1e-12)
    mask = Image.fromarray((200 * strength.numpy()).astype(np.uint8)).resize(side, Image.Resampling.BICUBIC)
    grey = image.convert("L").convert("RGB").resize(side, Image.Resampling.LANCZOS)
    return Image.composite(Image.new("RGB", side, (225, 30, 30)), grey, mask)


# Where things are


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
    from qwenlab.generate import native_size

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
