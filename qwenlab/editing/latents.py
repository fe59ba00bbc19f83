"""Pictures, float pictures and latents, and the stock pipelines that start from latents.

Three forms of one picture, for all that is edited without a mask: a PIL picture (8 bits a channel); a float picture
(3, H, W) float32 in [-1, 1], which is not rounded; latents (C, H/8, W/8) float32, normalised, which the VAE need not
encode again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab.data.images import to_rgb
from qwenlab.editing.windows import whole_window
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import encode_image, image_tensor
from qwenlab.model.generation import NEGATIVE_PROMPT, native_size
from qwenlab.model.limits import MAX_TOKENS, SIDE_STEP, check_drawing, check_prompt

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

FORMS = ("picture", "float", "latents")


def to_latents(pipeline: QwenImagePipeline, picture: Image.Image | Tensor) -> Tensor:
    """Any of the three forms -> latents (C, h, w) float32 on the CPU: the posterior's mean, which needs no seed.

    Raises QwenlabError for a tensor of another shape and for sides that are no multiples of 16 pixels.
    """
    if isinstance(picture, Image.Image):
        picture = image_tensor(to_rgb(picture))
    channels, of_latents = picture.shape[0] if picture.ndim == 3 else None, pipeline.vae.config.z_dim
    if channels not in (3, of_latents):
        raise QwenlabError(
            f"picture: a tensor of shape {tuple(picture.shape)}; give (3, H, W) in [-1, 1], or latents "
            f"({of_latents}, h, w)"
        )
    step = SIDE_STEP if channels == 3 else SIDE_STEP // pipeline.vae_scale_factor
    if not all(side and side % step == 0 for side in picture.shape[1:]):
        raise QwenlabError(f"picture: sides {tuple(picture.shape[1:])} are no multiples of {step}; cut or pad it")
    return encode_image(pipeline, picture)[0] if channels == 3 else picture.detach().float().cpu()


@torch.no_grad()
def from_latents(pipeline: QwenImagePipeline, latents: Tensor, form: str = "picture") -> Image.Image | Tensor:
    """Latents (C, h, w) as one of `FORMS`. Raises QwenlabError for another word."""
    check_form(form)
    if form == "latents":
        return latents.detach().float().cpu()
    vae = pipeline.vae
    shift, scale = (torch.tensor(values)[:, None, None] for values in (vae.config.latents_mean, vae.config.latents_std))
    z = (latents.float().cpu() * scale + shift)[None, :, None]  # (1, C, 1, h, w)
    pixels = vae.decode(z.to(pipeline._execution_device, vae.dtype)).sample[0, :, 0].float().cpu()  # (3, H, W)
    return pixels if form == "float" else to_picture(pixels)


def whole_picture(
    pipeline: QwenImagePipeline, picture: Image.Image | Tensor, form: str = "picture"
) -> tuple[Tensor, Callable[[Tensor], Image.Image | Tensor]]:
    """The latents (C, h, w) of all of a picture, and what makes drawn latents a picture of `form`.

    A PIL picture may have any size from a token on; it is drawn at the model's area when it has more, or under half of
    it, and as form "picture" it gets its own size back. Raises QwenlabError as `to_latents` and `from_latents` do.
    """
    check_form(form)
    if not isinstance(picture, Image.Image):
        return to_latents(pipeline, picture), lambda drawn: from_latents(pipeline, drawn, form)
    old = np.asarray(to_rgb(picture))
    window = whole_window(picture.size, native_size(pipeline))

    def finish(drawn: Tensor) -> Image.Image | Tensor:
        new = from_latents(pipeline, drawn, form)
        return Image.fromarray(window.put(old, new)) if form == "picture" else new

    return to_latents(pipeline, window.view(old)), finish


def check_form(form: str) -> None:
    """Raise QwenlabError for a word that is not among `FORMS`."""
    if form not in FORMS:
        raise QwenlabError(f"form {form!r}: choose one of {', '.join(FORMS)}")


def to_picture(pixels: Tensor) -> Image.Image:
    """A float picture (3, H, W) in [-1, 1] as a PIL picture."""
    return Image.fromarray(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def noise_of(pipeline: QwenImagePipeline, latents: Tensor, seed: int) -> Tensor:
    """The noise (C, h, w) of a seed on the CPU, that of `generate` and of all editing: in the dtype of embeddings."""
    shape = (1, 1, *latents.shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=pipeline.text_encoder.dtype)[0, 0]


def check_edit(pipeline: QwenImagePipeline, prompt: str, *, seed: int, steps: int, guidance: float) -> None:
    """Raise QwenlabError for numbers that no editing can draw with, a prompt that is too long, a freed encoder."""
    check_drawing(steps=steps, guidance=guidance, first_seed=seed, last_seed=seed, dashes="")
    if pipeline.text_encoder is None:
        raise QwenlabError("the pipeline's text encoder was freed: load the pipeline again")
    check_prompt(pipeline, prompt)


def call_from_latents(
    pipeline: QwenImagePipeline,
    kind: type,
    latents: Tensor,
    prompt: str,
    *,
    seed: int,
    steps: int,
    guidance: float,
    strength: float,
    negative_prompt: str = NEGATIVE_PROMPT,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """Run a stock pipeline of class `kind`, made of the parts of `pipeline`, on a picture's latents (C, h, w).

    Equal noise: given a picture, the stock classes sample the VAE's posterior with the generator before they draw the
    noise, so that one seed is another noise in each of them; their argument `latents`, which would set the noise, is
    broken in the inpainting class (one tensor is returned where three are unpacked) and means something else in image
    to image. They take latents as `image`, though: then nothing is sampled but the noise, and it is that of
    `qwenlab.model.generation.generate` for the same seed and size.

    Returns latents (C, h, w) float32 on the CPU.
    """
    stock = kind(**pipeline.components)
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    stock.set_progress_bar_config(**bar | {"disable": not progress})
    factor = pipeline.vae_scale_factor
    height, width = (side * factor for side in latents.shape[1:])
    packed = stock(
        prompt=prompt, negative_prompt=negative_prompt if guidance > 1 else None, true_cfg_scale=guidance,
        image=latents[None], height=height, width=width, strength=strength, num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed), max_sequence_length=MAX_TOKENS, output_type="latent", **options,
    ).images  # (1, S, 4C)  # fmt: skip
    pipeline.maybe_free_model_hooks()  # of offloading, which the new object knows nothing of
    return stock._unpack_latents(packed, height, width, factor)[0, :, 0].float().cpu()
