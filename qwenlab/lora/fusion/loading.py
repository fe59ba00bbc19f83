"""Fused LoRAs in a pipeline, for as long as they are wanted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenlab.errors import QwenlabError
from qwenlab.lora.fusion.files import fuse
from qwenlab.lora.fusion.sources import Source
from qwenlab.lora.io import carries_lora, load_lora, remove_lora
from qwenlab.model.quantize import quantised_layers, weight_precision

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


@contextmanager
def fused(pipeline: QwenImagePipeline, sources: Sequence[Source], **how: Any) -> Iterator[None]:
    """While this is open, the transformer's weights hold the fused LoRAs, so that drawing costs nothing extra.

    how: method, rank and so on, as `fuse` takes them. Afterwards the weights are back, up to rounding in their dtype.
    Raises QwenlabError as `fuse` and `load_lora` do, with the pipeline as it was; for a pipeline that carries a LoRA;
    and for quantised weights, which cannot hold a small update: there `load_lora` puts the LoRA beside them.
    """
    if carries_lora(pipeline):
        raise QwenlabError("fused: the pipeline carries a LoRA already: call remove_lora(pipeline) first")
    if quantised_layers(pipeline.transformer):
        raise QwenlabError(
            f"fused: LoRAs cannot be merged into {weight_precision(pipeline.transformer)} weights: load the base in "
            "bf16 or fp32, or load the LoRAs beside the weights with load_lora and weigh_loras"
        )
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
