"""The networks that judge and choose in the study of hands, and its arithmetic."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.hands import (
    costs as hand_costs,
)
from benchmarks.hands import (
    labels as hand_labels,
)
from benchmarks.hands import (
    pose_cost,
)
from benchmarks.hands import (
    repair as hand_repair,
)
from benchmarks.hands import (
    results as hand_results,
)
from qwenlab.data.regions import Region, feet_region, hand_region
from qwenlab.errors import QwenlabError
from qwenlab.hands.finder import load_finder
from qwenlab.hands.form_net import FormNet, FormScore, load_form_net
from qwenlab.hands.pose_net import load_pose_net
from qwenlab.hands.squares import cut
from qwenlab.lab import world
from qwenlab.lab.hands import train_form_net
from qwenlab.lab.hands.melt import melt
from qwenlab.lab.hands.redrawn import redrawn_feet
from qwenlab.lab.hands.score import PoseScore
from qwenlab.lab.hands.train_form_net import accuracy, examples
from qwenlab.lab.judge import load_judge, second, train_second
from qwenlab.lab.judge.second import CLASSES, SquareNet, load_second_judge
from qwenlab.lab.judge.train_second import accuracy as second_accuracy
from qwenlab.lab.judge.train_second import labelled, squares
from qwenlab.lab.micro.round_trip import load_vae
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from qwenlab.model.pipeline import load_pipeline

OPEN = {"hands": "五指张开", "framing": "全身", "action": "举起双手", "view": "正面"}


def rendering(number: int = 0, **anatomy) -> world.Picture:
    scene = world.sample_character_scene(np.random.default_rng(number), **OPEN)
    return world.render(scene, 128, world.Anatomy(**anatomy))


def test_melting_spoils_the_region_alone():
    picture = rendering()
    region = hand_region(picture.hands[0])
    spoilt = melt(picture.image, region, np.random.default_rng(0))
    changed = np.abs(spoilt.astype(int) - picture.image).max(-1) > 0
    rows, columns = np.nonzero(changed)
    assert spoilt.dtype == np.uint8 and changed.sum() > 100
    assert np.abs(columns - region.x).max() <= region.side / 2 and np.abs(rows - region.y).max() <= region.side / 2


def test_the_score_tells_right_from_wrong_and_from_spoilt():
    score, rng = FormScore(load_form_net()), np.random.default_rng(1)
    marks = {"right": [], "wrong": [], "spoilt": []}
    for number in range(8):
        right = rendering(number)
        regions = [*(hand_region(joints) for joints in right.hands), feet_region(right.feet)]
        spoilt = right.image
        for region in regions:
            spoilt = melt(spoilt, region, rng)
        wrong = rendering(number, fingers=(7, 3), feet="third").image
        images = {"right": right.image, "wrong": wrong, "spoilt": spoilt}
        for name, image in images.items():
            marks[name] += score([cut(Image.fromarray(image), r, 96) for r in regions], regions).tolist()
    means = {name: np.mean(values) for name, values in marks.items()}
    assert means["right"] > 0.8 and max(means["wrong"], means["spoilt"]) < 0.3, means


def test_the_score_finds_what_it_marks():
    score = FormScore(load_form_net())
    images = [Image.fromarray(rendering(2).image), Image.new("RGB", (128, 128), "white")]
    found, empty = score.of_pictures(load_finder(), images)
    assert sorted(region.kind for region, _ in found) == ["feet", "hand", "hand"] and empty == []
    assert all(0 <= mark <= 1 for _, mark in found)
    with pytest.raises(QwenlabError, match="train_form_net"):
        load_form_net(Path("/nowhere.safetensors"))


def test_the_network_of_forms_learns():
    data = examples(np.random.default_rng(3), 40, None)
    trained = train_form_net.train(data, 40, batch=16, say=False)
    fresh = accuracy(FormNet(), data)
    assert np.mean(list(accuracy(trained, data).values())) > np.mean(list(fresh.values()))


def test_the_shipped_network_of_forms_tells_drawings_right_from_wrong():
    assert min(accuracy(load_form_net(), examples(np.random.default_rng(90), 150, None)).values()) > 0.85


def test_the_second_judge_sees_what_was_drawn():
    judge = load_second_judge()
    images = [Image.fromarray(rendering(k).image) for k in range(6)]
    readings = judge.read([*images, Image.new("RGB", (128, 128), "white")])
    hands = [answer for reading in readings for _, answer in reading.hands]
    assert len(hands) >= 11 and hands.count("5") / len(hands) > 0.8
    assert [reading.feet for reading in readings[:6]].count("2") >= 5
    assert readings[6].hands == () and readings[6].feet == "0"
    with pytest.raises(QwenlabError, match="train_second"):
        load_second_judge(Path("/nowhere.safetensors"))


def test_the_second_judge_reads_drawn_hands_and_the_feet_that_models_draw():
    judge = load_second_judge()
    exact, formed = second_accuracy(judge.networks["hand"], squares(150, 91, None)["hand"], CLASSES["hand"].index("5"))
    assert formed > 0.85 and exact > 0.75, (exact, formed)
    labels = json.loads((hand_labels.DATA / "labels.json").read_text())
    images = hand_labels.pictures()
    feet = [(k, which, r) for k, (which, r) in enumerate(hand_labels.units()) if r.kind == "feet"][:120]
    feet = [unit for unit in feet if unit[0] not in labels["unclear"]]
    read = judge.read_squares("feet", [(images[which], region) for _, which, region in feet])
    agreed = [(answer == "2") != (k in labels["wrong"]) for (k, _, _), answer in zip(feet, read, strict=True)]
    assert np.mean(agreed) > 0.92


def test_the_second_judge_learns_from_labels():
    image, found = labelled(1, 5)
    assert image.shape == (128, 128, 3) and all(label < len(CLASSES[kind]) for _, kind, label in found)
    data = squares(40, 5, None)["hand"]
    trained = train_second.train(data, 6, 30, batch=16, say=False)
    torch.manual_seed(1)
    assert second_accuracy(trained, data, 2)[0] > second_accuracy(SquareNet(6).eval(), data, 2)[0]


def row(hands, feet, **more):
    pairs = {name: [1, 1] for name in hand_results.MEASURES} | {"hands": hands, "feet": feet}
    return pairs | {"pose score": [0.5], "form score, hands": [0.4], "form score, feet": []} | more


def test_differences_are_paired_by_prompt():
    plain = [[row([0, 2], [1, 1]), row([0, 1], [0, 0])] * 20] * 2
    better = [[row([2, 2], [1, 1]), row([1, 1], [0, 0])] * 20] * 2
    hands = hand_results.difference(better, plain, "hands")
    assert hands == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert hand_results.difference(plain, plain, "hands")["value"] == 0
    half = [[row([k % 2, 1], [1, 1]) for k in range(40)]]
    found = hand_results.difference(half, [[row([0, 1], [1, 1])] * 40], "hands")
    assert found["value"] == 0.5 and 0.3 < found["low"] < 0.5 < found["high"] < 0.7


def test_summaries_count_and_correct():
    rows = [[row([1, 2], [1, 1]), row([2, 2], [0, 1])]]
    errors = {"hands": {"right": 100, "wrong": 100, "right_read_right": 90, "wrong_read_wrong": 100}}
    found = hand_results.summary(rows, errors)
    assert found["hands"]["value"] == 0.75 and found["feet"]["count"] == 1
    assert found["hands, corrected"]["value"] == pytest.approx(0.75 / 0.9)
    assert "feet, corrected" not in found and found["pose score"] == {"mean": 0.5, "count": 2}
    assert found["form score, feet"] is None


def test_pictures_are_read_as_their_prompts_ask():
    scenes = [world.sample_character_scene(np.random.default_rng(k), **OPEN) for k in range(2)]
    mittens = {"hands": "连指手套", "framing": "半身", "action": "挥手"}
    scenes.append(world.sample_character_scene(np.random.default_rng(9), **mittens))
    images = [Image.fromarray(world.render(scene).image) for scene in scenes]
    tools = load_judge(), load_second_judge(), PoseScore(load_pose_net()), FormScore(load_form_net()), load_finder()
    rows = hand_results.read_pictures(images, scenes, *tools)
    assert [r["hands"][1] for r in rows] == [2, 2, 0] and [r["feet"][1] for r in rows] == [1, 1, 0]
    assert all(r["following"][0] >= r["following"][1] - 1 for r in rows) and rows[2]["pose score"] == []
    assert hand_results.spread(images[:2], [[hand_region(j) for j in rendering(k).hands] for k in range(2)]) > 0


def test_feet_are_counted_by_what_they_wear_and_where():
    scenes = [world.sample_character_scene(np.random.default_rng(k), framing="全身") for k in range(60)]
    scenes.append(replace(scenes[0], framing="半身"))
    bare = sum(scene.feet == "光脚" for scene in scenes[:60])
    rows = [{"feet, second judge": [int(s.feet == "穿鞋"), int(s.framing == "全身")]} for s in scenes]
    found = hand_results.feet_by([rows, rows], scenes)
    assert found["shoes"]["value"] == 1 and found["shoes"]["total"] == 2 * (60 - bare)
    assert found["bare"]["value"] == 0 and found["bare"]["total"] == 2 * bare
    for names in (("bare, in snow", "bare, elsewhere"), ("bare, from the side", "bare, from the front")):
        assert sum(found[name]["total"] for name in names if name in found) == 2 * bare


def test_right_ones_are_those_of_one_way_and_wrong_ones_of_all():
    right_of = {"recipe-0": [4, 6], "recipe-1": [1, 1], "plain-0": [9, 9]}
    counts = {"right_of": right_of, "wrong": 5, "wrong_read_wrong": 3}
    found = hand_results._right_ones_of("recipe", counts)
    assert found == {"right": 7, "right_read_right": 5, "wrong": 5, "wrong_read_wrong": 3}


def test_the_threshold_for_feet_is_where_other_labels_agree_best():
    judge, agreed = load_second_judge(), {}
    sets = [
        train_form_net.labelled_feet(folder, np.random.default_rng(0), second.SIDE, second.CONTEXT["feet"], copies=1)
        for folder in (train_form_net.LABELS, train_second.LABELS)
    ]
    network, well = judge.networks["feet"], CLASSES["feet"].index("2")
    for squares_of, right in sets:
        with torch.no_grad():
            logits = (network(squares_of) + network(squares_of.flip(3))) / 2
        others = logits.index_fill(1, torch.tensor([well]), -torch.inf)
        odds = logits[:, well] - others.logsumexp(1)
        for bound in np.arange(-3, 4, 0.5):
            agreed[bound] = agreed.get(bound, 0) + int(((odds > bound) == (right > 0.5)).sum())
    total = sum(len(right) for _, right in sets)
    assert agreed[second.SURE] >= max(agreed.values()) - 0.01 * total, agreed


def test_labels_meet_both_judges(tmp_path):
    data = tmp_path / "data"
    scenes = hand_repair.test_scenes(12)
    columns = {
        "right-0": [Image.fromarray(world.render(scene).image) for scene in scenes],
        "wrong-0": [Image.fromarray(world.render(s, 128, world.Anatomy((7, "smear"))).image) for s in scenes],
    }
    hand_labels.collect(columns, scenes, 16, data)
    images, found = hand_labels.pictures(data), hand_labels.units(data)
    origin = json.loads((tmp_path / "data" / "origin.json").read_text())
    assert len(images) == len(origin) == 16 and {name for name in origin} == set(columns)
    assert hand_labels.draw_sheets(tmp_path / "sheets", data) == len(found) > 10
    assert (tmp_path / "sheets" / "sheet-00.png").is_file()
    wrong = [k for k, (which, region) in enumerate(found) if region.kind == "hand" and origin[which] == "wrong-0"]
    (tmp_path / "data" / "labels.json").write_text(json.dumps({"wrong": wrong, "unclear": []}))
    result = hand_labels.score(data)
    assert result["first judge, hand"]["agreement"] > 0.8 and result["second judge, feet"]["agreement"] > 0.8
    assert result["first judge, hand"]["wrong"] > 0
    assert hand_labels._nearest([(10.0, 10.0, "5"), (60.0, 60.0, "3")], Region("hand", 58, 61, 20)) == "3"
    assert hand_labels._nearest([(10.0, 10.0, "5")], Region("hand", 58, 61, 20)) is None


def test_every_way_can_be_configured(tmp_path):
    bench = object.__new__(hand_repair.Bench)
    bench.work, bench.config = tmp_path, hand_repair.config()
    for name, way in hand_repair.WAYS.items():
        steps = bench.steps(name)
        assert all(count > 0 for count in steps.values()) and (name == "base") == (not steps)
        assert way.seeds[0] == 0 and (not way.after or way.after in hand_repair.WAYS)
    assert bench.steps("recipe") == {
        "plain": hand_repair.STEPS, "hands": hand_repair.HAND_STEPS, "bare feet": hand_repair.FEET_STEPS
    }  # fmt: skip
    assert bench.steps("both") == {"both": hand_repair.LATE_STEPS, "augmentation": hand_repair.STEPS}
    prompts = [world.caption(scene) for scene in hand_repair.test_scenes(256)]
    assert sum("五指张开" in prompt for prompt in prompts) > 180


@pytest.mark.parametrize("folder", [train_form_net.LABELS, train_second.LABELS])
def test_labelled_feet_are_cut_and_counted(folder):
    labels = json.loads((folder / "labels.json").read_text())
    squares, right = train_form_net.labelled_feet(folder, np.random.default_rng(0), 32, copies=2)
    assert squares.shape == (2 * (labels["count"] - len(labels["unclear"])), 3, 32, 32)
    assert int((right == 0).sum()) == 2 * len(labels["wrong"]) and not set(labels["wrong"]) & set(labels["unclear"])


def test_training_goes_on_with_labelled_feet():
    drawn = examples(np.random.default_rng(3), 30, None)
    feet = train_form_net.labelled_feet(train_form_net.LABELS, np.random.default_rng(0), copies=1)
    redrawn = redrawn_feet(np.random.default_rng(1), 6, load_vae(MICRO_WEIGHTS), 48, 1.2)
    assert redrawn[0].shape == (6, 3, 48, 48) and set(redrawn[1].tolist()) == {0.0, 1.0}
    trained = train_form_net.train_further(FormNet(), drawn, feet, redrawn, 25, say=False)
    torch.manual_seed(0)
    fresh = FormNet()

    def loss(network):
        with torch.no_grad():
            return torch.nn.functional.binary_cross_entropy_with_logits(network(feet[0])[:, 1], feet[1])

    assert loss(trained) < loss(fresh)
    feet = train_form_net.labelled_feet(train_second.LABELS, np.random.default_rng(0), 64, 1.2, copies=1)
    classes = torch.where(feet[1] > 0.5, CLASSES["feet"].index("2"), CLASSES["feet"].index("ill-formed"))
    redrawn = redrawn_feet(np.random.default_rng(1), 6, load_vae(MICRO_WEIGHTS), 64, 1.2)
    judge = train_second.train_further(SquareNet(4), squares(20, 5, None)["feet"], feet, redrawn, 20, say=False)
    with torch.no_grad():
        found = judge(feet[0]).argmax(1)
    assert (found == classes).float().mean() > 0.55


def test_the_cost_of_openpose_is_simulated_as_it_is_executed(monkeypatch):
    monkeypatch.setattr(pose_cost, "SIZE", 64)
    simulated = pose_cost.simulate("hand", torch.float32, 8, 6)
    executed = pose_cost.execute("hand", torch.float32, 8, 6, turns=1)
    assert executed["peak_gib"] == pytest.approx(simulated["peak_gib"], rel=0.02)
    assert simulated["operations"] > 1e9 and executed["gradient_finite"] and executed["gradient_norm"] > 0


def test_the_cost_of_a_step_is_that_of_the_training_loop(tmp_path):
    settings = replace(hand_repair.config(), output_dir=str(tmp_path), max_train_steps=2, warmup_steps=0)
    losses = list(hand_costs.loop(load_pipeline("micro"), settings))
    assert len(losses) == 2 and all(np.isfinite(losses))


def test_a_way_with_fewer_prompts_is_paired_with_the_first_ones(tmp_path, monkeypatch):
    records = tmp_path / "hand_repair"
    records.mkdir()
    labels = Path(hand_results.RESULTS / "labels.json").read_text(encoding="utf-8")
    (tmp_path / "labels.json").write_text(labels, encoding="utf-8")
    stored = json.loads((hand_results.RECORDS / "plain-0.json").read_text(encoding="utf-8"))
    for name, count in (("plain", 12), ("longer", 5)):
        (records / f"{name}-0.json").write_text(json.dumps(stored | {"rows": stored["rows"][:count]}))
    monkeypatch.setattr(hand_results, "RESULTS", tmp_path)
    monkeypatch.setattr(hand_results, "RECORDS", records)
    ways = hand_results.write_table({"plain": (0,), "longer": (0,)}, hand_repair.test_scenes(12))["ways"]
    assert (ways["plain"]["prompts"], ways["longer"]["prompts"]) == (12, 5)
    assert all(gain["value"] == 0 for gain in ways["longer"]["against plain"].values())
