"""The training loop, from a configuration to a LoRA file."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.checkpoint import load_checkpoint, save_checkpoint
from qwenlab.config import TrainConfig
from qwenlab.dataset import Dataset, read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json
from qwenlab.generate import generate
from qwenlab.lora import inject_lora, target_modules
from qwenlab.lora_io import carries_lora, model_fingerprint, remove_lora, save_lora
from qwenlab.training.batches import batches_loss, draw_batches
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.runtime import (
    interruptible,
    make_accelerator,
    make_optimizer,
    resumable_settings,
    training_mode,
    usable_precision,
)
from qwenlab.training.training_set import TrainingSet, prepare_data

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImagePipeline

STATE_FILE = "training-state.safetensors"  # of an unfinished run, in output_dir


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the LoRA file, the loss of every optimizer step, seconds of caching and training.

    validation: {step: {sigma: held-out flow loss}}, step 0 being the base; empty without `validation_share`.
    """

    lora_path: Path
    losses: list[float]
    caching_seconds: float
    seconds: float
    previews: list[Path]
    validation: dict[int, dict[float, float]]


def train_lora(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train a LoRA on `config.dataset` (or `dataset`) and write `output_dir/lora.safetensors`.

    The pipeline keeps the trained LoRA, so that it can draw at once; `qwenlab.lora_io.remove_lora` gives the
    base back. Rounding to the base's dtype is done before saving: the file gives the very pixels that the
    pipeline gives. With `config.free_text_encoder` the pipeline comes back without its text encoder.

    Args:
        pipeline: a stock QwenImagePipeline in any precision.
        progress: show progress bars and notes on standard error.
        on_step: called with the step (from 1) and its loss after each optimizer step.
        resume: go on with the run that `output_dir/training-state.safetensors` holds, to the same bits as an unbroken
            one (same machine and number of threads). The file is written every `save_every_n_steps` and by Ctrl-C.

    Raises: QwenlabError for a broken dataset, a folder that cannot be written or holds an unfinished run, a missing
        optimizer package, a loss that is not finite, and when Ctrl-C stopped the run.
    """
    from tqdm import tqdm  # plain text: a notebook keeps it, where the widget needs a live kernel

    say = (lambda line: tqdm.write(line, file=sys.stderr)) if progress else (lambda line: None)
    precision = usable_precision(config.mixed_precision, pipeline.transformer.device.type, say)
    accelerator = make_accelerator(pipeline, config, precision)
    dataset = dataset or read_dataset(config.dataset)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    output_dir = Path(config.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QwenlabError(f"output_dir: {output_dir} cannot be made ({error.strerror}); choose another") from error
    state_path = output_dir / STATE_FILE
    if state_path.exists() != resume:
        raise QwenlabError(
            f"{state_path}: no unfinished run is there; train without --resume"
            if resume
            else f"{state_path} holds an unfinished run: go on with --resume, delete it, or choose another output_dir"
        )

    started = time.perf_counter()
    with accelerator.local_main_process_first():  # the others find everything in the cache
        data = prepare_data(pipeline, dataset, config, say, progress)
    caching_seconds = time.perf_counter() - started

    if carries_lora(pipeline):
        say("note: the LoRA that was loaded is removed first")
        remove_lora(pipeline)
    parameters = inject_lora(
        pipeline.transformer,
        target_modules(config.apply_to),
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        seed=config.seed,
    )
    base_dtype = pipeline.transformer.dtype
    metadata = {
        "qwenlab.base": config.base, "qwenlab.config": config.hash(), "qwenlab.trigger": config.trigger,
    }  # fmt: skip
    losses: list[float] = []
    previews: list[Path] = []
    validation: dict[int, dict[float, float]] = {}
    optimizer = make_optimizer(list(parameters.values()), config)
    described = resumable_settings(config, dataset)

    def save_state(step: int) -> None:
        values = {"losses": losses, "validation": [[at, list(row.items())] for at, row in validation.items()]}
        save_checkpoint(
            state_path, step=step, tensors={"lora": parameters}, optimizer=optimizer, recipe=described, values=values
        )

    first = 0
    if resume:
        saved = load_checkpoint(state_path, optimizer=optimizer, recipe=described)
        for name, parameter in parameters.items():
            parameter.data.copy_(saved.tensors["lora"][name])
        first, losses = saved.step, saved.values["losses"]
        validation = {at: dict(row) for at, row in saved.values["validation"]}
        say(f"note: goes on after step {first}")

    started = time.perf_counter()
    with (
        tqdm(total=config.max_train_steps, initial=first, desc="train", mininterval=1.0, disable=not progress) as bar,
        training_mode(pipeline, accelerator, config) as transformer,
        interruptible() as interrupted,
    ):
        if data.validation and accelerator.is_main_process and not first:
            validation[0] = held_out_loss(pipeline, data.validation)
        for step, loss in optimize(transformer, optimizer, pipeline, data.training, config, accelerator, first):
            losses.append(loss)
            recent = losses[-50:]  # one step alone is mostly noise
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
            bar.update()
            if on_step:
                on_step(step, loss)
            if not accelerator.is_main_process:
                continue
            last = step == config.max_train_steps
            if data.validation and (last or _due(step, config.validate_every_n_steps)):
                validation[step] = held_out_loss(pipeline, data.validation)
            if not last:
                if _due(step, config.save_every_n_steps):
                    save_lora(pipeline, output_dir / f"checkpoint-{step:06d}.safetensors", metadata)
                    save_state(step)
                if _due(step, config.preview_every_n_steps):
                    previews += save_previews(pipeline, config, output_dir / "previews", step, data.prompts)
                if interrupted:
                    save_state(step)
                    raise QwenlabError(f"stopped after step {step}; saved in {state_path}: go on with --resume")
    seconds = time.perf_counter() - started

    for parameter in parameters.values():
        parameter.data = parameter.data.to(base_dtype)
    lora_path = output_dir / "lora.safetensors"
    if accelerator.is_main_process:
        save_lora(pipeline, lora_path, metadata)
        record = {
            "config": dataclasses.asdict(config),
            "base_model": model_fingerprint(pipeline.transformer),
            "losses": losses,
            "validation": validation,
            "seconds": seconds,
        }
        atomic_write_json(output_dir / "training.json", record)
        state_path.unlink(missing_ok=True)
        if config.preview_every_n_steps:
            previews += save_previews(pipeline, config, output_dir / "previews", config.max_train_steps, data.prompts)
    return TrainResult(lora_path, losses, caching_seconds, seconds, previews, validation)


def optimize(
    transformer: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    accelerator: Accelerator,
    first: int = 0,
) -> Iterator[tuple[int, float]]:
    """The loop: yields (step, loss) after each optimizer step, beginning after step `first`.

    Changes the parameters of `optimizer` alone.
    """
    from diffusers.optimization import get_scheduler

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer = accelerator.prepare(optimizer)
    # Left out of prepare(): accelerate would step it once a process, and the schedule would end early.
    lr_scheduler = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    if first:  # the schedule is a function of the step alone
        lr_scheduler.load_state_dict(lr_scheduler.state_dict() | {"last_epoch": first - 1, "_step_count": first})
        lr_scheduler.step()
    for step in range(first + 1, config.max_train_steps + 1):
        losses = []
        for micro_step in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(transformer):
                batches = draw_batches(pipeline, training_set, config, step, micro_step, accelerator)
                loss = batches_loss(transformer, batches)
                if not torch.isfinite(loss):
                    raise QwenlabError(
                        f"training stopped: the loss is {loss.item()} at step {step}; lower "
                        f"learning_rate (now {config.learning_rate:g}); nothing of this step was kept"
                    )
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        lr_scheduler.step()
        yield step, accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()


def save_previews(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    folder: Path,
    step: int,
    embeddings: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """Draw `preview_prompts` as inference does, guidance included, with seeds 0, 1, ..., as PNG files.

    embeddings: as in `qwenlab.generate.generate`, for a pipeline without text encoder.
    """
    transformer = pipeline.transformer
    training = transformer.training
    transformer.eval()  # LoRA dropout off
    try:
        images = generate(
            pipeline, config.preview_prompts, list(range(len(config.preview_prompts))),
            steps=config.preview_steps, guidance=config.guidance, size=config.resolution,
            embeddings=embeddings,
        )  # fmt: skip
    finally:
        transformer.train(training)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{step:06d}-{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
