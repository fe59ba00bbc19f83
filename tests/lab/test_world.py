"""The world: determinism, resolution independence, captions, keypoints, held-out combinations, wrong anatomy."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qwenlab.files import REPOSITORY
from qwenlab.lab import world
from qwenlab.lab.world.hands import SKIN
from qwenlab.lab.world.sample import character_test_scenes, is_reserved, sample_scenes, write_scenes


def scenes(count, seed=0, **options):
    rng = np.random.default_rng(seed)
    return [world.sample_scene(rng, **options) for _ in range(count)]


def waving(**changes):
    return world.sample_scene(
        np.random.default_rng(3),
        split="all",
        **{
            "action": "举起双手",
            "hands": "五指张开",
            "view": "正面",
            "style": "日系插画",
            "framing": "半身",
            **changes,
        },
    )


def test_same_scene_same_picture():
    for scene in scenes(6):
        assert np.array_equal(world.render(scene).image, world.render(scene).image)


def test_other_seed_other_picture():
    scene = scenes(1)[0]
    assert not np.array_equal(world.render(scene).image, world.render(replace(scene, seed=scene.seed + 1)).image)


def test_resolutions_agree():
    for scene in scenes(5, seed=2):
        small = world.render(scene, 128)
        large = world.render(scene, 512)
        reduced = np.asarray(Image.fromarray(large.image).resize((128, 128), Image.Resampling.BOX), float)
        assert np.abs(reduced - small.image).mean() < 5
        assert np.allclose(large.body[:, :2], 4 * small.body[:, :2], atol=1e-2)


def test_splits_never_meet():
    assert not any(world.is_held_out(s) for s in scenes(300, split="train"))
    assert all(world.is_held_out(s) for s in scenes(100, split="test"))
    share = np.mean([world.is_held_out(s) for s in scenes(3000, split="all")])
    assert 0.07 < share < 0.13


def test_open_hands_are_rare_by_default():
    share = np.mean([s.hands == "五指张开" for s in scenes(2000)])
    assert 0.08 < share < 0.12


def test_every_attribute_value_occurs():
    drawn = scenes(3000, split="all", open_hands=0.3)
    for name, values in world.ATTRIBUTES.items():
        assert {getattr(s, name) for s in drawn} == set(values), name


def test_caption_follows_the_template():
    scene = waving(prop="")
    text = world.caption(scene)
    assert text.startswith(f"1{scene.gender}, {scene.hair_color}{scene.hair_style}, {scene.clothes}, 举起双手, 背景:")
    assert f"风格:{scene.style}, 细节:半身正面, 五指张开" in text
    held = world.sample_scene(np.random.default_rng(0), prop="气球", action="站立")
    assert "手持气球" in world.caption(held)


def test_fixed_attributes_hold_and_mistakes_are_named():
    rng = np.random.default_rng(0)
    assert world.sample_scene(rng, action="看书", background="雪地").background == "雪地"
    with pytest.raises(ValueError, match="colour"):
        world.sample_scene(rng, colour="红")
    with pytest.raises(ValueError, match="split"):
        world.sample_scene(rng, split="valid")
    with pytest.raises(ValueError, match="no scene"):
        world.sample_scene(rng, action="坐着", framing="半身")


def test_keypoints_lie_where_the_hand_is():
    for scene in (waving(), waving(framing="全身"), waving(view="侧面")):
        picture = world.render(scene, 256)
        for hand, info in zip(picture.hands, picture.hand_info, strict=True):
            assert info.state == "open" and info.fingers == 5
            for x, y, seen in hand[1:]:
                if seen and 2 < x < 253 and 2 < y < 253:
                    patch = picture.image[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(-1, 3) / 255
                    assert np.abs(patch - SKIN).max(1).min() < 0.2


def test_visibility_is_zero_for_hidden_hands():
    scene = world.sample_scene(np.random.default_rng(1), action="背着手", view="正面")
    picture = world.render(scene)
    assert picture.body[4, 2] == 0 and picture.body[7, 2] == 0 and picture.hands[..., 2].max() == 0


def test_half_body_has_no_feet():
    picture = world.render(waving())
    assert picture.feet_drawn == 0 and picture.feet[..., 2].max() == 0
    assert world.render(waving(framing="全身")).feet_drawn == 2


@pytest.mark.parametrize("fingers", world.WRONG_FINGERS)
def test_wrong_fingers_change_only_that_hand(fingers):
    right = world.render(waving())
    wrong = world.render(waving(), anatomy=world.Anatomy(fingers=(fingers, 5)))
    changed = np.argwhere(np.abs(right.image.astype(int) - wrong.image).max(-1) > 40)
    x, y = right.hand_info[0].center
    assert len(changed) > 5
    assert wrong.hand_info[0].fingers == fingers
    distance = np.hypot(changed[:, 1] - x, changed[:, 0] - y)
    other = np.hypot(changed[:, 1] - right.hand_info[1].center[0], changed[:, 0] - right.hand_info[1].center[1])
    assert (np.minimum(distance, other) < right.hand_info[0].length).all()


@pytest.mark.parametrize(("feet", "drawn"), [("missing", 1), ("third", 3), ("fused", 1)])
def test_wrong_feet(feet, drawn):
    picture = world.render(waving(framing="全身"), anatomy=world.Anatomy(feet=feet))
    assert picture.feet_drawn == drawn
    assert not np.array_equal(picture.image, world.render(waving(framing="全身")).image)


def test_unknown_anatomy_is_refused():
    with pytest.raises(ValueError, match="fingers"):
        world.Anatomy(fingers=(9, 5))
    with pytest.raises(ValueError, match="feet"):
        world.Anatomy(feet="four")


def test_hands_are_large_enough_to_count():
    lengths = [h.length for s in scenes(60, open_hands=1.0) for h in world.render(s).hand_info]
    assert min(lengths) > 20.5  # pixels at 128


def test_base_never_sees_the_sample_character():
    character = {(s.hair_style, s.hair_color, s.clothes, s.style) for s in sample_scenes()}
    assert len(character) == 1
    hair, color, clothes, style = character.pop()
    assert hair not in world.ATTRIBUTES["hair_style"] and color not in world.ATTRIBUTES["hair_color"]
    assert clothes not in world.ATTRIBUTES["clothes"] and style not in world.ATTRIBUTES["style"]


def test_reserved_pairs_stay_out_of_the_sample():
    assert not any(is_reserved(s.action, s.background) for s in sample_scenes())
    assert all(is_reserved(s.action, s.background) for s in character_test_scenes(40, seed=1))


def test_data_sample_is_what_the_command_writes(tmp_path):
    write_scenes(tmp_path, sample_scenes(), size=128)
    fresh = (tmp_path / "captions.jsonl").read_text(encoding="utf-8")
    shipped = REPOSITORY / "data_sample"
    assert fresh == (shipped / "captions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in fresh.splitlines()]
    assert len(rows) == 60 == len(list((shipped / "images").iterdir()))
    for row in rows:
        with Image.open(shipped / "images" / row["file_name"]) as picture:
            assert picture.size == (1024, 1024)
            reduced = np.asarray(picture.convert("RGB").resize((128, 128), Image.Resampling.BOX), float)
        with Image.open(tmp_path / "images" / row["file_name"]) as redrawn:
            assert np.abs(reduced - np.asarray(redrawn, float)).mean() < 10
    assert sum(f.stat().st_size for f in (shipped / "images").iterdir()) < 6_000_000
