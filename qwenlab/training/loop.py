"""The training loop, from a configuration to a LoRA file, or to a ControlNet's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import Dataset, read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import carries_lora, remove_lora
from qwenlab.model.quantize import weight_precision
from qwenlab.show import progress_stream
from qwenlab.training.batches import ExtraLoss, batches_loss, draw_batches
from qwenlab.training.first_checks import check_first
from qwenlab.training.observers import Observer, TensorBoard
from qwenlab.training.rank_changes import change_due, rate_factor, step_prefix
from qwenlab.training.run import STATE_FILE, Run, exclusive
from qwenlab.training.runtime import interruptible, make_accelerator, training_mode, training_precision
from qwenlab.training.training_set import RunData, TrainingSet, WriteCloseUps, prepare_data
from qwenlab.training.watching import Watch, save_previews

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImageControlNetModel, QwenImagePipeline
    from tqdm import tqdm


def _no_loss(step: int) -> None:
    """No further loss at any step."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the LoRA file, the loss of every optimizer step, seconds of caching and training.

    validation: {step: {sigma: held-out flow loss}}, step 0 being the base; empty without `validation_share`.
    best_step: the step with the lowest of these; its LoRA is best.safetensors, unless it is the base.
    edits: whether the captions spoke of references: the LoRA then changes pictures by instruction.
    net: the trained ControlNet, with `control_kind: controlnet`; lora_path is then its folder.
    """

    lora_path: Path
    losses: list[float]
    caching_seconds: float
    seconds: float
    previews: list[Path]
    validation: dict[int, dict[float, float]]
    best_step: int | None = None
    edits: bool = False
    net: QwenImageControlNetModel | None = field(default=None, repr=False)


def train_lora(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    extra: Callable[[int], ExtraLoss | None] | None = None,
    close_ups: WriteCloseUps | None = None,
) -> TrainResult:
    """Train a LoRA on `config.dataset` (or `dataset`) and write `output_dir/lora.safetensors`.

    Or, with `control_kind: controlnet`, a ControlNet, and write it to `output_dir/controlnet`.

    The pipeline keeps the trained LoRA, so that it can draw at once; `qwenlab.lora.io.remove_lora` gives the
    base back. Rounding to the base's dtype is done before saving: the file gives the very pixels that the
    pipeline gives. With `config.free_text_encoder` the pipeline comes back without its text encoder.

    Args:
        pipeline: a stock QwenImagePipeline in any precision.
        progress: show progress bars and notes: on standard error, in a notebook on standard output.
        on_step: called with the step (from 1) and its loss after each optimizer step.
        observers: told of steps, validation and previews, such as `qwenlab.training.Dashboard`.
        resume: go on with the run that `output_dir/training-state.safetensors` holds, to the same bits as an unbroken
            one (same machine and number of threads). The file is written every `save_every_n_steps` and by Ctrl-C.
        extra: a further loss for each step (None for the steps without), such as the structure loss that `config` asks
            for. close_ups: cuts the pictures that `augment_hands` asks for. `qwenlab.hands.hand_options` gives both.

    Raises: QwenlabError for weights in another precision than `base_precision`, a broken dataset, a folder that cannot
        be written, holds an unfinished run or is in use, a missing optimizer package, an attention backend that fails
        its test, a loss that is not finite, and when Ctrl-C stopped the run.
    """
    from tqdm import tqdm  # plain text: a notebook keeps it, where the widget needs a live kernel

    _check_handed(config, extra, close_ups)
    have = weight_precision(pipeline.transformer)
    if config.base_precision and config.base_precision != have:
        raise QwenlabError(
            f"base_precision: {config.base_precision}, but the pipeline's weights are {have}; open it with "
            "qwenlab.training.open_pipeline(config)"
        )
    say = (lambda line: tqdm.write(line, file=progress_stream())) if progress else (lambda line: None)
    accelerator = make_accelerator(pipeline, config, training_precision(pipeline, config, say))
    if config.rank_schedule and accelerator.num_processes > 1:
        raise QwenlabError("rank_schedule: works in one process only; leave it out, or start one process")
    dataset = dataset or read_dataset(config.dataset)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    output_dir = Path(config.output_dir)
    with exclusive(output_dir, accelerator.is_main_process):
        state_path = output_dir / STATE_FILE
        if state_path.exists() != resume:
            ways = "go on with --resume (resume=True), delete it, or change output_dir"
            raise QwenlabError(
                f"{state_path}: no unfinished run is there; train without --resume"
                if resume
                else f"{state_path} holds an unfinished run: {ways}"
            )
        check_first(pipeline, config, dataset, accelerator.device)
        started = time.perf_counter()
        with accelerator.local_main_process_first():  # the others find everything in the cache
            data = prepare_data(pipeline, dataset, config, say, progress, close_ups)
        caching_seconds = time.perf_counter() - started
        if config.free_text_encoder and not config.use_structural_loss:  # the VAE comes back for previews
            pipeline.vae.to("cpu")
        pipeline.transformer.to(accelerator.device)  # it may have waited for that room
        if carries_lora(pipeline):
            say("note: the LoRA that was loaded is removed first")
            remove_lora(pipeline)
        run = Run(pipeline, config, output_dir, dataset, say)
        first = run.resume() if resume else 0
        if resume:
            say(f"note: goes on after step {first}")
        started = time.perf_counter()
        shown = {"file": progress_stream(), "disable": not progress}
        with tqdm(total=config.max_train_steps, initial=first, desc="train", mininterval=1.0, **shown) as bar:
            previews = _train(run, data, accelerator, first, bar, on_step, observers, extra or _no_loss)
        seconds = time.perf_counter() - started
        net, final = run.trained.net, config.max_train_steps
        if accelerator.is_main_process:
            run.finish(seconds)
            if config.preview_every_n_steps:
                last = save_previews(pipeline, config, output_dir / "previews", final, data.prompts, net)
                previews += last
                for observer in observers:
                    observer.on_preview(final, last)
        else:
            run.round()
    edits = any(sample.references for sample in dataset.samples)
    return TrainResult(
        run.path, run.losses, caching_seconds, seconds, previews, run.validation, run.best_step, edits, net
    )


def _check_handed(config: TrainConfig, extra: object, close_ups: object) -> None:
    """This room knows no hands: what a configuration wants of them must be handed to it."""
    for setting, given in (("use_structural_loss", extra), ("augment_hands", close_ups)):
        if getattr(config, setting) and given is None:
            raise QwenlabError(
                f"{setting}: hand over what does it, train_lora(pipeline, config, **hand_options(pipeline, config)); "
                "hand_options is in qwenlab.hands"
            )


def _train(
    run: Run,
    data: RunData,
    accelerator: Accelerator,
    first: int,
    bar: tqdm,
    on_step: Callable[[int, float], None] | None,
    observers: Sequence[Observer],
    extra: Callable[[int], ExtraLoss | None],
) -> list[Path]:
    """The steps after `first` with all that is due between them; returns the previews."""
    pipeline, config = run.pipeline, run.config
    previews: list[Path] = []
    main = accelerator.is_main_process
    observers = [*observers, *([TensorBoard(accelerator)] if config.tensorboard else [])] if main else []
    watch = Watch(run, data, observers)
    try:
        ready = training_mode(pipeline, accelerator, config, run.trained.net)
        with ready as transformer, interruptible() as interrupted:
            if main and not first:  # the base, to compare with
                if data.validation:
                    watch.validate(0)
                if config.preview_every_n_steps:
                    previews += watch.preview(0)
            steps = optimize(
                transformer, run.optimizer, pipeline, data.training, config, accelerator, first, data.prior, extra
            )  # fmt: skip
            for step, loss in steps:
                run.after_step(loss)
                recent = run.losses[-50:]  # one step alone is mostly noise
                bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
                bar.update()
                if on_step:
                    on_step(step, loss)
                for observer in observers:
                    observer.on_step(step, loss, run.optimizer.param_groups[0]["lr"])
                if not main:
                    continue
                last = step == config.max_train_steps
                if data.validation and (last or _due(step, config.validate_every_n_steps)):
                    watch.validate(step)
                if last:
                    continue
                if _due(step, config.save_every_n_steps):
                    run.save_checkpoint(step)
                if _due(step, config.preview_every_n_steps):
                    previews += watch.preview(step)
                if interrupted:
                    run.save_state(step)
                    ways = "go on with --resume (resume=True)"
                    raise QwenlabError(f"stopped after step {step}; saved in {run.state_path}: {ways}")
    except NotFinite as error:
        raise QwenlabError(f"{error}; {run.last_good()}") from error
    finally:
        for observer in observers:
            observer.on_end()
    return previews


class NotFinite(QwenlabError):
    """Training cannot go on: loss or gradient is infinite or not a number. The weights are those of the step before."""


def optimize(
    transformer: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    accelerator: Accelerator,
    first: int = 0,
    prior: TrainingSet | None = None,
    extra: Callable[[int], ExtraLoss | None] = _no_loss,
) -> Iterator[tuple[int, float]]:
    """The loop: yields (step, loss) after each optimizer step, beginning after step `first`.

    Changes the parameters of `optimizer` alone. `extra` says what is added to the flow loss at a step. With a `prior`
    set each step reads as many of its pictures, whose loss counts `config.prior_weight` (Ruiz et al., DreamBooth, arXiv
    2208.12242). Raises NotFinite.
    """
    from diffusers.optimization import get_scheduler

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrapped = {id(parameter) for parameter in transformer.parameters()}
    outside = [parameter for parameter in parameters if id(parameter) not in wrapped]  # of the text encoder
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
        change_due(transformer, optimizer, config, step)
        for group in optimizer.param_groups:
            group["lr"] *= rate_factor(config, step)
        for micro_step in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(transformer), step_prefix(transformer, config, step):
                batches = draw_batches(pipeline, training_set, config, step, micro_step, accelerator)
                loss = batches_loss(transformer, batches, extra(step))
                if prior:
                    batches = draw_batches(pipeline, prior, config, step, micro_step, accelerator, "prior")
                    loss = loss + config.prior_weight * batches_loss(transformer, batches)
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    _average_over_processes(outside, accelerator)
                    norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                    # The norm is the same in every process, so that all of them stop.
                    if norm is not None and not torch.isfinite(norm):
                        raise NotFinite(
                            f"training stopped at step {step}: loss {loss.item()}, gradient {norm.item()}; lower "
                            f"learning_rate (now {config.learning_rate:g}); nothing of this step was kept"
                        )
                optimizer.step()
                optimizer.zero_grad()
        del loss  # its graph remembers the shapes of factors, which the next step may change
        lr_scheduler.step()
        yield step, accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()


def _average_over_processes(parameters: list[torch.nn.Parameter], accelerator: Accelerator) -> None:
    """What DistributedDataParallel does for the model it wraps; the text encoder is called through the pipeline."""
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
