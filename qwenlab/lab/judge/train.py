"""Train the judge on pictures of the world: `python -m qwenlab.lab.judge.train`.

The judge is an evaluator. Its score must never enter the loss of anything that draws: a model that is trained on its
judge learns to fool it, and the figures measured with it mean nothing any more.

With `--vae FOLDER` a part of the pictures goes through that autoencoder first, so that its blur is not held against
what it shows. Hand map: the penalty-reduced focal loss of CenterNet (Zhou, Wang, Kraehenbuehl 2019, "Objects as
Points").
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwenlab.lab.judge.augment import spoil, turn, weather
from qwenlab.lab.judge.examples import IGNORE, NONE, Examples, draw_examples
from qwenlab.lab.judge.networks import CLASSES, CROP, HAND_CLASSES, SIZE, STRIDE, HandNet, PictureNet, find_hands
from qwenlab.lab.judge.reading import WEIGHTS, load_networks

PICTURE_SEED = 1001
CELLS = SIZE // STRIDE
MARGIN = 4  # pixels by which a training crop's centre is moved
# Share of each hand class in a batch; a hand is spoilt, and then ill-formed, with probability SPOILT.
SHARES = {"3": 0.10, "4": 0.12, "5": 0.25, "6": 0.12, "7": 0.10, "ill-formed": 0.10, "none": 0.21}
SPOILT = 0.12
# Drawn without outlines, fingers of this style are the ones that an autoencoder blurs into a wall of their own colour.
FAINT_STYLE, FAINT_WEIGHT = "扁平插画", 3.0
ILL = HAND_CLASSES.index("ill-formed")


@dataclass
class Recipe:
    """Everything that decides the weights."""

    seed: int = 1001  # of the training; the pictures have their own
    examples: int = 14000
    picture_steps: int = 800
    hand_steps: int = 2400
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    round_trips: float = 0.12  # share of the pictures that go through the autoencoder, when one is given


def as_float(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def train_pictures(examples: Examples, recipe: Recipe, network: PictureNet | None = None) -> PictureNet:
    """Train a `PictureNet`, from nothing or further."""
    torch.manual_seed(recipe.seed)
    network = (network or PictureNet()).to(memory_format=torch.channels_last)
    labels = {name: torch.from_numpy(examples.attributes[:, i]) for i, name in enumerate(CLASSES)}
    labels |= {"identity": torch.from_numpy(examples.identity), "feet_count": torch.from_numpy(examples.feet)}
    hands = torch.from_numpy(examples.hands)

    def loss(rows: Tensor) -> Tensor:
        pictures, places = _move(as_float(examples.images[rows.numpy()]), hands[rows])
        outputs = network(weather(pictures).contiguous(memory_format=torch.channels_last))
        losses = {
            name: F.cross_entropy(outputs[name], labels[name][rows], ignore_index=IGNORE)
            for name in (*CLASSES, "feet_count")
        }
        losses["identity"] = F.binary_cross_entropy_with_logits(outputs["identity"], labels["identity"][rows].float())
        losses["hand_map"] = focal_loss(outputs["hand_map"], *map_targets(places))
        losses["feet_count"] = 2 * losses["feet_count"]
        return sum(losses.values())

    return _fit(network, recipe, recipe.picture_steps, len(examples), loss)


def _move(pictures: Tensor, hands: Tensor) -> tuple[Tensor, Tensor]:
    """Shift by up to 3 pixels and mirror half of the pictures, and the hands (B, 2, 3) with them."""
    dx, dy = torch.randint(-3, 4, (2,)).tolist()
    pictures = F.pad(pictures, (3, 3, 3, 3), mode="replicate")[:, :, 3 - dy : 3 - dy + SIZE, 3 - dx : 3 - dx + SIZE]
    hands = hands.clone()
    hands[..., 0] += dx
    hands[..., 1] += dy
    mirrored = torch.rand(len(pictures)) < 0.5
    hands[mirrored, :, 0] = SIZE - hands[mirrored, :, 0]
    return torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures), hands


def map_targets(hands: Tensor) -> tuple[Tensor, Tensor]:
    """From hands (B, 2, 3) the target maps (B, 32, 32), 1 at each open hand's cell, and where they count (same shape).

    Around hands that are cut, covered or undecided nothing is asked of the map: `HandNet` tells them apart.
    """
    y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    target, counts = torch.zeros(len(hands), CELLS, CELLS), torch.ones(len(hands), CELLS, CELLS)
    for hand in hands.unbind(1):
        cell = (hand[:, :2] / STRIDE).floor()
        squared = (x - cell[:, 0, None, None]) ** 2 + (y - cell[:, 1, None, None]) ** 2
        open_hand = (hand[:, 2] >= 0) & (hand[:, 2] < NONE)
        target = torch.maximum(target, torch.exp(-squared / (2 * 1.0**2)) * open_hand[:, None, None])
        counts[(hand[:, 2] == IGNORE)[:, None, None] & (squared <= 16)] = 0
    return target, torch.maximum(counts, (target == 1).float())


def focal_loss(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """CenterNet's focal loss for maps (B, H, W), a mean over the hands."""
    log_p, log_q = F.logsigmoid(logits), F.logsigmoid(-logits)
    at = target == 1
    positive = (log_p * log_q.exp() ** 2)[at].sum()
    negative = (log_q * log_p.exp() ** 2 * (1 - target) ** 4 * counts)[~at].sum()
    return -(positive + negative) / at.sum().clamp(min=1)


def train_hands(examples: Examples, recipe: Recipe, finder: PictureNet, network: HandNet | None = None) -> HandNet:
    """Train a `HandNet`, from nothing or further, on crops around hands, other places, and what `finder` mistakes."""
    torch.manual_seed(recipe.seed + 1)
    network = (network or HandNet()).to(memory_format=torch.channels_last)
    crops, classes, faint = hand_crops(examples, recipe.seed, false_places(finder, examples))
    weight = torch.where(faint, FAINT_WEIGHT, 1.0)
    for name, share in SHARES.items():
        members = classes == HAND_CLASSES.index(name)
        weight[members] *= share / weight[members].sum().clamp(min=1)

    def loss(_: Tensor) -> Tensor:
        rows = torch.multinomial(weight, recipe.batch, replacement=True)
        dx, dy = torch.randint(0, 2 * MARGIN + 1, (2,)).tolist()
        batch = turn(crops[rows, :, dy : dy + CROP, dx : dx + CROP].float() / 255)
        target = classes[rows].clone()
        spoilt = (torch.rand(len(rows)) < SPOILT) & (target != NONE)
        if spoilt.any():
            batch[spoilt] = spoil(batch[spoilt])
            target[spoilt] = ILL
        return F.cross_entropy(network(weather(batch).contiguous(memory_format=torch.channels_last)), target)

    return _fit(network, recipe, recipe.hand_steps, len(classes), loss)


@torch.inference_mode()
def false_places(finder: PictureNet, examples: Examples, count: int = 5000) -> dict[int, list[tuple[float, float]]]:
    """Where the finder sees hands that are none (ears, say), by picture, in the first `count` pictures."""
    found: dict[int, list[tuple[float, float]]] = {}
    for start in range(0, min(count, len(examples)), 64):
        rows = slice(start, min(start + 64, count))
        which, centers = find_hands(finder(as_float(examples.images[rows]))["hand_map"])
        for i, center in zip(which.tolist(), centers.numpy(), strict=True):
            if np.hypot(*(examples.hands[start + i, :, :2] - center).T).min() > 10:
                found.setdefault(start + i, []).append(tuple(center))
    return found


def hand_crops(
    examples: Examples, seed: int, false: dict[int, list[tuple[float, float]]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops (M, 3, 48, 48) uint8 around all hands whose class is known and around other places; classes (M,);
    whether the picture is of `FAINT_STYLE` (M,).

    The other places: one at random a picture, and those of `false`, each counted four times.
    """
    rng = np.random.default_rng(seed)
    half = CROP // 2 + MARGIN
    crops, classes, faint = [], [], []
    column, style = list(CLASSES).index("style"), CLASSES["style"].index(FAINT_STYLE)
    for number, (image, hands) in enumerate(zip(examples.images, examples.hands, strict=True)):
        padded = np.pad(image, ((half, half), (half, half), (0, 0)))
        other = rng.uniform(4, SIZE - 4, 2)
        far = np.hypot(*(hands[:, :2] - other).T).min() > 14
        places = [(*other, NONE)] * bool(far) + [(*place, NONE) for place in false.get(number, ())] * 4
        for x, y, label in [*hands, *places]:
            if label != IGNORE and -MARGIN < x < SIZE + MARGIN and -MARGIN < y < SIZE + MARGIN:
                left, top = np.clip(np.round((x, y)), 0, SIZE).astype(int)
                crops.append(padded[top : top + 2 * half, left : left + 2 * half])
                classes.append(int(label))
                faint.append(bool(examples.attributes[number, column] == style))
    crops = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    return crops, torch.tensor(classes), torch.tensor(faint)


def _fit(network: nn.Module, recipe: Recipe, steps: int, count: int, loss_of: Callable[[Tensor], Tensor]) -> nn.Module:
    """Minimise `loss_of(rows)` over batches of the `count` rows, one cycle of the learning rate; `network` in eval."""
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, steps, pct_start=0.15)
    order, start, recent = torch.empty(0, dtype=torch.long), time.monotonic(), []
    network.train()
    for step in range(1, steps + 1):
        if len(order) < recipe.batch:
            order = torch.randperm(count)
        rows, order = order[: recipe.batch], order[recipe.batch :]
        loss = loss_of(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % 50 == 0 or step == steps:
            name, took = type(network).__name__, time.monotonic() - start
            print(f"{name} step {step}/{steps} loss {np.mean(recent):.4f} {took:.0f} s", flush=True)
            recent = []
    return network.eval()


def save(pictures: PictureNet, hands: HandNet, path: Path = WEIGHTS) -> None:
    """Both networks in one safetensors file, fp16."""
    from safetensors.torch import save as to_bytes

    from qwenlab.files import atomic_write_bytes

    tensors = {f"pictures.{k}": v for k, v in pictures.state_dict().items()}
    tensors |= {f"hands.{k}": v for k, v in hands.state_dict().items()}
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}
    atomic_write_bytes(path, to_bytes(half))


def training_examples(recipe: Recipe, cache: Path, workers: int, vae: Path | None) -> Examples:
    """The training pictures, drawn once and kept in `cache`; held-out combinations are never among them.

    With a VAE's folder, every picture whose number falls into the share `recipe.round_trips` has been through it.
    """
    file = cache / f"train_{PICTURE_SEED}_{recipe.examples}.npz"
    if not file.is_file():
        draw_examples(recipe.examples, PICTURE_SEED, "train", workers).save(file)
    examples = Examples.load(file)
    if vae:
        from qwenlab.lab.micro.round_trip import load_vae, round_trip

        chosen = np.arange(len(examples)) % 100 < round(100 * recipe.round_trips)
        examples.images[chosen] = round_trip(examples.images[chosen], load_vae(vae))
    return examples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m qwenlab.lab.judge.train", description=__doc__)
    parser.add_argument("--vae", type=Path, help="folder of the micro VAE: a part of the pictures goes through it")
    parser.add_argument("--cache", type=Path, default=Path("runs/judge"), help="where drawn pictures are kept")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--further", action="store_true", help="start from the weights in --out; set another --seed")
    parser.add_argument("--only", choices=("pictures", "hands"), help="train one network, keep the other of --out")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--threads", type=int, default=1)
    for name, kind in (
        ("seed", int),
        ("examples", int),
        ("picture_steps", int),
        ("hand_steps", int),
        ("round_trips", float),
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=getattr(Recipe, name))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(**{name: value for name, value in vars(options).items() if name in Recipe.__dataclass_fields__})
    examples = training_examples(recipe, options.cache, options.workers, options.vae)
    keep = options.only or options.further
    pictures, hands = load_networks(options.out) if keep else (PictureNet(), HandNet())
    if options.only != "hands":
        pictures = train_pictures(examples, recipe, pictures if options.further else None)
        save(pictures, hands, options.out)
    if options.only != "pictures":
        hands = train_hands(examples, recipe, pictures, hands if options.further else None)
        save(pictures, hands, options.out)


if __name__ == "__main__":
    main()
