"""The judge: its labels, networks, rates and independence; its stored figures still belong to its weights."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lab import world
from qwenlab.lab.judge import corrected_rate, hand_right_rate, load_judge, rate
from qwenlab.lab.judge.calibrate import identity_threshold, match_hands, measure
from qwenlab.lab.judge.examples import (
    IGNORE,
    NONE,
    Examples,
    draw_examples,
    draw_scene,
    hand_label,
    third_foot_hidden,
)
from qwenlab.lab.judge.networks import CLASSES, CROP, HAND_CLASSES, PictureNet, cut_crops, find_hands
from qwenlab.lab.judge.reading import HandReading, Reading
from qwenlab.lab.judge.train import Recipe, focal_loss, map_targets, train_hands, train_pictures
from qwenlab.lab.results import check_stamp

RESULTS = sorted((REPOSITORY / "benchmarks" / "micro").glob("judge_*.json"))


@pytest.fixture(scope="module")
def held_out() -> Examples:
    return draw_examples(96, 77, "test")


@pytest.fixture(scope="module")
def judge():
    return load_judge()


def _scene(**values) -> world.Scene:
    scene = world.sample_scene(np.random.default_rng(3), split="all", hands="五指张开", action="举起双手", view="正面",
                               framing="全身", style="日系插画")  # fmt: skip
    return replace(scene, **values)


def _reading(*fingers: str, feet: str = "2", framing: str = "全身") -> Reading:
    hands = tuple(HandReading(0, 0, f, 1.0) for f in fingers)
    return Reading({"framing": framing}, {}, hands, feet, 1.0, 0.0, False)


def test_examples_repeat_and_cover_every_answer(held_out):
    again = draw_examples(3, 77, "test")
    for name, values in vars(again).items():
        np.testing.assert_array_equal(values, getattr(held_out, name)[:3])
    assert all(world.is_held_out(draw_scene(77, i, "test")[0]) for i in range(96) if held_out.kind[i] == 0)
    assert set(held_out.feet) == {0, 1, 2, 3, 4}
    assert {"5", "ill-formed", "none"} <= {HAND_CLASSES[int(c)] for c in held_out.hands[..., 2].ravel() if c >= 0}


def test_hand_labels_follow_the_drawing():
    scene = _scene()
    for fingers, name in ((5, "5"), (3, "3"), ("fused", "ill-formed")):
        picture = world.render(scene, 128, world.Anatomy((fingers, 5)))
        x, y, label = hand_label(scene, picture, picture, 0)
        assert HAND_CLASSES[label] == name and (x, y) == picture.hand_info[0].center
    mitten = replace(scene, hands="连指手套")
    picture = world.render(mitten, 128)
    assert hand_label(mitten, picture, picture, 0)[2] == NONE


def test_a_third_foot_counts_only_where_it_shows():
    third = world.Anatomy(feet="third")
    for view, hidden in (("正面", False), ("侧面", True)):
        scene = replace(_scene(), view=view, framing="全身", action="张开双臂")
        assert third_foot_hidden(scene, third, world.render(scene, 128, third)) is hidden
    assert not third_foot_hidden(scene, world.Anatomy(), world.render(scene, 128))


def test_a_hand_outside_or_over_skin_is_not_counted():
    half = _scene(framing="半身", action="站立", style="扁平插画")
    labels = []
    for seed in range(12):
        scene = replace(half, seed=seed)
        picture = world.render(scene, 128)
        cut = int((~(picture.hands[0, 1:, 2] > 0)).sum())
        labels.append((cut, hand_label(scene, picture, picture, 0)[2]))
    assert any(cut for cut, _ in labels)
    assert all(label in (NONE, IGNORE) for cut, label in labels if cut)


def test_crops_are_centred_and_black_outside():
    pictures = torch.zeros(2, 3, 128, 128)
    pictures[1, :, 60, 40] = 1.0
    crops = cut_crops(pictures + 0.25, torch.tensor([1, 0]), torch.tensor([[40.0, 60.0], [2.0, 2.0]]))
    assert crops.shape == (2, 3, CROP, CROP)
    assert float(crops[0, 0, CROP // 2, CROP // 2]) == 1.25
    assert float(crops[1, 0, 0, 0]) == 0.0 and float(crops[1, 0, -1, -1]) == 0.25


def test_a_perfect_hand_map_gives_back_the_hands():
    hands = torch.tensor([[[30.0, 50.0, 2], [90.0, 20.0, 0]], [[64.0, 64.0, NONE], [20.0, 100.0, IGNORE]]])
    target, counts = map_targets(hands)
    perfect = torch.logit(target.clamp(1e-4, 1 - 1e-4))
    which, centers = find_hands(perfect)
    assert which.tolist() == [0, 0]
    order = centers[:, 0].argsort()
    assert (centers[order] - hands[0, :, :2]).abs().max() < 3
    # The soft flanks of a target cost a little even when they are met exactly.
    assert focal_loss(perfect, target, counts) < 0.05 * focal_loss(-perfect, target, counts)
    assert counts[1, 25, 5] == 0 and counts[0].all()


def test_training_runs_and_repeats(held_out):
    recipe = Recipe(picture_steps=2, hand_steps=2, batch=8)
    first, second = train_pictures(held_out, recipe), train_pictures(held_out, recipe)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert train_hands(held_out, recipe, first)(torch.rand(2, 3, CROP, CROP)).shape == (2, len(HAND_CLASSES))


def test_the_shipped_judge_reads_held_out_renderings(judge, held_out):
    figures = measure(judge.read(held_out.images), held_out)
    assert np.mean([row["right"] for row in figures["attributes"].values()]) > 0.97
    assert figures["fingers"]["right"] > 0.9
    assert figures["feet"]["right"] > 0.93


def test_the_shipped_judge_knows_the_character(judge):
    rng = np.random.default_rng(5)
    characters = [world.render(world.sample_character_scene(rng)).image for _ in range(12)]
    others = [world.render(world.sample_scene(rng, split="all")).image for _ in range(12)]
    assert sum(r.is_character for r in judge.read(characters)) >= 11
    assert not any(r.is_character for r in judge.read(others))


def test_reading_takes_any_size_and_refuses_other_arrays(judge):
    scene = _scene()
    small, large = world.render(scene, 128), world.render(scene, 256)
    one, two = judge.read([small.image])[0], judge.read(large.image[None])[0]
    assert one.attributes == two.attributes and len(one.hands) == len(two.hands) == 2
    assert abs(two.hands[0].x - 2 * one.hands[0].x) < 6
    assert "feet" in one.attributes and set(one.attributes) <= set(CLASSES)
    with pytest.raises(QwenlabError, match="uint8"):
        judge.read(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(QwenlabError, match="qwenlab.lab.judge.train"):
        load_judge(Path("nowhere.safetensors"))


def test_networks_take_any_batch():
    outputs = PictureNet().eval()(torch.rand(2, 3, 128, 128))
    assert outputs["hand_map"].shape == (2, 32, 32) and outputs["feet_count"].shape == (2, 5)
    assert outputs["clothes"].shape == (2, len(CLASSES["clothes"])) and outputs["identity"].shape == (2,)


def test_hands_are_matched_once():
    drawn = np.array([[10, 10, 2], [14, 10, 2]], np.float32)
    reading = Reading({}, {}, (HandReading(11, 10, "5", 1.0), HandReading(90, 90, "5", 1.0)), "2", 1.0, 0.0, False)
    assert match_hands(reading, drawn) == ([0, None], 1)


def test_wilson_interval():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263.
    found = rate(81, 263)
    assert (round(found.value, 4), round(found.low, 4), round(found.high, 4)) == (0.308, 0.2553, 0.3662)
    with pytest.raises(ValueError, match="total > 0"):
        rate(0, 0)


def test_correction_undoes_the_judges_errors():
    rng = np.random.default_rng(0)
    truth = rng.random((3000, 2)) < 0.4
    read = np.where(truth, rng.random(truth.shape) < 0.95, rng.random(truth.shape) < 0.10)
    errors = {"right": 2000, "right_read_right": 1900, "wrong": 2000, "wrong_read_wrong": 1800}
    found = corrected_rate([(int(row.sum()), 2) for row in read], errors)
    assert found.low < 0.4 < found.high and abs(found.value - 0.4) < 0.02
    assert abs(read.mean() - 0.4) > 0.03
    with pytest.raises(ValueError, match="chance"):
        corrected_rate([(1, 2)], {"right": 10, "right_read_right": 5, "wrong": 10, "wrong_read_wrong": 5})


def test_hand_rate_counts_hands():
    found = hand_right_rate([_reading("5", "5"), _reading("4"), _reading()])
    assert (found.count, found.total) == (2, 3)


def test_threshold_lies_between_the_groups():
    scores = np.array([0.01, 0.02, 0.2, 0.9, 0.99])
    assert 0.2 < identity_threshold(scores, scores > 0.5) < 0.9


def test_no_training_code_imports_the_judge():
    """What is graded by a judge must not learn from it."""
    rooms = ("model", "data", "lora", "training", "hands", "lab/micro")
    trainers = [sorted((REPOSITORY / "qwenlab" / room).rglob("*.py")) for room in rooms]
    assert all(trainers), "a room has moved"
    for file in sum(trainers, []):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any("judge" in name.split(".") for name in names), f"{file.name} imports the judge"


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
def test_stored_figures_belong_to_the_shipped_weights(file):
    assert check_stamp(json.loads(file.read_text(encoding="utf-8"))) == []
