"""What training reads of a data set: every picture and caption encoded once, in all the versions that steps may see.

N pictures; V views of them (a mirrored picture is a second view); T captions (each order of tags is one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.buckets import can_flip, flip_text, lost_share, make_buckets, nearest_bucket, shuffled_captions
from qwenlab.data.caches import Caches, free_text_encoder
from qwenlab.data.dataset import Dataset, Sample, View, read_dataset, split_dataset
from qwenlab.data.images import image_size
from qwenlab.data.keypoints import FILE as KEYPOINTS
from qwenlab.data.keypoints import read_keypoints
from qwenlab.data.regions import Region
from qwenlab.data.regions import regions as regions_of
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import LatentStatistics
from qwenlab.model.generation import NEGATIVE_PROMPT
from qwenlab.model.references import is_edit
from qwenlab.show import progress_stream
from qwenlab.training.referring import preview_embeddings, reference_views

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


# Called with a data set, a folder, the side in pixels and the kinds of regions: writes a data set of close-ups there.
WriteCloseUps = Callable[[Dataset, Path, int, Sequence[str]], Dataset]


@dataclass(frozen=True)
class TrainingSet:
    """All that steps read, in memory: V views, T captions, and the embedding of the dropped caption.

    choices: for each of the N pictures the pairs (index in `latents`, index in `texts`) that a visit draws from; the
        first pair is the picture and the caption as they are.
    captions: the T captions as text. weights: for each view the weights of its S tokens in the loss, mean 1.
    references: for each of the T captions the indices in `latents` of the pictures it speaks of, whose mean is read.
    controls: for each of the T captions the index in `latents` of its control picture, whose mean a ControlNet reads.
    dropped_texts: for each caption what stands for it when it is dropped, where the text encoder reads references.
    """

    latents: LatentStatistics
    texts: list[Tensor]
    dropped: Tensor
    choices: tuple[tuple[tuple[int, int], ...], ...]
    captions: tuple[str, ...] = ()
    weights: tuple[Tensor, ...] | None = None
    references: tuple[tuple[int, ...], ...] | None = None
    dropped_texts: list[Tensor] | None = None
    regions: tuple[list[Region], ...] | None = None  # hands and feet of each view, in its pixels
    controls: tuple[int, ...] | None = None
    close_ups: TrainingSet | None = None  # of hands and feet, which are `hand_share` of the samples
    hand_share: float = 0.0

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """(h, w) in latent cells of each of the N pictures and of its references; only equal ones may share a batch."""
        return tuple(
            tuple(side for z in (self.latents.mean[view], *self.reference_latents(text)) for side in z.shape[-2:])
            for (view, text), *_ in self.choices
        )

    def reference_latents(self, text: int) -> list[Tensor]:
        """The latents (C, h_i, w_i) of the pictures that a caption speaks of."""
        return [self.latents.mean[index] for index in self.references[text]] if self.references else []

    def control_latents(self, text: int) -> Tensor | None:
        """The latents (C, h, w) of a caption's control picture; None where no ControlNet reads any."""
        return self.latents.mean[self.controls[text]] if self.controls else None


def encode_dataset(
    pipeline: QwenImagePipeline,
    dataset: Dataset,
    config: TrainConfig,
    cache_dir: Path | None = None,
    on_item: Callable[[int], None] = lambda total: None,
) -> TrainingSet:
    """Encode pictures and captions, or read what `cache_dir` holds of them. `on_item` as in `encode_samples`."""
    return encode_samples(Caches(pipeline, cache_dir), dataset, config, on_item)


def encode_samples(
    caches: Caches, dataset: Dataset, config: TrainConfig, on_item: Callable[[int], None] = lambda total: None
) -> TrainingSet:
    """`encode_dataset` with open caches, whose models are hashed once for several data sets.

    `on_item` is called after each picture and caption with the number of all of them. Raises QwenlabError for an
    unreadable picture and a cache that cannot be written.
    """
    views: dict[View, int] = {}  # a picture that answers several instructions is encoded once
    texts: list[str] = []
    choices = []
    masks: list[View | None] = []
    references: list[tuple[View, ...]] = []
    control_views: list[View] = []
    for sample, size in zip(dataset.samples, picture_sizes(dataset, config), strict=True):
        versions = [(False, sample.text)]
        if config.random_flip and can_flip(sample.text):
            versions.append((True, flip_text(sample.text)))
        pairs = []
        for mirrored, text in versions:
            view = View(sample.path, size, crop=config.resize_mode == "buckets", mirrored=mirrored)
            for order in shuffled_captions(text, config.caption_orders):
                pairs.append((views.setdefault(view, len(views)), len(texts)))
                texts.append(order)
                references.append(reference_views(sample, view, config))
                control_views += [replace(view, path=sample.control)] if config.control_kind == "controlnet" else []
            if len(views) > len(masks):
                mask = mask_path(sample) if config.unmasked_weight < 1 else None
                masks.append(replace(view, path=mask) if mask else None)
        choices.append(tuple(pairs))
    targets = list(views)
    controls = tuple(views.setdefault(view, len(views)) for view in control_views)
    of_texts = [tuple(views.setdefault(view, len(views)) for view in row) for row in references]
    total = len(views) + len(texts) + 1
    latents = caches.latents(list(views), lambda: on_item(total))
    read_together = references if is_edit(caches.pipeline) else None
    embeddings = caches.texts(texts, lambda: on_item(total), read_together)
    (dropped,) = caches.texts([NEGATIVE_PROMPT], lambda: on_item(total))
    dropped_texts = caches.texts([NEGATIVE_PROMPT] * len(texts), references=references) if read_together else None
    weights = None
    if config.unmasked_weight < 1:
        if not any(masks):
            raise QwenlabError(
                f"unmasked_weight: {dataset.folder / 'masks'} holds no NAME.png for a picture; add masks"
            )
        weights = tuple(
            token_weights(mask, view.size, config.unmasked_weight) for mask, view in zip(masks, targets, strict=True)
        )
    regions = view_regions(targets, dataset) if config.use_structural_loss else None
    return TrainingSet(
        latents, embeddings, dropped, tuple(choices), tuple(texts), weights,
        tuple(of_texts) if any(of_texts) else None, dropped_texts, regions, controls or None,
    )  # fmt: skip


def view_regions(views: Sequence[View], dataset: Dataset) -> tuple[list[Region], ...]:
    """Hands and feet of each view, from keypoints.jsonl of the data set: (V,) lists, in pixels of the view.

    Raises QwenlabError when that file is missing, broken or lacks a picture.
    """
    keypoints = read_keypoints(dataset.folder)
    found = []
    for view in views:
        if view.path.name not in keypoints:
            raise QwenlabError(f"{dataset.folder / KEYPOINTS}: has no line for {view.path.name}")
        joints = keypoints[view.path.name]
        scales = [new / old for new, old in zip(view.size, joints.size, strict=True)]
        scale = max(scales) if view.crop else min(scales)
        margins = [(new - old * scale) / 2 for new, old in zip(view.size, joints.size, strict=True)]
        moved = []
        for region in regions_of(joints):
            x, y = region.x * scale + margins[0], region.y * scale + margins[1]
            region = replace(region, x=x, y=y, side=region.side * scale)
            moved.append(region.in_mirror(view.size[0]) if view.mirrored else region)
        found.append(moved)
    return tuple(found)


def mask_path(sample: Sample) -> Path | None:
    """The mask of a picture, if it has one: masks/NAME.png beside images/NAME.*, white where the loss counts fully.

    It is looked for beside the picture's own folder, because data sets may be joined from several.
    """
    images = next((folder for folder in sample.path.parents if folder.name == "images"), None)
    if images is None:
        return None
    mask = images.parent / "masks" / sample.path.relative_to(images).with_suffix(".png")
    return mask if mask.is_file() else None


def token_weights(mask: View | None, size: tuple[int, int], unmasked_weight: float) -> Tensor:
    """Weights (S,) float32 with mean 1 of the tokens, 16 x 16 pixels each, of a picture of `size` pixels.

    White counts 1 and black `unmasked_weight`, in the mask's view of the same size; no mask is all white.
    """
    columns, rows = size[0] // 16, size[1] // 16
    if mask is None:
        return torch.ones(rows * columns)
    white = mask.image().convert("L").resize((columns, rows), Image.Resampling.BOX)
    share = torch.from_numpy(np.array(white, dtype=np.float32)).flatten() / 255  # (S,)
    weight = unmasked_weight + (1 - unmasked_weight) * share
    if not weight.any():
        raise QwenlabError(f"{mask.path}: is all black, and unmasked_weight is 0: nothing is left to learn")
    return weight / weight.mean()


def picture_sizes(dataset: Dataset, config: TrainConfig) -> list[tuple[int, int]]:
    """(width, height) in pixels in which each picture is trained: a square, or the bucket nearest in shape."""
    if config.resize_mode == "letterbox":
        return [(config.resolution, config.resolution)] * len(dataset)
    buckets = make_buckets(config.resolution)
    return [nearest_bucket(image_size(sample.path), buckets) for sample in dataset.samples]


def describe_buckets(dataset: Dataset, config: TrainConfig) -> str:
    """One line: how many pictures each bucket holds, and which picture loses most by being cut."""
    sizes = picture_sizes(dataset, config)
    counts = ", ".join(f"{width}x{height}: {count}" for (width, height), count in sorted(Counter(sizes).items()))

    def lost(pair: tuple[Sample, tuple[int, int]]) -> float:
        return lost_share(image_size(pair[0].path), pair[1])

    worst = max(zip(dataset.samples, sizes, strict=True), key=lost)
    return f"buckets {counts}; most is cut off {worst[0].path.name}, {lost(worst):.0%}"


@dataclass(frozen=True)
class RunData:
    """What a run reads: `prompts` are the `preview_embeddings` when the text encoder is gone."""

    training: TrainingSet
    validation: TrainingSet | None
    prompts: dict[str | tuple[str, str], Tensor] | None
    prior: TrainingSet | None = None


def prepare_data(
    pipeline: QwenImagePipeline,
    dataset: Dataset,
    config: TrainConfig,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    close_ups: WriteCloseUps | None = None,
) -> RunData:
    """Split the data set, encode it through the cache, and free the text encoder, each as `config` says.

    say: receives notes and warnings, one line each. close_ups: what `augment_hands` needs. Raises QwenlabError as
    `encode_samples` and `split_dataset` do.
    """
    from tqdm import tqdm

    prior_set = read_dataset(config.prior_dataset) if config.prior_dataset else None  # read, before others are encoded
    held_out = None
    if config.validation_share:
        dataset, held_out = split_dataset(dataset, config.validation_share)
        say(f"note: {len(held_out)} of {len(dataset) + len(held_out)} pictures are held out for validation")
    if config.resize_mode == "buckets":
        say(f"note: {describe_buckets(dataset, config)}")
    if is_edit(pipeline) and not any(s.beside if config.control_kind else s.references for s in dataset.samples):
        say(f'warning: {dataset.folder}: no row has a "reference", the picture before the change; edits are not learnt')
    if not config.control_kind and any(sample.control for sample in dataset.samples):
        say(f'warning: {dataset.folder}: the column "control" is not read; set control_kind to learn from it')
    caches = Caches(pipeline, config.cache_dir or Path(config.output_dir) / "cache", say)
    with tqdm(desc="encode", disable=not progress, leave=False, file=progress_stream()) as bar:

        def on_item(total: int) -> None:
            bar.total = total
            bar.update()

        training = encode_samples(caches, dataset, config, on_item)
    if config.augment_hands:
        folder = Path(config.output_dir) / "close_ups"
        pictures = close_ups(dataset, folder, config.resolution, config.close_ups)
        say(f"note: {len(pictures)} close-ups of hands and feet were cut from {len(dataset)} pictures")
        cut = encode_samples(caches, pictures, replace(config, unmasked_weight=1.0, resize_mode="letterbox"))
        training = replace(training, close_ups=cut, hand_share=config.hand_share)
    as_it_is = replace(config, random_flip=False, caption_orders=1, unmasked_weight=1.0, use_structural_loss=False)
    validation = encode_samples(caches, held_out, as_it_is) if held_out else None
    prior = encode_samples(caches, prior_set, as_it_is) if prior_set else None
    prompts = None
    if config.free_text_encoder:
        prompts = preview_embeddings(caches, config)
        free_text_encoder(pipeline)
    return RunData(training, validation, prompts, prior)
