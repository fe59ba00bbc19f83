"""The machine side of training: precision, accelerate, optimizer, interruption, leaving the model as it was found."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from qwenlab.config import WITHOUT_EFFECT, TrainConfig
from qwenlab.data.dataset import Dataset, read_dataset
from qwenlab.data.keypoints import FILE as KEYPOINTS
from qwenlab.errors import QwenlabError
from qwenlab.files import sha256_file, sha256_json
from qwenlab.model.attention_backends import attention_backend
from qwenlab.model.controlnet import Controlled
from qwenlab.model.pipeline import cpu_has_bf16
from qwenlab.training.fast import fast_forward
from qwenlab.training.gradient_checkpointing import enable_checkpointing
from qwenlab.training.lean import lean_forward
from qwenlab.training.opening import table_for_training
from qwenlab.training.training_set import mask_path

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import QwenImageControlNetModel, QwenImagePipeline


def usable_precision(wanted: str, device_type: str, say: Callable[[str], None] = lambda line: None) -> str:
    """`wanted`, or "fp32" where bfloat16 has no arithmetic units: such CPUs emulate it, 100 times slower.

    `device_type` is "cpu", "cuda" ...; `say` receives one line when the wish is not granted.
    """
    if wanted == "bf16" and device_type == "cpu" and not cpu_has_bf16():
        say("note: mixed_precision bf16 becomes fp32: this CPU has no bfloat16 arithmetic")
        return "fp32"
    return wanted


def training_precision(pipeline: QwenImagePipeline, config: TrainConfig, say: Callable[[str], None]) -> str:
    """What accelerate is to do: "bf16" autocasts float32 weights; weights that are bfloat16 already need nothing."""
    if pipeline.transformer.dtype != torch.float32:
        return "fp32"
    return usable_precision(config.mixed_precision, pipeline.vae.device.type, say)


def make_accelerator(pipeline: QwenImagePipeline, config: TrainConfig, precision: str) -> Accelerator:
    """The Accelerator of a run; `precision` "fp32" or "bf16". Raises QwenlabError when TensorBoard is not installed."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import is_tensorboard_available

    if config.tensorboard and not is_tensorboard_available():
        raise QwenlabError("tensorboard: true needs tensorboard; pip install tensorboard, or set it to false")
    if not PartialState._shared_state or PartialState().num_processes == 1:
        # A notebook trains more than once; accelerate would refuse another precision in the same process.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=pipeline.vae.device.type == "cpu",
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision],
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with="tensorboard" if config.tensorboard else None,
        project_dir=config.output_dir,
        # The last block's text stream is thrown away: some of its LoRA layers never get a gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


@contextlib.contextmanager
def training_mode(
    pipeline: QwenImagePipeline,
    accelerator: Accelerator,
    config: TrainConfig,
    net: QwenImageControlNetModel | None = None,
) -> Iterator[torch.nn.Module]:
    """The transformer made ready to train, and put back as it was afterwards, whatever happens.

    net: a ControlNet that is trained beside it; what comes is then a `qwenlab.model.controlnet.Controlled`.
    """
    transformer = pipeline.transformer
    model = transformer if net is None else Controlled(transformer, net)
    parts = [part for part in (transformer, net) if part is not None]
    if config.gradient_checkpointing:
        for part in parts:
            enable_checkpointing(part, selective=config.selective_checkpointing)
    model.train()
    prepared = accelerator.prepare(model)
    # The order matters: accelerate's wrapper comes first, the swapped layers are taken off first.
    backend = attention_backend(transformer, config.attention_backend)
    faster, leaner = fast_forward(transformer), lean_forward(transformer)
    autocast = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    table = table_for_training(pipeline, config, autocast)
    with table, backend, faster, leaner, torch.random.fork_rng():
        try:
            yield prepared
        finally:
            for name in (
                "forward",
                "_original_forward",
            ):  # the autocast wrapper, which accelerate would leave
                model.__dict__.pop(name, None)
            accelerator.free_memory()
            model.eval()
            if config.gradient_checkpointing:
                for part in parts:
                    part.disable_gradient_checkpointing()


OPTIMIZERS = {  # name in the configuration -> module and class
    "adamw": ("torch.optim", "AdamW"),
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigyopt", "Prodigy"),  # finds the rate itself: learning_rate 1 is meant for it
}


def optimizer_class(config: TrainConfig) -> type[torch.optim.Optimizer]:
    """The class of `config.optimizer`. Raises QwenlabError when its package is missing."""
    package, name = OPTIMIZERS[config.optimizer]
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        package = package.partition(".")[0]
        raise QwenlabError(
            f"optimizer: {config.optimizer} needs {package}; pip install {package}, or use adamw"
        ) from error


def make_optimizer(parameters: list[torch.nn.Parameter] | list[dict], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of `config` for parameters, or for groups with rates of their own."""
    # Prodigy multiplies its decay by the rate it found only when told to; without, decay would undo the training.
    options: dict[str, Any] = {"decouple": True, "use_bias_correction": True} if config.optimizer == "prodigy" else {}
    if config.optimizer == "adamw":
        options["fused"] = True  # one pass over all factors instead of a dozen
    return optimizer_class(config)(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, **options)


def resumable_settings(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """What must not change for a run to be resumed: settings that decide the weights, captions and pictures."""
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in WITHOUT_EFFECT}
    pictures = [
        [
            sample.path.name,
            sha256_file(sample.path),
            sample.text,
            *map(sha256_file, sample.beside if config.control_kind else sample.references),
        ]
        for sample in dataset.samples
    ]
    if config.unmasked_weight < 1:
        masks = [mask_path(sample) for sample in dataset.samples]
        pictures += [sha256_file(mask) if mask else None for mask in masks]
    others = {}
    if config.prior_dataset:
        prior = read_dataset(config.prior_dataset)
        others["prior"] = sha256_json(
            [[*map(sha256_file, (sample.path, *sample.references)), sample.text] for sample in prior.samples]
        )
    if config.use_structural_loss or config.augment_hands:
        others["keypoints"] = sha256_file(dataset.folder / KEYPOINTS)
    if config.init_lora:
        others["init"] = sha256_file(config.init_lora)
    return settings | {"dataset": sha256_json(pictures)} | others


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Within the block the first Ctrl-C is only noted, in the list that is returned; the second one interrupts."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, previous)

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield received
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
