"""Makes `data_sample/`: 60 captioned pictures of one character. `python -m qwenlab.lab.world.sample OUT`."""

from __future__ import annotations

import argparse
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from qwenlab.data.keypoints import write_keypoints
from qwenlab.files import atomic_write_bytes, atomic_write_text
from qwenlab.lab.world.keypoints import of_picture

from .attributes import ACTIONS, BACKGROUNDS, Scene, caption, sample_character_scene
from .render import render

SAMPLE_SEED, SAMPLE_COUNT, SAMPLE_SIZE, JPEG_QUALITY = 60, 60, 1024, 82


def is_reserved(action: str, background: str) -> bool:
    """True for the fifth of the (action, background) pairs that `data_sample` leaves to test prompts."""
    return zlib.crc32(f"{action}|{background}".encode()) % 5 == 0


def sample_scenes(count: int = SAMPLE_COUNT, seed: int = SAMPLE_SEED) -> list[Scene]:
    """The scenes of `data_sample`: every action equally often, no reserved pair, no caption twice."""
    rng = np.random.default_rng(seed)
    scenes, seen = [], set()
    for k in range(count):
        action = ACTIONS[k % len(ACTIONS)]
        places = [b for b in BACKGROUNDS if not is_reserved(action, b)]
        while True:
            background = places[int(rng.integers(len(places)))]
            scene = sample_character_scene(rng, open_hands=0.5, action=action, background=background)
            if caption(scene) not in seen:
                break
        seen.add(caption(scene))
        scenes.append(scene)
    return [scenes[i] for i in rng.permutation(count)]


def character_test_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of the character whose (action, background) pair `data_sample` does not hold, for test prompts."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a in ACTIONS for b in BACKGROUNDS if is_reserved(a, b)]
    picks = [pairs[k % len(pairs)] for k in range(count)]
    return [sample_character_scene(rng, open_hands=0.5, action=a, background=b) for a, b in picks]


def write_scenes(out: Path, scenes: Iterable[Scene], size: int = SAMPLE_SIZE) -> None:
    """Write `images/img_001.jpg` ..., `captions.jsonl` ({"file_name", "text"} a line) and `keypoints.jsonl`."""
    lines, keypoints = [], {}
    (out / "images").mkdir(parents=True, exist_ok=True)
    for k, scene in enumerate(scenes, start=1):
        name = f"img_{k:03d}.jpg"
        picture = render(scene, size)
        keypoints[name] = of_picture(picture)
        buffer = io.BytesIO()
        Image.fromarray(picture.image).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True, progressive=True)
        atomic_write_bytes(out / "images" / name, buffer.getvalue())
        lines.append(json.dumps({"file_name": name, "text": caption(scene)}, ensure_ascii=False))
    write_keypoints(out, keypoints)
    atomic_write_text(out / "captions.jsonl", "\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    write_scenes(parser.parse_args().out, sample_scenes())
