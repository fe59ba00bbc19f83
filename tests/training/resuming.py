"""A run that crashes and goes on."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


class Crash(BaseException):
    """Nothing may catch it."""


def crash_at(step):
    """For `on_step`."""

    def on_step(now, loss):
        if now == step:
            raise Crash

    return on_step


def crash_and_resume(train, config, step):
    """The result of the run that goes on after one that crashed at `step`; `train` as `train_lora`."""
    with pytest.raises(Crash):
        train(config, on_step=crash_at(step))
    return train(config, resume=True)


def same_bits(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
