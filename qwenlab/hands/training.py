"""What the training loop is handed for hands and feet: the structure loss of a configuration, and close-ups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from qwenlab.config import TrainConfig
from qwenlab.hands.close_ups import write_close_ups
from qwenlab.hands.structure import MicroPose, PoseFeatures, StructureLoss
from qwenlab.training.batches import ExtraLoss

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


def hand_options(pipeline: QwenImagePipeline, config: TrainConfig) -> dict[str, Any]:
    """What `config` asks for, as arguments: `train_lora(pipeline, config, **hand_options(pipeline, config))`.

    Raises QwenlabError when a pose network cannot be loaded.
    """
    return {"extra": structure_schedule(pipeline, config), "close_ups": write_close_ups}


def structure_schedule(pipeline: QwenImagePipeline, config: TrainConfig) -> Callable[[int], ExtraLoss | None]:
    """For the training loop: the loss of a step, as `config` says; None for the steps without.

    Raises QwenlabError when a pose network cannot be loaded.
    """
    if not config.use_structural_loss:
        return lambda step: None
    pipeline.vae.requires_grad_(False)
    loss = StructureLoss(
        pipeline.vae, pose_networks(config, pipeline.vae), config.structural_weight, config.structural_max_sigma
    )
    return lambda step: loss if step > config.structural_from_step else None


def pose_networks(config: TrainConfig, like: torch.nn.Module) -> dict[str, PoseFeatures]:
    """For hands and feet: OpenPose's networks from `config.openpose_dir`, or that of the drawn world; on the device of
    `like`, OpenPose's in its dtype too."""
    if config.openpose_dir:
        from qwenlab.hands.openpose import load_openpose

        networks = {kind: load_openpose(config.openpose_dir, kind) for kind in ("hand", "foot")}
        for network in networks.values():
            network.network.to(like.device, like.dtype)
        return networks
    from qwenlab.hands.pose_net import load_pose_net

    network = MicroPose(load_pose_net().to(like.device))
    return {"hand": network, "foot": network}
