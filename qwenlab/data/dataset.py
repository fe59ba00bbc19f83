"""A folder of pictures and captions, checked and split.

    my_dataset/
        images/img_001.png ...
        captions.jsonl              {"file_name": "img_001.png", "text": "1女孩, ..."}   one line a picture

For edits a line also names the picture before the change, or several, and its text is the instruction:

        references/a.png            {"file_name": "a.png", "text": "红色短发", "reference": "references/a.png"}

To say where things are, a line names a control picture of the same shape, such as a skeleton:

        control/img_001.png         {"file_name": "img_001.png", "text": "...", "control": "control/img_001.png"}

`qwenlab.data.reader` reads this and other layouts, for training and for the check alike; `qwenlab.data.caches` keeps
what `qwenlab.model.encoding` makes of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from qwenlab.data.buckets import fit_to_bucket, split_by_group
from qwenlab.data.colour import png_colours
from qwenlab.data.findings import RULES, Finding, shown
from qwenlab.data.images import fit_image, image_profile, open_image
from qwenlab.data.reader import Reading, read_folder
from qwenlab.errors import QwenlabError

_EACH = 3  # warnings of one kind that get a line each
_NAMED = 10  # names in one line


@dataclass(frozen=True)
class Sample:
    """One picture and its caption. `line` is the caption's line number in its file, from 1.

    references: pictures that the caption speaks of, in order; the caption is then an instruction. control: the picture
    that says where things are, if there is one.
    """

    path: Path
    text: str
    line: int
    references: tuple[Path, ...] = ()
    control: Path | None = None

    @property
    def beside(self) -> tuple[Path, ...]:
        """The pictures that are read with this one: references and control picture."""
        return self.references + ((self.control,) if self.control else ())


@dataclass(frozen=True)
class Dataset:
    """Checked samples in the order of the captions, and what deserves a warning, one line each."""

    folder: Path
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.samples)


def read_dataset(folder: str | Path) -> Dataset:
    """Read and check a dataset folder of any layout of `qwenlab.data.reader`; every image is decoded once.

    Raises QwenlabError, naming file, line and remedy, for: a missing folder or captions file, a line that is
    not JSON or lacks a key, text that is not UTF-8 or garbled, a caption without its image, its references or its
    control picture, a control picture of another shape, two captions of one image, a path or symbolic link that leaves
    the folder, an unreadable or huge image. What is not used, how another layout was understood, and colours that were
    converted are warnings.
    """
    reading = read_folder(folder)
    errors = [finding for finding in reading.findings if finding.level == "error"]
    if errors:
        # A file that is no captions file explains all that is wrong with its lines.
        first = next((finding for finding in errors if finding.rule == "endless-captions"), errors[0])
        more = f" ({len(errors) - 1} more: qwenlab check-dataset {folder})" if len(errors) > 1 else ""
        raise QwenlabError(first.refusal(reading.layout.folder) + more)
    samples = tuple(Sample(r.path, r.text, r.line, r.references, r.control) for r in reading.records)
    for path in dict.fromkeys(path for sample in samples for path in (sample.path, *sample.beside)):
        open_image(path)
    return Dataset(Path(folder), samples, tuple(_warnings(reading, samples)))


def _warnings(reading: Reading, samples: Iterable[Sample]) -> list[str]:
    """How the folder was understood, unless it has the usual layout, then its warnings, many of a kind in one line."""
    lines, by_rule = [], defaultdict(list)
    usual = f"{reading.layout.captions.name}, pictures in images/"
    if reading.understood != usual:
        lines.append(f"{reading.layout.folder}: {reading.understood}")
    for finding in reading.findings:
        by_rule[finding.rule].append(finding)
    for findings in by_rule.values():
        lines += _summed_up(findings, reading)
    converted, unfollowed = defaultdict(list), defaultdict(list)
    for sample in samples:
        if profile := image_profile(sample.path):
            if profile.problem:
                lines.append(
                    f"{shown(str(sample.path), 1000)}: broken colour profile, {profile.problem}; "
                    "the pixels are taken as they are"
                )
            else:
                converted[profile.name].append(sample.path.name)
        elif said := png_colours(sample.path):
            unfollowed[said].append(sample.path.name)
    for name, names in converted.items():
        lines.append(f"{reading.layout.folder}: converted to sRGB from {shown(name)}: {_listed(names)}")
    for said, names in unfollowed.items():
        lines.append(
            f"{reading.layout.folder}: {said} is not followed, the pixels are taken as sRGB; export as sRGB, or with a "
            f"colour profile: {_listed(names)}"
        )
    return lines


def _summed_up(findings: list[Finding], reading: Reading) -> list[str]:
    layout = reading.layout
    base = layout.images if findings[0].rule == "no-caption" else layout.folder
    end = "; the image is not used" if findings[0].rule == "no-caption" else ""
    if len(findings) <= _EACH:
        return [f"{shown(str(base / finding.where), 1000)}: {finding.detail}{end}" for finding in findings]
    title = RULES[findings[0].rule].title
    return [f"{base}: {title[0].lower()}{title[1:]} ({len(findings)}): {_listed([f.where for f in findings])}{end}"]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(shown(name) for name in names[:_NAMED]) + more


def split_dataset(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Training and validation pictures, about `share` of them for validation, each in the data set's order.

    Near duplicates stay on one side, and so do samples that share a picture or a reference; the same pictures are held
    out in every run, whatever its seed. Raises QwenlabError when the pictures do not differ enough to be split.
    """
    from qwenlab.data.check import group_numbers, near_duplicate_groups

    files: dict[Path, int] = {}
    for sample in dataset.samples:
        for path in (sample.path, *sample.references):
            files.setdefault(path, len(files))
    similar = near_duplicate_groups(list(files))
    related = [(files[s.path], files[reference]) for s in dataset.samples for reference in s.references]
    numbers = group_numbers(len(files), [*enumerate(similar), *related])
    groups = [numbers[files[sample.path]] for sample in dataset.samples]
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
    stretched: scaled to just this size, as the stock pipelines do with references.
    """

    path: Path
    size: tuple[int, int]
    crop: bool = False
    mirrored: bool = False
    stretched: bool = False

    def image(self) -> Image.Image:
        """Open and fit the picture; raises QwenlabError as `qwenlab.data.images.open_image` does."""
        image = open_image(self.path)
        if self.stretched:
            image = image.resize(self.size, Image.Resampling.LANCZOS)
        else:
            image = (fit_to_bucket if self.crop else fit_image)(image, self.size)
        return ImageOps.mirror(image) if self.mirrored else image

    def whole(self) -> Image.Image:
        """The picture in its own size, mirrored where the view is; raises as `image` does."""
        image = open_image(self.path)
        return ImageOps.mirror(image) if self.mirrored else image
