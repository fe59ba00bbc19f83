"""Drawings of any pose: a skeleton instead of the action's, and what of it can be seen, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.path import Path

from .attributes import Scene
from .backgrounds import draw_background
from .canvas import Canvas, Color, ellipse
from .figure import draw_figure
from .hands import Anatomy
from .looks import DEER_HAIR
from .skeleton import BODY_JOINTS, Skeleton
from .styles import STYLE_OF, finish

#: Of a limb's points that are drawn, the share that must be seen for the limb to count, and below which it does not.
SEEN, HIDDEN = 0.2, 0.05
#: Share of a limb that must lie on trunk or head for its order to show; shares of that part which are covered.
CROSSING, BEFORE, BEHIND = 0.35, 0.1, 0.6


@dataclass(frozen=True)
class Limb:
    """An arm with its hand or a leg with its foot: how much of it is seen, and how much of it lies on the body."""

    kind: str  # "arm" or "leg"
    side: str  # "right", "left" or "third"
    seen: float  # share of its area in the picture and covered by nothing
    crossing: float  # share of its area that lies before or behind trunk and head
    over: bool  # drawn over the trunk

    @property
    def counts(self) -> bool | None:
        """Whether an onlooker would count it; None where one may see it either way."""
        return True if self.seen >= SEEN else False if self.seen <= HIDDEN else None

    @property
    def before(self) -> bool | None:
        """Whether it is before the body; None where that does not show."""
        covered = (1 - self.seen) / max(self.crossing, 1e-9)
        shows = covered < BEFORE if self.over else covered > BEHIND  # another arm may cover one that is before the body
        return self.over if shows and self.crossing >= CROSSING else None


@dataclass(frozen=True)
class Posed:
    """A drawing and its exact annotations, in pixels with the origin at the top left.

    Keypoint rows are (x, y, visibility): 1 = inside the picture and not covered, 0 = covered or outside. Hips,
    shoulders and neck are never covered: where they are can be seen from the clothes.
    """

    image: np.ndarray  # (S, S, 3) uint8 RGB
    body: np.ndarray  # (18, 3) float32, OpenPose order
    hands: np.ndarray  # (2, 21, 3) right, left
    feet: np.ndarray  # (2, 3, 3) right, left: big toe, small toe, heel
    hand_states: tuple[str, str]  # "open", "mitten", "sleeve", "fist" or "hidden"
    limbs: tuple[Limb, ...]  # those that were drawn

    def count(self, kind: str) -> int | None:
        """How many arms or legs are seen; None where that can be read in two ways."""
        counted = [limb.counts for limb in self.limbs if limb.kind == kind]
        return None if None in counted else sum(counted)


class TracedCanvas(Canvas):
    """A canvas that keeps what was filled, and for which part of the figure."""

    def __init__(self, size: int, style=None):
        super().__init__(size, style)
        self.filled: list[tuple[str, Path]] = []  # in pixels, y up

    def fill(self, path: Path, color: Color, alpha: float = 1.0) -> None:
        super().fill(path, color, alpha)
        if alpha == 1.0:
            self.filled.append((self.part, path.transformed(self._to_pixels)))

    def covered(self, points: np.ndarray, part: str) -> np.ndarray:
        """(N,) whether another part was drawn over points (N, 2) of a part; pixels, y down."""
        points, found = points * [1, -1] + [0, self.size], np.zeros(len(points), bool)
        first = min((i for i, (name, _) in enumerate(self.filled) if name == part), default=len(self.filled))
        for name, path in self.filled[first:]:
            if name != part and not found.all():
                found |= path.contains_points(points)
        return found

    def limb(self, part: str) -> Limb:
        """What is seen of an arm, or of a leg below its knee."""
        side, kind = part.split("_")
        paths = [path for name, path in self.filled if name == part]
        paths = paths[1:] if kind == "leg" else paths  # clothes hide a thigh
        points = np.concatenate([_inside(path) for path in paths]) * [1, -1] + [0, self.size]
        seen = ((points >= 0) & (points < self.size)).all(1) & ~self.covered(points, part)
        on_body = np.zeros(len(points), bool)
        for name, path in self.filled:
            if name in ("trunk", "head"):
                on_body |= path.contains_points(points * [1, -1] + [0, self.size])
        names = [name for name, _ in self.filled]
        over = names.index(part) > names.index("trunk")
        return Limb(kind, side, float(seen.mean()), float(on_body.mean()), over)


def render_pose(
    scene: Scene,
    bones: Skeleton,
    size: int = 128,
    anatomy: Anatomy | None = None,
    *,
    scale: float,
    origin: tuple[float, float],
    mirror: bool = False,
) -> Posed:
    """Draw a scene with its figure in any pose; the scene's action is not asked for.

    Args:
        scene: what to show but for the pose.
        bones: the pose, in figure coordinates, with the order of its limbs (`depth`).
        size: side in pixels.
        anatomy: wrong anatomy on request.
        scale: length of a figure unit, as a share of the picture.
        origin: where (0, 0) of the figure's coordinates is, in shares of the picture.
        mirror: draw x to the left.
    """
    style, (dx, dy) = STYLE_OF[scene.style], origin
    back, front = Canvas(size, style), TracedCanvas(size, style)
    draw_background(back, scene.background, np.random.default_rng((scene.seed, 1)))
    full = scene.framing == "全身"
    if full:
        back.place(scale, dx, dy, mirror)
        on_ground = bones.lift < 0.02
        middle = float(bones.feet[..., 0].mean())
        back.fill(ellipse(middle, 0.975, 0.17 if on_ground else 0.13, 0.028), (0.15, 0.15, 0.25), 0.28)
    front.place(scale, dx, dy, mirror)
    hands, states, _ = draw_figure(front, scene, bones, anatomy or Anatomy(), np.random.default_rng((scene.seed, 2)))
    image = finish(back.rgba(), front.rgba(), style, np.random.default_rng((scene.seed, 3)))

    def labelled(points: np.ndarray, seen) -> np.ndarray:
        xy = front.pixels(points)
        inside = ((xy >= 0) & (xy < size)).all(-1, keepdims=True)
        return np.concatenate([xy, inside * np.asarray(seen, float)], -1).astype(np.float32)

    drawn = {part for part, _ in front.filled}
    parts = [part for part in drawn if part.endswith(("arm", "leg"))]
    opened = np.array([state == "open" for state in states])
    feet_seen = np.array([full and f"{side}_leg" in drawn for side in ("right", "left")])
    return Posed(
        image,
        labelled(bones.body, _body_seen(scene, bones, front, drawn, mirror)[:, None]),
        labelled(hands, opened[:, None, None]),
        labelled(bones.feet, feet_seen[:, None, None]),
        (states[0], states[1]),
        tuple(front.limb(part) for part in sorted(parts)),
    )


def _inside(path: Path) -> np.ndarray:
    """(N, 2) points inside a convex path."""
    points = path.to_polygons()[0][:-1]
    middle = points.mean(0)
    return np.concatenate([middle[None], middle + 0.45 * (points - middle), middle + 0.85 * (points - middle)])


def _body_seen(scene: Scene, bones: Skeleton, canvas: TracedCanvas, drawn: set[str], mirror: bool) -> np.ndarray:
    """(18,) 1.0 for joints that are drawn and not covered."""
    pixels, seen = canvas.pixels(bones.body), np.ones(18, np.float32)
    for index, name in enumerate(BODY_JOINTS):
        side, _, joint = name.partition("_")
        part = {"elbow": f"{side}_arm", "wrist": f"{side}_arm", "knee": f"{side}_leg", "ankle": f"{side}_leg"}.get(
            joint, "trunk" if joint in ("shoulder", "hip") or name == "neck" else "head"
        )
        if part != "trunk":
            seen[index] = part in drawn and not canvas.covered(pixels[index : index + 1], part)[0]
    if bones.side:
        seen[[14, 16] if mirror else [15, 17]] = 0.0  # its right side is near when it faces the viewer's right
    if scene.hair_style in ("长发", DEER_HAIR):
        seen[[16, 17]] = 0.0
    return seen
