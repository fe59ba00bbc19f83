"""A run under way: the weights it trains, their optimizer and average, its history, and the files that keep them.

    output_dir/checkpoint-000250.safetensors    the LoRA after step 250; any loader reads it
    output_dir/best.safetensors                 the LoRA of the step with the lowest held-out loss
    output_dir/training-state.safetensors       everything needed to go on; gone when the run is finished
    output_dir/lora.safetensors, training.json  the result

With a LoRA on the text encoder each LoRA file has a folder NAME-text-encoder beside it (`qwenlab.lora.io`). A
ControlNet's files are folders, checkpoint-000250/, best/ and controlnet/, as diffusers writes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import Dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json, package_versions
from qwenlab.lora.io import model_fingerprint
from qwenlab.training.checkpoint import load_checkpoint, save_checkpoint
from qwenlab.training.runtime import make_optimizer, resumable_settings
from qwenlab.training.trained import Parts, make_trained

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

STATE_FILE = "training-state.safetensors"  # of an unfinished run, in output_dir


@contextlib.contextmanager
def exclusive(folder: Path, writer: bool = True) -> Iterator[None]:
    """Make `folder` and keep other runs out of it; of several processes of one run only the `writer` holds the lock.

    Raises QwenlabError when another run is there or the folder cannot be made. The lock is free again however the
    process ends.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QwenlabError(f"output_dir: {folder} cannot be made ({error.strerror}); choose another") from error
    if not writer:
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise QwenlabError(
            f"{folder}: another run is writing there; wait for it, or choose another output_dir"
        ) from error
    try:
        for rest in folder.glob(".*.tmp"):  # half written when a run was killed
            rest.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


class Run:
    """What `train_lora` trains and writes. `losses` and `validation` are the history so far.

    Args:
        pipeline: without a LoRA; it gets one, or a ControlNet is made for it (`qwenlab.training.trained`).
        folder: an existing folder for all files.
        say: receives one line when a file cannot be written; training goes on.
    """

    def __init__(
        self,
        pipeline: QwenImagePipeline,
        config: TrainConfig,
        folder: Path,
        dataset: Dataset,
        say: Callable[[str], None],
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.pipeline, self.config, self.folder, self.say = pipeline, config, folder, say
        self.state_path = folder / STATE_FILE
        self.metadata = {
            "qwenlab.base": config.base, "qwenlab.config": config.hash(), "qwenlab.trigger": config.trigger,
        }  # fmt: skip
        self.base_dtype = pipeline.transformer.dtype
        self.trained = make_trained(pipeline, config)
        self.factors: Parts = self.trained.parts
        self.recipe = resumable_settings(config, dataset) | self.trained.recipe()
        rates = {name: config.learning_rate * ratio for name, ratio in self.trained.ratios.items()}
        self.optimizer = make_optimizer(
            [{"params": list(part.values()), "lr": rates[name]} for name, part in self.factors.items()], config
        )
        self.parameters = [parameter for part in self.factors.values() for parameter in part.values()]
        self.average = EMAModel(self.parameters, decay=config.ema_decay) if config.ema_decay else None
        self.losses: list[float] = []
        self.validation: dict[int, dict[float, float]] = {}
        self.checkpoints: list[str] = []  # names of this run's checkpoint files, oldest first

    @property
    def path(self) -> Path:
        """Where the result will be: lora.safetensors, or the folder controlnet/."""
        return self.folder / f"{self.trained.result}{self.trained.ending}"

    @property
    def best_step(self) -> int | None:
        """The step with the lowest mean held-out loss, 0 being the base; None without validation."""
        means = {step: sum(row.values()) / len(row) for step, row in self.validation.items()}
        return min(means, key=means.get) if means else None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model holds the average of its weights, when there is one."""
        if self.average:
            self.average.store(self.parameters)
            self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            if self.average:
                self.average.restore(self.parameters)

    def after_step(self, loss: float) -> None:
        """Note the loss and take the new weights into the average."""
        self.losses.append(loss)
        if self.average:
            self.average.step(self.parameters)

    def resume(self) -> int:
        """Take everything from the state file; returns the last finished step."""
        saved = load_checkpoint(self.state_path, optimizer=self.optimizer, recipe=self.recipe)
        self.trained.adopt(saved.tensors)
        for part, factors in self.factors.items():
            for name, parameter in factors.items():
                parameter.data.copy_(saved.tensors[part][name])
        if self.average:
            for shadow, name in zip(self.average.shadow_params, self._names(), strict=True):
                shadow.copy_(saved.tensors["average"][name])
            self.average.optimization_step = saved.values["average_steps"]
        now = package_versions()
        other = [f"{name} {old}" for name, old in saved.values.get("versions", {}).items() if old != now.get(name)]
        if other:
            self.say(f"warning: the run began with {', '.join(other)}; other versions may give other bits")
        self.losses, self.checkpoints = saved.values["losses"], saved.values["checkpoints"]
        self.validation = {step: dict(row) for step, row in saved.values["validation"]}
        return saved.step

    def save_state(self, step: int) -> None:
        """Write the state file. Raises OSError."""
        tensors = dict(self.factors)
        values = {
            "losses": self.losses,
            "validation": [[at, list(row.items())] for at, row in self.validation.items()],
            "checkpoints": self.checkpoints,
            "versions": package_versions(),
        }
        if self.average:
            tensors["average"] = dict(zip(self._names(), self.average.shadow_params, strict=True))
            values["average_steps"] = self.average.optimization_step
        save_checkpoint(
            self.state_path, step=step, tensors=tensors, optimizer=self.optimizer, recipe=self.recipe, values=values
        )

    def _names(self) -> list[str]:
        return [f"{part}/{name}" for part, factors in self.factors.items() for name in factors]

    def save_checkpoint(self, step: int) -> None:
        """Write LoRA or net and the state of this step; a full disk costs this checkpoint only, and a line to `say`."""
        name, before = f"checkpoint-{step:06d}{self.trained.ending}", self.checkpoints
        written = [*before, name]
        keep = self.config.keep_checkpoints or len(written)
        try:
            with self.averaged():
                self._save(self.folder / name)
            self.checkpoints = written[-keep:]
            self.save_state(step)
        except OSError as error:
            self.checkpoints = [old for old in written if (self.folder / old).exists()]
            where = error.filename or self.folder
            self.say(f"warning: step {step} was not saved ({error.strerror}: {where}); free space, training goes on")
            return
        for old in written[:-keep]:  # only now: the state no longer names them
            self.trained.delete(self.folder / old)

    def save_if_best(self, step: int) -> None:
        """Write best.safetensors when no step validated so far is better than this one, the base excepted."""
        best = self.folder / f"best{self.trained.ending}"
        if step and self.best_step == step:
            try:
                with self.averaged():
                    self._save(best)
            except OSError as error:
                self.say(f"warning: {best.name} was not written ({error.strerror}); free space")

    def last_good(self) -> str:
        """Where to go on from after a failure, as half a sentence."""
        if not self.checkpoints:
            return "no checkpoint was saved before (save_every_n_steps)"
        onward = self.trained.onward
        return f"go on from {self.folder / self.checkpoints[-1]}: name it in {onward}, with another output_dir"

    def finish(self, seconds: float) -> Path:
        """Round the weights to the base's dtype, write the result, delete the state file; returns the result's path.

        A result of other settings that is there already keeps a name of its own. Raises QwenlabError when the folder
        cannot be written; the result is then in the temporary folder that the message names.
        """
        if self.average:
            self.average.copy_to(self.parameters)
        self.round()
        path = self.path
        record = {
            "config": dataclasses.asdict(self.config),
            "base_model": model_fingerprint(self.pipeline.transformer),
            "losses": self.losses,
            "validation": self.validation,
            "best_step": self.best_step,
            "seconds": seconds,
        }
        try:
            self._keep_other_result(path)
            self._save(path)
            atomic_write_json(self.folder / "training.json", record)
        except OSError as error:
            refuge = Path(tempfile.mkdtemp(prefix="qwenlab-")) / path.name
            self._save(refuge)
            kind = self.trained.kind
            raise QwenlabError(f"{path}: not written ({error.strerror}); the {kind} is in {refuge}: move it") from error
        self.state_path.unlink(missing_ok=True)
        return path

    def round(self) -> None:
        """Give the weights the base's dtype: what is drawn with now is what the file will give."""
        for parameter in self.parameters:
            parameter.data = parameter.data.to(self.base_dtype)

    def _keep_other_result(self, path: Path) -> None:
        """Rename what another configuration left: lora.safetensors becomes lora-<its hash>.safetensors."""
        if not path.exists():
            return
        try:
            other = self.trained.metadata(path).get("qwenlab.config", "other")
        except QwenlabError:
            return  # broken, nothing to keep
        if other == self.metadata["qwenlab.config"]:
            return
        kept = path.with_name(f"{self.trained.result}-{other}{self.trained.ending}")
        self.trained.move(path, kept)
        self.say(f"note: {path} was made with other settings; it is now {kept.name}")

    def _save(self, path: Path) -> None:
        self.trained.save(path, self.metadata)
