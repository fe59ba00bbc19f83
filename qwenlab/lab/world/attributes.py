"""What a picture of the world can show, in the words of its captions; sampling; the held-out combinations."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from qwenlab.captions.vocabulary import WORDS

#: Vocabulary of each attribute that a caption states and a judge reads.
ATTRIBUTES: dict[str, tuple[str, ...]] = {attribute: tuple(words) for attribute, words in WORDS.items()}
(
    GENDERS, HAIR_STYLES, HAIR_COLORS, CLOTHES, ACTIONS, PROPS, BACKGROUNDS, STYLES, VIEWS, FRAMINGS, HANDS, FEET,
) = ATTRIBUTES.values()  # fmt: skip

# The character and the style of `data_sample`: no picture of the base model's training set has any of them.
SAMPLE_HAIR_STYLE, SAMPLE_HAIR_COLOR, SAMPLE_CLOTHES, SAMPLE_STYLE = "狐耳卷发", "橙色", "星星斗篷", "剪纸画"

BOY_HAIR, GIRL_HAIR = ("短发", "刺猬头"), HAIR_STYLES[:5]
BOY_CLOTHES = CLOTHES[1:]
FULL_BODY_ONLY = ("坐着", "走路", "跳跃", "张开双臂")
PROP_ACTIONS = ("站立", "挥手", "坐着", "走路")
#: Actions that show a free hand, so that open fingers can be drawn.
OPEN_HAND_ACTIONS = ("站立", "挥手", "举起双手", "走路", "跳跃", "张开双臂")
POCKET_ACTIONS = ("站立", "走路")


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture. ``seed`` varies what the caption leaves open (pose, clouds, ...)."""

    gender: str
    hair_style: str
    hair_color: str
    clothes: str
    action: str
    prop: str  # "" for none
    background: str
    style: str
    view: str
    framing: str
    hands: str
    feet: str
    seed: int = 0


def is_held_out(scene: Scene) -> bool:
    """True for the fixed 10% of (hair, clothes, action, background, style) combinations kept out of training."""
    key = "|".join((scene.hair_style, scene.hair_color, scene.clothes, scene.action, scene.background, scene.style))
    return zlib.crc32(key.encode()) % 10 == 0


def allowed_hands(action: str) -> tuple[str, ...]:
    """The hand states that make sense for an action."""
    if action in POCKET_ACTIONS:
        return HANDS
    return HANDS[:3] if action in OPEN_HAND_ACTIONS else HANDS[1:3]


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def sample_scene(rng: np.random.Generator, *, split: str = "train", open_hands: float = 0.10, **fixed: str) -> Scene:
    """Draw a scene.

    Args:
        rng: source of all randomness.
        split: "train" (never a held-out combination), "test" (only held-out ones) or "all".
        open_hands: probability that five drawn fingers are shown; the rest wear mittens, sleeves or pockets.
        **fixed: attributes to hold fixed, for example ``action="挥手"``.

    Raises:
        ValueError: unknown split or attribute, or fixed attributes that exclude each other.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f'split is "train", "test" or "all", not {split!r}')
    unknown = set(fixed) - set(Scene.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown attribute {sorted(unknown)[0]!r}; known: {', '.join(Scene.__dataclass_fields__)}")
    for _ in range(10_000):
        scene = _draw(rng, open_hands, fixed)
        consistent = all(getattr(scene, name) == value for name, value in fixed.items())
        if consistent and (split == "all" or is_held_out(scene) == (split == "test")):
            return scene
    raise ValueError(f"no scene of split {split!r} satisfies {fixed}")


def _draw(rng: np.random.Generator, open_hands: float, fixed: dict) -> Scene:
    show_fingers = fixed["hands"] == "五指张开" if "hands" in fixed else rng.random() < open_hands
    actions = OPEN_HAND_ACTIONS if show_fingers else ACTIONS
    action = fixed.get("action") or _pick(rng, actions)
    if show_fingers and action not in OPEN_HAND_ACTIONS:
        show_fingers = False
    gender = fixed.get("gender") or _pick(rng, GENDERS)
    boy = gender == "男孩"
    framing = fixed.get("framing") or ("全身" if action in FULL_BODY_ONLY or rng.random() < 0.5 else "半身")
    if action in FULL_BODY_ONLY:
        framing = "全身"
    hands = fixed.get("hands") or (
        "五指张开" if show_fingers else _pick(rng, [h for h in allowed_hands(action) if h != "五指张开"])
    )
    with_prop = action in PROP_ACTIONS and hands != "手插口袋" and rng.random() < 0.6
    return Scene(
        gender=gender,
        hair_style=fixed.get("hair_style") or _pick(rng, BOY_HAIR if boy else GIRL_HAIR),
        hair_color=fixed.get("hair_color") or _pick(rng, HAIR_COLORS),
        clothes=fixed.get("clothes") or _pick(rng, BOY_CLOTHES if boy else CLOTHES),
        action=action,
        prop=fixed["prop"] if "prop" in fixed else (_pick(rng, PROPS[1:]) if with_prop else ""),
        background=fixed.get("background") or _pick(rng, BACKGROUNDS),
        style=fixed.get("style") or _pick(rng, STYLES),
        view=fixed.get("view") or ("正面" if rng.random() < 0.7 else "侧面"),
        framing=framing,
        hands=hands,
        feet=fixed.get("feet") or ("穿鞋" if rng.random() < 0.7 else "光脚"),
        seed=int(rng.integers(2**31)),
    )


def sample_character_scene(rng: np.random.Generator, *, split: str = "all", open_hands: float = 0.5, **fixed) -> Scene:
    """A scene of the `data_sample` character in its own style; action, background, framing and the rest vary."""
    scene = sample_scene(rng, split=split, open_hands=open_hands, gender="女孩", **fixed)
    return as_character(scene)


def as_character(scene: Scene) -> Scene:
    """The same scene played by the `data_sample` character, drawn in the `data_sample` style."""
    return replace(
        scene,
        gender="女孩",
        hair_style=SAMPLE_HAIR_STYLE,
        hair_color=SAMPLE_HAIR_COLOR,
        clothes=SAMPLE_CLOTHES,
        style=SAMPLE_STYLE,
    )


def caption(scene: Scene) -> str:
    """The caption: 编号+性别, 发型, 服装, 动作, 道具, 背景:场景, 风格:艺术风格, 细节:特殊要求."""
    tags = [f"1{scene.gender}", scene.hair_color + scene.hair_style, scene.clothes, scene.action]
    if scene.prop:
        tags.append(f"手持{scene.prop}")
    tags += [f"背景:{scene.background}", f"风格:{scene.style}"]
    details = [scene.framing + scene.view, scene.hands]
    if scene.framing == "全身":
        details.append(scene.feet)
    return ", ".join(tags + ["细节:" + details[0], *details[1:]])
