"""FlowEdit: change a picture along the difference of two flows (Kulikov et al., arXiv 2412.08629).

Two velocities a step: where would the picture go under its own caption, and where the edited one under the new
caption, both at one noise? Their difference moves the picture; what both captions agree on cancels out. Nothing is
inverted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from qwenlab.editing.checks import check_strength, first_step
from qwenlab.editing.latents import check_edit, whole_picture
from qwenlab.errors import check_range
from qwenlab.model.flow import derived_generator, inference_sigmas, interpolate, model_timestep
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.limits import MAX_GUIDANCE, MAX_TOKENS
from qwenlab.model.mmdit import pack, unpack

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

Condition = tuple[Tensor, Tensor | None]  # embeddings (1, L, D) and mask (1, L) or None


@torch.no_grad()
def flow_edit(
    pipeline: QwenImagePipeline,
    picture: Image.Image | Tensor,
    source: str,
    prompt: str,
    *,
    strength: float = 0.7,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 4.0,
    source_guidance: float = 1.5,
    averages: int = 1,
    negative_prompt: str = NEGATIVE_PROMPT,
    form: str = "picture",
) -> Image.Image | Tensor:
    """Change what differs between two captions of a picture: `source` says what it shows, `prompt` what it shall show.

    Args:
        picture, form: as in `qwenlab.editing.strength.img2img`.
        strength: the share of the steps that is walked, above 0 to 1 (the paper's n_max, of all steps).
        guidance, source_guidance: of the two velocities; 1 or less turns guidance off.
        averages: noises a step whose velocities are averaged (the paper's n_avg).

    Raises: QwenlabError as `img2img` does.
    """
    for text in (source, prompt):
        check_edit(pipeline, text, seed=seed, steps=steps, guidance=guidance)
    check_strength(strength)
    check_range("source_guidance", source_guidance, 0, MAX_GUIDANCE)
    check_range("averages", averages, 1, 64)
    latents, finish = whole_picture(pipeline, picture, form)
    old_text, new_text, negative = (
        pipeline.encode_prompt(text, max_sequence_length=MAX_TOKENS) for text in (source, prompt, negative_prompt)
    )
    x_source = pack(latents[None])  # (1, S, 4C)
    grid = latents.shape[1] // 2, latents.shape[2] // 2
    sigmas = inference_sigmas(steps, x_source.shape[1], pipeline.scheduler.config)
    edited = x_source
    for step in range(first_step(strength, steps), steps):
        noise = torch.randn(averages, *x_source.shape[1:], generator=derived_generator(seed, "flow edit", step))
        sigma = sigmas[step].expand(averages)
        noised = interpolate(x_source.expand(averages, -1, -1), noise, sigma)
        moved = noised + edited - x_source
        change = velocity(pipeline, moved, sigma, new_text, negative, guidance, grid)
        change = change - velocity(pipeline, noised, sigma, old_text, negative, source_guidance, grid)
        edited = edited + (sigmas[step + 1] - sigmas[step]) * change.mean(0, keepdim=True)
    pipeline.maybe_free_model_hooks()
    return finish(unpack(edited, grid)[0])


def velocity(
    pipeline: QwenImagePipeline,
    x_t: Tensor,
    sigma: Tensor,
    text: Condition,
    negative: Condition,
    guidance: float,
    grid: tuple[int, int],
) -> Tensor:
    """What the stock pipeline predicts at noise levels `sigma` (B,): (B, S, C) float32 on the CPU, under guidance.

    A guided prediction gets the length of the conditional one, token by token, as in the stock pipeline.
    """
    x = x_t.to(text[0])

    def predict(embeddings: Tensor, mask: Tensor | None) -> Tensor:
        return pipeline.transformer(
            hidden_states=x,
            timestep=model_timestep(sigma.to(x.device), x.dtype),
            encoder_hidden_states=embeddings.expand(len(x), -1, -1),
            encoder_hidden_states_mask=None if mask is None else mask.expand(len(x), -1),
            img_shapes=[[(1, *grid)]] * len(x),
            return_dict=False,
        )[0].float().cpu()  # fmt: skip

    conditional = predict(*text)
    if guidance <= 1:
        return conditional
    unconditional = predict(*negative)
    mixed = unconditional + guidance * (conditional - unconditional)
    return mixed * (conditional.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True))
