"""A folder of pictures and captions, checked, and the cached latents and text embeddings made of it.

    my_dataset/
        images/img_001.png ...
        captions.jsonl              {"file_name": "img_001.png", "text": "1女孩, ..."}   one line a picture

B batch, C latent channels, h x w latent cells (8 pixels each), S text tokens, D text features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, sha256_file
from qwenlab.images import IMAGE_SUFFIXES, fit_image, open_image

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

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
        raise QwenlabError(
            f'{captions}: no such file; write one line a picture: {{"file_name": ..., "text": ...}}'
        )
    samples: dict[Path, Sample] = {}
    for number, line in enumerate(_lines(captions), start=1):
        if not line.strip():
            continue
        sample = _read_caption(line, f"{captions}, line {number}", images, number)
        if sample.path in samples:
            first = samples[sample.path].line
            raise QwenlabError(
                f"{captions}, line {number}: {sample.path.name} has a caption on line {first} already"
            )
        samples[sample.path] = sample
    if not samples:
        raise QwenlabError(
            f'{captions}: holds no caption; write one line a picture: {{"file_name": ..., "text": ...}}'
        )
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
        raise QwenlabError(
            f'{where}: not JSON ({reason}); write {{"file_name": "a.png", "text": "..."}}'
        ) from error
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


def image_tensor(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [-1, 1], the range of the VAE."""
    array = np.asarray(image, dtype=np.float32) / 127.5 - 1.0  # (H, W, 3)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class LatentStatistics:
    """The VAE's posterior for N pictures in the transformer's normalised units, both (N, C, h, w)."""

    mean: Tensor
    std: Tensor

    def sample(self, index: int, generator: torch.Generator) -> Tensor:
        """A fresh draw (C, h, w) for picture `index`; a frozen one would be learnt as part of the picture."""
        mean = self.mean[index]
        return mean + self.std[index] * torch.randn(mean.shape, generator=generator)


@torch.no_grad()
def encode_image(pipeline: QwenImagePipeline, image: Tensor) -> tuple[Tensor, Tensor]:
    """(3, H, W) in [-1, 1] -> mean and std of the normalised posterior, each (C, h, w) float32 on the CPU.

    Pictures are encoded one by one: the result then cannot depend on which other pictures are cached with it.
    """
    vae = pipeline.vae
    pixels = image[None, :, None].to(vae.device, vae.dtype)  # (1, 3, frames=1, H, W)
    posterior = vae.encode(pixels).latent_dist  # (1, C, 1, h, w)
    channels = (-1, 1, 1)
    shift = torch.tensor(vae.config.latents_mean).reshape(channels)
    scale = torch.tensor(vae.config.latents_std).reshape(channels)
    mean, std = posterior.mean[0, :, 0].float().cpu(), posterior.std[0, :, 0].float().cpu()
    return (mean - shift) / scale, std / scale


@torch.no_grad()
def encode_text(pipeline: QwenImagePipeline, text: str) -> Tensor:
    """A caption's embeddings (S, D) on the CPU, as the pipeline makes them (without its template)."""
    return pipeline.encode_prompt(text)[0][0].cpu()


def pad_texts(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Embeddings of several lengths -> (B, S, D) padded with zeros, and a bool mask (B, S) or None.

    The mask, None when nothing is padded, is essential: without it the zeros take part in attention, and a
    caption's meaning depends on its neighbours in the batch.
    """
    lengths = torch.tensor([len(text) for text in texts])
    padded = nn.utils.rnn.pad_sequence(list(texts), batch_first=True)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return padded, None if bool(mask.all()) else mask


def cache_latents(
    pipeline: QwenImagePipeline,
    samples: Sequence[Sample],
    resolution: int,
    cache_file: str | Path | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> LatentStatistics:
    """Latent statistics of every sample's picture, letterboxed to `resolution` squared.

    With `cache_file` (.safetensors) entries are read from there, missing ones computed and the file
    rewritten. An entry's key is a hash of the image file, the resolution and the VAE: a changed picture is
    computed anew. `on_item` is called after each picture, for a progress bar.
    """
    model = module_hash(pipeline.vae)
    stored = _read_cache(cache_file)
    entries: dict[str, Tensor] = {}
    keys = []
    for sample in samples:
        key = _hash(sha256_file(sample.path), str(resolution), model)
        keys.append(key)
        if key not in entries:
            if key in stored:
                entries[key] = stored[key]
            else:
                image = fit_image(open_image(sample.path), (resolution, resolution))
                entries[key] = torch.stack(encode_image(pipeline, image_tensor(image)))  # (2, C, h, w)
        on_item()
    _write_cache(cache_file, stored, entries)
    both = torch.stack([entries[key] for key in keys])  # (N, 2, C, h, w)
    return LatentStatistics(both[:, 0].contiguous(), both[:, 1].contiguous())


def cache_texts(
    pipeline: QwenImagePipeline,
    texts: Sequence[str],
    cache_file: str | Path | None = None,
    on_item: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Embeddings (S_i, D) of every text; the file works as in `cache_latents`, keyed by text and encoder."""
    model = module_hash(pipeline.text_encoder)
    stored = _read_cache(cache_file)
    keys = [_hash(text, model) for text in texts]
    entries: dict[str, Tensor] = {}
    for key, text in zip(keys, texts, strict=True):
        if key not in entries:
            entries[key] = stored[key] if key in stored else encode_text(pipeline, text)
        on_item()
    _write_cache(cache_file, stored, entries)
    return [entries[key] for key in keys]


def module_hash(module: nn.Module) -> str:
    """A hash that changes with a model's configuration and weights (64 values of each tensor are read)."""
    digest = hashlib.sha256(str(getattr(module, "config", "")).encode())
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().flatten()
        values = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _read_cache(path: str | Path | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path is None or not Path(path).is_file():
        return {}
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise QwenlabError(
            f"{path}: unreadable cache ({error}); delete it, it will be computed again"
        ) from error


def _write_cache(path: str | Path | None, stored: dict[str, Tensor], entries: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    if path is not None and entries.keys() - stored.keys():
        atomic_write_bytes(path, save({**stored, **entries}))
