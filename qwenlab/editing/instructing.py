"""Change a picture by instruction: the picture's own clean tokens beside the noisy ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.references import generate_beside, is_edit

if TYPE_CHECKING:
    from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline
    from PIL import Image


def usual_guidance(pipeline: QwenImagePipeline | QwenImageEditPlusPipeline) -> float:
    """That of instructions: 4.0 for an Edit model, as its card says; 1.0, off, for a LoRA on references."""
    return 4.0 if is_edit(pipeline) else 1.0


def instruct(
    pipeline: QwenImagePipeline | QwenImageEditPlusPipeline,
    references: Sequence[Image.Image],
    instruction: str,
    *,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    steps: int = 20,
    guidance: float | None = None,
    negative_prompt: str = NEGATIVE_PROMPT,
    progress: bool = False,
) -> Image.Image:
    """Draw `references[0]` again as the instruction says; further pictures are what it may speak of.

    A text-to-image model needs an in-context LoRA, trained on rows with a `reference` (configs/micro_edit.yaml) and
    loaded as any other; without one it ignores or mixes the pictures. It knows the instructions it was trained with. An
    Edit model draws with its own stock pipeline.

    Args:
        references: RGB pictures, encoded in their own size in whole tokens of 16 pixels.
        size: (width, height) in pixels; None: that of the first reference, in whole tokens.
        guidance: away from `negative_prompt`; 1 or less: off, twice as fast. None: as `usual_guidance` says.

    Raises: QwenlabError for no reference, one that is no RGB or smaller than a token, and for numbers, sizes and
        prompts that cannot be drawn with.
    """
    if guidance is None:
        guidance = usual_guidance(pipeline)
    return generate_beside(
        pipeline, references, instruction, seed, steps=steps, guidance=guidance, size=size,
        negative_prompt=negative_prompt, progress=progress,
    )  # fmt: skip
