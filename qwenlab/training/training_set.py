"""What training reads of a data set: every picture and caption encoded once, in all the versions that steps may see.

N pictures; V views of them (a mirrored picture is a second view); T captions (each order of tags is one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from qwenlab.buckets import can_flip, flip_text, lost_share, make_buckets, nearest_bucket, shuffled_captions
from qwenlab.caches import Caches, free_text_encoder
from qwenlab.config import TrainConfig
from qwenlab.dataset import Dataset, LatentStatistics, Sample, View, split_dataset
from qwenlab.generate import NEGATIVE_PROMPT
from qwenlab.images import image_size

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


@dataclass(frozen=True)
class TrainingSet:
    """All that steps read, in memory: V views, T captions, and the embedding of the dropped caption.

    choices: for each of the N pictures the pairs (index in `latents`, index in `texts`) that a visit draws from; the
        first pair is the picture and the caption as they are.
    """

    latents: LatentStatistics
    texts: list[Tensor]
    dropped: Tensor
    choices: tuple[tuple[tuple[int, int], ...], ...]

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) in latent cells of each of the N pictures; only equal ones may share a batch."""
        return tuple(tuple(self.latents.mean[pairs[0][0]].shape[-2:]) for pairs in self.choices)


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
    views: list[View] = []
    texts: list[str] = []
    choices = []
    for sample, size in zip(dataset.samples, picture_sizes(dataset, config), strict=True):
        versions = [(False, sample.text)]
        if config.random_flip and can_flip(sample.text):
            versions.append((True, flip_text(sample.text)))
        pairs = []
        for mirrored, text in versions:
            for order in shuffled_captions(text, config.caption_orders):
                pairs.append((len(views), len(texts)))
                texts.append(order)
            views.append(View(sample.path, size, crop=config.resize_mode == "buckets", mirrored=mirrored))
        choices.append(tuple(pairs))
    total = len(views) + len(texts) + 1
    latents = caches.latents(views, lambda: on_item(total))
    *embeddings, dropped = caches.texts([*texts, NEGATIVE_PROMPT], lambda: on_item(total))
    return TrainingSet(latents, embeddings, dropped, tuple(choices))


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
    """What a run reads: `prompts` holds the embeddings of preview prompts when the text encoder is gone."""

    training: TrainingSet
    validation: TrainingSet | None
    prompts: dict[str, Tensor] | None


def prepare_data(
    pipeline: QwenImagePipeline,
    dataset: Dataset,
    config: TrainConfig,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> RunData:
    """Split the data set, encode it through the cache, and free the text encoder, each as `config` says.

    say: receives notes and warnings, one line each. Raises QwenlabError as `encode_samples` and `split_dataset` do.
    """
    from tqdm import tqdm

    held_out = None
    if config.validation_share:
        dataset, held_out = split_dataset(dataset, config.validation_share)
        say(f"note: {len(held_out)} of {len(dataset) + len(held_out)} pictures are held out for validation")
    if config.resize_mode == "buckets":
        say(f"note: {describe_buckets(dataset, config)}")
    caches = Caches(pipeline, config.cache_dir or Path(config.output_dir) / "cache", say)
    with tqdm(desc="encode", disable=not progress, leave=False) as bar:

        def on_item(total: int) -> None:
            bar.total = total
            bar.update()

        training = encode_samples(caches, dataset, config, on_item)
    validation = prompts = None
    if held_out:  # as they are: neither mirrored nor shuffled
        validation = encode_samples(caches, held_out, replace(config, random_flip=False, caption_orders=1))
    if config.free_text_encoder:
        needed = list(dict.fromkeys([*config.preview_prompts, NEGATIVE_PROMPT]))
        prompts = dict(zip(needed, caches.texts(needed), strict=True))
        free_text_encoder(pipeline)
    return RunData(training, validation, prompts)
