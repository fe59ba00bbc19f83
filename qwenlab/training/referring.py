"""How references are encoded for training: the pictures that captions speak of, and previews' prompts with theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.caches import Caches
from qwenlab.data.dataset import Sample, View
from qwenlab.data.images import image_size
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.references import is_edit, reference_size


def preview_embeddings(caches: Caches, config: TrainConfig) -> dict[str | tuple[str, str], Tensor]:
    """What previews are drawn from: embeddings by prompt; by (prompt, file of its reference) where both are read."""
    together = is_edit(caches.pipeline)
    needed: dict[str | tuple[str, str], tuple[str, tuple[View, ...]]] = {}
    for number, prompt in enumerate(config.preview_prompts):
        name = config.preview_references[number] if config.preview_references and together else ""
        views = (View(Path(name), image_size(name)),) if name else ()
        for text in (prompt, NEGATIVE_PROMPT):
            needed[(text, name) if name else text] = text, views
    needed.setdefault(NEGATIVE_PROMPT, (NEGATIVE_PROMPT, ()))
    texts, references = zip(*needed.values(), strict=True)
    return dict(zip(needed, caches.texts(texts, references=references), strict=True))


def reference_views(sample: Sample, picture: View, config: TrainConfig) -> tuple[View, ...]:
    """How the references of a picture are encoded: one of the picture's size as the picture is, pixel on pixel.

    Others in their own size, in whole tokens, with at most resolution x resolution pixels.
    """
    if not sample.references:
        return ()
    own = image_size(sample.path)
    views = []
    for path in sample.references:
        size = image_size(path)
        fitted = reference_size(size, config.resolution**2)
        as_it_is = View(path, fitted, mirrored=picture.mirrored, stretched=True)
        views.append(replace(picture, path=path) if size == own else as_it_is)
    return tuple(views)
