"""Checkpoints of pretraining: one safetensors file a stage, whole or absent, from which a run resumes bit for bit.

The file holds the weights, the moving average, every optimizer tensor and, in its header, the step and the recipe.
No generator state is needed: every random number is drawn from (seed, step), see `qwenlab.flow.derived_generator`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, atomic_write_text


def save_checkpoint(
    path: Path,
    *,
    step: int,
    tensors: dict[str, dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    recipe: dict[str, Any],
) -> None:
    """Write weights (`tensors`, by part), optimizer state and `step` to `path`, atomically."""
    flat = {f"{part}/{name}": tensor for part, state in tensors.items() for name, tensor in state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        flat |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in flat.items()}
    header = {"step": str(step), "recipe": json.dumps(recipe, sort_keys=True)}
    atomic_write_bytes(path, save(flat, metadata=header))


def load_checkpoint(
    path: Path, *, optimizer: torch.optim.Optimizer, recipe: dict[str, Any]
) -> tuple[int, dict[str, dict[str, torch.Tensor]]]:
    """Read a checkpoint: restores `optimizer` and returns the step and the tensors by part.

    Raises `QwenlabError` when the file is damaged or was made with another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise QwenlabError(
            f"cannot read the checkpoint {path} ({error}); delete it to start the stage again"
        ) from error
    saved = json.loads(header["recipe"])
    if saved != json.loads(json.dumps(recipe)):
        changed = sorted(key for key in saved.keys() | recipe.keys() if saved.get(key) != recipe.get(key))
        raise QwenlabError(
            f"{path} was made with another recipe ({', '.join(changed)} differ): use the same, or another --out"
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        part, _, rest = name.partition("/")
        if part == "optimizer":
            index, _, key = rest.partition("/")
            states.setdefault(int(index), {})[key] = tensor
        else:
            parts.setdefault(part, {})[rest] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(header["step"]), parts


class Log:
    """A JSONL log that a resumed run continues as if it had never stopped: later lines of the lost part are cut."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        atomic_write_text(path, "".join(line + "\n" for line in kept))

    def write(self, **values: object) -> None:
        """Append one line and print it."""
        rounded = {key: round(v, 6) if isinstance(v, float) else v for key, v in values.items()}
        line = json.dumps(rounded)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
