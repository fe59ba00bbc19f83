"""The judge's two small networks.

`PictureNet` looks at a whole picture, `HandNet` at the crop around one hand that `PictureNet` has found.
They are evaluators: nothing that is trained to draw may ever be given their gradient or their score.

Dimensions: B pictures, N crops, C classes; pictures are RGB in [0, 1], 128 x 128 pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenlab.lab.world import ATTRIBUTES
from qwenlab.lab.world.attributes import SAMPLE_CLOTHES, SAMPLE_HAIR_COLOR, SAMPLE_HAIR_STYLE, SAMPLE_STYLE

SIZE = 128  # side in pixels of the pictures the judge reads
STRIDE = 4  # pixels a cell of the hand map
CROP = 40  # side in pixels of a hand crop; the largest hand, in a half-body picture, is 37 pixels across

_SAMPLE = {
    "hair_style": SAMPLE_HAIR_STYLE,
    "hair_color": SAMPLE_HAIR_COLOR,
    "clothes": SAMPLE_CLOTHES,
    "style": SAMPLE_STYLE,
}
#: What can be read: the captions' vocabulary and the values that only the character of `data_sample` has.
CLASSES: dict[str, tuple[str, ...]] = {
    name: values + ((_SAMPLE[name],) if name in _SAMPLE else ()) for name, values in ATTRIBUTES.items()
}
HAND_CLASSES = ("3", "4", "5", "6", "7", "ill-formed", "none")  # "none": no open hand, or not all of it is visible
FEET_CLASSES = ("0", "1", "2", "3", "ill-formed")


def _block(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class PictureNet(nn.Module):
    """Attributes, identity and feet of a picture, and a map of its open hands."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, 24, 5, 2), _block(24, 40, 3, 2), _block(40, 56))
        self.hand_map = nn.Sequential(_block(56, 24, 1), _block(24, 24, dilation=2), nn.Conv2d(24, 1, 1))
        nn.init.constant_(self.hand_map[-1].bias, -4.0)  # hands are rare: start from "nowhere"
        self.middle = nn.Sequential(_block(56, 96, 3, 2), _block(96, 96))
        self.feet = nn.Sequential(_block(96, 48), _block(48, 64, 3, 2), nn.Flatten(), nn.Linear(64 * 4 * 6, 5))
        self.deep = nn.Sequential(_block(96, 128, 3, 2), _block(128, 128))
        self.place = nn.Conv2d(128, 16, 1)
        width = 2 * 128 + 16 * 8 * 8
        self.attributes = nn.Linear(width, sum(len(values) for values in CLASSES.values()))
        self.identity = nn.Linear(width, 1)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits of pictures (B, 3, 128, 128).

        Returns: a tensor (B, C) for each attribute, "identity" (B,), "feet_count" (B, 5), "hand_map" (B, 32, 32).
        """
        fine = self.stem((pictures - 0.5) / 0.25)  # (B, 56, 32, 32)
        middle = self.middle(fine)  # (B, 96, 16, 16)
        deep = self.deep(middle)  # (B, 128, 8, 8)
        summary = torch.cat([deep.mean((2, 3)), deep.amax((2, 3)), self.place(deep).flatten(1)], 1)
        logits = self.attributes(summary).split([len(values) for values in CLASSES.values()], 1)
        return dict(zip(CLASSES, logits, strict=True)) | {
            "identity": self.identity(summary)[:, 0],
            "feet_count": self.feet(middle[:, :, 8:, 2:14]),  # the lower half, where feet can be
            "hand_map": self.hand_map(fine)[:, 0],
        }


class HandNet(nn.Module):
    """How many fingers a hand has, from the crop around its centre."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, 16), _block(16, 48, 3, 2), _block(48, 48), _block(48, 96, 3, 2), _block(96, 96),
            _block(96, 128, 3, 2), _block(128, 128),
        )  # fmt: skip
        self.head = nn.Linear(256, len(HAND_CLASSES))

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (N, 3, 40, 40) -> logits (N, 7) over HAND_CLASSES."""
        features = self.body((crops - 0.5) / 0.25)  # (N, 128, 5, 5)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1))


def cut_crops(pictures: Tensor, which: Tensor, centers: Tensor) -> Tensor:
    """Crops (N, 3, 40, 40) around `centers` (N, 2), x and y in pixels, of pictures (B, 3, H, W) named by `which` (N,).

    What lies outside a picture is black, so that a cut hand can be told from a small one.
    """
    half = CROP // 2
    padded = F.pad(pictures, (half, half, half, half))
    corner = centers.round().long().clamp(0, pictures.shape[-1])
    rows = corner[:, 1, None] + torch.arange(CROP)  # (N, 40)
    columns = corner[:, 0, None] + torch.arange(CROP)
    return padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def find_hands(hand_map: Tensor, threshold: float = 0.3) -> tuple[Tensor, Tensor]:
    """Local maxima of hand maps (B, 32, 32) of logits: picture numbers (N,) and centres (N, 2) in pixels.

    The maximum within 3 cells counts; the centre is the mean of the 3 x 3 cells around it, weighted by probability.
    """
    heat = hand_map.sigmoid()
    peak = F.max_pool2d(heat[:, None], 5, 1, 2)[:, 0]
    which, y, x = torch.nonzero((heat == peak) & (heat > threshold), as_tuple=True)
    near = torch.arange(-1, 2)
    rows = (y[:, None, None] + near[:, None]).expand(-1, 3, 3)
    columns = (x[:, None, None] + near).expand(-1, 3, 3)
    padded = F.pad(heat, (1, 1, 1, 1))
    weight = padded[which[:, None, None], rows + 1, columns + 1]
    total = weight.sum((1, 2))
    cells = torch.stack([(columns * weight).sum((1, 2)) / total, (rows * weight).sum((1, 2)) / total], 1)
    return which, (cells + 0.5) * STRIDE
