"""What the pretraining stages share: device and precision, preview grids, model folders that appear whole."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA when there is one, else the CPU. Raises `QwenlabError` for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise QwenlabError(f"--device {name}: not usable here; use auto, cpu or cuda") from error
    return torch.device(name)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 matrix products beat fp32: GPUs, and CPUs with AVX512-BF16 or AMX (others emulate it, slowly)."""
    if device.type != "cpu":
        return True
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where it is fast, otherwise nothing: plain fp32."""
    if bf16_is_fast(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def save_grid(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """Save pictures (N, H, W, 3) uint8 as one PNG, in rows of `columns`."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * height, min(count, columns) * width, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    atomic_write_bytes(path, buffer.getvalue())


def save_atomically(part: Any, folder: Path) -> Path:
    """`part.save_pretrained(folder)`, so that the folder is the old one or the new one, never half of either."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    part.save_pretrained(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return folder
