"""Wrong in the way of models: hands and feet that are melted, doubled or in pieces, from drawings that are right.

Drawings with too few or too many fingers are wrong in the way of people. A model that has not learnt hands draws what
has no count. Networks that are to tell right from wrong must have seen both.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from qwenlab.data.regions import Region


def melt(image: np.ndarray, region: Region, rng: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) uint8 whose region is spoilt beyond doubt by one or two of three ways, softly masked."""
    unit = region.side / 32  # the ways were made for regions of 32 pixels
    spoilt = image.astype(np.float32)
    ways = rng.permutation([_warp, _double, _shatter])[: int(rng.integers(1, 3))]
    for way in ways:
        spoilt = way(spoilt, unit, rng)
    rows, columns = np.indices(image.shape[:2])
    distance = np.maximum(np.abs(columns - region.x), np.abs(rows - region.y)) / (region.side / 2)
    mask = np.clip((1.0 - distance) / 0.25, 0, 1)[..., None]
    return np.clip(image * (1 - mask) + spoilt * mask, 0, 255).round().astype(np.uint8)


def _warp(image: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Every part is drawn some pixels from where it belongs."""
    smooth = rng.uniform(1.5, 3.0) * unit
    shift = np.stack([gaussian_filter(rng.normal(size=image.shape[:2]), smooth) for _ in range(2)])
    shift *= rng.uniform(2.5, 4.5) * unit / shift.std()
    return _moved(image, shift)


def _double(image: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Two pictures at once, one of them shifted, each the stronger in places."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(4, 8) * unit
    other = _moved(image, np.stack([np.full(image.shape[:2], far * f(angle)) for f in (np.sin, np.cos)]))
    noise = gaussian_filter(rng.normal(size=image.shape[:2]), 2.5 * unit)
    share = 1 / (1 + np.exp(-2 * noise / noise.std()))[..., None]
    return image * share + other * (1 - share)


def _shatter(image: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Pieces of a few pixels change places with their neighbours."""
    side = max(int(rng.uniform(3, 6) * unit), 2)
    rows, columns = (np.arange(size) // side for size in image.shape[:2])
    cells = rng.normal(0, 1.3 * side, (2, rows.max() + 1, columns.max() + 1))
    shift = cells[:, rows][:, :, columns]
    pieces = _moved(image, shift)
    return gaussian_filter(pieces, (0.6 * unit, 0.6 * unit, 0))


def _moved(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) sampled at each pixel plus `shift` (2, H, W), rows and columns."""
    places = np.indices(image.shape[:2]) + shift
    return np.stack([map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)], -1)
