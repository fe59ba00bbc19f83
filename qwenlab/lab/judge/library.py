"""The judge of the library (`qwenlab.lab.world.library`): which character, which style, which action and place.

The first judge knows one character and one style beside the base's; this one knows the three of each, and reads action
and place in every style. It is an evaluator: nothing that draws may be trained with it.

B pictures, RGB in [0, 1], 128 x 128 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from qwenlab.hands.networks import load_frozen, smooth_layer
from qwenlab.lab.weights import FOLDER
from qwenlab.lab.world.attributes import ACTIONS, BACKGROUNDS
from qwenlab.lab.world.library import CHARACTERS, LIBRARY_STYLES

OTHER = "other"
#: What is read of a picture. A character is there when its hair and its clothes are.
READ: dict[str, tuple[str, ...]] = {
    "hair": (*CHARACTERS, OTHER),
    "clothes": (*CHARACTERS, OTHER),
    "style": (*LIBRARY_STYLES, OTHER),
    "action": ACTIONS,
    "background": BACKGROUNDS,
}
SIZE = 128
WEIGHTS = FOLDER / "judge" / "library.safetensors"


class LibraryNet(nn.Module):
    """A small convolutional network with a head for each of READ; 0.4 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            smooth_layer(3, 24, 2), smooth_layer(24, 40, 2), smooth_layer(40, 64), smooth_layer(64, 96, 2),
            smooth_layer(96, 96), smooth_layer(96, 128, 2),
        )  # fmt: skip
        self.place = nn.Conv2d(128, 16, 1)
        self.head = nn.Linear(2 * 128 + 16 * 8 * 8, sum(map(len, READ.values())))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, 128, 128) -> logits (B, classes) of each of READ."""
        deep = self.body((pictures - 0.5) / 0.25)  # (B, 128, 8, 8)
        summary = torch.cat([deep.mean((2, 3)), deep.amax((2, 3)), self.place(deep).flatten(1)], 1)
        return dict(zip(READ, self.head(summary).split([len(c) for c in READ.values()], 1), strict=True))


@dataclass(frozen=True)
class LibraryReading:
    """character and style: a name of the library or "other"; action and background in the words of captions."""

    character: str
    style: str
    action: str
    background: str


class LibraryJudge:
    """Reads pictures: `read(images)`."""

    def __init__(self, network: LibraryNet) -> None:
        self.network = network

    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image | np.ndarray], batch_size: int = 64) -> list[LibraryReading]:
        """One reading for each RGB picture (PIL, or (H, W, 3) uint8); each is seen mirrored, too."""
        readings: list[LibraryReading] = []
        for start in range(0, len(images), batch_size):
            pictures = torch.stack([_as_tensor(image) for image in images[start : start + batch_size]])
            logits, mirrored = self.network(pictures), self.network(pictures.flip(3))
            best = {name: (logits[name] + mirrored[name]).argmax(1).tolist() for name in READ}
            for hair, clothes, *rest in zip(*best.values(), strict=True):
                character = READ["hair"][hair] if hair == clothes else OTHER
                style, action, background = (READ[name][k] for name, k in zip(list(READ)[2:], rest, strict=True))
                readings.append(LibraryReading(character, style, action, background))
        return readings


def load_library_judge(path: Path = WEIGHTS) -> LibraryJudge:
    """The judge as shipped. Raises QwenlabError when the file does not fit."""
    return LibraryJudge(load_frozen(LibraryNet(), path, "the judge of the library", "qwenlab.lab.judge.train_library"))


def _as_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """-> (3, 128, 128) float32 in [0, 1]."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
