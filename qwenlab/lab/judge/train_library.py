"""Train the judge of the library on drawings: `python -m qwenlab.lab.judge.train_library`.

Characters and children of the base in all seven styles; in a fifth of the pictures somebody wears the clothes or the
hair of a character and nothing else of it, so that neither gives the other away. Half of the pictures go through the
micro autoencoder. What it reads right on other drawings is written beside the weights.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qwenlab.files import atomic_write_json
from qwenlab.lab import world
from qwenlab.lab.judge.augment import weather
from qwenlab.lab.judge.library import OTHER, READ, WEIGHTS, LibraryJudge, LibraryNet
from qwenlab.lab.micro.round_trip import load_vae, round_trip
from qwenlab.lab.networks import fit, save_half
from qwenlab.lab.results import stamp_result
from qwenlab.lab.world.library import CHARACTERS, LIBRARY_STYLES, library_scene
from qwenlab.model.micro_weights import MICRO_WEIGHTS

SEED = 61


def labelled_scene(rng: np.random.Generator) -> tuple[world.Scene, dict[str, str]]:
    """A scene, and what is to be read of it."""
    names = list(CHARACTERS)
    hair = clothes = names[int(rng.integers(3))] if rng.random() < 0.6 else ""
    style = list(LIBRARY_STYLES)[int(rng.integers(3))] if rng.random() < 0.6 else ""
    scene = library_scene(rng, hair, style, **({"gender": CHARACTERS[hair].gender} if hair else {}))
    if hair and rng.random() < 1 / 3:  # somebody else
        stranger = library_scene(rng)
        if rng.random() < 0.5:
            scene, clothes = replace(scene, clothes=stranger.clothes), ""
        else:
            scene, hair = replace(scene, hair_style=stranger.hair_style, hair_color=stranger.hair_color), ""
    truth = {"hair": hair or OTHER, "clothes": clothes or OTHER, "style": style or OTHER}
    return scene, truth | {"action": scene.action, "background": scene.background}


def pictures(count: int, seed: int, vae: object | None, share: float = 0.5) -> tuple[np.ndarray, list[dict[str, str]]]:
    """`count` drawings (N, 128, 128, 3) uint8, `share` of them after the VAE, and what they show."""
    rng = np.random.default_rng(seed)
    scenes, truths = zip(*(labelled_scene(rng) for _ in range(count)), strict=True)
    images = np.stack([world.render(scene, 128).image for scene in scenes])
    if vae is not None:
        part = int(count * share)
        images[:part] = round_trip(images[:part], vae)
    return images, list(truths)


def train(images: np.ndarray, truths: list[dict[str, str]], steps: int, batch: int = 48) -> LibraryNet:
    """Train from nothing; prints its progress every 100 steps."""
    torch.manual_seed(SEED)
    network = LibraryNet()
    data = torch.from_numpy(images).permute(0, 3, 1, 2)  # (N, 3, 128, 128) uint8
    labels = {name: torch.tensor([READ[name].index(truth[name]) for truth in truths]) for name in READ}

    def loss_of_step() -> Tensor:
        rows = torch.randint(len(data), (batch,))
        shown = weather(data[rows].float() / 255)
        if torch.rand(()) < 0.5:
            shown = shown.flip(3)
        logits = network(shown)
        return sum(F.cross_entropy(logits[name], labels[name][rows], label_smoothing=0.05) for name in READ)

    return fit(network, loss_of_step, steps, 2e-3, clip=1.0)


def agreement(judge: LibraryJudge, images: np.ndarray, truths: list[dict[str, str]]) -> dict[str, dict[str, int]]:
    """Of each thing that is read: how many pictures were shown, and how many were read right."""
    right: Counter[str] = Counter()
    for reading, truth in zip(judge.read(list(images)), truths, strict=True):
        character = truth["hair"] if truth["hair"] == truth["clothes"] else OTHER
        right["character"] += reading.character == character
        for name in ("style", "action", "background"):
            right[name] += getattr(reading, name) == truth[name]
    return {name: {"right": count, "of": len(truths)} for name, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    vae = load_vae(MICRO_WEIGHTS)
    network = train(*pictures(options.pictures, SEED, vae), options.steps)
    save_half(options.out, network.state_dict())
    network.load_state_dict({n: v.bfloat16().float() for n, v in network.state_dict().items()})
    result = {"after the VAE": agreement(LibraryJudge(network.eval()), *pictures(1000, SEED + 1, vae, share=1.0))}
    print(result)
    config = {"pictures": options.pictures, "steps": options.steps, "seed": SEED}
    command = "python -m qwenlab.lab.judge.train_library"
    atomic_write_json(options.out.with_suffix(".json"), stamp_result(result, config=config, command=command))


if __name__ == "__main__":
    main()
