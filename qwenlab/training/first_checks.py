"""What a run cannot do, found out before pictures are encoded: that takes a minute here, and hours for a large set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import Dataset
from qwenlab.data.images import open_image
from qwenlab.data.keypoints import read_keypoints
from qwenlab.errors import QwenlabError
from qwenlab.lora.continuing import check_init_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.attention_backends import attention_backend
from qwenlab.model.limits import check_prompt
from qwenlab.model.references import check_references, is_edit
from qwenlab.training.runtime import optimizer_class

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def check_first(pipeline: QwenImagePipeline, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
    """Raise QwenlabError for what training on `device` would stop at later.

    An attention backend that fails its test, a missing optimizer package, an `init_lora` of other layers or another
    rank, missing keypoints, a caption or preview prompt that is longer than the model reads, and what does not go with
    references.
    """
    with attention_backend(pipeline.transformer, config.attention_backend, device):
        pass
    optimizer_class(config)
    _check_references(pipeline, config, dataset)
    if config.init_lora:
        check_init_lora(pipeline.transformer, config.init_lora, target_modules(config.apply_to), config.rank)
    if config.use_structural_loss or config.augment_hands:
        read_keypoints(dataset.folder)
    for sample in dataset.samples:
        check_prompt(pipeline, sample.text, f"{sample.path}: caption")
    for prompt in config.preview_prompts:
        check_prompt(pipeline, prompt, "preview_prompts")


def _check_references(pipeline: QwenImagePipeline, config: TrainConfig, dataset: Dataset) -> None:
    edit = is_edit(pipeline)
    if config.preview_every_n_steps:
        names = config.preview_references or [""] * len(config.preview_prompts)
        for name in names:
            if name:
                check_references([open_image(name)])
            elif edit:
                raise QwenlabError("preview_references: an Edit model draws from pictures only; give one a prompt")
    if edit and config.text_encoder_rank:
        raise QwenlabError("text_encoder_rank: an Edit model's text encoder stays as it is; set it to 0")
    if config.modulation_timesteps and pipeline.transformer.config.get("zero_cond_t"):
        raise QwenlabError(
            "modulation_timesteps: this model modulates references by themselves (zero_cond_t), which the table "
            "does not hold; set it to 0"
        )
    if config.augment_hands and any(sample.references for sample in dataset.samples):
        raise QwenlabError("augment_hands: captions of rows with references do not say what is shown; set it to false")
