"""Checkpoints: one safetensors file, whole or absent, from which training resumes bit for bit.

The file holds the weights, every optimizer tensor and, in its header, the step, the recipe and a few JSON values. No
generator state is needed: every random number is drawn from (seed, step, ...), see
`qwenlab.model.flow.derived_generator`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes

_NOT_KEPT = ("params", "lr", "initial_lr")


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: the number of finished steps, tensors by part and name, and the JSON values."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    values: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    *,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, Any],
    values: dict[str, Any] | None = None,
) -> None:
    """Write weights (`tensors`, by part), optimizer state, `step` and `values` (JSON) to `path`, atomically."""
    flat = {f"{part}/{name}": tensor for part, state in tensors.items() for name, tensor in state.items()}
    state = dict(_leaves(optimizer.state_dict()["state"], "optimizer"))
    # 8-bit Adam counts its steps in a plain number.
    numbers = {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
    flat |= {name: value for name, value in state.items() if name not in numbers}
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}
    # Prodigy estimates its rate in the groups. lr itself belongs to the schedule, a function of the step.
    kept = [{k: v for k, v in group.items() if k not in _NOT_KEPT} for group in optimizer.state_dict()["param_groups"]]
    header = {"step": step, "recipe": recipe, "values": values or {}, "numbers": numbers, "groups": kept}
    metadata = {name: json.dumps(value, sort_keys=True) for name, value in header.items()}
    atomic_write_bytes(path, save(flat, metadata=metadata))


def load_checkpoint(path: Path, *, optimizer: torch.optim.Optimizer, recipe: dict[str, Any]) -> Checkpoint:
    """Read a checkpoint and restore `optimizer` from it.

    Raises `QwenlabError` when the file is damaged or was made with another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            flat: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        saved = header["recipe"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise QwenlabError(
            f"cannot read the checkpoint {path} ({error}); delete it to start from the beginning"
        ) from error
    if saved != json.loads(json.dumps(recipe)):
        changed = sorted(key for key in saved.keys() | recipe.keys() if saved.get(key) != recipe.get(key))
        raise QwenlabError(
            f"{path} was made with other settings ({', '.join(changed)} differ): use the same, or another output folder"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    states: dict[int, dict[str, Any]] = {}
    for name, value in (flat | header.get("numbers", {})).items():
        part, _, rest = name.partition("/")
        if part == "optimizer":
            index, *groups, key = rest.split("/")
            state = states.setdefault(int(index), {})
            for group in groups:
                state = state.setdefault(group, {})
            state[key] = value
        else:
            parts.setdefault(part, {})[rest] = value
    fresh_groups = optimizer.state_dict()["param_groups"]
    groups = [fresh | kept for fresh, kept in zip(fresh_groups, header["groups"], strict=True)]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return Checkpoint(header["step"], parts, header.get("values", {}))


def _leaves(state: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Values of nested dictionaries with their path; 8-bit Adam keeps a dictionary within each parameter's state."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}/{key}")
        else:
            yield f"{prefix}/{key}", value
