"""Which patches of a picture a word looks at, and which words a patch looks at.

In an MMDiT both questions have an answer: word and patch are queries and keys of one attention. Pictures of such maps
always look convincing; `qwenlab.lab.localisation` scores them.

B pictures, H heads, L text tokens (template dropped), S image tokens, N = L + S with the text first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab.model.encoding import encode_text
from qwenlab.model.flow import derived_generator, interpolate
from qwenlab.model.mmdit import MMDiT, pack

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

MIDDLE = 0.5  # a noise level at which the model still decides what goes where


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
        latents: the clean picture (C, h, w), normalised (`qwenlab.model.encoding.encode_image`).
        sigma: 0 = data, 1 = noise. seed: of the noise.
    """
    transformer = pipeline.transformer
    text = encode_text(pipeline, prompt)[None]  # (1, L, J)
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
