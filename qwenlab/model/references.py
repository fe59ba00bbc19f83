"""Pictures that a prompt speaks of: clean tokens beside the noisy ones, as in `QwenImageEditPlusPipeline`.

The transformer reads [noisy tokens of the picture | clean tokens of reference 1 | of reference 2 ...]; each picture has
a frame of its own in the rotary embedding, and only the answer for the noisy tokens counts. A text-to-image model does
not know what to make of them until a LoRA has taught it ("in-context LoRA", arXiv 2410.23775; OminiControl, arXiv
2411.15098); the Edit models were trained so, and they read the prompt together with the pictures.

C latent channels, h x w latent cells (8 pixels each), S tokens, T text tokens, D features.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import encode_image, image_tensor
from qwenlab.model.generation import NEGATIVE_PROMPT, generate, native_size
from qwenlab.model.limits import MAX_TOKENS, SIDE_STEP, check_drawing, check_prompt, check_size

if TYPE_CHECKING:
    from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline
    from PIL import Image


def is_edit(pipeline: QwenImagePipeline | QwenImageEditPlusPipeline) -> bool:
    """Whether the text encoder of this pipeline reads the references, too (Qwen-Image-Edit-2509, -2511)."""
    return getattr(pipeline, "processor", None) is not None


def reference_size(size: tuple[int, int], most: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels in which a reference is encoded: its own, in whole tokens of 16 pixels.

    most: larger ones are scaled down to about so many pixels.
    """
    scale = min(1.0, math.sqrt(most / (size[0] * size[1]))) if most else 1.0
    width, height = (max(SIDE_STEP, round(side * scale / SIDE_STEP) * SIDE_STEP) for side in size)
    return width, height


def pack_references(latents: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """The references of B pictures, latents (C, h, w) each -> tokens (B, S, 4 C) and their (frames, h / 2, w / 2).

    Those of one place in the lists must have one size.
    """
    from diffusers import QwenImagePipeline

    parts, shapes = [], []
    for same_place in zip(*latents, strict=True):
        stacked = torch.stack(same_place)  # (B, C, h, w)
        parts.append(QwenImagePipeline._pack_latents(stacked, *stacked.shape))
        shapes.append((1, stacked.shape[-2] // 2, stacked.shape[-1] // 2))
    return torch.cat(parts, dim=1), shapes


@contextlib.contextmanager
def beside_references(transformer: nn.Module, latents: Sequence[Tensor]) -> Iterator[None]:
    """Within the block the transformer reads these references, latents (C, h, w), beside whatever it is given.

    It answers for the other tokens alone, so that any stock pipeline draws with it.
    """
    tokens, shapes = pack_references([latents])  # (1, S, 4 C)

    def add(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        states = kwargs["hidden_states"]  # (B, S', 4 C)
        more = tokens.to(states.device, states.dtype).expand(len(states), -1, -1)
        kwargs = kwargs | {
            "hidden_states": torch.cat([states, more], dim=1),
            "img_shapes": [[*picture, *shapes] for picture in kwargs["img_shapes"]],
        }
        return args, kwargs

    def cut(module: nn.Module, args: tuple, output: tuple) -> tuple:
        return (output[0][:, : output[0].shape[1] - tokens.shape[1]], *output[1:])

    before = transformer.register_forward_pre_hook(add, with_kwargs=True)
    after = transformer.register_forward_hook(cut)
    try:
        yield
    finally:
        before.remove()
        after.remove()


@torch.no_grad()
def encode_instruction(pipeline: QwenImageEditPlusPipeline, text: str, references: Sequence[Image.Image]) -> Tensor:
    """An instruction's embeddings (T, D) on the CPU, as an Edit pipeline makes them of text and pictures together.

    Raises QwenlabError for a text that is longer than the model reads.
    """
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock

    check_prompt(pipeline, text, "caption")
    pictures = []
    for image in references:  # as the pipeline's own call does
        width, height = stock.calculate_dimensions(stock.CONDITION_IMAGE_SIZE, image.width / image.height)
        pictures.append(pipeline.image_processor.resize(image, height, width))
    embeddings = pipeline.encode_prompt(prompt=text, image=pictures or None, max_sequence_length=MAX_TOKENS)
    return embeddings[0][0].cpu()


def check_references(references: Sequence[Image.Image]) -> None:
    """Raise QwenlabError for no picture, and for pictures that are no plain RGB or smaller than a token."""
    if not references:
        raise QwenlabError("references: none is given; give the picture to change")
    for number, image in enumerate(references, start=1):
        where = f"reference {number}"
        if image.mode != "RGB":
            raise QwenlabError(f"{where}: its mode is {image.mode}; convert it to RGB (qwenlab.data.images.to_rgb)")
        if min(image.size) < SIDE_STEP:
            raise QwenlabError(
                f"{where}: {image.width} x {image.height} pixels, less than one token; take a picture of at least "
                f"{SIDE_STEP} x {SIDE_STEP}"
            )


def generate_beside(
    pipeline: QwenImagePipeline | QwenImageEditPlusPipeline,
    references: Sequence[Image.Image],
    prompt: str,
    seed: int = 0,
    *,
    steps: int = 20,
    guidance: float = 4.0,
    size: tuple[int, int] | None = None,
    negative_prompt: str = NEGATIVE_PROMPT,
    embeddings: Mapping[str, Tensor] | None = None,
    progress: bool = False,
) -> Image.Image:
    """Draw one picture from a prompt that speaks of references, with `generate` or by an Edit model's own pipeline.

    Args:
        references: RGB pictures. A text-to-image model encodes each in its own size, in whole tokens and at most the
            pixels of its native size; an Edit pipeline scales them to about a million pixels.
        size: (width, height) in pixels; None: that in which the first reference is encoded.
        embeddings: of the prompt and the negative one, as `generate` takes them; by `encode_instruction` for an Edit
            model.

    Raises: QwenlabError as `check_references` and `generate` do.
    """
    check_references(references)
    most = native_size(pipeline) ** 2
    if size is None:
        size = reference_size(references[0].size, most)
    check_size(size)
    options = {"steps": steps, "guidance": guidance, "size": size, "progress": progress}
    if is_edit(pipeline):
        return _by_edit_pipeline(pipeline, references, prompt, seed, negative_prompt, embeddings, **options)
    latents = []
    for image in references:
        fitted = reference_size(image.size, most)
        picture = image if image.size == fitted else image.resize(fitted, _lanczos())
        latents.append(encode_image(pipeline, image_tensor(picture))[0])  # the posterior's mode
    with beside_references(pipeline.transformer, latents):
        return generate(
            pipeline, prompt, seed, negative_prompt=negative_prompt, embeddings=embeddings, **options
        )[0]  # fmt: skip


def _lanczos() -> int:
    from PIL import Image

    return Image.Resampling.LANCZOS


def _by_edit_pipeline(
    pipeline: QwenImageEditPlusPipeline,
    references: Sequence[Image.Image],
    prompt: str,
    seed: int,
    negative_prompt: str,
    embeddings: Mapping[str, Tensor] | None,
    *,
    steps: int,
    guidance: float,
    size: tuple[int, int],
    progress: bool,
) -> Image.Image:
    check_drawing(steps=steps, guidance=guidance, first_seed=seed, last_seed=seed, dashes="")
    names = {"prompt": prompt} | ({"negative_prompt": negative_prompt} if guidance > 1 else {})
    conditions: dict[str, object] = {}
    for name, text in names.items():
        if embeddings is None:
            check_prompt(pipeline, text)
            conditions[name] = text
        else:
            embedded = embeddings[text][None].to(pipeline.transformer.device)
            mask = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
            conditions |= {f"{name}_embeds": embedded, f"{name}_embeds_mask": mask}
    bar = dict(getattr(pipeline, "_progress_bar_config", {}))
    pipeline.set_progress_bar_config(disable=not progress)
    try:
        return pipeline(
            image=list(references), **conditions, true_cfg_scale=guidance, num_inference_steps=steps,
            width=size[0], height=size[1], max_sequence_length=MAX_TOKENS,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]  # fmt: skip
    finally:
        pipeline.set_progress_bar_config(**bar)
