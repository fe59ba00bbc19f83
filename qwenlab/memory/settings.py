"""What decides the memory and the time of a training step, in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwenlab.errors import QwenlabError
from qwenlab.lora.targets import target_modules

WEIGHTS = ("fp32", "bf16", "int8", "nf4")
OPTIMIZERS = ("adamw", "adamw_8bit")
CHECKPOINTING = ("none", "blocks", "selective")
ATTENTION = ("sdpa", "math", "flash", "efficient", "xformers")


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The numbers of a `QwenImageTransformer2DModel` that decide its size; the defaults are Qwen-Image's."""

    num_layers: int = 60
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    joint_attention_dim: int = 3584  # features of a text token
    in_channels: int = 64  # of an image token: 16 latent channels in patches of 2 x 2
    out_channels: int = 16
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)

    @property
    def width(self) -> int:
        """Features of a token inside the transformer."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelSize:
        """From `pipeline.transformer.config`, or another mapping with its names."""
        values = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        return cls(**values | {"axes_dims_rope": tuple(values["axes_dims_rope"])})


QWEN_IMAGE = ModelSize()
# The micro model of this package, and one between the two for measurements on a CPU: 155 million parameters.
MICRO = ModelSize(
    num_layers=6, num_attention_heads=3, attention_head_dim=64, joint_attention_dim=192, axes_dims_rope=(16, 24, 24)
)
MID = ModelSize(num_layers=4, num_attention_heads=8, joint_attention_dim=1024)
MODELS = {"qwen-image": QWEN_IMAGE, "mid": MID, "micro": MICRO}


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """One training step of a LoRA, or of a ControlNet, on latents and text that were encoded before.

    weights: "fp32", "bf16", or the blocks' linear layers in "int8" or "nf4" and the rest in bf16. What is trained and
        its gradients are float32 always.
    checkpointing: "none"; "blocks": each block is computed again in the backward pass; "selective": the same, but for
        its attention, which is kept.
    attention: "math" (written out) or a fused kernel, without the matrix of all pairs: "sdpa" (PyTorch chooses),
        "flash" and "efficient" (of PyTorch, on CUDA), "xformers" (when installed). A prediction takes them for one.
    modulation_table: `qwenlab.model.modulation` replaces the modulation layers.
    references: pictures of the same size whose clean tokens the step reads beside the noisy ones.
    control_blocks: of a ControlNet that is trained in place of a LoRA (`rank` and `apply_to` then count for nothing).
    """

    model: ModelSize = QWEN_IMAGE
    height: int = 1024  # pixels
    width: int = 1024
    batch: int = 1
    accumulation: int = 1  # batches whose gradients are added up before the optimizer acts
    text_tokens: int = 128
    references: int = 0
    control_blocks: int = 0
    rank: int = 64
    apply_to: tuple[str, ...] = ("attention+mlp",)
    weights: str = "bf16"
    optimizer: str = "adamw_8bit"
    checkpointing: str = "blocks"
    attention: str = "sdpa"
    modulation_table: bool = False

    def __post_init__(self) -> None:
        choices = {
            "weights": WEIGHTS, "optimizer": OPTIMIZERS, "checkpointing": CHECKPOINTING, "attention": ATTENTION,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise QwenlabError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        for name in ("height", "width"):
            if getattr(self, name) < 16 or getattr(self, name) % 16:
                raise QwenlabError(f"{name}: {getattr(self, name)} is no positive multiple of 16 pixels")
        for name in ("batch", "accumulation", "text_tokens", "rank"):
            if getattr(self, name) < 1:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be 1 or more")
        for name in ("references", "control_blocks"):
            if getattr(self, name) < 0:
                raise QwenlabError(f"{name}: {getattr(self, name)} must be 0 or more")
        if self.control_blocks and (self.references or self.modulation_table):
            raise QwenlabError("control_blocks: a ControlNet goes with neither references nor a modulation table")
        target_modules(self.apply_to)  # refuses unknown names
        if self.modulation_table and "modulation" in self.apply_to:
            raise QwenlabError("modulation_table: a LoRA on the modulation layers needs those layers; choose one")

    @property
    def image_tokens(self) -> int:
        """Tokens of one picture: a square of 16 x 16 pixels each."""
        return self.height // 16 * (self.width // 16)

    @property
    def stream_tokens(self) -> int:
        """Tokens of one picture and its references, which go through the same layers."""
        return self.image_tokens * (1 + self.references)

    @property
    def tokens(self) -> int:
        """Tokens of the batch, text and pictures."""
        return self.batch * (self.stream_tokens + self.text_tokens)
