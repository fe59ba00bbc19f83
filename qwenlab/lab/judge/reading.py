"""From pictures to readings.

Dimensions: N pictures, H W height and width in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.lab.judge.networks import (
    CLASSES,
    FEET_CLASSES,
    HAND_CLASSES,
    SIZE,
    HandNet,
    PictureNet,
    cut_crops,
    find_hands,
)
from qwenlab.lab.weights import FOLDER

WEIGHTS = FOLDER / "judge" / "judge.safetensors"
CALIBRATION = WEIGHTS.with_name("calibration.json")
FILES = (WEIGHTS, CALIBRATION)  # all that `load_judge` reads: what a result names that this judge gave


@dataclass(frozen=True)
class HandReading:
    """One open hand that can be seen whole."""

    x: float  # centre of the palm, pixels of the picture that was given
    y: float
    reading: str  # "3", "4", "5", "6", "7" or "ill-formed"
    probability: float  # of the reading, among all


@dataclass(frozen=True)
class Reading:
    """What the judge sees in one picture.

    attributes: value of every attribute of `world.ATTRIBUTES`, and the character's own values; "feet" is absent unless
        the framing is 全身, "hands" when they are behind the back: a picture does not show them.
    probabilities: the probability of each of these values.
    hands: the open hands; mittens, sleeves, fists and hands that are cut or covered are not among them.
    feet: "0" (none in the picture), "1", "2", "3" or "ill-formed".
    identity: 0..1 that the picture shows the character of `data_sample` in its style.
    is_character: whether `identity` reaches the threshold that was frozen on renderings.
    """

    attributes: dict[str, str]
    probabilities: dict[str, float]
    hands: tuple[HandReading, ...]
    feet: str
    feet_probability: float
    identity: float
    is_character: bool


class Judge:
    """The networks and what is known of their errors (`calibration`: threshold of identity, sensitivities).

    Each picture is read as it is and mirrored, each hand in eight orientations: neither changes what there is to read.
    """

    def __init__(self, pictures: PictureNet, hands: HandNet, calibration: dict) -> None:
        self.pictures, self.hand_net, self.calibration = pictures, hands, calibration

    def read(self, images: np.ndarray | Sequence[np.ndarray | Image.Image], batch_size: int = 64) -> list[Reading]:
        """Read pictures: (N, H, W, 3) uint8 RGB, or a sequence of PIL images or of (H, W, 3) arrays.

        Sizes other than 128 x 128 are resized. Raises `QwenlabError` for arrays of another kind or shape.
        """
        found: list[Reading] = []
        for start in range(0, len(images), batch_size):
            found += self._read([_as_array(image) for image in images[start : start + batch_size]])
        return found

    @torch.inference_mode()
    def _read(self, images: list[np.ndarray]) -> list[Reading]:
        pictures = torch.stack([_resized(image) for image in images])  # (B, 3, 128, 128)
        outputs, mirrored = self.pictures(pictures), self.pictures(pictures.flip(3))
        which, centers = find_hands(outputs.pop("hand_map"))
        del mirrored["hand_map"]
        outputs = {name: (logits + mirrored[name]) / 2 for name, logits in outputs.items()}
        hands = _fingers(self.hand_net, cut_crops(pictures, which, centers)) if len(which) else torch.empty(0, 7)
        identity = outputs.pop("identity").sigmoid().tolist()
        feet = outputs.pop("feet_count").softmax(1)
        chances = {name: logits.softmax(1) for name, logits in outputs.items()}
        threshold = self.calibration.get("identity_threshold", 0.5)
        readings = []
        for i, image in enumerate(images):
            attributes, probabilities = _attributes({name: rows[i] for name, rows in chances.items()})
            scale = image.shape[1] / SIZE, image.shape[0] / SIZE
            here = [
                HandReading(
                    float(c[0]) * scale[0], float(c[1]) * scale[1], HAND_CLASSES[int(p.argmax())], float(p.max())
                )
                for c, p in zip(centers[which == i], hands[which == i], strict=True)
            ]
            seen = tuple(hand for hand in here if hand.reading != "none")
            count = int(feet[i].argmax())
            readings.append(
                Reading(attributes, probabilities, seen, FEET_CLASSES[count], float(feet[i, count]), identity[i],
                        identity[i] >= threshold)
            )  # fmt: skip
        return readings


def _fingers(network: HandNet, crops: Tensor) -> Tensor:
    """Probabilities (N, 7) of crops (N, 3, 40, 40), a mean over the eight orientations of a square."""
    both = (crops, crops.transpose(2, 3))
    turned = [c.flip(axes) for c in both for axes in ((), (2,), (3,), (2, 3))]
    return torch.stack([network(c).softmax(1) for c in turned]).mean(0)


def _attributes(chances: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, float]]:
    values = {name: CLASSES[name][int(row.argmax())] for name, row in chances.items()}
    if values["framing"] != "全身":
        del values["feet"]
    if values["action"] == "背着手":
        del values["hands"]
    return values, {name: float(chances[name].max()) for name in values}


def _as_array(image: np.ndarray | Image.Image) -> np.ndarray:
    array = image if isinstance(image, np.ndarray) else np.asarray(image.convert("RGB"))
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise QwenlabError(
            f"the judge reads uint8 RGB pictures (H, W, 3), not {array.dtype} {array.shape}: convert the picture first"
        )
    return array


def _resized(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, 128, 128) float32 in [0, 1]."""
    if image.shape[:2] != (SIZE, SIZE):
        image = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def load_networks(path: Path = WEIGHTS) -> tuple[PictureNet, HandNet]:
    """Both networks from one safetensors file, float32, in eval mode. Raises `QwenlabError` when it does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        networks = PictureNet(), HandNet()
        for network, prefix in zip(networks, ("pictures.", "hands."), strict=True):
            network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except (OSError, RuntimeError, SafetensorError) as error:
        remedy = "train it with python -m qwenlab.lab.judge.train"
        raise QwenlabError(f"cannot load the judge from {path}: {remedy} ({str(error).splitlines()[0]})") from error
    return networks[0].eval(), networks[1].eval()


def load_judge(weights: Path = WEIGHTS, calibration: Path = CALIBRATION) -> Judge:
    """The judge as shipped, or from other files; without a calibration file the identity threshold is 0.5."""
    known = json.loads(calibration.read_text(encoding="utf-8")) if calibration.is_file() else {}
    return Judge(*load_networks(weights), known)


def judge_features(judge: Judge, images: Sequence[Image.Image]) -> np.ndarray:
    """(N, 128) features from the judge's network: what stands in for Inception here, offline."""
    net = judge.pictures
    arrays = [np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)) for image in images]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W)
    with torch.no_grad():
        maps = [net.deep(net.middle(net.stem(part))) for part in pixels.split(64)]
    return torch.cat(maps).mean(dim=(2, 3)).numpy().astype(np.float64)
