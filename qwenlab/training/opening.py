"""A model made ready to train as a configuration says: how precise its weights are, and which of them are there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from qwenlab.config import TrainConfig
from qwenlab.errors import QwenlabError
from qwenlab.model.flow import model_timestep
from qwenlab.model.modulation import ModulationTable, bound_timesteps, is_bound, pipeline_timesteps, unbind
from qwenlab.model.pipeline import load_pipeline, place_pipeline, read_pipeline, usable_device
from qwenlab.training.held_out import SIGMAS

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def open_pipeline(config: TrainConfig, device: str | torch.device | None = None) -> QwenImagePipeline:
    """`load_pipeline` for training, with the least memory on the device.

    With `modulation_timesteps` the table is made in CPU memory, from weights that are not quantised, and the layers it
    replaces never reach the device. With `free_text_encoder` the transformer waits in CPU memory until captions are
    encoded. `device` None: CUDA when there is a GPU. Raises QwenlabError as `load_pipeline` does.
    """
    precision = config.base_precision or None
    target = usable_device(device)
    if not config.modulation_timesteps and not config.free_text_encoder:
        return load_pipeline(config.base, precision, target)
    pipeline, precision = read_pipeline(config.base, precision, target)
    transformer = pipeline.transformer
    if config.modulation_timesteps and transformer.dtype != torch.float32:  # float32 trains under autocast, see below
        ModulationTable.of(transformer, needed_timesteps(pipeline, config), device=target).bind(transformer)
    return place_pipeline(pipeline, precision, target, transformer=not config.free_text_encoder)


def needed_timesteps(pipeline: QwenImagePipeline, config: TrainConfig) -> torch.Tensor:
    """The timesteps that a run passes to its transformer: the grid, the held-out sigmas, the previews' schedule."""
    dtype = pipeline.transformer.dtype
    count = config.modulation_timesteps
    parts = [torch.arange(1, count + 1) / count, torch.tensor(SIGMAS)]
    timesteps = [model_timestep(part, dtype).float() for part in parts]
    if config.preview_prompts:
        size = (config.resolution, config.resolution)
        timesteps.append(pipeline_timesteps(pipeline, config.preview_steps, size))
    return torch.cat(timesteps)


@contextlib.contextmanager
def table_for_training(
    pipeline: QwenImagePipeline, config: TrainConfig, dtype: torch.dtype | None = None
) -> Iterator[None]:
    """Within the block a modulation table is bound, when `config` wants one: the one that is there, or one made now.

    `dtype` is autocast's, where it is on: the timesteps and the rows of a table are then in it. Raises QwenlabError
    when the table that is there lacks timesteps.
    """
    transformer = pipeline.transformer
    if not config.modulation_timesteps:
        yield
    elif is_bound(transformer):
        missing = set(needed_timesteps(pipeline, config).tolist()) - set(bound_timesteps(transformer).tolist())
        if missing:
            raise QwenlabError(
                f"modulation_timesteps: {len(missing)} of the run's timesteps are not in the table that is bound; "
                "open the model with qwenlab.training.open_pipeline(config)"
            )
        yield
    else:
        table = ModulationTable.of(transformer, needed_timesteps(pipeline, config), dtype=dtype)
        table.bind(transformer)
        try:
            yield
        finally:
            unbind(transformer)
