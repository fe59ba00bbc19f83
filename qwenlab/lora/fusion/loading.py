"""Fused LoRAs in a pipeline, for as long as they are wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlab.lora.fusion.files import Source, fuse
from qwenlab.lora.io import load_lora, remove_lora

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


@contextmanager
def fused(pipeline: QwenImagePipeline, sources: Sequence[Source], **how: Any) -> Iterator[None]:
    """While this is open, the transformer's weights hold the fused LoRAs, so that drawing costs nothing extra.

    how: method, rank and so on, as `fuse` takes them. Afterwards the weights are back, up to rounding in their dtype.
    Raises QwenlabError as `fuse` and `load_lora` do, with the pipeline as it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        load_lora(pipeline, fuse(sources, Path(folder) / "fused.safetensors", **how).path)
    try:
        pipeline.fuse_lora(components=["transformer"])
        try:
            yield
        finally:
            pipeline.unfuse_lora(components=["transformer"])
    finally:
        remove_lora(pipeline)
