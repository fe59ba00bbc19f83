"""One door to both scales: the micro model in this package and the real Qwen-Image behind the same stock class."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qwenlab.errors import QwenlabError
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.quantize import QUANTISED, quantise

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

PRECISIONS = ("fp32", "bf16", "int8", "nf4")
# Beside model_index.json: the side in pixels that a model was trained for, which the stock format does not record.
SIZE_FILE = "native_size.json"


def load_pipeline(
    name_or_path: str | Path = "micro", precision: str | None = None, device: str | torch.device | None = None
) -> QwenImagePipeline:
    """Load a stock `diffusers.QwenImagePipeline`; everything else in `qwenlab` takes one and never asks for its scale.

    A folder or repository of Qwen-Image-Edit-2509 or -2511 gives the stock `QwenImageEditPlusPipeline` instead: it
    trains on rows with a `reference` and draws from pictures (`qwenlab.model.references`).

    Args:
        name_or_path: "micro" (shipped with the package, offline), a folder that `save_pretrained` wrote, or a
            repository on the Hugging Face Hub such as "Qwen/Qwen-Image" (58 GB in bf16, downloaded once).
        precision: "fp32", "bf16", or for the blocks of transformer and text encoder "int8" or "nf4"
            (`qwenlab.model.quantize`; the rest is bf16, or on a CPU without bfloat16 arithmetic fp32). None: fp32 for
            micro and for folders on the CPU, bf16 otherwise.
        device: where the weights go. None: CUDA when there is a GPU, else the CPU.

    Returns: the pipeline in evaluation mode, with still pictures running through 2D convolutions
        (`qwenlab.model.vae2d`) and `default_sample_size` set to the model's own size where the folder records it.
    Raises: QwenlabError for unknown precisions, missing or foreign weights, and a device this machine lacks.
    """
    target = usable_device(device)
    return place_pipeline(*read_pipeline(name_or_path, precision, target), target)


def read_pipeline(
    name_or_path: str | Path, precision: str | None, device: torch.device
) -> tuple[QwenImagePipeline, str]:
    """The first half of `load_pipeline`: everything in CPU memory, nothing quantised; and the precision chosen.

    `place_pipeline` is the second half. Between them a modulation table can take layers away that then never reach
    `device`. Files in bfloat16 are mapped into memory, not copied.
    """
    source = MICRO_WEIGHTS if str(name_or_path) == "micro" else Path(name_or_path)
    local = source.is_dir()
    if precision is None:
        small = source == MICRO_WEIGHTS or (local and device.type == "cpu")
        precision = "fp32" if small else "bf16"
    if precision not in PRECISIONS:
        raise QwenlabError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if source == MICRO_WEIGHTS and not (source / "model_index.json").is_file():
        raise QwenlabError(
            f"the micro weights are incomplete in {source}: install qwenlab again, or train them with "
            "python -m qwenlab.lab.micro.pretrain --out runs/base and copy runs/base/pipeline there"
        )
    emulated = precision in QUANTISED and device.type == "cpu" and not cpu_has_bf16()
    pipeline = _read(source if local else str(name_or_path), "fp32" if emulated else precision)
    _check_kind(pipeline, name_or_path)

    from qwenlab.model.vae2d import fold_causal_vae

    fold_causal_vae(pipeline.vae)
    if local and (source / SIZE_FILE).is_file():
        pixels = json.loads((source / SIZE_FILE).read_text(encoding="utf-8"))["pixels"]
        pipeline.default_sample_size = pixels // pipeline.vae_scale_factor
    return pipeline, precision


def place_pipeline(
    pipeline: QwenImagePipeline, precision: str, device: torch.device, *, transformer: bool = True
) -> QwenImagePipeline:
    """Quantise where `precision` says so and move to `device`, layer by layer; the same object comes back.

    transformer: False leaves the (quantised) transformer in CPU memory while others need the room.
    """
    parts = {"text_encoder": device, "transformer": device if transformer else torch.device("cpu")}
    for name, place in parts.items():
        part = getattr(pipeline, name)
        if precision in QUANTISED:
            quantise(part, precision, place)
        part.to(place)
    pipeline.vae.to(device)
    return pipeline


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bfloat16; others emulate it, 100 times slower."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device as this machine names it; None: CUDA when there is a GPU, else the CPU. Raises QwenlabError."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise QwenlabError(
            f"device {str(device)!r} cannot be used on this machine: leave it out, or use 'cpu'"
        ) from error


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Within the block torch.compile leaves functions as they are, and does not import the compiler for them.

    diffusers imports bitsandbytes, which hands functions to torch.compile as it is imported: for devices on which it
    has no kernels, which a CPU and CUDA are not. That is a fifth of the time that importing the pipeline takes.
    """
    switch = "TORCHDYNAMO_DISABLE"  # PyTorch's own
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        del os.environ[switch]
        if before is not None:
            os.environ[switch] = before


def _read(source: str | Path, precision: str) -> QwenImagePipeline:
    with _without_compiler():
        from diffusers import DiffusionPipeline, QwenImageEditPlusPipeline, QwenImagePipeline

    local = isinstance(source, Path)
    if local and not (source / "model_index.json").is_file():
        raise QwenlabError(
            f"{source} holds no pipeline (no model_index.json): give the folder that save_pretrained wrote"
        )
    if not local and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise QwenlabError(
            f"no pipeline {str(source)!r}: give 'micro', an existing folder, or a name like 'Qwen/Qwen-Image'"
        )
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    options = {"dtype": dtype, "use_safetensors": True, "local_files_only": local}
    try:
        with _without_bars() if source == MICRO_WEIGHTS else contextlib.nullcontext():
            index = DiffusionPipeline.load_config(source, local_files_only=local)
            edits = index.get("_class_name") == QwenImageEditPlusPipeline.__name__
            kind = QwenImageEditPlusPipeline if edits else QwenImagePipeline
            return kind.from_pretrained(source, **options)
    except Exception as error:  # diffusers raises many kinds, from missing files to mismatched shapes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "is the folder complete?" if local else "is this machine online, or the model downloaded before?"
        raise QwenlabError(f"cannot load a QwenImagePipeline from {source}: {reason} ({remedy})") from error


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """diffusers and transformers show no bars within: of a load of one second a notebook would keep them at 0%."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown = [library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _check_kind(pipeline: QwenImagePipeline, name: str | Path) -> None:
    """A folder of another pipeline may load by luck of its part names; training on it would fail much later."""
    parts = {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"}
    for part, kind in parts.items():
        found = type(getattr(pipeline, part)).__name__
        if found != kind:
            raise QwenlabError(f"{name}: its {part} is a {found}, not a {kind}: this is not a Qwen-Image model")
