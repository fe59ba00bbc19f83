"""What the small networks of hands and feet share: a layer, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from torch import nn

from qwenlab.errors import QwenlabError

N = TypeVar("N", bound=nn.Module)


def smooth_layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, group norm and SiLU: smooth, so that gradients pass."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU())


def load_frozen(network: N, path: Path, what: str, module: str) -> N:
    """Fill a network from a safetensors file; float32, in eval mode, without gradients of its own.

    Raises QwenlabError, naming `what` it is and the `module` that trains it, when the file is missing, damaged or of
    another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, RuntimeError, SafetensorError) as error:
        raise QwenlabError(f"cannot load {what} from {path}: train it with python -m {module}") from error
    return network.eval().requires_grad_(False)
