"""What watches a run: it is told of every step, every validation and every preview, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator


class Observer:
    """Base class; override what you want to see. Called in the main process only."""

    def on_step(self, step: int, loss: float, learning_rate: float) -> None:
        """After each optimizer step, counted from 1; `learning_rate` is the transformer's for the next step."""

    def on_validation(self, step: int, losses: Mapping[float, float]) -> None:
        """Held-out flow loss by sigma (0 = data, 1 = noise) after `step`; 0 is the base."""

    def on_preview(self, step: int, paths: list[Path]) -> None:
        """Pictures drawn after `step`; 0 is the base."""

    def on_end(self) -> None:
        """Training is over, or was stopped."""


class TensorBoard(Observer):
    """Writes scalars and previews through accelerate's tracker into output_dir/logs: `tensorboard --logdir runs`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        accelerator.init_trackers("logs")

    def on_step(self, step: int, loss: float, learning_rate: float) -> None:
        self.accelerator.log({"train/loss": loss, "train/learning_rate": learning_rate}, step=step)

    def on_validation(self, step: int, losses: Mapping[float, float]) -> None:
        bands = {f"validation/sigma {sigma:g}": loss for sigma, loss in losses.items()}
        self.accelerator.log(bands | {"validation/mean": sum(losses.values()) / len(losses)}, step=step)

    def on_preview(self, step: int, paths: list[Path]) -> None:
        import numpy as np
        from PIL import Image

        pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])  # (N, H, W, 3) uint8
        self.accelerator.get_tracker("tensorboard").log_images({"previews": pictures}, step=step, dataformats="NHWC")

    def on_end(self) -> None:
        self.accelerator.end_training()
