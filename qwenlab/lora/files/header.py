"""safetensors files opened safely: the first bytes are looked at, the header is read, nothing is ever executed.

`TensorFile` reads numbers with NumPy alone, which takes a fraction of a second; torch, whose import takes several,
is not needed to know what a file holds. NumPy has no bfloat16 and no 8-bit floats: their bits are widened here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwenlab.errors import QwenlabError
from qwenlab.sniffing import HEAD, SAFETENSORS, file_kind

MAX_HEADER = 32 * 1024**2  # bytes; 2,520 tensors need 0.4 MB, a trainer's notes on its data set some more
# safetensors' names of the dtypes that LoRAs come in, and torch's.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


class TensorFile:
    """A safetensors file. index: dtype (safetensors' name) and shape by key; metadata: the header's strings."""

    def __init__(self, path: Path):
        """Read the header. Raises QwenlabError (one line) for what is no sound safetensors file."""
        self.path = path
        with open_safely(path, "np") as file:  # the library checks sizes and offsets
            self.keys = tuple(file.keys())
            self.metadata: Mapping[str, str] = file.metadata() or {}
        with open(path, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            entries = json.loads(raw.read(length))
        self.index = {key: (entries[key]["dtype"], tuple(entries[key]["shape"])) for key in self.keys}
        self._offsets = {key: tuple(8 + length + at for at in entries[key]["data_offsets"]) for key in self.keys}
        self._bytes = np.memmap(path, np.uint8, "r") if path.stat().st_size > 8 + length else np.empty(0, np.uint8)

    def stored(self, key: str) -> Stored:
        """A tensor as it is, to be written again."""
        return Stored(*self.index[key], self._view(key).tobytes())

    def array(self, key: str) -> np.ndarray:
        """A tensor with all its bits, in float64, float32 (also for shorter floats) or the file's integer type.

        Raises QwenlabError for a dtype that is not read.
        """
        dtype, shape = self.index[key]
        if dtype not in _NUMPY:
            raise QwenlabError(f"{self.path}: {key!r} is stored as {dtype}; only {', '.join(DTYPES)} are read")
        return widen(self._view(key).view(_NUMPY[dtype]), dtype).reshape(shape)

    def _view(self, key: str) -> np.ndarray:
        start, end = self._offsets[key]
        return self._bytes[start:end]


def widen(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers that `bits` stand for; floats shorter than 32 bits become float32, exactly."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E4M3":
        return _E4M3[bits]
    return bits.astype(np.float32) if dtype == "F16" else bits


@dataclass(frozen=True)
class Stored:
    """A tensor as it is written: dtype by safetensors' name, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: np.ndarray, dtype: str = "F32") -> Stored:
        """Numbers as F64, F32, F16 or BF16; BF16 must hold them exactly."""
        data = narrow(values) if dtype == "BF16" else np.ascontiguousarray(values, _NUMPY[dtype]).tobytes()
        return cls(dtype, values.shape, data)


def pack(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    """A whole safetensors file. Long numbers come first, so that every tensor starts at a multiple of its size."""
    names = sorted(tensors, key=lambda name: (-_size(tensors[name].dtype), name))
    entries, offset = {}, 0
    for name in names:
        end = offset + len(tensors[name].data)
        entries[name] = {
            "dtype": tensors[name].dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, *(tensors[name].data for name in names)])


def lossless(dtype: str, scaling: float) -> str:
    """The smallest dtype that holds `tensor * scaling` for every tensor of `dtype`; F32 where none does.

    BF16 has F32's exponents: powers of two cost nothing. F16 may underflow. 8-bit floats go to BF16, in which they are
    exact, because the stock loader cannot multiply them.
    """
    power_of_two = scaling != 0 and math.frexp(abs(scaling))[0] == 0.5
    if dtype in ("F8_E4M3", "F8_E5M2"):
        dtype = "BF16"
    if dtype == "F64" or (dtype == "BF16" and power_of_two) or (dtype == "F16" and scaling == 1):
        return dtype
    return "F32"


def check_finite(path: Path, name: str, *arrays: np.ndarray) -> None:
    """Raise QwenlabError where a number is NaN or infinite."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise QwenlabError(f"{path}: {name!r} holds NaN or infinity; take an earlier checkpoint")


def _size(dtype: str) -> int:
    return np.dtype(_NUMPY[dtype]).itemsize


def narrow(values: np.ndarray) -> bytes:
    """float32 numbers that are exact in bfloat16, as bfloat16's bytes."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


@contextmanager
def open_safely(path: Path, framework: str) -> Iterator:
    """The file as safetensors' `safe_open` ("pt" or "np"), after its first bytes were looked at.

    Raises QwenlabError (one line) for a missing, truncated, pickled or huge-header file.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):  # False, too, for a name that no file can have
        what = "is a folder" if os.path.isdir(path) else "no such LoRA file"
        raise QwenlabError(f"{path}: {what}; give the path of a .safetensors file")
    with open(path, "rb") as raw:
        start = raw.read(HEAD)
    if (kind := file_kind(start)) not in ("", SAFETENSORS):
        raise QwenlabError(f"{path}: not opened, it is {kind}; get the .safetensors file instead")
    size, header = path.stat().st_size, int.from_bytes(start[:8], "little")
    if len(start) < 10 or header > size - 8:
        raise QwenlabError(f"{path}: truncated or no safetensors file ({size} bytes); copy or download it again")
    if header > MAX_HEADER:  # refused before anything of that size is allocated
        raise QwenlabError(
            f"{path}: claims a header of {header} bytes, a LoRA needs less than {MAX_HEADER}; do not trust this file"
        )
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise QwenlabError(f"{path}: damaged safetensors file ({error}); copy or download it again") from error


def _e4m3() -> np.ndarray:
    """The 256 numbers of float8_e4m3fn: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent > 0, (8 + mantissa) * 2.0 ** (exponent - 10), mantissa * 2.0**-9)
    size[(bits & 127) == 127] = np.nan
    return np.where(bits < 128, size, -size).astype(np.float32)


_E4M3 = _e4m3()
