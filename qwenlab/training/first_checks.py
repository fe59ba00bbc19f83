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
from qwenlab.model.controlnet import check_blocks, check_controlnet
from qwenlab.model.limits import check_prompt
from qwenlab.model.references import check_references, is_edit
from qwenlab.training.referring import preview_files
from qwenlab.training.runtime import optimizer_class

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def check_first(pipeline: QwenImagePipeline, config: TrainConfig, dataset: Dataset, device: torch.device) -> None:
    """Raise QwenlabError for what training on `device` would stop at later.

    An attention backend that fails its test, a missing optimizer package, an `init_lora` of other layers or another
    rank, missing keypoints, a caption or preview prompt that is longer than the model reads, what does not go with
    references, a row without the control picture that is asked for, and a ControlNet that cannot be made or read.
    """
    with attention_backend(pipeline.transformer, config.attention_backend, device):
        pass
    optimizer_class(config)
    _check_references(pipeline, config, dataset)
    if config.control_kind:
        _check_controls(pipeline, config, dataset)
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
        for name in preview_files(config):
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


def _check_controls(pipeline: QwenImagePipeline, config: TrainConfig, dataset: Dataset) -> None:
    kind = config.control_kind
    for sample in dataset.samples:
        if sample.control is None:
            raise QwenlabError(
                f'{sample.path}: its row has no "control", and control_kind: {kind} reads one of each row; add it, or '
                "leave the row out"
            )
        if sample.references and kind == "controlnet":
            raise QwenlabError(
                f'{sample.path}: its row has a "reference", which a ControlNet does not read; take it out, or set '
                "control_kind: in_context"
            )
    if kind != "controlnet":
        return
    if is_edit(pipeline):
        raise QwenlabError("control_kind: controlnet is for text-to-image models; with an Edit model take in_context")
    if config.control_net:
        check_controlnet(config.control_net, pipeline.transformer)
    else:
        check_blocks(pipeline.transformer, config.control_blocks)
