"""How pictures beside the pictures are encoded for training: references, control pictures, and those of previews."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.buckets import make_buckets, nearest_bucket
from qwenlab.data.caches import Caches
from qwenlab.data.dataset import Sample, View
from qwenlab.data.images import image_size
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.references import is_edit, reference_size


def preview_files(config: TrainConfig) -> list[str]:
    """For each preview prompt the picture that it is drawn with, its reference or control picture; "" for none."""
    return config.preview_references or config.preview_controls or [""] * len(config.preview_prompts)


def preview_embeddings(caches: Caches, config: TrainConfig) -> dict[str | tuple[str, str], Tensor]:
    """What previews are drawn from: embeddings by prompt; by (prompt, file of its reference) where both are read."""
    together = is_edit(caches.pipeline)
    needed: dict[str | tuple[str, str], tuple[str, tuple[View, ...]]] = {}
    for prompt, file in zip(config.preview_prompts, preview_files(config), strict=True):
        name = file if together else ""
        views = (View(Path(name), image_size(name)),) if name else ()
        for text in (prompt, NEGATIVE_PROMPT):
            needed[(text, name) if name else text] = text, views
    needed.setdefault(NEGATIVE_PROMPT, (NEGATIVE_PROMPT, ()))
    texts, references = zip(*needed.values(), strict=True)
    return dict(zip(needed, caches.texts(texts, references=references), strict=True))


def reference_views(sample: Sample, picture: View, config: TrainConfig) -> tuple[View, ...]:
    """How the references of a picture are encoded: one of the picture's size as the picture is, pixel on pixel.

    Others in their own size, in whole tokens, with at most resolution x resolution pixels. In context, the control
    picture is the last reference, always pixel on pixel.
    """
    in_context = sample.control and config.control_kind == "in_context"
    control = (replace(picture, path=sample.control),) if in_context else ()
    if not sample.references:
        return control
    own = image_size(sample.path)
    views = []
    for path in sample.references:
        size = image_size(path)
        fitted = reference_size(size, config.resolution**2)
        as_it_is = View(path, fitted, mirrored=picture.mirrored, stretched=True)
        views.append(replace(picture, path=path) if size == own else as_it_is)
    return (*views, *control)


def control_view(path: Path, config: TrainConfig) -> View:
    """How a control picture that belongs to no picture, a preview's, is drawn with: as if its picture had its shape."""
    size = (config.resolution, config.resolution)
    if config.resize_mode == "buckets":
        size = nearest_bucket(image_size(path), make_buckets(config.resolution))
    return View(path, size, crop=config.resize_mode == "buckets")
