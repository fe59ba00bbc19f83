"""Train the second judge on squares of drawings: `python -m qwenlab.lab.judge.train_second`.

Scenes and labels as the first judge's (`qwenlab.lab.judge.examples`), from other seeds; squares are cut around the
drawn joints, as inexactly as the detector finds them. A third of the pictures are spoilt in the way of models
(`qwenlab.lab.hands.melt`), and half go through the micro autoencoder. Spoilt drawings alone teach too little of the
feet that models draw, so training goes on with 300 of those, labelled by eye
(`benchmarks/hands/data/feet_labels_judge`), and with feet as an inpainting leaves them (`qwenlab.lab.hands.redrawn`).
None of the labelled feet is among the labels that the judges are checked with, nor among those that `FormNet` learnt
from; LoRAs of other seeds drew them, of the same prompts and from the same noise.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from qwenlab.data.regions import Region, feet_region, hand_region, inexact
from qwenlab.files import REPOSITORY
from qwenlab.hands.squares import as_tensor, cut
from qwenlab.lab import world
from qwenlab.lab.hands.melt import melt
from qwenlab.lab.hands.redrawn import redrawn_feet
from qwenlab.lab.hands.train_form_net import labelled_feet, options_of_two_parts
from qwenlab.lab.judge.examples import IGNORE, NONE, draw_scene, feet_label, hand_label, third_foot_hidden
from qwenlab.lab.judge.networks import FEET_CLASSES, HAND_CLASSES
from qwenlab.lab.judge.second import CLASSES, CONTEXT, SIDE, WEIGHTS, SquareNet, load_second_judge
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.networks import fit_squares, save_half
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 53  # of the pictures and of the networks
SPOILT = 1 / 3  # of the pictures
LABELS = REPOSITORY / "benchmarks" / "hands" / "data" / "feet_labels_judge"
LOSS = partial(F.cross_entropy, label_smoothing=0.05)


def labelled(index: int, seed: int) -> tuple[np.ndarray, list[tuple[Region, str, int]]]:
    """Picture `index` (128, 128, 3) and what it shows: (region, kind, class) of hands and feet that can be judged."""
    scene, anatomy, _ = draw_scene(seed, index, "train")
    picture, plain = world.render(scene, 128, anatomy), world.render(scene, 128)
    rng = np.random.default_rng([seed, index, 1])
    found: list[tuple[Region, str, str]] = []
    for i in (0, 1):
        label = int(hand_label(scene, picture, plain, i)[2])
        if label not in (IGNORE, NONE):
            found.append((hand_region(picture.hands[i]), "hand", HAND_CLASSES[label]))
    if scene.framing == "全身" and not third_foot_hidden(scene, anatomy, picture):
        found.append((feet_region(picture.feet), "feet", FEET_CLASSES[feet_label(scene, anatomy)]))
    image = picture.image
    if rng.random() < SPOILT:
        for region, _, _ in found:
            image = melt(image, region, rng)
        found = [(region, kind, "ill-formed") for region, kind, _ in found]
    return image, [(inexact(region, rng), kind, CLASSES[kind].index(name)) for region, kind, name in found]


def squares(count: int, seed: int, vae: object | None, share: float = 0.5) -> dict[str, tuple[Tensor, Tensor]]:
    """Squares (N, 3, 64, 64) and classes (N,) of each kind from `count` pictures, `share` of them after the VAE."""
    images, regions = zip(*(labelled(k, seed) for k in range(count)), strict=True)
    pictures = [Image.fromarray(image) for image in images]
    if vae is not None:
        through = round_trip(np.stack(images[: int(count * share)]), vae)
        pictures[: len(through)] = [Image.fromarray(image) for image in through]
    found: dict[str, tuple[list, list]] = {kind: ([], []) for kind in CLASSES}
    for picture, here in zip(pictures, regions, strict=True):
        for region, kind, label in here:
            found[kind][0].append(cut(picture, region, SIDE, CONTEXT[kind]))
            found[kind][1].append(label)
    return {kind: (as_tensor(cuts), torch.tensor(labels)) for kind, (cuts, labels) in found.items()}


def train(data: tuple[Tensor, Tensor], classes: int, steps: int, batch: int = 64, say: bool = True) -> SquareNet:
    """Train one network from nothing; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    return fit_squares(SquareNet(classes), [(data, batch)], LOSS, steps, 1e-3, clip=1.0, say=say)


def train_further(
    network: SquareNet,
    drawn: tuple[Tensor, Tensor],
    feet: tuple[Tensor, Tensor],
    redrawn: tuple[Tensor, Tensor],
    steps: int,
    say: bool = True,
) -> SquareNet:
    """Go on with 40 feet that models drew and eyes labelled, and 24 redrawn ones in a step, beside 16 drawings."""
    torch.manual_seed(SEED)
    right, wrong = CLASSES["feet"].index("2"), CLASSES["feet"].index("ill-formed")
    sources = [(drawn, 16)]
    sources += [((cuts, torch.where(good > 0.5, right, wrong)), n) for (cuts, good), n in ((feet, 40), (redrawn, 24))]
    return fit_squares(network, sources, LOSS, steps, 3e-4, clip=1.0, say=say)


@torch.no_grad()
def accuracy(network: SquareNet, data: tuple[Tensor, Tensor], right: int) -> tuple[float, float]:
    """The shares of squares whose class is read right, and of those whose being well-formed (class `right`) is."""
    cuts, labels = data
    found = torch.cat([(network(part) + network(part.flip(3))).argmax(1) for part in cuts.split(128)])
    return float((found == labels).float().mean()), float(((found == right) == (labels == right)).float().mean())


def main() -> None:
    options = options_of_two_parts(__doc__, pictures=5000, steps=1500, labels=LABELS, out=WEIGHTS)
    vae = load_vae(MICRO_WEIGHTS)
    data, held_out = squares(options.pictures, SEED, vae), squares(1000, SEED + 1, vae, share=1.0)
    shipped = load_second_judge().networks if options.from_shipped else {}
    tensors = {}
    for kind, classes in CLASSES.items():
        network = shipped.get(kind) or train(data[kind], len(classes), options.steps)
        if kind == "feet" and options.further:
            rng = np.random.default_rng(SEED)
            feet = labelled_feet(options.labels, rng, SIDE, CONTEXT["feet"])
            redrawn = redrawn_feet(rng, options.redrawn, vae, SIDE, CONTEXT["feet"])
            network = train_further(network, data["feet"], feet, redrawn, options.further)
        exact, formed = accuracy(network, held_out[kind], classes.index("5" if kind == "hand" else "2"))
        print(f"{kind}: {exact:.1%} of classes, {formed:.1%} of right or wrong, after the VAE", flush=True)
        tensors |= network.state_dict(prefix=f"{kind}.")
    save_half(options.out, tensors)


if __name__ == "__main__":
    main()
