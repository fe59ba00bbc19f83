"""One training step of a LoRA or ControlNet on a Qwen-Image transformer of any size, made from settings alone.

The same code runs on real tensors, CPU or CUDA, with random weights, and on fake tensors, which have shapes and no
values. Only what cannot exist without values, bitsandbytes' layers and optimizer, has a stand-in there that holds the
same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import target_modules
from qwenlab.memory.live_bytes import LiveBytes
from qwenlab.memory.settings import StepSettings
from qwenlab.memory.stand_ins import NF4Linear, StandInAdamW8bit
from qwenlab.model.attention_backends import attention_backend
from qwenlab.model.controlnet import Controlled
from qwenlab.model.modulation import TableRow
from qwenlab.model.quantize import quantise_linear
from qwenlab.training.batches import Batch, flow_loss
from qwenlab.training.gradient_checkpointing import enable_checkpointing
from qwenlab.training.lean import lean_forward

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16, "nf4": torch.bfloat16}
# Of the last block only the picture is used: these layers of its text stream get no gradient.
_UNUSED = ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")


@dataclass
class Step:
    """A model and what one training step of it needs; `run` executes the step. net: the ControlNet that is trained."""

    settings: StepSettings
    transformer: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    net: nn.Module | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The factors of the LoRA, or the weights of the ControlNet."""
        return self.optimizer.param_groups[0]["params"]

    @cached_property
    def model(self) -> nn.Module:
        """What is called."""
        return self.transformer if self.net is None else Controlled(self.transformer, self.net)

    def run(self, watch: LiveBytes | None = None) -> Tensor:
        """Forward, backward, gradient clipping, optimizer. Returns the last batch's loss, a detached scalar."""
        with _attention(self.transformer, self.settings.attention), lean_forward(self.transformer):
            for _ in range(self.settings.accumulation):
                with _phase(watch, "forward", "activations"):
                    loss = flow_loss(self.model, self.batch) / self.settings.accumulation
                with _phase(watch, "backward", "backward"):
                    loss.backward()
                    if watch:
                        watch.add([p.grad for p in self.parameters if p.grad is not None], "gradients")
            with _phase(watch, "optimizer", "optimizer states"):
                torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return loss.detach()


@contextlib.contextmanager
def _phase(watch: LiveBytes | None, name: str, kind: str) -> Iterator[None]:
    with watch.phase(name, kind) if watch else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _attention(transformer: nn.Module, attention: str) -> Iterator[None]:
    kernels = torch.nn.attention.SDPBackend
    chosen = {"math": kernels.MATH, "flash": kernels.FLASH_ATTENTION, "efficient": kernels.EFFICIENT_ATTENTION}
    if attention in chosen:
        with torch.nn.attention.sdpa_kernel(chosen[attention]):
            yield
    elif attention == "xformers":
        with attention_backend(transformer, attention):
            yield
    else:
        yield


def build_step(settings: StepSettings, device: str = "cpu", *, fake: bool = False, seed: int = 0) -> Step:
    """The step of `settings` on `device`; inside a FakeTensorMode say `fake`, and nothing is really allocated.

    Weights are random: their values change neither memory nor time. States of AdamW are there from the beginning;
    bitsandbytes makes its own in the first step.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = random_transformer(settings, device, fake=fake)
        net = _random_net(settings, device) if settings.control_blocks else None
        if net is None:
            trained = inject_lora(
                transformer, target_modules(settings.apply_to), rank=settings.rank, alpha=settings.rank, seed=seed
            )
        else:
            transformer.requires_grad_(False)
            trained = dict(net.named_parameters())
        batch = _batch(settings, device)
    optimizer = _optimizer(settings, trained, fake)
    for part in (transformer, net) if net is not None else (transformer,):
        part.train()
        if settings.checkpointing != "none":
            enable_checkpointing(part, selective=settings.checkpointing == "selective")
    return Step(settings, transformer, optimizer, batch, net)


def _random_net(settings: StepSettings, device: str) -> nn.Module:
    from diffusers import QwenImageControlNetModel

    size = settings.model
    with torch.device(device):
        return QwenImageControlNetModel(
            num_layers=settings.control_blocks, num_attention_heads=size.num_attention_heads,
            attention_head_dim=size.attention_head_dim, joint_attention_dim=size.joint_attention_dim,
            in_channels=size.in_channels, out_channels=size.out_channels, axes_dims_rope=size.axes_dims_rope,
        )  # fmt: skip


def random_transformer(settings: StepSettings, device: str = "cpu", *, fake: bool = False) -> nn.Module:
    """A QwenImageTransformer2DModel with random weights as `settings` say, built, and quantised, block by block."""
    from diffusers import QwenImageTransformer2DModel
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock

    size, dtype = settings.model, DTYPES[settings.weights]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = QwenImageTransformer2DModel(
                num_layers=0, num_attention_heads=size.num_attention_heads,
                attention_head_dim=size.attention_head_dim, joint_attention_dim=size.joint_attention_dim,
                in_channels=size.in_channels, out_channels=size.out_channels, axes_dims_rope=size.axes_dims_rope,
            )  # fmt: skip
            if settings.modulation_table:
                transformer.time_text_embed = _FirstRow()
                transformer.norm_out.silu = _row(size.width)
            for _ in range(size.num_layers):
                block = QwenImageTransformerBlock(size.width, size.num_attention_heads, size.attention_head_dim)
                if settings.modulation_table:
                    block.img_mod, block.txt_mod = _row(6 * size.width), _row(6 * size.width)
                _quantise(block, settings.weights, device, fake)
                transformer.transformer_blocks.append(block.requires_grad_(False))
    finally:
        torch.set_default_dtype(default)
    transformer.register_to_config(num_layers=size.num_layers)
    return transformer


class _FirstRow(nn.Module):
    """In the place of the timestep embedding: every timestep is the first of the table."""

    def forward(self, timestep: Tensor, *_: object) -> Tensor:
        return torch.zeros(len(timestep), dtype=torch.int64, device="cpu")


def _row(features: int) -> TableRow:
    """A table of one row, in CPU memory; its small numbers keep the activations of deep random models finite."""
    return TableRow(torch.full((1, features), 0.01, device="cpu"))


def _quantise(block: nn.Module, weights: str, device: str, fake: bool) -> None:
    if weights not in ("int8", "nf4"):
        return
    for name, layer in list(block.named_modules()):
        if type(layer) is nn.Linear:
            stand_in = fake and weights == "nf4"
            block.set_submodule(name, NF4Linear(layer) if stand_in else quantise_linear(layer, weights, device))


def _batch(settings: StepSettings, device: str) -> Batch:
    size, dtype = settings.model, DTYPES[settings.weights]
    shape = (settings.batch, settings.image_tokens, size.in_channels)
    beside = (settings.batch, settings.references * settings.image_tokens, size.in_channels)
    return Batch(
        x_t=torch.randn(shape, device=device, dtype=dtype),
        target=torch.randn(shape, device=device),
        sigma=torch.full((settings.batch,), 0.5, device=device),
        text=torch.randn(settings.batch, settings.text_tokens, size.joint_attention_dim, device=device, dtype=dtype),
        text_mask=None,
        image_shapes=[[(1, settings.height // 16, settings.width // 16)] * (1 + settings.references)] * settings.batch,
        references=torch.randn(beside, device=device, dtype=dtype) if settings.references else None,
        control=torch.randn(shape, device=device, dtype=dtype) if settings.control_blocks else None,
    )


def _optimizer(settings: StepSettings, factors: dict[str, nn.Parameter], fake: bool) -> torch.optim.Optimizer:
    parameters = list(factors.values())
    if settings.optimizer == "adamw_8bit":
        if fake:
            return StandInAdamW8bit([p for name, p in factors.items() if not _gets_no_gradient(name, settings)])
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=1e-4)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    for name, parameter in factors.items():
        if not _gets_no_gradient(name, settings):
            zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
    return optimizer


def _gets_no_gradient(name: str, settings: StepSettings) -> bool:
    last = (settings.control_blocks or settings.model.num_layers) - 1
    return name.startswith(tuple(f"transformer_blocks.{last}.{layer}" for layer in _UNUSED))
