"""Which layers of Qwen-Image carry a LoRA, by the endings of their names. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from qwenlab.errors import QwenlabError

_IMAGE_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_MLP = ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2")

# The 14 linear layers of a block of the transformer. The two of the modulation see the timestep alone.
TARGETS: dict[str, tuple[str, ...]] = {
    "attention-4": _IMAGE_ATTENTION,
    "attention-8": _IMAGE_ATTENTION + _TEXT_ATTENTION,
    "mlp": _MLP,
    "attention+mlp": _IMAGE_ATTENTION + _TEXT_ATTENTION + _MLP,
    "modulation": ("img_mod.1", "txt_mod.1"),
}
# Layers of the language model of Qwen2.5-VL; its vision tower, which no caption passes, has others.
TEXT_ENCODER_TARGETS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


def target_modules(apply_to: str | Sequence[str]) -> list[str]:
    """Module-name endings for one or several names of `TARGETS`, in order and without repeats.

    Raises QwenlabError for an unknown name.
    """
    names = [apply_to] if isinstance(apply_to, str) else list(apply_to)
    for name in names:
        if name not in TARGETS:
            raise QwenlabError(f"apply_to: {name!r} names no layers of Qwen-Image; choose from {', '.join(TARGETS)}")
    return list(dict.fromkeys(module for name in names for module in TARGETS[name]))
