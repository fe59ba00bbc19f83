"""Write a safetensors file one tensor at a time, so that memory stays flat however large the file becomes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_LONGEST = 10**15  # room in the header for offsets up to this many bytes


def write_tensors(
    path: str | Path, names: Iterable[str], tensors: Iterable[tuple[str, Tensor]], metadata: Mapping[str, str]
) -> Path:
    """Write `tensors` as they come; the file takes its name when the last one is on disk, or never.

    names: of all tensors to come, so that room is kept for the header, which is padded with spaces as the format
    allows. Two-dimensional float32, bfloat16 and float16 tensors. Raises OSError when the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    longest = {"dtype": "BF16", "shape": [_LONGEST] * 2, "data_offsets": [_LONGEST] * 2}
    room = len(_header(dict.fromkeys(names, longest), metadata))
    room += -room % 8
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.seek(8 + room)
            entries, offset = {}, 0
            for name, tensor in tensors:
                data = tensor.detach().cpu().contiguous()
                size = data.numel() * data.element_size()
                entries[name] = {
                    "dtype": _NAMES[data.dtype], "shape": list(data.shape), "data_offsets": [offset, offset + size],
                }  # fmt: skip
                file.write(memoryview(data.view(torch.uint8).numpy()).cast("B"))
                offset += size
            file.seek(0)
            file.write(room.to_bytes(8, "little") + _header(entries, metadata).ljust(room))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _header(entries: Mapping[str, object], metadata: Mapping[str, str]) -> bytes:
    return json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
