"""Train the readers of poses on drawings: `python -m qwenlab.lab.pose.train_readers joints`, and `limbs`.

The drawings, a third of which go through the autoencoder, are made once and kept in `--out`; a training that was
stopped goes on from its checkpoint, to the same bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenlab.files import REPOSITORY
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.networks import save_half, vary
from qwenlab.lab.pose.reader_examples import SEED, UNKNOWN, Examples, examples
from qwenlab.lab.pose.readers import JOINT_WEIGHTS, LIMB_WEIGHTS, JointNet, LimbNet, heat_targets, to_tensor
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.training.checkpoint import load_checkpoint, save_checkpoint

TRAINING = 1  # seed of the drawings
STEPS = {"joints": 1200, "limbs": 2000}
RATE, WARM_UP = 2e-3, 0.1
SHIFT = 6  # pixels by which a picture is moved at most
#: A picture in the mirror: what was right is left.
_MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]


def training_examples(path: Path, count: int, vae: object | None) -> Examples:
    """The drawings in `path`, drawn first where there is none; every third one as the autoencoder gives it back."""
    if not path.exists():
        drawn = examples(TRAINING, count)
        if vae is not None:
            drawn.images[::3] = round_trip(drawn.images[::3], vae)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
    return Examples.load(path)


def joint_loss(logits: Tensor, joints: Tensor) -> Tensor:
    """Squared error of heat; each map's spot weighs as much as its background. joints: (B, 18, 3) as in `Examples`."""
    known = (joints[..., 2] != UNKNOWN).float()[..., None, None]
    target = heat_targets(joints[..., :2]) * (joints[..., 2] == 1).float()[..., None, None]
    error = (logits.sigmoid() - target).square() * (1 + 40 * target) * known
    return error.sum() / known.sum().clamp(min=1) / target.shape[-1] ** 2


def limb_loss(read: tuple[Tensor, Tensor, Tensor], arms: Tensor, legs: Tensor, before: Tensor) -> Tensor:
    """Cross entropies of what the pictures tell; UNKNOWN answers count nothing."""
    counts = sum(
        F.cross_entropy(logits, answer, ignore_index=UNKNOWN, reduction="sum") / (answer != UNKNOWN).sum().clamp(min=1)
        for logits, answer in zip(read[:2], (arms, legs), strict=True)
    )
    told = (before != UNKNOWN).float()
    order = F.binary_cross_entropy_with_logits(read[2], before.clamp(min=0).float(), reduction="none") * told
    return counts + order.sum() / told.sum().clamp(min=1)


def batch_loss(network: nn.Module, data: Examples, batch: int, step: int) -> Tensor:
    """The loss of one step's pictures, moved, mirrored and varied; a function of the step alone."""
    torch.manual_seed(1_000_003 * SEED + step)
    rows = torch.randint(len(data.images), (batch,)).numpy()
    pictures, joints = vary(to_tensor(data.images[rows]), 0.3, 0.04), torch.from_numpy(data.joints[rows]).clone()
    arms, legs, before = (torch.from_numpy(values[rows]) for values in (data.arms, data.legs, data.before))
    right, down = (int(shift) for shift in torch.randint(-SHIFT, SHIFT + 1, (2,)))
    pictures = F.pad(pictures, (SHIFT,) * 4, mode="replicate")
    side = data.images.shape[1]
    pictures = pictures[..., SHIFT - down : SHIFT - down + side, SHIFT - right : SHIFT - right + side]
    joints[..., :2] += torch.tensor([right, down])
    joints[..., 2] *= ((joints[..., :2] >= 0) & (joints[..., :2] < side)).all(-1)
    if torch.rand(()) < 0.5:
        pictures, joints, before = pictures.flip(3), joints[:, _MIRRORED], before.flip(1)
        joints[..., 0] = side - joints[..., 0]
    if isinstance(network, JointNet):
        return joint_loss(network(pictures), joints)
    return limb_loss(network(pictures), arms, legs, before)


def train(
    network: nn.Module,
    data: Examples,
    steps: int,
    batch: int,
    checkpoint: Path | None = None,
    *,
    every: int = 100,
    stop_at: int | None = None,
    say: Callable[[str], None] = print,
) -> nn.Module:
    """Train with AdamW and a one-cycle rate, from the checkpoint on where there is one.

    checkpoint: written every `every` steps and where a training stops. stop_at: stop after that step.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    recipe = {"network": type(network).__name__, "steps": steps, "batch": batch, "pictures": len(data.images)}
    first = 0
    if checkpoint is not None and checkpoint.exists():
        found = load_checkpoint(checkpoint, optimizer=optimizer, recipe=recipe)
        network.load_state_dict(found.tensors["network"])
        first = found.step
    network.train()
    started, mean = time.monotonic(), 0.0
    end = min(steps, stop_at or steps)
    for step in range(first, end):
        share = (step + 1) / steps
        warm = share / WARM_UP if share < WARM_UP else 1 - (share - WARM_UP) / (1 - WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(warm, 0.004)
        loss = batch_loss(network, data, batch, step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.item() if step == first else 0.95 * mean + 0.05 * loss.item()
        done = step + 1
        if done % every == 0 or done == end:
            say(f"step {done}: loss {mean:.5f}, {(time.monotonic() - started) / (done - first):.2f} s a step")
            if checkpoint is not None:
                tensors = {"network": network.state_dict()}
                save_checkpoint(checkpoint, step=done, tensors=tensors, optimizer=optimizer, recipe=recipe)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=tuple(STEPS))
    parser.add_argument("--steps", type=int, help="by default {joints} for joints, {limbs} for limbs".format(**STEPS))
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--stop-at", type=int, help="stop after this step; the same command goes on")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "pose_readers", help="drawings, checkpoints")
    options = parser.parse_args()
    steps = options.steps or STEPS[options.reader]
    data = training_examples(options.out / "examples.safetensors", options.pictures, load_vae(MICRO_WEIGHTS))
    torch.manual_seed(SEED)
    network, path = (JointNet(), JOINT_WEIGHTS) if options.reader == "joints" else (LimbNet(), LIMB_WEIGHTS)
    checkpoint = options.out / f"{options.reader}.checkpoint.safetensors"
    train(network, data, steps, options.batch, checkpoint, stop_at=options.stop_at)
    if options.stop_at is None or options.stop_at >= steps:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_half(path, network.state_dict())


if __name__ == "__main__":
    main()
