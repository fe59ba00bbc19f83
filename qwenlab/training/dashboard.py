"""A dashboard for notebooks: loss, held-out loss by noise level, and previews, while training goes on.

dashboard = Dashboard()
display(dashboard.widget)                    # changes while the next line runs
train_lora(pipeline, config, observers=[dashboard])
dashboard.picture()                          # the same as a still, for readers without a kernel
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qwenlab.show import ImageTable, figure_table
from qwenlab.training.observers import Observer

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure

SMOOTHED = 25  # steps


class Dashboard(Observer):
    """Collects what a run tells; `widget` shows it live, `picture` as a still.

    refresh_seconds: least time between two drawings of the curves, so that they cost little beside the training.
    """

    def __init__(self, refresh_seconds: float = 3.0) -> None:
        self.refresh_seconds, self._drawn = refresh_seconds, 0.0
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.validation: dict[int, dict[float, float]] = {}
        self.previews: dict[int, list[Path]] = {}

    @cached_property
    def widget(self) -> ipywidgets.VBox:
        """An ipywidgets box: one line of numbers, the curves, and the base's previews above the latest."""
        import ipywidgets

        self._line = ipywidgets.HTML("waiting for the first step")
        self._curves = ipywidgets.Image(format="png", layout={"width": "760px"})
        self._rows = ipywidgets.VBox()
        return ipywidgets.VBox([self._line, self._curves, self._rows])

    def on_step(self, step: int, loss: float, learning_rate: float) -> None:
        self.steps.append(step)
        self.losses.append(loss)
        if "widget" in self.__dict__ and time.monotonic() - self._drawn > self.refresh_seconds:
            mean = np.mean(self.losses[-SMOOTHED:])
            self._line.value = f"step {step} · loss {mean:.4f} (mean of {SMOOTHED}) · learning rate {learning_rate:.2e}"
            self._redraw()

    def on_validation(self, step: int, losses: Mapping[float, float]) -> None:
        self.validation[step] = dict(losses)
        if "widget" in self.__dict__:
            self._redraw()

    def on_preview(self, step: int, paths: list[Path]) -> None:
        import ipywidgets

        self.previews[step] = list(paths)
        if "widget" in self.__dict__:
            rows = []
            for at in sorted({min(self.previews), step}):  # the base, or what came first, beside the latest
                pictures = [path.read_bytes() for path in self.previews[at][:5]]
                shown = [ipywidgets.Image(value=picture, layout={"width": "150px"}) for picture in pictures]
                rows.append(ipywidgets.HBox([ipywidgets.Label(f"step {at}" if at else "base"), *shown]))
            self._rows.children = rows

    def on_end(self) -> None:
        if "widget" in self.__dict__:
            self._redraw()

    @property
    def best_step(self) -> int | None:
        """The step with the lowest mean held-out loss, 0 being the base."""
        means = {step: np.mean(list(row.values())) for step, row in self.validation.items()}
        return min(means, key=means.get) if means else None

    def figure(self) -> Figure:
        """Training loss, and beside it, when there is one, the held-out loss by sigma relative to the base."""
        import matplotlib.pyplot as plt

        with plt.ioff():
            figure, axes = plt.subplots(1, 2 if self.validation else 1, figsize=(8, 2.8), layout="constrained")
        left, *right = np.atleast_1d(axes)
        left.plot(self.steps, self.losses, color="0.85", linewidth=0.7, label="each step")
        if len(self.losses) > SMOOTHED:
            smooth = np.convolve(self.losses, np.ones(SMOOTHED) / SMOOTHED, mode="valid")
            left.plot(self.steps[SMOOTHED - 1 :], smooth, color="tab:blue", label=f"mean of {SMOOTHED} steps")
        left.set(xlabel="step", ylabel="flow loss", title="training loss")
        left.legend(frameon=False, fontsize="small")
        for ax in right:
            self._draw_validation(ax)
        return figure

    def _draw_validation(self, ax) -> None:
        import matplotlib.pyplot as plt

        steps = list(self.validation)
        first = self.validation[steps[0]]
        for number, sigma in enumerate(first):
            colour = plt.cm.viridis(number / max(1, len(first) - 1) * 0.85)
            relative = [self.validation[step][sigma] / first[sigma] for step in steps]
            ax.plot(steps, relative, color=colour, marker="o", markersize=3, label=f"sigma {sigma:g}")
        ax.axvline(self.best_step, color="0.6", linestyle=":", label=f"best: {self.best_step}")
        ax.set(xlabel="step", ylabel="relative to the first", title="held-out loss by noise level")
        ax.legend(frameon=False, fontsize="x-small", ncols=2)

    def picture(self) -> ImageTable:
        """The curves as a still picture with alternative text."""
        words = f"Training loss over {len(self.losses)} steps"
        if self.validation:
            words += f", and the held-out loss at each noise level; its mean is lowest after step {self.best_step}"
        return figure_table(self.figure(), alt=f"{words}.")

    def _redraw(self) -> None:
        import matplotlib.pyplot as plt

        buffer, figure = io.BytesIO(), self.figure()
        figure.savefig(buffer, format="png", dpi=100)
        plt.close(figure)
        self._curves.value = buffer.getvalue()
        self._drawn = time.monotonic()
