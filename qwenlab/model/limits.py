"""What Qwen-Image takes: how much text, which sizes, which numbers. Without torch: mistakes are answered at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qwenlab.errors import QwenlabError, check_range

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

#: Positions that the model keeps for a text, after the 34 tokens in front of it in the template are dropped: the most
#: that `QwenImagePipeline` takes as `max_sequence_length`, and what its `encode_prompt` keeps. A call of the pipeline
#: keeps 512 of them unless it is told otherwise. Drawing, training and the captions' linter all use this number.
MAX_TOKENS = 1024
#: Those of them that the end of the template takes: <|im_end|>, <|im_start|>, assistant and two line breaks.
TEMPLATE_TAIL = 5

SIDE_STEP = 16  # pixels: 8 for the VAE, 2 for the patches
MAX_SIDE = 4096  # pixels; Qwen-Image was trained at 1328 x 1328 and the like
MAX_STEPS = 1000  # noise levels that the model was trained on
MAX_GUIDANCE = 100.0
MAX_SEED = 2**64 - 1  # the largest that torch takes


def count_prompt_tokens(pipeline: QwenImagePipeline, text: str) -> int:
    """Positions that `text` needs: its own tokens and the end of the template."""
    whole = pipeline.prompt_template_encode.format(text)
    return len(pipeline.tokenizer(whole)["input_ids"]) - pipeline.prompt_template_encode_start_idx


def check_prompt(pipeline: QwenImagePipeline, text: str, name: str = "prompt") -> None:
    """Raise QwenlabError for a text of which the model would read only the beginning.

    name: where the text stands, for the message.
    """
    if len(text.encode("utf-8", "surrogatepass")) <= MAX_TOKENS - TEMPLATE_TAIL:  # no token holds less than a byte
        return
    excess = count_prompt_tokens(pipeline, text) - MAX_TOKENS
    if excess > 0:
        raise QwenlabError(
            f"{name}: {MAX_TOKENS - TEMPLATE_TAIL + excess} tokens, and Qwen-Image reads {MAX_TOKENS - TEMPLATE_TAIL}; "
            f"shorten '{text[:20]} ...', whose end would be cut off"
        )


def parse_size(text: str, name: str = "--size") -> tuple[int, int]:
    """ "1328x1024" -> (1328, 1024), "1024" -> (1024, 1024), in pixels. Raises QwenlabError."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:[xX×]\s*(\d{1,6})\s*)?", text)
    if not found:
        raise QwenlabError(f"{name} {text}: is no size; write WIDTHxHEIGHT in pixels, such as 1328x1024, or one number")
    size = int(found[1]), int(found[2] or found[1])
    check_size(size, name)
    return size


def check_size(size: tuple[int, int], name: str = "size") -> None:
    """Raise QwenlabError for sides (pixels) that are no multiples of 16 or outside 16 ... MAX_SIDE.

    The stock pipeline would draw another size, with a warning.
    """
    for side in size:
        check_range(name, side, SIDE_STEP, MAX_SIDE)
        if side % SIDE_STEP:
            lower = side - side % SIDE_STEP
            raise QwenlabError(
                f"{name} {side}: is no multiple of {SIDE_STEP} pixels; take {lower} or {lower + SIDE_STEP}"
            )


def check_drawing(
    *, steps: int, guidance: float, first_seed: int, last_seed: int, max_tokens: int | None = None, dashes: str = "--"
) -> None:
    """Raise QwenlabError for numbers that `qwenlab.model.generation.generate` cannot draw with.

    dashes: before the names in the messages.
    """
    # With one step the stock scheduler divides zero by zero and the picture is black.
    check_range(f"{dashes}steps", steps, 2, MAX_STEPS)
    check_range(f"{dashes}guidance", guidance, 0, MAX_GUIDANCE)
    for seed in (first_seed, last_seed):
        check_range(f"{dashes}seed", seed, 0, MAX_SEED)
    if max_tokens is not None:
        check_range(f"{dashes}{'max-tokens' if dashes else 'max_tokens'}", max_tokens, TEMPLATE_TAIL + 1, MAX_TOKENS)
