"""What a run cannot do, found out before pictures are encoded: that takes a minute here, and hours for a large set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import Dataset
from qwenlab.data.keypoints import read_keypoints
from qwenlab.lora.continuing import check_init_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.attention_backends import attention_backend
from qwenlab.model.limits import check_prompt
from qwenlab.training.runtime import optimizer_class

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def check_first(pipeline: QwenImagePipeline, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
    """Raise QwenlabError for what training on `device` would stop at later.

    An attention backend that fails its test, a missing optimizer package, an `init_lora` of other layers or another
    rank, missing keypoints, and a caption or preview prompt that is longer than the model reads.
    """
    with attention_backend(pipeline.transformer, config.attention_backend, device):
        pass
    optimizer_class(config)
    if config.init_lora:
        check_init_lora(pipeline.transformer, config.init_lora, target_modules(config.apply_to), config.rank)
    if config.use_structural_loss or config.augment_hands:
        read_keypoints(dataset.folder)
    for sample in dataset.samples:
        check_prompt(pipeline, sample.text, f"{sample.path}: caption")
    for prompt in config.preview_prompts:
        check_prompt(pipeline, prompt, "preview_prompts")
