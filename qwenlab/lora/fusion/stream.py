"""Write a safetensors file one tensor at a time, so that memory stays flat however large the file becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from qwenlab.files import atomic_open

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_LONGEST = 10**15  # room in the header for offsets up to this many bytes


def write_tensors(
    path: str | Path, names: Iterable[str], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> Path:
    """Write `tensors` as they come; the file takes its name when the last one is on disk, or never.

    names: of all tensors to come, so that room is kept for the header, which is padded with spaces as the format
    allows. Two-dimensional float32, bfloat16 and float16 tensors. Raises OSError when the folder cannot be written.
    """
    longest = {"dtype": "BF16", "shape": [_LONGEST] * 2, "data_offsets": [_LONGEST] * 2}
    room = len(_header(dict.fromkeys(names, longest), metadata))
    room += -room % 8
    with atomic_open(path) as file:
        file.seek(8 + room)
        entries, offset = {}, 0
        for name, tensor in tensors:
            data = tensor.detach().cpu().contiguous()
            size = data.numel() * data.element_size()
            entries[name] = {
                "dtype": _NAMES[data.dtype], "shape": list(data.shape), "data_offsets": [offset, offset + size],
            }  # fmt: skip
            flat = data.flatten()  # a dimension of size 1 may have any stride, which `view` refuses
            file.write(memoryview(flat.view(torch.uint8).numpy()).cast("B"))
            offset += size
        file.seek(0)
        file.write(room.to_bytes(8, "little") + _header(entries, metadata).ljust(room))
    return Path(path)


def _header(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    return json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
