"""Where hands, feet and bodies are in pictures: `keypoints.jsonl` beside a data set's captions.

One JSON object a line: {"file_name": ..., "size": [W, H], "body": 18 x [x, y, v], "hands": [right, left] of 21 x
[x, y, v], "feet": [right, left] of 3 x [x, y, v]}. Pixels, origin at the top left; v is 1 where the joint is seen and 0
where it is covered, outside or unknown. The orders are OpenPose's (COCO body; hand: wrist, then four joints of each
finger from the thumb; foot: big toe, small toe, heel).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_text

FILE = "keypoints.jsonl"
_SHAPES = {"body": (18, 3), "hands": (2, 21, 3), "feet": (2, 3, 3)}


@dataclass(frozen=True)
class Keypoints:
    """The joints of one picture of `size` (W, H) pixels; arrays as the module says, float32."""

    size: tuple[int, int]
    body: np.ndarray  # (18, 3)
    hands: np.ndarray  # (2, 21, 3) right, left
    feet: np.ndarray  # (2, 3, 3) right, left


def write_keypoints(folder: Path, keypoints: Mapping[str, Keypoints]) -> Path:
    """Write `folder`/keypoints.jsonl for pictures by file name, coordinates to a tenth of a pixel."""
    lines = []
    for name, joints in keypoints.items():
        arrays = {key: np.round(getattr(joints, key).astype(np.float64), 1).tolist() for key in _SHAPES}
        lines.append(json.dumps({"file_name": name, "size": list(joints.size)} | arrays, ensure_ascii=False))
    return atomic_write_text(folder / FILE, "\n".join(lines) + "\n")


def read_keypoints(folder: str | Path) -> dict[str, Keypoints]:
    """Read what `write_keypoints` or a detector wrote, by file name.

    Raises QwenlabError, naming file and line, when the file is missing, no UTF-8, no JSON, of other shapes, or names a
    picture twice.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise QwenlabError(f"{path}: no such file; write one with qwenlab.data.keypoints.write_keypoints")
    found = {}
    try:
        text = path.read_text(encoding="utf-8-sig")  # line ends of all systems become LF
    except UnicodeDecodeError as error:
        raise QwenlabError(f"{path}: not UTF-8 (byte {error.start + 1}); write it anew") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            arrays = {key: np.asarray(row[key], np.float32) for key in _SHAPES}
            name, (width, height) = str(row["file_name"]), row["size"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise QwenlabError(f"{path}, line {number}: no keypoints of a picture ({error})") from error
        if name in found:
            raise QwenlabError(f"{path}, line {number}: {name!r} has keypoints on a line before; delete one")
        for key, shape in _SHAPES.items():
            if arrays[key].shape != shape:
                raise QwenlabError(f"{path}, line {number}: {key} is {arrays[key].shape} and must be {shape}")
        found[name] = Keypoints((int(width), int(height)), **arrays)
    return found
