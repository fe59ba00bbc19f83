"""Cut a hand or a pair of feet out of a picture, upright and large, and put it back where it was.

Hands are turned until their fingers point up, and mirrored until the thumb is on the left, as restorers of faces align
them by their landmarks: what is left to learn, and to draw, is one hand instead of hands in every direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from qwenlab.data.keypoints import Keypoints
from qwenlab.data.regions import Region

# Of a square's side, in sides of the region: what lies around a hand tells how to join it to the arm. The region of a
# pair of feet has the legs in it already.
CONTEXT = {"hand": 1.5, "feet": 1.25}
_FINER = 4  # at most so many times more pixels while turning, against jagged edges


def cut(image: Image.Image, region: Region, size: int, context: float | None = None) -> Image.Image:
    """The square around a region, `context` (or `CONTEXT`) times its side, upright, of `size` x `size` pixels.

    What lies beyond the picture repeats its edge.
    """
    context = context or CONTEXT[region.kind]
    half = math.ceil(0.75 * region.side * context)  # more than half the square's diagonal
    left, top = math.floor(region.x) - half, math.floor(region.y) - half
    rows = np.clip(np.arange(top, top + 2 * half), 0, image.height - 1)
    columns = np.clip(np.arange(left, left + 2 * half), 0, image.width - 1)
    inside = image.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).convert("RGB")
    beyond = [(first := int((x == x[0]).sum()) - 1, len(x) - first - (x[-1] - x[0] + 1)) for x in (rows, columns)]
    around = Image.fromarray(np.pad(np.asarray(inside), [*beyond, (0, 0)], mode="edge"))
    local = replace(region, x=region.x - left, y=region.y - top)
    finer = min(_FINER, math.ceil(region.side * context / size))  # as fine as the picture: more would show no more
    turned = _moved(around, _to_picture(local, size * finer, context), (size * finer,) * 2)
    return turned if finer == 1 else turned.resize((size, size), Image.Resampling.LANCZOS)


def above_the_edge(region: Region, height: int) -> Region:
    """A region of feet, moved up until its square ends with the picture: there is nothing to draw below it."""
    if region.kind != "feet":
        return region
    return replace(region, y=min(region.y, height - region.side * CONTEXT["feet"] / 2))


def put_back(image: Image.Image, square: Image.Image, region: Region) -> Image.Image:
    """The picture with `square`, as `cut` gives it, drawn over the region; the seam is soft."""
    context = CONTEXT[region.kind]
    to_square = np.linalg.inv(_to_picture(region, square.width, context))
    to_square = to_square @ np.diag([1 / _FINER, 1 / _FINER, 1])  # from the finer picture
    finer = (image.width * _FINER, image.height * _FINER)
    drawn = _moved(square.convert("RGB"), to_square, finer).resize(image.size, Image.Resampling.LANCZOS)
    cover = inner_mask(square.width, region.kind).filter(ImageFilter.GaussianBlur(square.width * 0.03))
    cover = _moved(cover, to_square, finer).resize(image.size, Image.Resampling.BOX)
    result = image.convert("RGB").copy()
    result.paste(drawn, (0, 0), cover)
    return result


def joints_in_square(joints: Keypoints, region: Region, size: int) -> Keypoints:
    """Where the joints of the picture are in the square; those beyond it count as not seen.

    A mirrored hand stays the hand that it was: right remains right.
    """
    to_square = np.linalg.inv(_to_picture(region, size, CONTEXT[region.kind]))

    def moved(points: np.ndarray) -> np.ndarray:
        places = points[..., :2] @ to_square[:2, :2].T + to_square[:2, 2]
        inside = ((places >= 0) & (places < size)).all(-1)
        return np.concatenate([places, (points[..., 2] * inside)[..., None]], -1).astype(np.float32)

    return Keypoints((size, size), moved(joints.body), moved(joints.hands), moved(joints.feet))


def inner_mask(size: int, kind: str) -> Image.Image:
    """White where a region of `kind` is in the square that `cut` gives, black in the context around it."""
    mask = Image.new("L", (size, size), 0)
    half = round(size / CONTEXT[kind] / 2)
    mask.paste(255, (size // 2 - half, size // 2 - half, size // 2 + half, size // 2 + half))
    return mask


def as_tensor(squares: Sequence[Image.Image]) -> Tensor:
    """N squares of S x S pixels -> (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(s) for s in squares])).permute(0, 3, 1, 2).float() / 127.5 - 1


def _moved(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture of `size` whose pixel p is the image's pixel `matrix` p."""
    return image.transform(size, Image.Transform.AFFINE, matrix[:2].ravel().tolist(), Image.Resampling.BICUBIC)


def _to_picture(region: Region, size: int, context: float) -> np.ndarray:
    """(3, 3) from pixels of the upright square to pixels of the picture."""
    scale = region.side * context / size
    turn = math.radians(region.angle)
    flip = -1.0 if region.mirrored else 1.0
    # Columns: where the square's axes (right, down) lie in the picture.
    right = np.array([math.cos(turn), math.sin(turn)]) * flip
    down = np.array([-math.sin(turn), math.cos(turn)])
    matrix = np.eye(3)
    matrix[:2, 0], matrix[:2, 1] = right * scale, down * scale
    matrix[:2, 2] = np.array([region.x, region.y]) - (right + down) * scale * size / 2
    return matrix
