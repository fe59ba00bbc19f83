"""What a run trains and how it is written: a LoRA in the pipeline, or a ControlNet beside it.

Both have parts, {name: {name: parameter}}; groups of them with a factor of the learning rate; a name for their result
and an ending for all their files; and are saved, moved and deleted by path.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from qwenlab.config import TrainConfig
from qwenlab.data.caches import hash_tensors
from qwenlab.lora.continuing import continue_lora
from qwenlab.lora.io import lora_metadata, model_fingerprint, save_lora, save_text_encoder_lora, text_encoder_folder
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import TEXT_ENCODER_TARGETS, target_modules
from qwenlab.model.controlnet import controlnet_metadata, load_controlnet, make_controlnet, save_controlnet
from qwenlab.training.rank_changes import adopt_ranks

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImagePipeline

Parts = dict[str, dict[str, nn.Parameter]]


class TrainedLoRA:
    """Factors injected into the transformer of `pipeline`, and into its text encoder when `config` asks for it."""

    kind, result, ending, onward = "LoRA", "lora", ".safetensors", "init_lora"
    net: QwenImageControlNetModel | None = None

    def __init__(self, pipeline: QwenImagePipeline, config: TrainConfig) -> None:
        self.pipeline = pipeline
        self.parts: Parts = {
            "lora": inject_lora(
                pipeline.transformer,
                target_modules(config.apply_to),
                rank=config.rank,
                alpha=config.alpha,
                dropout=config.dropout,
                seed=config.seed,
            )
        }
        if config.init_lora:
            continue_lora(pipeline, config.init_lora)
        self.ratios = {"lora": config.transformer_lr_ratio, "text_encoder": config.text_encoder_lr_ratio}
        if config.text_encoder_rank:
            self.parts["text_encoder"] = inject_lora(
                pipeline.text_encoder,
                TEXT_ENCODER_TARGETS,
                rank=config.text_encoder_rank,
                alpha=config.text_encoder_alpha,
                seed=config.seed,
            )

    def recipe(self) -> dict[str, Any]:
        """What else must not change for a run to be resumed."""
        return {}

    def adopt(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give the parts the shapes of saved tensors."""
        adopt_ranks(self.pipeline.transformer, dict(tensors["lora"]))

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the LoRA of the transformer to `path`, that of the text encoder beside it. Raises OSError."""
        if "text_encoder" in self.parts:
            save_text_encoder_lora(self.pipeline, text_encoder_folder(path))
        save_lora(self.pipeline, path, metadata)

    def metadata(self, path: Path) -> dict[str, str]:
        """The entries of a saved one. Raises QwenlabError."""
        return lora_metadata(path)

    def move(self, path: Path, to: Path) -> None:
        """Rename a saved one."""
        path.rename(to)
        if text_encoder_folder(path).is_dir():
            text_encoder_folder(path).rename(text_encoder_folder(to))

    def delete(self, path: Path) -> None:
        """Delete a saved one, or what is left of it."""
        path.unlink(missing_ok=True)
        shutil.rmtree(text_encoder_folder(path), ignore_errors=True)


class TrainedControlNet:
    """A ControlNet for the transformer of `pipeline`, in float32; the transformer is frozen and stays as it is."""

    kind, result, ending, onward = "ControlNet", "controlnet", "", "control_net"

    def __init__(self, pipeline: QwenImagePipeline, config: TrainConfig) -> None:
        transformer = pipeline.transformer.requires_grad_(False)
        self.fingerprint = model_fingerprint(transformer)
        self.start = ""
        if config.control_net:
            self.net = load_controlnet(config.control_net, transformer).float()
            self.start = hash_tensors(self.net.state_dict())
        else:
            self.net = make_controlnet(transformer, config.control_blocks, config.control_start)
            self.net.to(transformer.device)
        self.net.requires_grad_(True)
        self.parts: Parts = {"controlnet": dict(self.net.named_parameters())}
        self.ratios = {"controlnet": config.transformer_lr_ratio}

    def recipe(self) -> dict[str, Any]:
        """As of `TrainedLoRA`: the weights of the net that training began with, when it was named."""
        return {"control_net": self.start} if self.start else {}

    def adopt(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As of `TrainedLoRA`; the shapes of a net do not change."""

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write the net to the folder `path` as diffusers does. Raises OSError."""
        save_controlnet(self.net, path, {**metadata, "qwenlab.base_model": self.fingerprint})

    def metadata(self, path: Path) -> dict[str, str]:
        """As of `TrainedLoRA`."""
        return controlnet_metadata(path)

    def move(self, path: Path, to: Path) -> None:
        """As of `TrainedLoRA`."""
        path.rename(to)

    def delete(self, path: Path) -> None:
        """As of `TrainedLoRA`."""
        shutil.rmtree(path, ignore_errors=True)


def make_trained(pipeline: QwenImagePipeline, config: TrainConfig) -> TrainedLoRA | TrainedControlNet:
    """What `config` trains, made new."""
    return (TrainedControlNet if config.control_kind == "controlnet" else TrainedLoRA)(pipeline, config)
