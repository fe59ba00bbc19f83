"""One sitting of a pretraining stage: a stage may be stopped and taken up again, to the same bits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwenlab.lab.micro.log import Log
from qwenlab.lab.micro.recipe import TransformerRecipe, VaeRecipe
from qwenlab.training.checkpoint import load_checkpoint, save_checkpoint


class Sitting:
    """Counts the steps of a stage from its checkpoint on, keeps its log, and says what is due after each of them.

    step: optimizer steps that are done. saved: the tensors of the checkpoint by part and name, None without one; the
    optimizer has its state back already.
    """

    def __init__(
        self,
        out: Path,
        stage: str,
        options: VaeRecipe | TransformerRecipe,
        optimizer: torch.optim.Optimizer,
        described: dict[str, Any],
        stop_at: int | None,
    ) -> None:
        """`described`: what a checkpoint must have been made with. Raises QwenlabError when it was not."""
        self.options, self.optimizer, self.described = options, optimizer, described
        self.checkpoint = out / f"{stage}.checkpoint.safetensors"
        self.step, self.saved = 0, None
        if self.checkpoint.exists():
            found = load_checkpoint(self.checkpoint, optimizer=optimizer, recipe=described)
            self.step, self.saved = found.step, found.tensors
        self.log = Log(out / f"{stage}.jsonl", self.step)
        self.end = min(options.steps, stop_at or options.steps)

    def steps(self) -> Iterator[int]:
        """The steps that are to be done, by the number of those before them; `count` must be called in each."""
        self._started, self._first = time.monotonic(), self.step
        while self.step < self.end:
            yield self.step

    def count(self, **values: Tensor | float) -> None:
        """One more step is done; writes `values` to the log when that is due, and how fast it goes."""
        self.step += 1
        if self._due(self.options.log_every, self.end):
            seconds = (time.monotonic() - self._started) / (self.step - self._first)
            numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in values.items()}
            left = (self.end - self.step) * seconds / 60
            self.log.write(step=self.step, **numbers, seconds_per_step=seconds, minutes_left=left)

    def preview_is_due(self) -> bool:
        return self._due(self.options.preview_every, self.options.steps)

    def checkpoint_is_due(self) -> bool:
        return self._due(self.options.checkpoint_every, self.end)

    def save(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write the checkpoint of this step."""
        save_checkpoint(
            self.checkpoint, step=self.step, tensors=tensors, optimizer=self.optimizer, recipe=self.described
        )

    def _due(self, every: int, last: int) -> bool:
        return self.step % every == 0 or self.step == last
