"""OpenPose's body and hand networks as plain modules, with gradients, for the structure loss on real pictures.

controlnet-aux's detector classes run them under `no_grad` and go on in NumPy, so a loss on what they return trains
nothing. The modules inside are ordinary convolutions. Traps on the way, each checked in tests/hands/test_openpose.py:

- they read BGR in -0.5..0.5 (x / 256 - 0.5), not RGB;
- hands are read at about 368 pixels a crop: `SIZE`;
- the body network's last heat map passes a ReLU by a slip in the list of layers without one, so most of it has no
  gradient: that ReLU is taken out here.

The weights (body_pose_model.pth, hand_pose_model.pth; Cao et al., arXiv 1812.08008) are CMU's, for non-commercial
research only and not to be passed on: none come with qwenlab, the user names a folder that holds them.

N crops, H x W pixels, h x w = H / 8 x W / 8 cells.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from qwenlab.errors import QwenlabError

SIZE = 368  # pixels of the side of a crop
FILES = {"hand": "hand_pose_model.pth", "foot": "body_pose_model.pth"}


class OpenPose:
    """One of the networks behind `qwenlab.hands.structure.PoseFeatures`: "hand" for hands, "foot" (the body) for feet.

    It compares heat maps: 22 of a hand's joints, or 38 of limbs and 19 of joints, ankles among them, of a body. The
    body network has no toes; below the ankle it sees nothing.
    """

    size = SIZE

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __call__(self, crops: Tensor) -> list[Tensor]:
        """Crops (N, 3, H, W) RGB in [-1, 1] -> heat maps [(N, maps, h, w), ...], float32, open to gradients."""
        dtype = next(self.network.parameters()).dtype
        maps = self.network(to_openpose(crops).to(dtype))
        return [found.float() for found in (maps if isinstance(maps, tuple) else (maps,))]


def to_openpose(crops: Tensor) -> Tensor:
    """RGB in [-1, 1] -> BGR in [-0.5, 0.5), as OpenPose was trained: (x in 0..255) / 256 - 0.5."""
    return ((crops + 1) * (127.5 / 256) - 0.5).flip(1)


def build(kind: str) -> nn.Module:
    """The network for "hand" or "foot" with random weights, float32; the body's last ReLU is taken out."""
    with warnings.catch_warnings():  # its other detectors register models that timm knows already
        warnings.simplefilter("ignore")
        from controlnet_aux.open_pose.model import bodypose_model, handpose_model

    if kind == "hand":
        return handpose_model()
    network = bodypose_model()
    del network.model6_2.relu_Mconv7_stage6_L2
    return network


def load_openpose(folder: str | Path, kind: str) -> OpenPose:
    """The network for "hand" or "foot" with the weights that `folder` holds.

    Only tensors are read, never pickled code. Raises QwenlabError when the file is missing or does not fit.
    """
    path = Path(folder) / FILES[kind]
    if not path.is_file():
        raise QwenlabError(
            f"{path}: no such file; put OpenPose's {FILES[kind]} there (lllyasviel/Annotators has it; non-commercial)"
        )
    network = build(kind)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(_named_as(network, stored))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise QwenlabError(f"{path}: does not hold the weights of OpenPose's network ({reason})") from error
    return OpenPose(network)


def _named_as(network: nn.Module, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file names layers without the block they are in ("conv1_1.weight"); the modules with it."""
    return {name: stored.get(name, stored.get(name.split(".", 1)[1])) for name in network.state_dict()}
