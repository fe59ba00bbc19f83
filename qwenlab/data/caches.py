"""Caches of latents and text embeddings: what training does not change is computed once, by whichever run comes first.

    cache/latents/<key>.safetensors     mean and std, each (C, h, w) float32, of the VAE's posterior
    cache/texts/<key>.safetensors       text (T, D) in the text encoder's dtype

One small file an entry, written atomically as soon as it is computed: a run that is killed loses the entry in hand.
The key is a hash of everything that decides the content (picture file, size, cropping and mirroring, or the caption,
and the model with all its weights), so a change makes new entries of what it touches and leaves the others valid.
Mean and std are kept instead of latents, so that every step draws a fresh sample of the posterior.

C latent channels, h x w latent cells (8 pixels each), T text tokens, D text features.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from qwenlab.data.colour import CONVERSION
from qwenlab.data.dataset import View
from qwenlab.data.images import image_profile
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, sha256_file
from qwenlab.model.encoding import LatentStatistics, encode_image, encode_text, image_tensor
from qwenlab.model.references import encode_instruction, is_edit

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

ENCODING = "1"  # part of every key; raise it when the code that encodes changes what it computes
STALE_SECONDS = 3600  # a temporary file this old belongs to a run that was killed


def print_warning(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


class Caches:
    """The caches of one pipeline in one folder; runs and processes may share the folder at the same time.

    Args:
        folder: None keeps nothing on disk.
        say: receives one line when an entry is damaged; the entry is then computed again.

    The models are hashed at first use: all bytes are read, one or two seconds a GB on one core. Methods raise
    QwenlabError when the folder cannot be written or a picture cannot be read.
    """

    def __init__(
        self, pipeline: QwenImagePipeline, folder: str | Path | None = None, say: Callable[[str], None] = print_warning
    ) -> None:
        self.pipeline, self.say = pipeline, say
        self.folder = None if folder is None else Path(folder)

    @cached_property
    def vae_hash(self) -> str:
        return module_hash(self.pipeline.vae)

    @cached_property
    def text_hash(self) -> str:
        return text_model_hash(self.pipeline)

    def latents(self, views: Sequence[View], on_item: Callable[[], None] = lambda: None) -> LatentStatistics:
        """Latent statistics of every view, in order; `on_item` is called after each, for a progress bar."""
        store = self._store("latents")
        entries: dict[View, dict[str, Tensor]] = {}
        for view in views:
            if view not in entries:
                entries[view] = store.get(latents_key(view, self.vae_hash), partial(self._encode_view, view))
            on_item()
        mean, std = ([entries[view][name] for view in views] for name in ("mean", "std"))
        if len({part.shape for part in mean}) == 1:
            return LatentStatistics(torch.stack(mean), torch.stack(std))
        return LatentStatistics(mean, std)

    def texts(
        self,
        texts: Sequence[str],
        on_item: Callable[[], None] = lambda: None,
        references: Sequence[tuple[View, ...]] | None = None,
    ) -> list[Tensor]:
        """Embeddings (T_i, D) of every text, in order; `on_item` as in `latents`.

        references: for each text the pictures it speaks of, where the text encoder reads them, too.
        """
        store = self._store("texts")
        entries: dict[tuple[str, tuple[View, ...]], Tensor] = {}
        pairs = list(zip(texts, references or [()] * len(texts), strict=True))
        for pair in pairs:
            if pair not in entries:
                key = text_key(pair[0], self.text_hash, pair[1])
                entries[pair] = store.get(key, partial(self._encode_text, *pair))["text"]
            on_item()
        return [entries[pair] for pair in pairs]

    def _encode_view(self, view: View) -> dict[str, Tensor]:
        mean, std = encode_image(self.pipeline, image_tensor(view.image()))
        return {"mean": mean, "std": std}

    def _encode_text(self, text: str, references: tuple[View, ...]) -> dict[str, Tensor]:
        if is_edit(self.pipeline):
            return {"text": encode_instruction(self.pipeline, text, [view.whole() for view in references])}
        return {"text": encode_text(self.pipeline, text)}

    def _store(self, kind: str) -> Store:
        return Store(None if self.folder is None else self.folder / kind, self.say)


class Store:
    """A folder of tensors by key, or nothing at all when `folder` is None."""

    def __init__(self, folder: Path | None, say: Callable[[str], None] = print_warning) -> None:
        self.folder, self.say = folder, say
        if folder is not None:
            for path in folder.glob(".*.tmp"):
                with contextlib.suppress(FileNotFoundError):  # another process may clean up, too
                    if time.time() - path.stat().st_mtime > STALE_SECONDS:
                        path.unlink()

    def get(self, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The entry of `key`: read, or made and written. Raises QwenlabError when it cannot be written."""
        tensors = self.read(key)
        if tensors is None:
            tensors = make()
            self.write(key, tensors)
        return tensors

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """An entry's tensors; None when it is missing or, with one line to `say`, damaged."""
        if self.folder is None:
            return None
        try:
            return _parse(self.path(key).read_bytes(), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # whatever a disk can do to a file; the entry is made again in any case
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.say(f"warning: {self.path(key)}: damaged cache entry ({reason}); it is computed again")
            return None

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        if self.folder is None:
            return
        # The key is kept inside, too: a file under another's name must not pass for it.
        metadata = {"key": key, "sha256": hash_tensors(tensors)}
        try:
            atomic_write_bytes(self.path(key), save(tensors, metadata=metadata))
        except OSError as error:
            raise QwenlabError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); free space there, or set cache_dir"
            ) from error


def _parse(data: bytes, key: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises for every kind of damage, a single flipped bit included."""
    from safetensors.torch import load

    tensors = load(data)
    header_bytes = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
    if metadata["key"] != key:
        raise ValueError(f"it belongs to {metadata['key']}")
    if metadata["sha256"] != hash_tensors(tensors):
        raise ValueError("its bytes have changed")
    return tensors


def latents_key(view: View, vae_hash: str) -> str:
    """The name of a view's entry. Raises QwenlabError when the picture cannot be read."""
    width, height = view.size
    picture, *further = _picture_parts(view)
    further += ["stretched"] if view.stretched else []
    return _hash("latents", vae_hash, picture, f"{width}x{height}", str(view.crop), str(view.mirrored), *further)


def text_key(text: str, text_hash: str, references: Sequence[View] = ()) -> str:
    """The name of an entry for a text, and for the pictures with which it is read. Raises as `latents_key` does."""
    parts = [part for view in references for part in (*_picture_parts(view), str(view.mirrored))]
    return _hash("text", text_hash, text, *parts)


def _picture_parts(view: View) -> list[str]:
    """What tells a picture from every other: the digest of its file, and how its colours were converted, if so."""
    try:
        picture = sha256_file(view.path)
    except OSError as error:
        raise QwenlabError(f"{view.path}: the picture cannot be read ({error.strerror}); put it back") from error
    profile = image_profile(view.path)
    return [picture, CONVERSION] if profile and not profile.problem else [picture]  # others keep the key they had


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join((ENCODING, *parts)).encode()).hexdigest()[:32]


def module_hash(module: nn.Module) -> str:
    """Hexadecimal SHA-256 of a model's configuration and every byte of its weights, wherever it was loaded from."""
    config = getattr(module, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    text = json.dumps(_settings(settings), sort_keys=True, default=str)
    return hashlib.sha256(f"{text}\0{hash_tensors(tensors)}".encode()).hexdigest()


def _settings(value: Any) -> Any:
    """A configuration without what says where, when and in which dtype it was loaded."""
    if isinstance(value, Mapping):
        ignored = ("transformers_version", "architectures", "dtype")
        return {key: _settings(item) for key, item in value.items() if key not in ignored and str(key)[:1] != "_"}
    return value


def text_model_hash(pipeline: QwenImagePipeline) -> str:
    """SHA-256 of all that turns a caption into its embedding: text encoder, tokenizer and the pipeline's template."""
    if pipeline.text_encoder is None:
        raise QwenlabError("the pipeline's text encoder was freed, captions cannot be encoded: load the pipeline again")
    tokenizer = json.loads(pipeline.tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # left by the last call
        tokenizer.pop(state, None)
    parts = [
        module_hash(pipeline.text_encoder),
        json.dumps(tokenizer, sort_keys=True),
        pipeline.prompt_template_encode,
        str(pipeline.prompt_template_encode_start_idx),
    ]
    if is_edit(pipeline):
        parts.append(json.dumps(_settings(pipeline.processor.image_processor.to_dict()), sort_keys=True, default=str))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of tensors on any device: names, shapes, dtypes and all bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def free_text_encoder(pipeline: QwenImagePipeline) -> None:
    """Take the text encoder out of the pipeline and give its memory back, unless the caller holds it elsewhere.

    Training on cached embeddings never uses it. Afterwards `qwenlab.model.generation.generate` draws from `embeddings`
    only; to encode new prompts load the pipeline again.
    """
    pipeline.register_modules(text_encoder=None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
