"""Train the network that tells well-formed hands and feet: `python -m qwenlab.lab.hands.train_form_net`.

A third of the pictures are right, a third are drawn with wrong anatomy, a third are right and then spoilt in the way
of models (`qwenlab.lab.hands.melt`); half go through the micro autoencoder. Squares are cut as inexactly as the
detector finds them. Spoilt drawings alone teach too little of the feet that models draw, so training goes on with 263
of those, labelled by eye (`benchmarks/hands/data/feet_labels`), and with feet as an inpainting leaves them
(`qwenlab.lab.hands.redrawn`). None of the labelled feet is among the labels that the judges are checked with; a LoRA of
another seed drew most of them, of the same prompts and from the same noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from qwenlab.data.regions import Region, feet_region, hand_region, inexact
from qwenlab.files import REPOSITORY
from qwenlab.hands.finder import KINDS
from qwenlab.hands.form_net import SEEN, SIDE, WEIGHTS, FormNet, load_form_net
from qwenlab.hands.squares import as_tensor, cut
from qwenlab.lab import world
from qwenlab.lab.hands.melt import melt
from qwenlab.lab.hands.redrawn import redrawn_feet
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.networks import fit_squares, save_half
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 47  # of the pictures and the network
LABELS = REPOSITORY / "benchmarks" / "hands" / "data" / "feet_labels"
SIZE = 128


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[Region, bool]]]:
    """A picture (128, 128, 3) uint8, and its open hands and feet with whether they are right."""
    character = rng.random() < 0.6
    sample = world.sample_character_scene if character else world.sample_scene
    scene = sample(rng, open_hands=0.8, **({} if character else {"split": "all"}))
    what = rng.choice(("right", "wrong", "spoilt"))
    anatomy = world.Anatomy()
    if what == "wrong":
        fingers = tuple(world.WRONG_FINGERS[int(rng.integers(6))] for _ in range(2))
        anatomy = world.Anatomy(fingers, world.WRONG_FEET[int(rng.integers(3))])
    picture = world.render(scene, SIZE, anatomy)
    found = [
        hand_region(joints) for hand, joints in zip(picture.hand_info, picture.hands, strict=True)
        if hand.state == "open" and np.all((joints[:, :2] > 1) & (joints[:, :2] < SIZE - 1))
    ]  # fmt: skip
    if scene.framing == "全身" and not (what == "wrong" and scene.view == "侧面"):  # a third foot can hide there
        found.append(feet_region(picture.feet))
    image = picture.image
    if what == "spoilt":
        for region in found:
            image = melt(image, region, rng)
    return image, [(region, what == "right") for region in found]


def examples(rng: np.random.Generator, count: int, vae: object | None) -> tuple[Tensor, Tensor, Tensor]:
    """From `count` pictures: squares (N, 3, 48, 48) in [-1, 1], their kinds (N,) and whether they are right (N,)."""
    images, found = zip(*(draw(rng) for _ in range(count)), strict=True)
    images = list(images)
    if vae is not None:
        images[: count // 2] = round_trip(np.stack(images[: count // 2]), vae)
    squares, kinds, right = [], [], []
    for image, here in zip(images, found, strict=True):
        for region, well_formed in here:
            squares.append(cut(Image.fromarray(image), inexact(region, rng), SIDE, SEEN))
            kinds.append(KINDS.index(region.kind))
            right.append(float(well_formed))
    return as_tensor(squares), torch.tensor(kinds), torch.tensor(right)


def labelled_feet(
    folder: Path, rng: np.random.Generator, size: int = SIDE, seen: float = SEEN, copies: int = 8
) -> tuple[Tensor, Tensor]:
    """Feet that models drew: `copies` inexact cuts of each square (N, 3, size, size), and whether they are right (N,).

    folder: squares.webp, rows of squares 1.5 times as large as the feet, and labels.json ("side" in pixels,
    "columns", "count", and the numbers that are "wrong" or "unclear"; those are left out).
    """
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    side, columns = labels["side"], labels["columns"]
    wrong, unclear = set(labels["wrong"]), set(labels["unclear"])
    with Image.open(folder / "squares.webp") as opened:
        sheet = opened.convert("RGB")
    squares, right = [], []
    for number in range(labels["count"]):
        if number in unclear:
            continue
        x, y = number % columns * side, number // columns * side
        square = sheet.crop((x, y, x + side, y + side))
        feet = Region("feet", side / 2, side / 2, side / 1.5)
        squares += [cut(square, inexact(feet, rng), size, seen) for _ in range(copies)]
        right += [float(number not in wrong)] * copies
    return as_tensor(squares), torch.tensor(right)


def train(data: tuple[Tensor, Tensor, Tensor], steps: int, batch: int = 64, say: bool = True) -> FormNet:
    """Train a network from nothing; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    return fit_squares(FormNet(), [(data, batch)], form_loss, steps, 2e-3, say=say)


def train_further(
    network: FormNet,
    data: tuple[Tensor, Tensor, Tensor],
    feet: tuple[Tensor, Tensor],
    redrawn: tuple[Tensor, Tensor],
    steps: int,
    say: bool = True,
) -> FormNet:
    """Go on with 32 labelled and 24 redrawn feet in a step, beside 32 drawings, lest hands are forgotten."""
    torch.manual_seed(SEED)
    sources = [(data, 32)]
    for (squares, right), count in ((feet, 32), (redrawn, 24)):
        sources.append(((squares, torch.full((len(squares),), KINDS.index("feet")), right), count))
    return fit_squares(network.requires_grad_(True), sources, form_loss, steps, 5e-4, say=say)


def form_loss(logits: Tensor, kinds: Tensor, right: Tensor) -> Tensor:
    """Logits (N, 2) of hands and feet, kinds (N,) and whether they are right (N,): binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits.gather(1, kinds[:, None])[:, 0], right)


@torch.no_grad()
def accuracy(network: FormNet, data: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """The share of squares of each kind that are told right from wrong."""
    squares, kinds, right = data
    logits = torch.cat([network(part) for part in squares.split(128)]).gather(1, kinds[:, None])[:, 0]
    hits = (logits > 0) == (right > 0.5)
    return {kind: float(hits[kinds == k].float().mean()) for k, kind in enumerate(KINDS)}


def options_of_two_parts(description: str, *, pictures: int, steps: int, labels: Path, out: Path) -> argparse.Namespace:
    """The options of a training on drawings that goes on with labelled feet."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=pictures)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--further", type=int, default=400, help="steps with labelled feet")
    parser.add_argument("--redrawn", type=int, default=800, help="feet as an inpainting leaves them")
    parser.add_argument("--labels", type=Path, default=labels)
    parser.add_argument("--from-shipped", action="store_true", help="take what is shipped for the first part")
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def main() -> None:
    options = options_of_two_parts(__doc__, pictures=4000, steps=1200, labels=LABELS, out=WEIGHTS)
    vae = load_vae(MICRO_WEIGHTS)
    data = examples(np.random.default_rng(SEED), options.pictures, vae)
    network = load_form_net() if options.from_shipped else train(data, options.steps)
    if options.further:
        rng = np.random.default_rng(SEED)
        feet, redrawn = labelled_feet(options.labels, rng), redrawn_feet(rng, options.redrawn, vae, SIDE, SEEN)
        network = train_further(network, data, feet, redrawn, options.further)
    for kind, share in accuracy(network, examples(np.random.default_rng(SEED + 1), 600, vae)).items():
        print(f"{kind}: {share:.1%} are told right from wrong")
    save_half(options.out, network.state_dict())


if __name__ == "__main__":
    main()
