"""Scenes whose figure stands in a pose of its own, and what their captions say of it.

A caption names one action of ten, and a pose is none of them. All captions of an experiment have the same word,
`NEUTRAL`, from the base's own vocabulary: a caption without an action is a form that the base has never read. In
training half of the captions have the word whose drawing is nearest instead, so that the condition also works beside
a word that fits. Words that bring a thing along (a stool, a book) are never given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from qwenlab.lab import world
from qwenlab.lab.pose.drawing import FULL, draw_body, skeleton_of
from qwenlab.lab.pose.sampling import REGIONS, Pose, sample_depth_pair, sample_pose
from qwenlab.lab.world.attributes import FULL_BODY_ONLY
from qwenlab.lab.world.figure import holding_hand
from qwenlab.lab.world.posed import Posed
from qwenlab.lab.world.skeleton import BODY_JOINTS, Skeleton
from qwenlab.pose.camera import Camera
from qwenlab.pose.motion import action
from qwenlab.pose.openpose import Pose2D, to_openpose

NEUTRAL = "站立"
WORDS = tuple(word for word in world.ATTRIBUTES["action"] if word not in ("坐着", "看书"))
HANDS = ("五指张开", "连指手套", "长袖遮手")  # in pockets is a pose
_ARMS, _LEGS = (3, 4, 6, 7), (9, 10, 12, 13)
_WRONG_SIDE = 0.06  # figure units of distance for an arm before the body instead of behind it, or the other way round
_PROP, _OPEN = 0.2, 0.3  # shares of scenes with something in a hand, and with open hands
HANGING, BESIDE = "灯笼", 0.25  # what does not rise before the face, and how far beside it the rest must be
HELD_BETWEEN = (0.40, 0.72)  # height of a hand that holds something: a balloon above it must stay in the picture


@dataclass(frozen=True)
class PosedScene:
    """A scene in a pose. `scene.action` is the word that the caption says, `nearest` the word that fits the pose."""

    scene: world.Scene
    pose: Pose
    nearest: str

    @property
    def caption(self) -> str:
        return world.caption(self.scene)

    def saying(self, word: str) -> PosedScene:
        """The same picture under another word."""
        return replace(self, scene=replace(self.scene, action=word))

    def draw(self, size: int = 128, anatomy: world.Anatomy | None = None) -> Posed:
        return draw_body(self.scene, self.pose.body, self.pose.camera, size, anatomy)

    def points(self, size: int = 128) -> Pose2D:
        """The 18 points, hidden ones included, in pixels of a picture of `size`."""
        return to_openpose(self.pose.body, self.pose.camera, size)


def sample_posed(rng: np.random.Generator, *, split: str = "train", region: str = "", view: str = "") -> PosedScene:
    """A scene of a `split` of the world in a pose that training may have, or of a `region` that it never has."""
    framing = "全身" if region == "lunge" or rng.random() < 0.7 else "半身"
    return in_scene(rng, sample_pose(rng, region=region, view=view, framing=framing), framing, split)


def in_scene(rng: np.random.Generator, pose: Pose, framing: str, split: str = "train") -> PosedScene:
    """A pose with all that the caption says beside it, drawn at random; says NEUTRAL."""
    bones = skeleton_of(pose.body, pose.camera)
    word = nearest_word(bones, framing)
    hands = HANDS[0] if rng.random() < _OPEN else HANDS[1 + int(rng.integers(2))]
    scene = world.sample_scene(
        rng, split=split, action=NEUTRAL, view=pose.view, framing=framing, prop=_prop(rng, bones), hands=hands
    )
    return PosedScene(scene, pose, word)


def held_out_scenes(count: int, seed: int = 0) -> list[PosedScene]:
    """`count` scenes of held-out combinations; every second one in a region that training never has, these in turn."""
    regions = ("", REGIONS[0], "", REGIONS[1])
    return [
        sample_posed(np.random.default_rng([seed, number, 12]), split="test", region=regions[number % 4])
        for number in range(count)
    ]


def held_out_pairs(count: int, seed: int = 0) -> list[tuple[PosedScene, PosedScene, str]]:
    """Pairs of equal scenes and equal 18 points with one arm before and behind the body, and that arm's side.

    The order shows in both drawings.
    """
    pairs: list[tuple[PosedScene, PosedScene, str]] = []
    number = 0
    while len(pairs) < count:
        rng = np.random.default_rng([seed, number, 13])
        number += 1
        first, second, side = sample_depth_pair(rng)
        before = in_scene(rng, first, "全身", "test")
        before = replace(before, scene=replace(before.scene, prop=""))
        behind = replace(before, pose=second)
        if _order(before, side) is True and _order(behind, side) is False:
            pairs.append((before, behind, side))
    return pairs


def _order(posed: PosedScene, side: str) -> bool | None:
    """Whether an arm is seen to be before the body."""
    return next(limb.before for limb in posed.draw().limbs if (limb.kind, limb.side) == ("arm", side))


def nearest_word(bones: Skeleton, framing: str = "全身") -> str:
    """The word of WORDS whose drawing has its elbows, wrists, knees and ankles nearest to the skeleton's."""
    words = [word for word in WORDS if framing == "全身" or word not in FULL_BODY_ONLY]
    words = [word for word in words if (word == "跳跃") <= (bones.lift > 0)]
    rows = list(_ARMS + (_LEGS if framing == "全身" else ()))
    neck = BODY_JOINTS.index("neck")

    def distance(word: str) -> float:
        other = _reference(word, bones.side)
        apart = (bones.body[rows] - bones.body[neck]) - (other.body[rows] - other.body[neck])
        wrong = ((bones.depth[:2] < 0) != (other.depth[:2] < 0)).sum() if not bones.side else 0
        return float(np.linalg.norm(apart, axis=1).mean()) + _WRONG_SIDE * wrong

    return min(words, key=distance)


@cache
def _reference(word: str, side: bool) -> Skeleton:
    return skeleton_of(action(word, side), Camera(**FULL, yaw=90.0 if side else 0.0))


def _prop(rng: np.random.Generator, bones: Skeleton) -> str:
    """Something for the hand that can hold it, now and then."""
    nothing = world.Scene(*[""] * 12)
    hand = holding_hand(nothing, bones)
    if rng.random() > _PROP or hand is None or not HELD_BETWEEN[0] < bones.body[(4, 7)[hand], 1] < HELD_BETWEEN[1]:
        return ""
    beside = abs(bones.body[(4, 7)[hand], 0] - bones.body[BODY_JOINTS.index("neck"), 0]) > BESIDE
    props = [prop for prop in world.ATTRIBUTES["prop"] if prop] if beside else [HANGING]
    return props[int(rng.integers(len(props)))]
