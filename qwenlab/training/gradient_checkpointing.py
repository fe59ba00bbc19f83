"""Gradient checkpointing that keeps the one thing that is dear to compute again and cheap to keep: attention.

Plain checkpointing (Chen et al., arXiv 1604.06174) keeps the input of each block and computes the block a second time
in the backward pass, attention included, whose operations grow with the square of the tokens while its answer does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# The kernels behind scaled_dot_product_attention, of every device, by the beginning of their names.
_ATTENTION = ("aten::_scaled_dot_product", "flash_attn::", "xformers::", "xformers_flash::")


def enable_checkpointing(transformer: nn.Module, *, selective: bool = False) -> None:
    """Switch gradient checkpointing on; `selective`: the attention of each block is kept.

    Selective needs a fused attention kernel; attention that is written out as matrix products is computed again.
    """
    transformer.enable_gradient_checkpointing(_selective if selective else None)


def _selective(module: nn.Module, *args: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(module.__call__, *args, use_reentrant=False, context_fn=contexts)


def _policy(context: Any, operation: Callable, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = isinstance(operation, torch._ops.OpOverload) and operation.name().startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
