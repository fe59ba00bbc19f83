"""Labelled pictures for the judge, drawn from the world: right and wrong anatomy, the character and its look-alikes.

Every example is a function of (seed, index) alone. Labels that a picture does not decide are IGNORE.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from qwenlab.lab import world
from qwenlab.lab.judge.networks import CLASSES, FEET_CLASSES, HAND_CLASSES, SIZE
from qwenlab.lab.world.hands import SKIN
from qwenlab.lab.world.outfits import OUTFITS
from qwenlab.lab.world.render import PALM, REACH
from qwenlab.lab.world.styles import STYLE_OF

IGNORE = -1
FOOT_SHOWN = 80  # pixels that a third foot must change, lest it count as hidden; a whole one covers about 190
NONE = HAND_CLASSES.index("none")
_SAMPLE_PARTS = ("hair_style", "hair_color", "clothes", "style")
_RIGHT, _LEFT = 0, 1


@dataclass
class Examples:
    """N pictures and what is known of them."""

    images: np.ndarray  # (N, 128, 128, 3) uint8
    attributes: np.ndarray  # (N, 12) int64, positions in CLASSES[name]; IGNORE where the picture does not show it
    identity: np.ndarray  # (N,) int64, 1 for the character in its style
    kind: np.ndarray  # (N,) int64: 0 base, 1 look-alike, 2 character
    feet: np.ndarray  # (N,) int64, positions in FEET_CLASSES; IGNORE where a third foot is hidden
    hands: np.ndarray  # (N, 2, 3) float32: x, y in pixels, position in HAND_CLASSES or IGNORE

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Examples:
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in cls.__dataclass_fields__})


def draw_scene(seed: int, index: int, split: str) -> tuple[world.Scene, world.Anatomy, int]:
    """Scene, anatomy and kind (0 base, 1 look-alike, 2 character) of example `index`."""
    rng = np.random.default_rng([seed, index])
    kind = int(rng.choice(3, p=(0.6, 0.2, 0.2)))
    fixed = {"gender": "女孩"} if kind else {}
    scene = world.sample_scene(rng, split=split, open_hands=0.65, **fixed)
    if kind:
        full = world.as_character(scene)
        parts = set(_SAMPLE_PARTS)
        if kind == 1:  # one to three of the four parts; three, the nearest, most often
            parts = set(rng.permutation(_SAMPLE_PARTS)[: int(rng.choice((1, 2, 3), p=(0.25, 0.25, 0.5)))])
        scene = replace(scene, **{name: getattr(full, name) for name in parts})
    fingers = tuple(5 if rng.random() < 0.4 else world.WRONG_FINGERS[int(rng.integers(6))] for _ in range(2))
    feet = "normal" if rng.random() < 0.5 else world.WRONG_FEET[int(rng.integers(3))]
    return scene, world.Anatomy(fingers, feet), kind


def draw_example(seed: int, split: str, index: int) -> dict[str, np.ndarray | int]:
    """The fields of `Examples` for one picture."""
    scene, anatomy, kind = draw_scene(seed, index, split)
    picture = world.render(scene, SIZE, anatomy)
    plain = picture
    if scene.view == "侧面" and picture.hand_info[_LEFT].state == "open":
        plain = world.render(scene, SIZE)  # the joints are those of five fingers: what covers them is seen here
    return {
        "images": picture.image,
        "attributes": attribute_labels(scene),
        "identity": int(kind == 2),
        "kind": kind,
        "feet": IGNORE if third_foot_hidden(scene, anatomy, picture) else feet_label(scene, anatomy),
        "hands": np.array([hand_label(scene, picture, plain, i) for i in (_RIGHT, _LEFT)], np.float32),
    }


def attribute_labels(scene: world.Scene) -> np.ndarray:
    """(12,) int64. Bare feet need a full body; hands behind the back cannot be told apart."""
    labels = {name: values.index(getattr(scene, name)) for name, values in CLASSES.items()}
    if scene.framing != "全身":
        labels["feet"] = IGNORE
    if scene.action == "背着手":
        labels["hands"] = IGNORE
    return np.array(list(labels.values()))


def feet_label(scene: world.Scene, anatomy: world.Anatomy) -> int:
    """Position in FEET_CLASSES of what was drawn."""
    if scene.framing != "全身":
        return FEET_CLASSES.index("0")
    return FEET_CLASSES.index({"normal": "2", "missing": "1", "third": "3", "fused": "ill-formed"}[anatomy.feet])


def third_foot_hidden(scene: world.Scene, anatomy: world.Anatomy, picture: world.Picture) -> bool:
    """Whether a third foot lies behind the others, as it can when they are seen from the side."""
    if anatomy.feet != "third" or scene.framing != "全身":
        return False
    without = world.render(scene, SIZE, replace(anatomy, feet="normal")).image
    changed = np.abs(without.astype(int) - picture.image).max(-1) > 24
    return int(changed.sum()) < FOOT_SHOWN


def hand_label(scene: world.Scene, picture: world.Picture, plain: world.Picture, i: int) -> tuple[float, float, int]:
    """x, y and class of hand `i` of `picture`; `plain` is the same scene with five fingers.

    A hand of which much is covered or outside is "none"; where a little is, or where it lies on skin of its own
    colour without an outline, the answer is open and the label IGNORE.
    """
    hand = picture.hand_info[i]
    x, y = hand.center
    if hand.state != "open":
        return x, y, NONE
    unit = hand.length / (PALM + REACH)  # pixels a figure unit
    joints = plain.hands[i, 1:, :2]
    outside = int(((joints < 1.5) | (joints > SIZE - 1.5)).any(1).sum())
    hidden = merged = 0
    on_skin = _on_skin(scene, plain, joints, unit)
    if scene.view == "侧面" and i == _LEFT:
        hidden = int((on_skin | ~_skin_coloured(plain.image, joints, scene)).sum())
    elif not STYLE_OF[scene.style].outline_width:
        merged = int(on_skin.sum())
    other = picture.hand_info[1 - i]
    overlap = other.state != "hidden" and np.hypot(x - other.center[0], y - other.center[1]) < 0.22 * unit
    if max(outside, hidden) >= 4:
        return x, y, NONE
    if outside or hidden or merged >= 2 or overlap:
        return x, y, IGNORE
    name = str(hand.fingers) if isinstance(hand.fingers, int) else "ill-formed"
    return x, y, HAND_CLASSES.index(name)


def _on_skin(scene: world.Scene, picture: world.Picture, joints: np.ndarray, unit: float) -> np.ndarray:
    """(20,) which joints lie on the head, the right arm or, where they are bare, the legs."""
    body = picture.body[:, :2]
    found = np.hypot(*(joints - picture.head[:2]).T) < 1.1 * picture.head[2]
    limbs = [(2, 3), (3, 4)] if scene.view == "侧面" else []
    if OUTFITS[scene.clothes].legs is None:
        limbs += [(8, 9), (9, 10), (11, 12), (12, 13)]
    for a, b in limbs:
        found |= _distance(joints, body[a], body[b]) < 0.055 * unit
    return found


def _distance(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) distance of points (N, 2) from the segment a-b."""
    along = np.clip(((points - a) @ (b - a)) / max(float((b - a) @ (b - a)), 1e-6), 0, 1)
    return np.linalg.norm(points - (a + along[:, None] * (b - a)), axis=1)


def _skin_coloured(image: np.ndarray, joints: np.ndarray, scene: world.Scene) -> np.ndarray:
    """(20,) whether a pixel next to each joint has the colour of skin in the picture's style."""
    skin = np.array(STYLE_OF[scene.style].tone(SKIN)) * 255
    near = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2)
    at = np.clip(np.floor(joints).astype(int)[:, None] + near, 0, SIZE - 1)  # (20, 9, 2)
    return (np.abs(image[at[..., 1], at[..., 0]] - skin).max(-1) < 32).any(1)


def draw_examples(count: int, seed: int, split: str = "all", workers: int = 1) -> Examples:
    """`count` examples of stream `seed`; `split` as in `world.sample_scene`."""
    task = partial(draw_example, seed, split)
    if workers == 1:
        rows = [task(i) for i in range(count)]
    else:  # spawned: forking a process that runs torch threads can deadlock
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            rows = list(pool.map(task, range(count), chunksize=64))
    return Examples(**{name: np.array([row[name] for row in rows]) for name in Examples.__dataclass_fields__})
