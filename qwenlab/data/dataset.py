"""A folder of pictures and captions, checked and split.

    my_dataset/
        images/img_001.png ...
        captions.jsonl              {"file_name": "img_001.png", "text": "1女孩, ..."}   one line a picture

`qwenlab.data.caches` keeps what `qwenlab.model.encoding` makes of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from qwenlab.data.buckets import fit_to_bucket, split_by_group
from qwenlab.data.images import IMAGE_SUFFIXES, fit_image, open_image
from qwenlab.errors import QwenlabError

MAX_CAPTIONS_BYTES = 256 * 1024**2  # a million captions; a file without line ends must not fill the memory


@dataclass(frozen=True)
class Sample:
    """One picture and its caption. `line` is the caption's line number in captions.jsonl, from 1."""

    path: Path
    text: str
    line: int


@dataclass(frozen=True)
class Dataset:
    """Checked samples in the order of captions.jsonl, and what deserves a warning, one line each."""

    folder: Path
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)


def read_dataset(folder: str | Path) -> Dataset:
    """Read and check a dataset folder; every image is opened and decoded once.

    Raises QwenlabError, naming file, line and remedy, for: a missing folder or captions file, a line that is
    not JSON or lacks a key, a caption without its image, two captions of one image, a path or symbolic link
    that leaves the folder, an unreadable or huge image. An image without caption is unused, with a warning.
    """
    folder = Path(folder)
    images, captions = folder / "images", folder / "captions.jsonl"
    if not folder.is_dir():
        raise QwenlabError(f"{folder}: no such dataset folder; it must hold images/ and captions.jsonl")
    if not images.is_dir():
        raise QwenlabError(f"{images}: no such folder; put the pictures there")
    if not captions.is_file():
        raise QwenlabError(f'{captions}: no such file; write one line a picture: {{"file_name": ..., "text": ...}}')
    samples: dict[Path, Sample] = {}
    for number, line in enumerate(_lines(captions), start=1):
        if not line.strip():
            continue
        sample = _read_caption(line, f"{captions}, line {number}", images, number)
        if sample.path in samples:
            first = samples[sample.path].line
            raise QwenlabError(f"{captions}, line {number}: {sample.path.name} has a caption on line {first} already")
        samples[sample.path] = sample
    if not samples:
        raise QwenlabError(f'{captions}: holds no caption; write one line a picture: {{"file_name": ..., "text": ...}}')
    for sample in samples.values():
        open_image(sample.path)
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    unused = [path for path in found if path not in samples]
    warnings = tuple(f"{path}: no caption in {captions.name}; the image is not used" for path in unused)
    return Dataset(folder, tuple(samples.values()), warnings)


def _lines(captions: Path) -> list[str]:
    if captions.stat().st_size > MAX_CAPTIONS_BYTES:
        raise QwenlabError(f"{captions}: more than {MAX_CAPTIONS_BYTES >> 20} MiB; is it a captions file?")
    try:
        return captions.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = captions.read_bytes()[: error.start].count(b"\n") + 1
        raise QwenlabError(f"{captions}, line {line}: not UTF-8; save the file as UTF-8") from error


def _read_caption(line: str, where: str, images: Path, number: int) -> Sample:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise QwenlabError(f'{where}: not JSON ({reason}); write {{"file_name": "a.png", "text": "..."}}') from error
    for key in ("file_name", "text"):
        if not isinstance(record, dict) or not isinstance(record.get(key), str) or not record[key].strip():
            raise QwenlabError(f'{where}: needs "{key}" with a text that is not empty')
    name = record["file_name"]
    path = images / name
    try:
        inside = not Path(name).is_absolute() and path.resolve().is_relative_to(images.resolve())
    except (OSError, RuntimeError, ValueError):  # no file can have this name, or a link that leads to itself
        inside = False
    if not inside:
        raise QwenlabError(f"{where}: {name!r} leads out of {images}; copy the image into that folder")
    if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        raise QwenlabError(f"{where}: no image {str(path)!r}; add it or delete the line")
    return Sample(path, record["text"].strip(), number)


def split_dataset(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Training and validation pictures, about `share` of them for validation, each in the data set's order.

    Near duplicates stay on one side, and the same pictures are held out in every run, whatever its seed. Raises
    QwenlabError when the pictures do not differ enough to be split.
    """
    from qwenlab.data.check import near_duplicate_groups

    groups = near_duplicate_groups([sample.path for sample in dataset.samples])
    try:
        sides = split_by_group(groups, share)
    except QwenlabError as error:
        raise QwenlabError(f"{dataset.folder}: validation_share cannot be met: {error}") from error
    train, validation = (
        Dataset(dataset.folder, tuple(dataset.samples[index] for index in side), dataset.warnings) for side in sides
    )
    return train, validation


@dataclass(frozen=True)
class View:
    """A picture as the VAE gets it, `size` = (width, height) in pixels.

    crop: scaled to cover the size and cut (`qwenlab.data.buckets.fit_to_bucket`); otherwise letterboxed on black.
    """

    path: Path
    size: tuple[int, int]
    crop: bool = False
    mirrored: bool = False

    def image(self) -> Image.Image:
        """Open and fit the picture; raises QwenlabError as `qwenlab.data.images.open_image` does."""
        image = (fit_to_bucket if self.crop else fit_image)(open_image(self.path), self.size)
        return ImageOps.mirror(image) if self.mirrored else image
