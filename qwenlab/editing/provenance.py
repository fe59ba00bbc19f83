"""Which model and which LoRA files a session was drawn with: recorded, compared, found again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlab.captions.vocabulary import unknown_words
from qwenlab.editing.history import History, UsedLora
from qwenlab.errors import QwenlabError
from qwenlab.files import package_versions, sha256_file
from qwenlab.lora.fusion.sources import parse_source
from qwenlab.lora.io import check_lora_file, lora_metadata, model_fingerprint
from qwenlab.model.generation import native_size
from qwenlab.model.micro_weights import MICRO_WEIGHTS

if TYPE_CHECKING:
    from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline

MICRO = "micro"


def identify_model(pipeline: QwenImagePipeline | QwenImageEditPlusPipeline) -> dict[str, Any]:
    """What tells one model from another, in any precision: name, class, side in pixels, fingerprint of the weights."""
    source = str(pipeline.config.get("_name_or_path") or "unnamed")
    return {
        "name": MICRO if source == str(MICRO_WEIGHTS) else source,
        "class": type(pipeline).__name__,
        "side": native_size(pipeline),
        "fingerprint": model_fingerprint(pipeline.transformer),
    }


def check_same_model(recorded: Mapping[str, Any], model: Mapping[str, Any], path: Path) -> None:
    """Raise QwenlabError, which names the session's file, when a session is of another model. Names do not count."""
    for key, words in (("class", "class"), ("side", "side in pixels"), ("fingerprint", "weights")):
        if recorded.get(key) != model[key]:
            raise QwenlabError(
                f"{path}: a session of another model: {words} {recorded.get(key)}, and this pipeline's {model[key]}; "
                f"open it with {recorded.get('name')}, or begin a new session with start(picture)"
            )


def drawn_with(pipeline: QwenImagePipeline | QwenImageEditPlusPipeline) -> dict[str, str]:
    """What may round otherwise elsewhere: versions, device, dtype."""
    part = pipeline.transformer
    return package_versions() | {"device": str(part.device), "dtype": str(part.dtype).removeprefix("torch.")}


def used_loras(loras: Iterable[str | Path], folder: str | Path) -> tuple[UsedLora, ...]:
    """LoRA files, or "FILE:WEIGHT", as a session in `folder` records them. Raises QwenlabError for what is none."""
    sources = [parse_source(str(lora)) for lora in loras]
    for source in sources:
        check_lora_file(source.path)
    return tuple(UsedLora(_from(source.path, folder), sha256_file(source.path), source.weight) for source in sources)


def find_loras(loras: Sequence[UsedLora], history: History, folder: Path) -> list[tuple[Path, float]]:
    """Files and weights: those that the session has now by their digest, wherever they lie, others where they lay.

    Raises QwenlabError for a file that is gone or was changed.
    """
    files = []
    for lora in loras:
        path = next((other.path for other in of_session(history) if other.sha256 == lora.sha256), lora.path)
        path = Path(os.path.normpath(folder / path))
        if not path.is_file():
            raise QwenlabError(f"{path}: this LoRA of the session is gone; open the session with its new path")
        if sha256_file(path) != lora.sha256:
            raise QwenlabError(f"{path}: this LoRA was changed since; put the old file back, or open with another")
        files.append((path, lora.weight))
    return files


def of_session(history: History) -> tuple[UsedLora, ...]:
    """All LoRAs that the next turns may use."""
    return (*history.loras, *([history.edit_lora] if history.edit_lora else []))


def triggers(files: Iterable[tuple[Path, float]]) -> list[str]:
    """The words that LoRA files were trained to answer to."""
    return [word for path, _ in files if (word := lora_metadata(path).get("qwenlab.trigger"))]


def check_words(instruction: str, known: Iterable[str]) -> None:
    """Raise QwenlabError for words that the micro model was not taught, and that are not among the `known` ones."""
    if words := unknown_words(instruction, known):
        raise QwenlabError(
            f"instruction {instruction!r}: the micro model was never taught {words[0]!r}; use words of its captions, "
            "such as 红色短发 (red short hair)"
        )


def _from(path: Path, folder: str | Path) -> str:
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive of Windows
        return path.absolute().as_posix()
