"""Image to image: noise a picture and denoise it with another prompt (SDEdit, arXiv 2108.01073).

Takes and returns a picture, a float picture or latents (`qwenlab.editing.latents`), so that several turns can be
compared with and without rounding to 8 bits and with and without the VAE between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from qwenlab.editing.checks import check_strength, first_step
from qwenlab.editing.latents import call_from_latents, check_edit, whole_picture
from qwenlab.model.flow import inference_sigmas
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size
from qwenlab.model.limits import SIDE_STEP

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def sigma_of_strength(
    pipeline: QwenImagePipeline, strength: float, *, steps: int = 20, size: int | tuple[int, int] | None = None
) -> float:
    """The noise level, 0 (data) to 1 (noise), that a strength starts from: it is not the strength itself.

    Strength is a share of the sampler's steps, rounded up to whole ones, and the schedule is shifted towards noise, the
    more so the larger the picture (`size`: side or (width, height) in pixels; None: native). Raises QwenlabError for a
    strength that is not above 0 and at most 1.
    """
    check_strength(strength)
    size = native_size(pipeline) if size is None else size
    width, height = (size, size) if isinstance(size, int) else size
    tokens = (width // SIDE_STEP) * (height // SIDE_STEP)
    return float(inference_sigmas(steps, tokens, pipeline.scheduler.config)[first_step(strength, steps)])


def img2img(
    pipeline: QwenImagePipeline,
    picture: Image.Image | Tensor,
    prompt: str,
    *,
    strength: float = 0.3,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    negative_prompt: str = NEGATIVE_PROMPT,
    form: str = "picture",
    progress: bool = False,
) -> Image.Image | Tensor:
    """Change a whole picture by strength. The noise is that of `generate` for the same seed and size.

    Args:
        picture: a PIL picture of any size, which is drawn at the model's area when it has more, or under half of it;
            or a float picture or latents, whose sides are multiples of 16 pixels.
        strength: above 0 to 1, the share of the steps that is walked; `sigma_of_strength` says how much noise that is.
        form: of what is returned: "picture" (RGB, the size of the given one), "float" or "latents", the last two at the
            size that was drawn.

    Raises: QwenlabError for another form, strength or shape, a prompt that is too long, and numbers that cannot be
        drawn with.
    """
    from diffusers import QwenImageImg2ImgPipeline

    check_edit(pipeline, prompt, seed=seed, steps=steps, guidance=guidance)
    check_strength(strength)
    latents, finish = whole_picture(pipeline, picture, form)
    drawn = call_from_latents(
        pipeline, QwenImageImg2ImgPipeline, latents, prompt, seed=seed, steps=steps, guidance=guidance,
        strength=strength, negative_prompt=negative_prompt, progress=progress,
    )  # fmt: skip
    return finish(drawn)
