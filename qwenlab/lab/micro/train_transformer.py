"""Pretraining stage 3: the micro MMDiT and its text encoder, from nothing, by flow matching on cached latents.

B pictures, S = 64 image tokens, C = 64 channels of a token, L text tokens. Time runs from 0 (data) to 1 (noise); what
the network sees as `timestep` is sigma itself, as in the stock pipeline, and it predicts `noise - x0`.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from qwenlab.lab.micro.assemble import SCHEDULER_CONFIG, assemble, save_pipeline
from qwenlab.lab.micro.latents import Latents, cache_latents, load_vae
from qwenlab.lab.micro.muon import Muon
from qwenlab.lab.micro.pictures import Painter
from qwenlab.lab.micro.recipe import Recipe, TransformerRecipe
from qwenlab.lab.micro.runtime import autocast, save_grid
from qwenlab.lab.micro.sitting import Sitting
from qwenlab.lab.micro.text_encoder import build_text_encoder, encode_tokens, pad_prompts, tokenize_prompts
from qwenlab.lab.micro.tokenizer import build_tokenizer
from qwenlab.lab.micro.transformer import build_transformer
from qwenlab.model.flow import derived_generator, interpolate, mu_for_tokens, shift_sigma, velocity
from qwenlab.model.generation import NEGATIVE_PROMPT, generate

EVALUATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
EVALUATION_BATCH = 32


class TextToLatents(nn.Module):
    """Text encoder and transformer as one trainable module: token ids and noisy latents to a velocity."""

    def __init__(
        self, text_encoder: Qwen2_5_VLForConditionalGeneration, transformer: QwenImageTransformer2DModel
    ) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer
        text_encoder.model.visual.requires_grad_(False)  # no picture ever enters it

    def forward(self, x_t: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """x_t (B, S, C), sigma (B,), padded prompt ids and mask (B, L) -> velocity (B, S, C)."""
        embeddings, text_mask = encode_tokens(self.text_encoder, ids, mask)
        side = math.isqrt(x_t.shape[1])
        return self.transformer(
            hidden_states=x_t,
            timestep=sigma,
            encoder_hidden_states=embeddings,
            encoder_hidden_states_mask=text_mask,
            img_shapes=[[(1, side, side)]] * len(x_t),
            return_dict=False,
        )[0]


def rate_factor(step: int, recipe: TransformerRecipe) -> float:
    """Share of the peak learning rate: linear warm-up, a plateau, then a straight line to zero over the last part."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    decay = min(1.0, (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps))
    return warm * decay


def draw_batch(
    latents: Latents,
    rows: list[list[int]],
    dropped: list[int],
    recipe: TransformerRecipe,
    seed: int,
    step: int,
) -> tuple[Tensor, list[list[int]], Tensor, Tensor]:
    """The batch of a step: x0 (B, S, C), token rows, noise (B, S, C), sigmas (B,); a function of (seed, step) alone.

    Pictures come in a new random order each epoch. Sigmas are logit-normal, shifted as at inference for this size.
    Some captions are replaced by `dropped`, the tokens of the negative prompt, which makes guidance possible
    (Ho and Salimans, arXiv 2207.12598).
    """
    count, batch = len(rows), recipe.batch
    picked = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        picked.append(int(_order(seed, epoch, count)[place]))
    generator = derived_generator(seed, "flow", step)
    x0 = latents.tokens[picked].float()
    noise = torch.randn(x0.shape, generator=generator)
    mu = mu_for_tokens(x0.shape[1], SCHEDULER_CONFIG)
    sigma = shift_sigma(torch.sigmoid(torch.randn(batch, generator=generator)), mu)
    drop = torch.rand(batch, generator=generator) < recipe.caption_dropout
    return x0, [dropped if drop[i] else rows[j] for i, j in enumerate(picked)], noise, sigma


_orders: dict[tuple[int, int, int], Tensor] = {}


def _order(seed: int, epoch: int, count: int) -> Tensor:
    key = (seed, epoch, count)
    if key not in _orders:
        _orders.clear()  # only the current epoch's order is needed again
        _orders[key] = torch.randperm(count, generator=derived_generator(seed, "order", epoch))
    return _orders[key]


@torch.no_grad()
def held_out_loss(
    model: TextToLatents, latents: Latents, rows: list[list[int]], pad: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Flow loss on held-out pictures at fixed sigmas with fixed noise: by sigma, and their mean."""
    losses = {}
    for sigma_value in EVALUATION_SIGMAS:
        total = 0.0
        for start in range(0, len(rows), EVALUATION_BATCH):
            x0 = latents.tokens[start : start + EVALUATION_BATCH].float()
            noise = torch.randn(x0.shape, generator=derived_generator(seed, "held-out", start)).to(device)
            x0, sigma = x0.to(device), torch.full((len(x0),), sigma_value, device=device)
            ids, mask = pad_prompts(rows[start : start + EVALUATION_BATCH], pad, device)
            v = model(interpolate(x0, noise, sigma), sigma, ids, mask)
            total += F.mse_loss(v.float(), velocity(x0, noise)).item() * len(x0)
        losses[f"{sigma_value:g}"] = round(total / len(rows), 5)
    return losses | {"mean": round(sum(losses.values()) / len(losses), 5)}


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Move the exponential average of the weights towards `model`; short memory at first, so that the start fades."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.named_parameters():
        average[name].lerp_(value, 1 - decay)


@torch.no_grad()
def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter by name, tied ones once (the logit matrix is the embedding)."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@torch.no_grad()
def set_weights(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy `values`, as `weights` gives them, into the parameters of `model`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def parameter_groups(model: TextToLatents, options: TransformerRecipe) -> list[dict[str, object]]:
    """Attention and MLP matrices for Muon; embeddings, modulations, input and output layers and biases for AdamW."""
    hidden, rest = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            in_block = ".transformer_blocks." in name or ".layers." in name
            (hidden if p.ndim == 2 and in_block and "_mod." not in name else rest).append(p)
    return [
        {"params": hidden, "muon": True, "peak": options.muon_rate, "weight_decay": options.weight_decay},
        {"params": rest, "muon": False, "peak": options.learning_rate},
    ]


def build_parts(recipe: Recipe, warm_start: Path | None) -> tuple[Qwen2Tokenizer, TextToLatents]:
    """Tokenizer and untrained model, or those of a pipeline folder to start from."""
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer, recipe.seed + 1, **recipe.text_config)
    width = text_encoder.config.text_config.hidden_size
    transformer = build_transformer(width, recipe.seed + 2, **recipe.transformer_config)
    if warm_start is not None:
        saved = Qwen2_5_VLForConditionalGeneration.from_pretrained(warm_start / "text_encoder", dtype=torch.float32)
        text_encoder.load_state_dict(saved.state_dict())
        stored = QwenImageTransformer2DModel.from_pretrained(warm_start / "transformer", dtype=torch.float32)
        transformer.load_state_dict(stored.state_dict())
    return tokenizer, TextToLatents(text_encoder, transformer)


def train_transformer(
    recipe: Recipe,
    out: Path,
    *,
    device: torch.device,
    painter: Painter,
    warm_start: Path | None = None,
    stop_at: int | None = None,
) -> Path | None:
    """Train on the latents of `out/vae`, resuming from `out/transformer.checkpoint.safetensors` when it exists.

    Writes the log `transformer.jsonl`, previews `transformer-NNNNNN.png` and, at the end, the whole pipeline with
    averaged bf16 weights in `out/pipeline`; returns that folder, or None when `stop_at` ended the run early.
    """
    options = recipe.transformer
    vae = load_vae(out / "vae", device)
    data = cache_latents(recipe, out, vae, painter)
    test = cache_latents(recipe, out, vae, painter, split="test")
    tokenizer, model = build_parts(recipe, warm_start)
    model.to(device)
    rows, test_rows = tokenize_prompts(tokenizer, data.captions), tokenize_prompts(tokenizer, test.captions)
    dropped = tokenize_prompts(tokenizer, [NEGATIVE_PROMPT])[0]
    pad = tokenizer.pad_token_id
    optimizer = Muon(parameter_groups(model, options), lr=options.learning_rate)
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    average = weights(model)
    described = {
        "seed": recipe.seed,
        "text_config": recipe.text_config,
        "transformer_config": recipe.transformer_config,
    }
    described |= dataclasses.asdict(options)
    sitting = Sitting(out, "transformer", options, optimizer, described, stop_at)
    if sitting.saved:
        set_weights(model, sitting.saved["model"])
        average = {name: tensor.to(device) for name, tensor in sitting.saved["average"].items()}
    for step in sitting.steps():
        x0, batch_rows, noise, sigma = draw_batch(data, rows, dropped, options, recipe.seed, step)
        ids, mask = pad_prompts(batch_rows, pad, device)
        x0, noise, sigma = x0.to(device), noise.to(device), sigma.to(device)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, options)
        with autocast(device):
            v = model(interpolate(x0, noise, sigma), sigma, ids, mask)
        loss = F.mse_loss(v.float(), velocity(x0, noise))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trainable, options.clip)
        optimizer.step()
        optimizer.zero_grad()
        update_average(average, model, options.ema, step)
        sitting.count(loss=loss, grad_norm=norm, rate=rate_factor(step, options))
        if sitting.preview_is_due():
            current = weights(model)
            set_weights(model, average)
            losses = held_out_loss(model, test, test_rows, pad, recipe.seed, device)
            sitting.log.write(step=sitting.step, held_out=losses)
            pipeline = assemble(vae, model.transformer, model.text_encoder, tokenizer)
            preview(pipeline, test.captions[:16], out / f"transformer-{sitting.step:06d}.png", options.size)
            set_weights(model, current)
        if sitting.checkpoint_is_due():
            sitting.save({"model": weights(model), "average": average})
    if sitting.step < options.steps:
        return None
    set_weights(model, average)
    pipeline = assemble(vae, model.transformer, model.text_encoder, tokenizer)
    return save_pipeline(pipeline, out / "pipeline", options.size)


def preview(pipeline: QwenImagePipeline, captions: list[str], path: Path, size: int) -> None:
    """Generate a picture for each caption of the held-out split, with guidance, and save them as one sheet."""
    images = generate(pipeline, captions, list(range(len(captions))), size=size)
    save_grid(path, np.stack([np.asarray(image) for image in images]))
