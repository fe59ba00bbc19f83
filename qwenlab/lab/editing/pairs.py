"""Pairs of renderings that differ in one attribute, with the words of the caption that say the difference.

    python -m qwenlab.lab.editing.pairs --out runs/edit_pairs

writes a data set folder with the column `reference`. A scene is drawn with two or three values of one attribute, and
each of these pictures is the answer to the others: with 红色短发 the one with red hair to the one with black, and back.
A quarter of the combinations of attribute, value and style is never an answer; edits are judged on those.

masks/ says how much each token's error counts in the loss (`unmasked_weight` 0: grey as it is): shoes are about five of
64 tokens, and a model that copies everything has hardly any loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from qwenlab.files import atomic_write_text
from qwenlab.lab import world
from qwenlab.lab.localisation import CHANGED
from qwenlab.model.limits import SIDE_STEP

#: What is edited; the pixels that belong to each are exact (`qwenlab.lab.localisation.region`).
ATTRIBUTES = ("hair_color", "clothes", "background", "prop", "feet")
#: Attributes of scenes in turn: what is harder to learn comes more often. Shoes or bare feet, two values, give a third
#: of the pairs that others give.
_TURNS = ("hair_color", "clothes", "prop", "feet", "prop", "hair_color", "feet", "background", "clothes", "prop",
          "feet", "clothes", "prop", "feet")  # fmt: skip
_STYLES = world.ATTRIBUTES["style"]
VARIANTS = 3  # pictures of a scene, at most


@dataclass(frozen=True)
class Edit:
    """Make `target` of `source`: the same scene but for the value of `attribute`."""

    source: world.Scene
    target: world.Scene
    attribute: str

    @property
    def instruction(self) -> str:
        """The words of the target's caption that say what is to change."""
        value = getattr(self.target, self.attribute)
        words = {
            "hair_color": value + self.target.hair_style,
            "prop": f"手持{value}",
            "background": f"背景:{value}",
        }
        return words.get(self.attribute, value)


def is_held_out(attribute: str, value: str, style: str) -> bool:
    """Whether no training pair has this value as its answer in this style: each value is held out in one style."""
    return world.ATTRIBUTES[attribute].index(value) % len(_STYLES) == _STYLES.index(style)


def values(scene: world.Scene, attribute: str) -> list[str]:
    """The values that an edit can give a scene, its own one included; empty where the attribute does not show."""
    if attribute == "feet" and scene.framing != "全身" or attribute == "prop" and not scene.prop:
        return []
    possible = [value for value in world.ATTRIBUTES[attribute] if value]
    if attribute == "clothes" and scene.gender == "男孩":
        possible.remove("白色连衣裙")  # no boy of the world wears it
    return possible


def sample_variants(rng: np.random.Generator, attribute: str, split: str = "train") -> list[world.Scene]:
    """A scene with up to `VARIANTS` values of the attribute, all of them in a `split` of the world."""
    while True:
        scene = world.sample_scene(rng, split=split)
        others = [value for value in values(scene, attribute) if value != getattr(scene, attribute)]
        scenes = [replace(scene, **{attribute: value}) for value in rng.permutation(others).tolist()]
        if split != "all":
            scenes = [other for other in scenes if world.is_held_out(other) == (split == "test")]
        if scenes:
            return [scene, *scenes[: VARIANTS - 1]]


def training_edits(scenes: list[world.Scene], attribute: str) -> Iterator[tuple[int, int, Edit]]:
    """(index of the source, index of the target, edit) of every pair whose answer is not held out."""
    for (i, source), (j, target) in permutations(enumerate(scenes), 2):
        if not is_held_out(attribute, getattr(target, attribute), target.style):
            yield i, j, Edit(source, target, attribute)


def held_out_edits(attribute: str, count: int, seed: int = 0) -> list[Edit]:
    """`count` edits whose combination of attribute, value and style no training pair has, of new scenes."""
    rng = np.random.default_rng([seed, ATTRIBUTES.index(attribute), 1])
    edits: list[Edit] = []
    while len(edits) < count:
        scene = world.sample_scene(rng, split="all")
        wanted = [
            value
            for value in values(scene, attribute)
            if value != getattr(scene, attribute) and is_held_out(attribute, value, scene.style)
        ]
        if wanted:
            value = wanted[int(rng.integers(len(wanted)))]
            edits.append(Edit(scene, replace(scene, **{attribute: value}), attribute))
    return edits


def loss_mask(answer: np.ndarray, others: Sequence[np.ndarray]) -> Image.Image:
    """How much the pixels of an answer count in the loss: grey, white in each token of 16 pixels that the edits change.

    All pictures are (H, W, 3) uint8. A share x of changed tokens counts 1 + log2(1 / x) times as much as the rest
    (UniWorld-V1, arXiv 2506.03147, section 3.3).
    """
    changed = np.any([np.abs(answer.astype(int) - other).max(axis=-1) > CHANGED for other in others], axis=0)
    rows, columns = (side // SIDE_STEP for side in changed.shape)
    tokens = changed.reshape(rows, SIDE_STEP, columns, SIDE_STEP).any(axis=(1, 3))
    grey = np.where(tokens, 255, round(255 / (1 - np.log2(max(tokens.mean(), 1 / tokens.size)))))
    return Image.fromarray(grey.astype(np.uint8).repeat(SIDE_STEP, 0).repeat(SIDE_STEP, 1))


def write_pairs(folder: Path, scenes: int = 3000, seed: int = 0, size: int = 128) -> int:
    """Write images/, masks/ and captions.jsonl of about three pairs a scene; returns how many.

    `seed` decides everything.
    """
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(scenes):
        attribute = _TURNS[number % len(_TURNS)]
        variants = sample_variants(np.random.default_rng([seed, number]), attribute)
        names = [f"{number:05d}-{k}.png" for k in range(len(variants))]
        edits = list(training_edits(variants, attribute))
        images = {
            index: world.render(variants[index], size).image for index in {k for i, j, _ in edits for k in (i, j)}
        }
        for index, image in images.items():
            Image.fromarray(image).save(folder / "images" / names[index])
            others = [other for number, other in images.items() if number != index]
            loss_mask(image, others).save(folder / "masks" / names[index])
        for i, j, edit in edits:
            row = {"file_name": names[j], "text": edit.instruction, "reference": names[i]}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    atomic_write_text(folder / "captions.jsonl", "".join(lines))
    return len(lines)


def main(
    out: Annotated[Path, typer.Option(help="New folder of the data set")],
    scenes: Annotated[int, typer.Option(min=1, help="Scenes; each gives about three pairs")] = 3000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pairs")] = 0,
) -> None:
    """Draw pairs before and after an edit."""
    typer.echo(f"{write_pairs(out, scenes, seed)} pairs in {out}")


if __name__ == "__main__":
    typer.run(main)
