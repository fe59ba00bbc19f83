"""What this machine has, what it lacks, and what of this series it can run."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util

import psutil

from qwenlab.files import REPOSITORY
from qwenlab.model.micro_weights import MICRO_WEIGHTS

GIB = 1024**3
_NEEDED = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "jupyterlab",
)
_MICRO_PARTS = ("vae", "text_encoder", "transformer")


@dataclass(frozen=True)
class Check:
    """One line of the report. ok: True, False (with a remedy), or None for a plain fact."""

    ok: bool | None
    label: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = {True: "[OK]  ", False: "[FAIL]", None: "[--]  "}[self.ok]
        return f"{mark} {self.label}" + (f" -> {self.remedy}" if self.remedy else "")


def check_machine() -> list[Check]:
    """Look at Python, packages, memory, disk, processor, GPU and the shipped files; nothing is changed.

    Returns one `Check` a line, the essential ones first; the last lines say what this machine can do.
    """
    return [
        _python(),
        *(_package(name) for name in _NEEDED),
        _shipped_files(),
        _memory(),
        _disk(),
        _cpu(),
        *_gpu_and_abilities(),
    ]


def report(checks: list[Check] | None = None) -> str:
    """The checks as text, one a line, ready to print in a notebook."""
    return "\n".join(map(str, check_machine() if checks is None else checks))


def _python() -> Check:
    label = f"Python {platform.python_version()}"
    return Check(
        sys.version_info >= (3, 11),
        label,
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )


def _package(name: str) -> Check:
    try:
        return Check(True, f"{name} {metadata.version(name)}")
    except metadata.PackageNotFoundError:
        return Check(False, f"{name} is missing", "run `make lab` again, or: pip install -c constraints.txt -e .")


def _shipped_files() -> Check:
    folder = MICRO_WEIGHTS
    weights = {part: list((folder / part).glob("*.safetensors")) for part in _MICRO_PARTS}
    missing = [part for part, found in weights.items() if not found]
    if len(missing) == len(_MICRO_PARTS):
        return Check(False, "the micro model's weights are missing", "clone the repository again, in full")
    if missing:
        train = "python -m qwenlab.lab.micro.pretrain --out runs/base"
        return Check(None, f"micro model: not trained yet: {', '.join(missing)}", f"to train them: {train}")
    size = sum(file.stat().st_size for found in weights.values() for file in found) / 1024**2
    return Check(True, f"micro model: {', '.join(weights)}, {size:.1f} MiB")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    label = f"memory: {memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available < 4 * GIB:
        return Check(False, label, "the lessons need up to 4 GiB: close other programs")
    return Check(True, label)


def _disk() -> Check:
    free = shutil.disk_usage(REPOSITORY).free / GIB
    if free < 2:
        return Check(False, f"disk: {free:.1f} GiB free", "runs and pictures need up to 2 GiB: make room")
    return Check(True, f"disk: {free:.1f} GiB free")


def _cpu() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    label = f"processor: {cores} cores, {platform.machine()}"
    if cores and cores < 2:
        return Check(None, label, "times in the lessons are for 2 cores: expect about twice as long")
    return Check(None, label)


def _gpu_and_abilities() -> list[Check]:
    micro = Check(True, "can run: the lessons, which need no GPU")
    if util.find_spec("torch") is None:
        return []
    import torch

    from qwenlab.memory.cards import Card
    from qwenlab.memory.plan import StepSettings, all_options, least

    question = StepSettings(rank=16)
    if not torch.cuda.is_available():
        none = Card("none", 0, 1)
        tiny, usual = (option.needed_gib for option in (least(question, none), all_options(question, none)[0]))
        return [
            Check(None, "GPU: none that torch can use"),
            micro,
            Check(
                None,
                "cannot run: training the 20B Qwen-Image, which needs a CUDA GPU "
                f"({usual:.0f} GiB for 1024x1024, {tiny:.0f} for 256x256, predicted)",
            ),
        ]
    gpu = torch.cuda.get_device_properties(0)
    total = gpu.total_memory / GIB
    options = all_options(question, Card(gpu.name, total, 1))
    fits = list(dict.fromkeys(option.settings.weights for option in options if option.fits))
    ask = f"qwenlab memory --gpu {total:.0f}"
    full = (
        Check(True, f"can train Qwen-Image 20B at 1024x1024 with weights in {', '.join(fits)} (predicted; see {ask})")
        if fits
        else Check(None, f"cannot train Qwen-Image 20B at 1024x1024 (predicted; {ask} says what fits)")
    )
    return [
        Check(True, f"GPU: {gpu.name}, {total:.1f} GiB, torch for CUDA {torch.version.cuda}"),
        micro,
        full,
    ]
