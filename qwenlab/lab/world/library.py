"""A library of three characters and three styles that the base model has never seen, and data sets that teach each.

    python -m qwenlab.lab.world.library OUT        # one folder for each, as `qwenlab train` reads it

A character's pictures are in the base's own styles, a style's show the base's own children, so that neither teaches the
other. The first character and the first style are those of `data_sample`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .attributes import (
    ACTIONS,
    BACKGROUNDS,
    SAMPLE_CLOTHES,
    SAMPLE_HAIR_COLOR,
    SAMPLE_HAIR_STYLE,
    SAMPLE_STYLE,
    Scene,
    caption,
    sample_scene,
)
from .looks import (
    APRON,
    DEER_COLOR,
    DEER_HAIR,
    NEON,
    POP,
    PYJAMAS,
    RABBIT_COLOR,
    RABBIT_HAIR,
)
from .sample import is_reserved, write_scenes

COUNT, SEED, SIZE = 192, 700, 128  # pictures of a data set, of the first one's scenes, side in pixels


@dataclass(frozen=True)
class Character:
    """What every picture of one character has in common, in the words of captions."""

    gender: str
    hair_style: str
    hair_color: str
    clothes: str

    def play(self, scene: Scene) -> Scene:
        """The scene with this character in it."""
        return replace(
            scene, gender=self.gender, hair_style=self.hair_style, hair_color=self.hair_color, clothes=self.clothes
        )


CHARACTERS = {
    "fox": Character("女孩", SAMPLE_HAIR_STYLE, SAMPLE_HAIR_COLOR, SAMPLE_CLOTHES),
    "rabbit": Character("男孩", RABBIT_HAIR, RABBIT_COLOR, PYJAMAS),
    "deer": Character("女孩", DEER_HAIR, DEER_COLOR, APRON),
}
LIBRARY_STYLES = {"paper": SAMPLE_STYLE, "neon": NEON, "pop": POP}
NAMES = (*CHARACTERS, *LIBRARY_STYLES)


def library_scene(rng: np.random.Generator, character: str = "", style: str = "", **fixed: str) -> Scene:
    """A scene of a character, in a style, or both; what is not named is the base's. Raises KeyError for other names."""
    scene = sample_scene(rng, split="all", **fixed)
    if character:
        scene = CHARACTERS[character].play(scene)
    return replace(scene, style=LIBRARY_STYLES[style]) if style else scene


def training_scenes(name: str, count: int = COUNT) -> list[Scene]:
    """The scenes that teach a character or a style: every action equally often, no pair that is kept for tests."""
    rng = np.random.default_rng(SEED + NAMES.index(name))
    part = {"character": name} if name in CHARACTERS else {"style": name}
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        action = ACTIONS[len(scenes) % len(ACTIONS)]
        places = [place for place in BACKGROUNDS if not is_reserved(action, place)]
        scene = library_scene(rng, action=action, background=places[int(rng.integers(len(places)))], **part)
        scenes.setdefault(caption(scene), scene)
    return list(scenes.values())


def test_scenes(character: str, style: str, count: int, seed: int) -> Iterator[Scene]:
    """`count` scenes of the character in the style, in pairs of action and background that no data set here holds."""
    rng = np.random.default_rng([seed, [*CHARACTERS, ""].index(character), [*LIBRARY_STYLES, ""].index(style)])
    pairs = [(action, place) for action in ACTIONS for place in BACKGROUNDS if is_reserved(action, place)]
    order = rng.permutation(len(pairs))
    for k in range(count):
        action, place = pairs[order[k % len(pairs)]]
        yield library_scene(rng, character, style, action=action, background=place)


def write_library(out: Path, names: tuple[str, ...] = NAMES, count: int = COUNT) -> None:
    """Write a data set for each of `names` to the folder of that name in `out`; the same files every time."""
    for name in names:
        write_scenes(out / name, training_scenes(name, count), SIZE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    write_library(parser.parse_args().out)
