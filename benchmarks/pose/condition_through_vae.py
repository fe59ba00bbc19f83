"""What of a skeleton picture survives the micro VAE: `python -m benchmarks.pose.condition_through_vae`.

A pose net sees the latents of the picture. Three questions, on development poses of the training's kind: is the
colour in the middle of each limb still nearest to its own after encoding and decoding; does a linear reader of 3 x 3
latent cells tell which limb a cell shows; and does one tell an arm before the body from one behind it, in pairs whose
18 points are equal. Beside the latents the same reader on the mean colours of the cells, which the VAE never saw.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, unfold

from qwenlab.files import atomic_write_json
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.pose.sampling import sample_depth_pair, sample_pose
from qwenlab.lab.results import stamp_result
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.pose import condition
from qwenlab.pose.openpose import LIMBS, POINTS, Pose2D, to_openpose

SIZE, CELL = 128, 8  # pixels of a picture, and of a latent cell
SEED, TRAIN = 41, 0.75  # of the poses; the share that the readers learn from
WAYS = {  # name: (drawn with depth, half the width of a limb in pixels)
    "B, 2 pixels": (True, 2.0), "B, 1 pixel": (True, 1.0), "B, 3 pixels": (True, 3.0), "A, 2 pixels": (False, 2.0),
}  # fmt: skip


def drawn(poses: Sequence[Pose2D], depth: bool, width: float) -> np.ndarray:
    """Skeleton pictures (N, 128, 128, 3) uint8 with limbs of another width than the library's."""
    usual, condition.THINNEST = condition.THINNEST, width
    try:
        return np.stack([np.asarray(condition.draw_condition(pose, SIZE, depth)) for pose in poses])
    finally:
        condition.THINNEST = usual


def limb_of(colours: np.ndarray) -> np.ndarray:
    """The limb (...) whose hue is nearest to colours (..., 3), whatever their brightness."""
    hues = colours / np.maximum(colours.max(-1, keepdims=True), 1)
    known = np.array(condition.COLORS[: len(LIMBS)]) / 255
    return np.linalg.norm(hues[..., None, :] - known, axis=-1).argmin(-1)


def middles(poses: Sequence[Pose2D], pictures: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(picture, limb, x, y) of the middles of all limbs that lie inside and on top there."""
    found = []
    for number, pose in enumerate(poses):
        for limb, ends in enumerate(LIMBS):
            x, y = pose.points[list(ends), :2].mean(0).astype(int)
            if 0 <= x < SIZE and 0 <= y < SIZE and pictures[number, y, x].max() > 40:
                if limb_of(pictures[number, y, x].astype(float)) == limb:
                    found.append((number, limb, x, y))
    return found


@torch.inference_mode()
def latents(pictures: np.ndarray, vae: Any) -> Tensor:
    """(N, 16, 16, 16): modes of the posterior."""
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([vae.encode(part[:, :, None]).latent_dist.mode()[:, :, 0] for part in tensor.split(16)])


def neighbours(maps: Tensor) -> Tensor:
    """(N, C, 16, 16) -> (N, 256, 9 C): each cell with the eight around it."""
    return unfold(maps, 3, padding=1).transpose(1, 2)


def accuracy(features: Tensor, answers: Tensor, learns: Tensor) -> float:
    """Of a linear reader: features (M, F), answers (M,) whole numbers, learns (M,) bool; over those it did not see."""
    features = (features - features[learns].mean(0)) / (features[learns].std(0) + 1e-5)
    reader = torch.nn.Linear(features.shape[1], int(answers.max()) + 1)
    optimizer = torch.optim.LBFGS(reader.parameters(), max_iter=60)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(reader(features[learns]), answers[learns]) + 1e-3 * reader.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (reader(features[~learns]).argmax(1) == answers[~learns]).float().mean().item()


def measure(depth: bool, width: float, count: int, vae: Any) -> dict[str, float]:
    """The figures of one way of drawing, on `count` poses and as many pairs."""
    torch.manual_seed(0)
    rng = np.random.default_rng(SEED)
    samples = [sample_pose(rng) for _ in range(count)]
    poses = [to_openpose(sample.body, sample.camera, SIZE) for sample in samples]
    pictures = drawn(poses, depth, width)
    places = middles(poses, pictures)
    back = round_trip(pictures, vae)
    kept = np.mean([limb_of(back[n, y, x].astype(float)) == limb for n, limb, x, y in places])
    noise = ((pictures.astype(float) - back) ** 2).mean()
    maps = {"latents": latents(pictures, vae), "pixels": cell_means(pictures)}
    cells = torch.tensor([[n, y // CELL * (SIZE // CELL) + x // CELL] for n, _, x, y in places])
    limbs, learns = torch.tensor([limb for _, limb, _, _ in places]), cells[:, 0] < TRAIN * count
    told = {name: accuracy(neighbours(each)[cells[:, 0], cells[:, 1]], limbs, learns) for name, each in maps.items()}
    result = {
        "psnr": 10 * np.log10(255**2 / noise), "own colour after decoding": kept, "limbs": len(places),
        "limb told from latents": told["latents"], "limb told from mean colours": told["pixels"],
    }  # fmt: skip
    return {
        name: round(float(value), 3) for name, value in (result | depth_told(rng, depth, width, count, vae)).items()
    }


def depth_told(rng: np.random.Generator, depth: bool, width: float, count: int, vae: Any) -> dict[str, float]:
    """How often an arm before the body is told from one behind it, by the cells along its forearm."""
    poses, rows = [], []
    for _ in range(count):
        before, behind, side = sample_depth_pair(rng)
        for pose in (before, behind):
            poses.append(to_openpose(pose.body, pose.camera, SIZE))
            ends = poses[-1].points[[POINTS.index(f"{side}_{part}") for part in ("elbow", "wrist")], :2]
            steps = ends[0] + np.linspace(0.1, 0.9, 5)[:, None] * (ends[1] - ends[0])
            cells = np.clip(steps // CELL, 0, SIZE // CELL - 1).astype(int)
            rows.append((cells[:, 1] * (SIZE // CELL) + cells[:, 0], side == "left"))
    pictures = drawn(poses, depth, width)
    answers = torch.tensor([0, 1] * count)
    learns = torch.arange(2 * count) < 2 * int(TRAIN * count)
    told = {}
    for name, maps in {"latents": latents(pictures, vae), "mean colours": cell_means(pictures)}.items():
        around = neighbours(maps)
        features = torch.stack([around[n, torch.from_numpy(cells)].mean(0) for n, (cells, _) in enumerate(rows)])
        left = torch.tensor([is_left for _, is_left in rows])[:, None]
        told[f"before or behind, from {name}"] = accuracy(
            torch.cat([features * left, features * ~left], 1), answers, learns
        )  # each side has colours, and so weights, of its own
    return told


def cell_means(pictures: np.ndarray) -> Tensor:
    """(N, 3, 16, 16) mean colours of the cells."""
    cells = pictures.reshape(len(pictures), SIZE // CELL, CELL, SIZE // CELL, CELL, 3).mean((2, 4))
    return torch.from_numpy(cells).permute(0, 3, 1, 2).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=96, help="poses, and pairs of poses")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/pose/condition_through_vae.json"))
    options = parser.parse_args()
    vae = load_vae(MICRO_WEIGHTS)
    result = {}
    for name, (depth, width) in WAYS.items():
        result[name] = measure(depth, width, options.count, vae)
        print(name, result[name], flush=True)
    config = {"count": options.count, "seed": SEED, "train": TRAIN, "ways": WAYS, "size": SIZE}
    atomic_write_json(options.out, stamp_result(result, weights=[MICRO_WEIGHTS / "vae"], config=config))


if __name__ == "__main__":
    main()
