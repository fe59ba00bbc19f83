"""Training a LoRA by flow matching on cached latents and text embeddings.

A step draws a point on the path from a picture to noise and asks the network for the velocity there:

    x0 ~ VAE posterior,  noise ~ N(0, 1),  sigma ~ timestep sampling      (sigma: 0 = data, 1 = noise)
    loss = || transformer((1 - sigma) x0 + sigma noise, sigma, caption) - (noise - x0) ||^2

Every random number depends on (seed, step, sample) alone, so that gradient accumulation, several processes and a
resumed run see the same ones. Images and captions are encoded once, before training.

B batch, S image tokens, C channels of a token (4 x latent channels), h x w latent cells.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.dataset import Dataset, LatentStatistics, cache_latents, cache_texts, pad_texts, read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_json
from qwenlab.flow import derived_generator, interpolate, sample_sigmas, velocity
from qwenlab.generate import NEGATIVE_PROMPT, generate
from qwenlab.lora import inject_lora, remove_lora, save_lora

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImagePipeline


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the LoRA file, the loss of every optimizer step, seconds of caching and of training."""

    lora_path: Path
    losses: list[float]
    caching_seconds: float
    seconds: float
    previews: list[Path]


@dataclass(frozen=True)
class TrainingSet:
    """Everything a step reads, in memory: N pictures, N captions, and the embedding of the dropped caption."""

    latents: LatentStatistics
    texts: list[Tensor]
    dropped: Tensor


def train_lora(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    progress: bool = True,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train a LoRA on `config.dataset` (or `dataset`) and write `output_dir/lora.safetensors`.

    The pipeline keeps the trained LoRA, so that it can draw at once; `qwenlab.lora.remove_lora` gives the base back.
    Rounding to the base's dtype is done before saving: the file gives the very pixels that the pipeline gives.

    Args:
        pipeline: a stock QwenImagePipeline in any precision that peft can train on.
        progress: show progress bars and notes on standard error.
        on_step: called with the step (from 1) and its loss after each optimizer step.

    Raises: QwenlabError for a broken dataset, a missing optimizer package, a loss that is not finite.
    """
    from tqdm import tqdm  # plain text: a notebook keeps it, where the widget needs a live kernel

    say = (lambda line: tqdm.write(line, file=sys.stderr)) if progress else (lambda line: None)
    precision = usable_precision(config.mixed_precision, pipeline.transformer.device.type, say)
    accelerator = _accelerator(pipeline, config, precision)
    dataset = dataset or read_dataset(config.dataset)
    for warning in dataset.warnings:
        say(f"warning: {warning}")
    output_dir = Path(config.output_dir)

    started = time.perf_counter()
    with tqdm(total=2 * len(dataset) + 1, desc="encode", disable=not progress, leave=False) as bar:
        training_set = encode_dataset(pipeline, dataset, config, output_dir / "cache", bar.update)
    caching_seconds = time.perf_counter() - started

    if getattr(pipeline.transformer, "peft_config", None):
        say("note: the LoRA that was loaded is removed first")
        remove_lora(pipeline)
    parameters = inject_lora(
        pipeline,
        rank=config.rank, alpha=config.alpha, apply_to=config.apply_to, dropout=config.dropout, seed=config.seed,
    )  # fmt: skip
    base_dtype = pipeline.transformer.dtype
    metadata = {"qwenlab.config": config.hash(), "qwenlab.trigger": config.trigger}
    losses: list[float] = []
    previews: list[Path] = []

    started = time.perf_counter()
    with (
        tqdm(total=config.max_train_steps, desc="train", disable=not progress) as bar,
        _training_mode(pipeline, accelerator, config) as transformer,
    ):
        for step, loss in optimize(transformer, list(parameters.values()), pipeline, training_set, config, accelerator):
            losses.append(loss)
            recent = losses[-50:]  # one step alone is mostly noise
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
            bar.update()
            if on_step:
                on_step(step, loss)
            if accelerator.is_main_process and step < config.max_train_steps:
                if _due(step, config.save_every_n_steps):
                    save_lora(pipeline, output_dir / f"checkpoint-{step:06d}.safetensors", metadata)
                if _due(step, config.preview_every_n_steps):
                    previews += save_previews(pipeline, config, output_dir / "previews", step)
    seconds = time.perf_counter() - started

    for parameter in parameters.values():
        parameter.data = parameter.data.to(base_dtype)
    lora_path = output_dir / "lora.safetensors"
    if accelerator.is_main_process:
        save_lora(pipeline, lora_path, metadata)
        record = {"config": dataclasses.asdict(config), "losses": losses, "seconds": seconds}
        atomic_write_json(output_dir / "training.json", record)
        if config.preview_every_n_steps:
            previews += save_previews(pipeline, config, output_dir / "previews", config.max_train_steps)
    return TrainResult(lora_path, losses, caching_seconds, seconds, previews)


def encode_dataset(
    pipeline: QwenImagePipeline,
    dataset: Dataset,
    config: TrainConfig,
    cache_dir: Path | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> TrainingSet:
    """Encode pictures and captions, or read them from `cache_dir`. `on_item` is called after each of 2 N + 1 items."""
    latents_file, texts_file = (cache_dir / f"{kind}.safetensors" if cache_dir else None for kind in ("latents", "texts"))
    latents = cache_latents(pipeline, dataset.samples, config.resolution, latents_file, on_item)
    captions = [sample.text for sample in dataset.samples]
    *texts, dropped = cache_texts(pipeline, [*captions, NEGATIVE_PROMPT], texts_file, on_item)
    return TrainingSet(latents, texts, dropped)


def optimize(
    transformer: torch.nn.Module,
    parameters: list[torch.nn.Parameter],
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    accelerator: Accelerator,
) -> Iterator[tuple[int, float]]:
    """The loop: yields (step, loss) after each of `max_train_steps` optimizer steps. Changes `parameters` alone."""
    from diffusers.optimization import get_scheduler

    optimizer = accelerator.prepare(_optimizer(parameters, config))
    # Left out of prepare(): accelerate would step it once a process, and the schedule would end early.
    lr_scheduler = get_scheduler(
        config.lr_scheduler, optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=config.max_train_steps
    )
    for step in range(1, config.max_train_steps + 1):
        losses = []
        for micro_step in range(config.gradient_accumulation_steps):
            with accelerator.accumulate(transformer):
                batch = draw_batch(pipeline, training_set, config, step, micro_step, accelerator)
                loss = flow_loss(transformer, batch)
                if not torch.isfinite(loss):
                    raise QwenlabError(
                        f"training stopped: the loss is {loss.item()} at step {step}; lower learning_rate "
                        f"(now {config.learning_rate:g}) or look for broken images; nothing of this step was kept"
                    )
                accelerator.backward(loss)
                losses.append(loss.detach())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
        lr_scheduler.step()
        yield step, accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()


@dataclass(frozen=True)
class Batch:
    """Inputs of the transformer and the target of one forward pass, on the training device."""

    x_t: Tensor  # (B, S, C)
    target: Tensor  # (B, S, C) velocity
    sigma: Tensor  # (B,) float32
    text: Tensor  # (B, T, D)
    text_mask: Tensor | None  # (B, T) bool
    image_shapes: list[list[tuple[int, int, int]]]  # (frames, h / 2, w / 2) of each sample, for the rotary embedding


def draw_batch(
    pipeline: QwenImagePipeline,
    training_set: TrainingSet,
    config: TrainConfig,
    step: int,
    micro_step: int,
    accelerator: Accelerator,
) -> Batch:
    """The batch of this process at (step, micro_step): pictures, noise, sigmas and dropped captions.

    A step's samples are numbered 0, 1, ... over micro-steps and processes; a picture's second visit comes only after
    every other picture's first.
    """
    size = config.batch_size_per_gpu
    samples_per_step = size * config.gradient_accumulation_steps * accelerator.num_processes
    first = (micro_step * accelerator.num_processes + accelerator.process_index) * size
    x0, noise, sigma, texts = [], [], [], []
    for sample in range(first, first + size):
        index = _picture(config.seed, (step - 1) * samples_per_step + sample, len(training_set.texts))
        generator = derived_generator(config.seed, "sample", step, sample)
        x0.append(training_set.latents.sample(index, generator))
        noise.append(torch.randn(x0[-1].shape, generator=generator))
        tokens = x0[-1].shape[-1] * x0[-1].shape[-2] // 4
        sigma.append(
            sample_sigmas(
                1, generator, config.timestep_sampling,
                image_seq_len=tokens, scheduler_config=pipeline.scheduler.config,
            )
        )  # fmt: skip
        keep = torch.rand((), generator=generator) >= config.caption_dropout
        texts.append(training_set.texts[index] if keep else training_set.dropped)
    # Only torch.manual_seed reaches LoRA dropout.
    torch.manual_seed(derived_generator(config.seed, "dropout", step, first).initial_seed())

    device, dtype = accelerator.device, pipeline.transformer.dtype
    latents, noise = torch.stack(x0), torch.stack(noise)  # (B, C / 4, h, w)
    batch, channels, height, width = latents.shape
    pack = (batch, channels, height, width)
    latents = pipeline._pack_latents(latents, *pack).to(device)  # (B, S, C)
    noise = pipeline._pack_latents(noise, *pack).to(device)
    sigma = torch.cat(sigma).to(device)
    text, mask = pad_texts(texts)
    return Batch(
        x_t=interpolate(latents, noise, sigma).to(dtype),
        target=velocity(latents, noise),
        sigma=sigma,
        text=text.to(device, dtype),
        text_mask=None if mask is None else mask.to(device),
        image_shapes=[[(1, height // 2, width // 2)]] * batch,
    )


def _picture(seed: int, visit: int, count: int) -> int:
    """The picture of the `visit`-th sample of a run: each epoch is a permutation of all `count` pictures."""
    epoch, position = divmod(visit, count)
    return int(torch.randperm(count, generator=derived_generator(seed, "epoch", epoch))[position])


def flow_loss(transformer: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the predicted velocity, a float32 scalar."""
    prediction = transformer(
        hidden_states=batch.x_t,
        timestep=batch.sigma,  # the pipeline divides its timesteps by 1000, too
        encoder_hidden_states=batch.text,
        encoder_hidden_states_mask=batch.text_mask,
        img_shapes=batch.image_shapes,
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(prediction.float(), batch.target)


def save_previews(pipeline: QwenImagePipeline, config: TrainConfig, folder: Path, step: int) -> list[Path]:
    """Draw `preview_prompts` as inference does, guidance included, with seeds 0, 1, ..., and save PNG files."""
    transformer = pipeline.transformer
    training = transformer.training
    transformer.eval()  # LoRA dropout off
    try:
        images = generate(
            pipeline, config.preview_prompts, list(range(len(config.preview_prompts))),
            steps=config.preview_steps, guidance=config.guidance, size=config.resolution,
        )  # fmt: skip
    finally:
        transformer.train(training)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{step:06d}-{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def usable_precision(wanted: str, device_type: str, say: Callable[[str], None] = lambda line: None) -> str:
    """`wanted`, or "fp32" where bfloat16 has no arithmetic units: such CPUs emulate it up to 100 times slower.

    `device_type` is "cpu", "cuda" ...; `say` receives one line when the wish is not granted.
    """
    if wanted == "bf16" and device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
            say("note: mixed_precision bf16 becomes fp32: this CPU has no bfloat16 arithmetic")
            return "fp32"
    return wanted


def _accelerator(pipeline: QwenImagePipeline, config: TrainConfig, precision: str) -> Accelerator:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, PartialState

    if not PartialState._shared_state or PartialState().num_processes == 1:
        # A notebook trains more than once; accelerate would refuse another precision in the same process.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=pipeline.transformer.device.type == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision],
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        # The last block's text stream is thrown away: some of its LoRA layers never get a gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


@contextlib.contextmanager
def _training_mode(
    pipeline: QwenImagePipeline, accelerator: Accelerator, config: TrainConfig
) -> Iterator[torch.nn.Module]:
    """The transformer made ready to train, and put back as it was afterwards, whatever happens."""
    transformer = pipeline.transformer
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    transformer.train()
    prepared = accelerator.prepare(transformer)
    with torch.random.fork_rng():
        try:
            yield prepared
        finally:
            for name in ("forward", "_original_forward"):  # the autocast wrapper, which accelerate would leave
                transformer.__dict__.pop(name, None)
            accelerator.free_memory()
            transformer.eval()
            if config.gradient_checkpointing:
                transformer.disable_gradient_checkpointing()


def _optimizer(parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    if config.optimizer == "adamw_8bit":
        try:
            from bitsandbytes.optim import AdamW8bit as optimizer_class
        except ImportError as error:
            raise QwenlabError("optimizer: adamw_8bit needs bitsandbytes; pip install bitsandbytes, or use adamw") from error
    else:
        optimizer_class = torch.optim.AdamW
    return optimizer_class(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
