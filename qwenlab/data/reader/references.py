"""Pictures that a caption speaks of, as "the girl of Picture 1 in a red jumper" does: found, or refused in one line.

And the control picture of a row, which says where things are. Besides `reference` and `control` in a line or row the
names of other trainers are understood, where their references are:

    image, prompt, edit_image                       DiffSynth-Studio's metadata (diffsynth/core/data)
    image_path, caption, control_path or _0, _1 ... musubi-tuner's JSONL (docs/dataset_config.md)
    target/a.png, a.txt and control/a.png           ai-toolkit's folders (dataloader_mixins.py); musubi's a_0.png ...

and where their control pictures are (a folder `control/` of theirs holds references, a column `control` here does not):

    file_name, text, conditioning_image             diffusers' train_controlnet*.py; as the datasets library names a
                                                    second picture, conditioning_image_file_name
    image, prompt, blockwise_controlnet_image       DiffSynth-Studio's metadata for its ControlNets; context_image for
                                                    its in-context LoRA (examples/qwen_image/model_training)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from qwenlab.data.findings import Finding, plural, shown
from qwenlab.data.images import image_size
from qwenlab.data.reader.listing import Listing
from qwenlab.data.reader.names import Lookup, Outside, identity
from qwenlab.errors import QwenlabError

SMALLEST = 16  # pixels of a side: one token of the transformer
LARGEST_COUNT = 16  # references of one row; models are trained on three, Qwen-Image-2.1 on ten


_CONTROL_KEYS = (
    "conditioning_image", "conditioning_image_file_name", "blockwise_controlnet_image", "context_image",
)  # fmt: skip
_CONTROL_PATH = re.compile(r"control_path(?:_(\d+))?")
_CONTROL_FOLDER = re.compile(r"(?:control|reference)s?(?:[_ -]?(?:images?|\d+))?", re.IGNORECASE)


class _Record(Protocol):
    name: str
    where: str
    path: Path | None
    references: tuple[Path, ...]
    control: Path | None


_R = TypeVar("_R", bound=_Record)


def own_names(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A line or row of another trainer under the names file_name, text, reference and control; others unchanged."""
    controls = [key for key in _CONTROL_KEYS if key in value]
    if "file_name" in value:
        return value if not controls or "control" in value else {**value, "control": value[controls[0]]}
    if "image" in value and ("edit_image" in value or controls):
        text = value.get("prompt", value.get("text"))
        kept = {"reference": value["edit_image"]} if "edit_image" in value else {}
        kept |= {"control": value[controls[0]]} if controls else {}
        return {"file_name": value["image"], "text": text, **kept}
    controls = sorted((int(match[1] or 0), key) for key in value if (match := _CONTROL_PATH.fullmatch(str(key))))
    if controls and "image_path" in value:
        names = [value[key] for _, key in controls if value[key]]
        return {"file_name": value["image_path"], "text": value.get("caption"), "reference": names}
    return value


def names_pictures(columns: Sequence[str]) -> bool:
    """Whether a table with these columns names a picture in each row."""
    return "file_name" in own_names(dict.fromkeys(columns))


def take_controls(listing: Listing) -> dict[str, list[tuple[str, Path]]]:
    """Take pictures in folders such as control/ or reference_1/, without captions of their own, out of the listing.

    Returns: the names and files of each such folder beside the pictures, in the order of the folders' names.
    """
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    tops = {name.split("/")[0] for name in listing.texts if "/" in name}
    for name, path in listing.pictures.items():
        top = name.split("/")[0]
        if "/" in name and top not in tops and _CONTROL_FOLDER.fullmatch(top):
            found[top].append((name, path))
    if len(listing.pictures) == sum(map(len, found.values())):
        return {}  # nothing is left that they could belong to
    for folder in found.values():
        for name, _ in folder:
            del listing.pictures[name]
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def pair_controls(
    records: Iterable[_R], controls: Mapping[str, Sequence[tuple[str, Path]]]
) -> tuple[list[_R], list[Finding]]:
    """The records with the pictures of their name, or their name and a number, in each folder of `take_controls`."""
    paired, findings, used = [], [], set()
    by_stem: dict[tuple[str, str], list[tuple[int, Path]]] = defaultdict(list)
    for top, files in controls.items():
        for _, path in files:
            by_stem[top, path.stem].append((-1, path))
            if match := re.fullmatch(r"(.+)_(\d+)", path.stem):
                by_stem[top, match[1]].append((int(match[2]), path))
    for record in records:
        references: list[Path] = []
        for top in controls:
            mine = [path for _, path in sorted(by_stem[top, record.path.stem])]
            if not mine:
                findings.append(Finding("no-reference", record.name, f"no picture of this name in {shown(top)}/"))
            references += mine
        used |= set(references)
        paired.append(replace(record, references=tuple(references)))
    lone = [name for files in controls.values() for name, path in files if path not in used]
    return paired, findings + [Finding("lone-reference", name, "no picture has this name") for name in lone]


def find_references(names: Sequence[str], where: str, lookup: Lookup) -> tuple[tuple[Path, ...], list[Finding]]:
    """The files that the names in a `reference` mean, and what is wrong: with a finding the line cannot be used."""
    if len(names) > LARGEST_COUNT:
        return (), [Finding("bad-reference", where, f"{len(names)} references; at most {LARGEST_COUNT} are read")]
    found = []
    for name in names:
        try:
            path = lookup.find(name)
        except Outside:
            return (), [Finding("outside", where, f"reference '{shown(name)}' leads out of the folder")]
        if path is None:
            return (), [Finding("no-reference", where, f"no reference '{shown(name)}'")]
        found.append(path)
    return tuple(found), []


def reference_findings(records: Iterable[_Record]) -> list[Finding]:
    """What is wrong with references that exist: one that is its own picture, stands twice, is tiny or of another size.

    Only headers of files are read; a file that is no picture is found out where it is opened.
    """
    findings, sizes = [], {}

    def size(path: Path) -> tuple[int, int] | None:
        if path not in sizes:
            try:
                sizes[path] = image_size(path)
            except QwenlabError:
                sizes[path] = None
        return sizes[path]

    for record in records:
        if not record.references:
            continue
        same = [identity(path) for path in record.references]
        known = [size(path) for path in record.references]
        small = next(
            (path for path, pair in zip(record.references, known, strict=True) if pair and min(pair) < SMALLEST), None
        )
        picture = size(record.path) if record.path else None
        if record.path and identity(record.path) in same:
            findings.append(Finding("bad-reference", record.where, f"{shown(record.name)} is its own reference"))
        elif len(set(same)) < len(same):
            findings.append(Finding("bad-reference", record.where, "names one reference twice"))
        elif small is not None:
            width, height = size(small)
            findings.append(Finding("bad-reference", record.where, f"{shown(small.name)} is {width} x {height} pixels"))
        elif picture and all(known) and picture not in known:
            sides = " and ".join(f"{width} x {height}" for width, height in dict.fromkeys(known))
            detail = f"references of {sides} pixels, the picture has {picture[0]} x {picture[1]}"
            findings.append(Finding("reference-size", record.where, detail))
    return findings


def references_remark(records: Sequence[_Record]) -> str:
    """How many captions have references; "" when none has."""
    counts = [len(record.references) for record in records if record.references]
    if not counts:
        return ""
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    verb = "has" if len(counts) == 1 else "have"
    return f"{len(counts)} of {plural(len(records), 'caption')} {verb} references ({each} each)"
