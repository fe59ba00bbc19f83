"""A second judge of hands and feet, to confirm the first: another architecture, other pictures, another way to look.

The first judge is convolutional and reads hands as they lie in the picture. This one reads squares that the detector
of `qwenlab.hands` cuts out, turned upright, with a small transformer over patches (Dosovitskiy et al., arXiv
2010.11929, with a convolutional stem as in Xiao et al., arXiv 2106.14881). Nothing that draws may be trained with it.
Of what models draw it reads feet as eyes do far more often than the first judge, and hands less often
(`benchmarks/hands/labels.json`).

N squares of 64 x 64 pixels in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from qwenlab.data.regions import Region
from qwenlab.errors import QwenlabError
from qwenlab.hands.finder import Finder, find_regions, load_finder
from qwenlab.hands.squares import as_tensor, cut
from qwenlab.lab.weights import FOLDER

SIDE, CONTEXT = 64, {"hand": 1.2, "feet": 1.2}
# Log odds from which a pair of feet counts as well-formed: within a point of the best agreement with labelled feet
# other than those that check the judge (`benchmarks/hands/data/feet_labels` and `feet_labels_judge`).
SURE = 1.0
CLASSES = {"hand": ("3", "4", "5", "6", "7", "ill-formed"), "feet": ("1", "2", "3", "ill-formed")}
WEIGHTS = FOLDER / "judge" / "second.safetensors"


class SquareNet(nn.Module):
    """A transformer of four layers over 8 x 8 patches; 0.7 million parameters."""

    def __init__(self, classes: int, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(),
            nn.Conv2d(64, width, 3, 2, 1),
        )  # fmt: skip
        self.place = nn.Parameter(0.02 * torch.randn(1, (SIDE // 8) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 3 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, squares: Tensor) -> Tensor:
        """Squares (N, 3, 64, 64) -> logits (N, classes)."""
        tokens = self.stem(squares).flatten(2).transpose(1, 2) + self.place  # (N, 64, width)
        return self.head(self.layers(tokens).mean(1))


@dataclass(frozen=True)
class SecondReading:
    """hands: the region and reading ("3" to "7", "ill-formed") of each open hand; feet: "1", "2", "3", "ill-formed",
    or "0" where no feet were found."""

    hands: tuple[tuple[Region, str], ...]
    feet: str


class SecondJudge:
    """Reads pictures of the drawn world: `read(images)`."""

    def __init__(self, networks: dict[str, SquareNet], finder: Finder) -> None:
        self.networks, self.finder = networks, finder

    def read(self, images: Sequence[Image.Image]) -> list[SecondReading]:
        """One reading for each picture (PIL, RGB, square)."""
        found = find_regions(self.finder, images)
        read = {
            kind: self.read_squares(
                kind, [(image, r) for image, here in zip(images, found, strict=True) for r in here if r.kind == kind]
            )
            for kind in CLASSES
        }
        readings = []
        for here in found:
            hands = [r for r in here if r.kind == "hand"]
            answers, read["hand"] = read["hand"][: len(hands)], read["hand"][len(hands) :]
            has_feet = any(r.kind == "feet" for r in here)
            feet = read["feet"].pop(0) if has_feet else "0"
            readings.append(SecondReading(tuple(zip(hands, answers, strict=True)), feet))
        return readings

    @torch.no_grad()
    def read_squares(self, kind: str, pairs: Sequence[tuple[Image.Image, Region]]) -> list[str]:
        """The reading of each region of `kind` in its picture; each is seen mirrored, too."""
        if not pairs:
            return []
        squares = as_tensor([cut(image, region, SIDE, CONTEXT[kind]) for image, region in pairs])
        network = self.networks[kind]
        logits = torch.cat([(network(part) + network(part.flip(3))) / 2 for part in squares.split(128)])
        if kind == "feet":
            right = CLASSES[kind].index("2")
            others = logits.index_fill(1, torch.tensor([right]), -torch.inf)
            sure = logits[:, right] - others.logsumexp(1) > SURE
            return [CLASSES[kind][k] for k in torch.where(sure, right, others.argmax(1)).tolist()]
        return [CLASSES[kind][k] for k in logits.argmax(1).tolist()]


def load_second_judge(path: Path = WEIGHTS) -> SecondJudge:
    """The second judge as shipped. Raises QwenlabError when the file does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    networks = {kind: SquareNet(len(classes)).eval() for kind, classes in CLASSES.items()}
    try:
        tensors = load_file(path)
        for kind, network in networks.items():
            prefix = kind + "."
            network.load_state_dict(
                {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        remedy = "train it with python -m qwenlab.lab.judge.train_second"
        raise QwenlabError(f"cannot load the second judge from {path}: {remedy}") from error
    return SecondJudge(networks, load_finder())
