"""The modulation table: a third of Qwen-Image replaced by the numbers it would compute.

Every block turns the timestep into shifts, scales and gates by two linear layers of (6 D, D), `img_mod` and `txt_mod`:
6.8 of the 20.4 billion parameters, and a function of the timestep alone. With timesteps from a known list, their
answers are a table, 4.4 MB a timestep in bfloat16, that stays in CPU memory; the layers leave the GPU. The rows are
what the layers answer at batch 1, so at batch 1 nothing changes, not even a bit; matrix kernels differ in the last bits
at larger batches. A LoRA must not change the modulation, and the timestep must be the one the model really receives:
see `qwenlab.model.flow.model_timestep`.

Precomputed modulation is known for inference (Apple's DiffusionKit does it for Flux); here it serves training, too.

T timesteps, L blocks, D features, B batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel


@dataclass
class ModulationTable:
    """What the modulation layers of one model answer at some timesteps, in the dtype in which it computes.

    timesteps: (T,) float32, ascending, as the model receives them (0 = data, 1 = noise).
    rows: (T, L, 2, 6 D), image and text stream. conditioning: (T, D), what the last norm reads.
    fingerprint: of the layers it was made from.
    """

    timesteps: Tensor
    rows: Tensor
    conditioning: Tensor
    fingerprint: str

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        transformer: QwenImageTransformer2DModel,
        timesteps: Iterable[float] | Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> ModulationTable:
        """Compute the rows, block by block and timestep by timestep.

        timesteps: as passed to the model; equal ones, after rounding to `dtype`, are kept once.
        dtype: in which the model computes: None for that of its weights, or autocast's.
        device: where to compute; None: where the model is. Only one block's layers are there at a time.

        Raises QwenlabError for a model whose modulation is not a function of the timestep alone, or carries a LoRA.
        """
        _check(transformer)
        dtype = dtype or transformer.dtype
        home = transformer.device
        device = torch.device(device or home)
        values = torch.as_tensor(list(map(float, timesteps))).to(dtype).float().unique()  # (T,) ascending
        blocks = transformer.transformer_blocks
        with torch.autocast(device.type, dtype, enabled=dtype != transformer.dtype):
            embed = transformer.time_text_embed.to(device)
            like = torch.empty(0, dtype=dtype, device=device)
            conditions = [embed(value[None].to(device, dtype), like) for value in values]  # (1, D) each
            embed.to(home)
            rows = torch.empty(len(values), len(blocks), 2, 6 * transformer.inner_dim, dtype=dtype)
            for number, block in enumerate(blocks):
                for stream, layer in enumerate((block.img_mod, block.txt_mod)):
                    layer.to(device)
                    for index, condition in enumerate(conditions):
                        rows[index, number, stream] = layer(condition)[0].cpu()
                    layer.to(home)
            conditioning = torch.cat([nn.functional.silu(condition) for condition in conditions]).cpu()
        return cls(values, rows, conditioning, fingerprint(transformer))

    def bind(self, transformer: QwenImageTransformer2DModel) -> None:
        """Put the table in the place of the modulation layers, which stay where they are when the model is moved.

        `unbind` puts them back. Raises QwenlabError when the table was made from another model, the model has one
        already, or a LoRA is in the way.
        """
        _check(transformer)
        if fingerprint(transformer) != self.fingerprint:
            raise QwenlabError("the modulation table was made from another model: make it anew with ModulationTable.of")
        index = _RowIndex(self.timesteps)
        places = {"time_text_embed": index, "norm_out.silu": TableRow(self.conditioning)}
        for number in range(len(transformer.transformer_blocks)):
            for stream, name in enumerate(("img_mod", "txt_mod")):
                places[f"transformer_blocks.{number}.{name}"] = TableRow(self.rows[:, number, stream])
        for name, module in places.items():
            index.replaced[name] = transformer.get_submodule(name)
            transformer.set_submodule(name, module.to(transformer.device))

    def save(self, path: str | Path) -> Path:
        """Write the table as safetensors."""
        from safetensors.torch import save

        from qwenlab.files import atomic_write_bytes

        tensors = {"timesteps": self.timesteps, "rows": self.rows, "conditioning": self.conditioning}
        return atomic_write_bytes(path, save(tensors, {"modulation_table": self.fingerprint}))

    @classmethod
    def load(cls, path: str | Path) -> ModulationTable:
        """Read what `save` wrote. Raises QwenlabError for a file that is missing or something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                made_from = (file.metadata() or {}).get("modulation_table")
                names = ("timesteps", "rows", "conditioning")
                if made_from is None or set(file.keys()) != set(names):
                    raise QwenlabError(f"{path}: holds no modulation table; write one with ModulationTable.save")
                return cls(*(file.get_tensor(name) for name in names), made_from)
        except (OSError, SafetensorError) as error:
            raise QwenlabError(f"{path}: cannot be read as a modulation table ({error})") from error


class _RowIndex(nn.Module):
    """Stands for the timestep embedding: timesteps (B,) -> their numbers in the table (B,) int64, on the CPU."""

    def __init__(self, timesteps: Tensor) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.replaced: dict[str, nn.Module] = {}  # by name; in a dictionary they are no part of the model

    def forward(self, timestep: Tensor, hidden_states: Tensor, addition_t_cond: Tensor | None = None) -> Tensor:
        wanted = timestep.detach().float().cpu()  # (B,)
        index = torch.searchsorted(self.timesteps, wanted).clamp_(max=len(self.timesteps) - 1)
        if not torch.equal(self.timesteps[index], wanted):
            missing = wanted[self.timesteps[index] != wanted][0].item()
            nearest = self.timesteps[(self.timesteps - missing).abs().argmin()].item()
            raise QwenlabError(
                f"timestep {missing:.6g} is not in the modulation table of {len(self.timesteps)} (nearest: "
                f"{nearest:.6g}): make it for the timesteps you use, or unbind it"
            )
        return index


class TableRow(nn.Module):
    """Stands for a layer that reads the timestep embedding: numbers (B,) -> rows (B, ...) on the model's device."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows  # no buffer: it stays in CPU memory
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.rows[index].to(self.place.device)


def unbind(transformer: nn.Module) -> None:
    """Put the modulation layers back; the model is as it was. Raises QwenlabError when it has no table."""
    if not is_bound(transformer):
        raise QwenlabError("the model has no modulation table to unbind")
    device = transformer.device
    for name, module in replaced_layers(transformer).items():
        transformer.set_submodule(name, module.to(device))


def replaced_layers(transformer: nn.Module) -> dict[str, nn.Module]:
    """The layers that a bound table stands for, by name; none without a table."""
    return dict(transformer.time_text_embed.replaced) if is_bound(transformer) else {}


def is_bound(transformer: nn.Module) -> bool:
    """Whether a modulation table stands in the place of the model's modulation layers."""
    return isinstance(transformer.time_text_embed, _RowIndex)


def bound_timesteps(transformer: nn.Module) -> Tensor:
    """The timesteps (T,) of the table that is bound."""
    return transformer.time_text_embed.timesteps


def pipeline_timesteps(
    pipeline: QwenImagePipeline, steps: int, size: tuple[int, int], dtype: torch.dtype | None = None
) -> Tensor:
    """What the stock pipeline passes to its transformer in `steps` steps at `size` (width, height): (steps,) float32.

    dtype: of the latents; None: the transformer's.
    """
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    from qwenlab.model.flow import mu_for_tokens

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    tokens = size[0] // (2 * pipeline.vae_scale_factor) * (size[1] // (2 * pipeline.vae_scale_factor))
    mu = mu_for_tokens(tokens, scheduler.config)
    shift = {"mu": mu} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), **shift)
    return (scheduler.timesteps.to(dtype or pipeline.transformer.dtype) / 1000).float()


def fingerprint(transformer: QwenImageTransformer2DModel) -> str:
    """A hash of the timestep layers: of all biases and of every 512th row of the weights, in their own dtype."""
    digest = hashlib.sha256()
    layers = [transformer.time_text_embed]
    layers += [layer for block in transformer.transformer_blocks for layer in (block.img_mod, block.txt_mod)]
    for layer in layers:
        for parameter in layer.parameters():
            part = parameter.detach()[::512] if parameter.ndim > 1 else parameter.detach()
            digest.update(str(tuple(parameter.shape)).encode())
            digest.update(part.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check(transformer: QwenImageTransformer2DModel) -> None:
    if is_bound(transformer):
        raise QwenlabError("the model has a modulation table already: unbind it first")
    config = transformer.config
    if config.get("zero_cond_t") or config.get("use_additional_t_cond"):
        raise QwenlabError("this model's modulation depends on more than the timestep: it has no table")
    for name, module in transformer.named_modules():
        if hasattr(module, "lora_A") and ("_mod." in name or "time_text_embed" in name):
            raise QwenlabError(
                f"a LoRA changes {name}, which the modulation table would replace: leave 'modulation' out of apply_to"
            )
