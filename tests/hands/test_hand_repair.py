"""Close-ups, the detector, the score, detect-and-inpaint, and the diagnosis in two legs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.config import config_from_mapping
from qwenlab.data.dataset import Dataset, Sample, read_dataset
from qwenlab.data.keypoints import read_keypoints
from qwenlab.data.regions import Region, feet_region, hand_region
from qwenlab.errors import QwenlabError
from qwenlab.hands import hand_options
from qwenlab.hands.captions import article_augmentation, article_rule, close_up_caption, shows_bare_feet, shows_hands
from qwenlab.hands.close_ups import write_close_ups
from qwenlab.hands.diagnosis import draw_in_two_legs, redraw_from
from qwenlab.hands.finder import Finder, find_regions, load_finder
from qwenlab.hands.pose_net import load_pose_net
from qwenlab.hands.repairing import draw_until_well_formed, repair
from qwenlab.hands.squares import CONTEXT, above_the_edge, cut, inner_mask, joints_in_square, put_back
from qwenlab.lab import world
from qwenlab.lab.hands.score import PoseScore
from qwenlab.lab.hands.train_finder import detection_loss, detection_rates, examples, mirrored
from qwenlab.lab.hands.train_finder import train as train_finder
from qwenlab.lab.world.keypoints import of_picture
from qwenlab.lab.world.sample import write_scenes
from qwenlab.model.generation import generate
from qwenlab.training import train_lora
from qwenlab.training.batches import picture_at
from qwenlab.training.training_set import encode_dataset

OPEN = {"hands": "五指张开", "framing": "全身", "action": "举起双手", "view": "正面"}


def scene(number: int = 0, **fixed) -> world.Scene:
    return world.sample_character_scene(np.random.default_rng(number), **(OPEN | fixed))


@pytest.fixture
def drawn(tmp_path):
    """Three drawings of 128 x 128 with two open hands and two feet each."""
    folder = tmp_path / "drawn"
    write_scenes(folder, [scene(k) for k in range(3)], 128)
    return folder


@pytest.mark.parametrize(
    ("caption", "article", "shown"),
    [
        ("1女孩, 歌手, 舞台", True, False),
        ("1女孩, 拿手机, 背景:街道", True, False),
        ("1女孩, 蓝色水手服, 站立", True, False),
        ("1女孩, 挥手, 细节:全身正面, 连指手套", True, False),
        ("1女孩, 背着手, 细节:全身正面, 长袖遮手", True, False),
        ("1女孩, 手插口袋, 站立", True, False),
        ("1男孩, 跑步, 背景:森林", False, False),
        ("1女孩, 张开双臂, 细节:全身正面, 五指张开", False, True),
        ("1女孩, 挥手, 细节:半身正面, 五指张开", True, True),
        ("1女孩, 弹钢琴, 细节:手指修长", True, True),
    ],
)
def test_keywords_are_not_hands(caption, article, shown):
    assert article_rule(caption) == article
    assert shows_hands(caption) == shown


def test_the_articles_augmentation_copies_captions_and_no_pixels(tmp_path):
    samples = tuple(Sample(tmp_path / f"{k}.png", text, k) for k, text in enumerate(["1女孩, 挥手", "1女孩, 跑步"]))
    grown = article_augmentation(Dataset(tmp_path, samples), factor=2)
    assert [sample.path.name for sample in grown.samples] == ["0.png", "1.png", "0.png", "0.png"]
    assert grown.samples[2].text.endswith("五指分明") and samples[0].text == "1女孩, 挥手"


def test_a_close_up_says_what_it_shows():
    text = "1女孩, 橙色狐耳卷发, 挥手, 背景:花园, 风格:剪纸画, 细节:全身正面, 五指张开, 光脚"
    assert close_up_caption(text, "hand") == "1女孩, 手部特写, 五指张开, 背景:花园, 风格:剪纸画"
    assert close_up_caption(text, "feet") == "1女孩, 足部特写, 光脚, 背景:花园, 风格:剪纸画"
    assert close_up_caption("1女孩, 长发", "feet") == "1女孩, 足部特写, 穿鞋"


@pytest.mark.parametrize("number", range(6))
def test_hands_are_turned_until_fingers_point_up_and_the_thumb_is_left(number):
    picture = world.render(scene(number, action=("举起双手", "站立", "张开双臂")[number % 3]), 256)
    joints = of_picture(picture)
    shown = [which for which in (0, 1) if picture.hand_info[which].state == "open"]
    assert shown
    for which in shown:
        upright = joints_in_square(joints, hand_region(picture.hands[which]), 128).hands[which, :, :2]
        wrist, thumb, middle, little = upright[[0, 4, 12, 20]]
        assert middle[1] < wrist[1] - 30 and abs(middle[0] - wrist[0]) < 15, "fingers up"
        assert thumb[0] < little[0], "thumb on the left"
        assert (upright > 15).all() and (upright < 113).all(), "the whole hand, with room around it"


def test_what_is_cut_lies_where_the_joints_say():
    image = Image.new("RGB", (300, 200))
    place = (180, 90)
    image.paste((255, 255, 255), (place[0] - 2, place[1] - 2, place[0] + 3, place[1] + 3))
    joints = of_picture(world.render(scene(), 128))
    joints.hands[0, 0] = [place[0] + 0.5, place[1] + 0.5, 1]
    for region in (Region("hand", 170, 95, 60, 40.0), Region("hand", 175, 80, 50, -120.0, True)):
        square = np.asarray(cut(image, region, 128)).astype(float).sum(-1)
        rows, columns = np.indices(square.shape)
        center = [(columns * square).sum() / square.sum() + 0.5, (rows * square).sum() / square.sum() + 0.5]
        assert joints_in_square(joints, region, 128).hands[0, 0, :2] == pytest.approx(center, abs=1.0)


@pytest.mark.parametrize(("angle", "flip"), [(0.0, False), (35.0, True), (-140.0, False)])
def test_a_square_goes_back_where_it_was_cut(angle, flip):
    image = Image.fromarray(world.render(scene(), 256).image)
    region = Region("hand", 128, 120, 60, angle, flip)
    again = put_back(image, cut(image, region, 128), region)
    change = np.abs(np.asarray(again).astype(int) - np.asarray(image)).max(-1)
    assert change.mean() < 1.5 and again.size == image.size
    red = np.asarray(put_back(image, Image.new("RGB", (128, 128), "red"), region))
    inside = red[118:123, 126:131]
    assert (inside == [255, 0, 0]).all() and np.array_equal(red[:40], np.asarray(image)[:40])
    share = (np.asarray(inner_mask(128, "hand")) == 255).mean()
    assert share == pytest.approx(1 / 1.5**2, abs=0.02)


@pytest.mark.parametrize("x, y, side", [(128, 120, 90), (128, 120, 20), (0, 0, 60), (250, 128, 200), (-900, 30, 40)])
def test_a_square_is_as_fine_as_one_cut_with_more_pixels_and_made_smaller(x, y, side):
    image = Image.fromarray(world.render(scene(0), 256).image)
    region = Region("hand", x, y, side, angle=25.0)
    expected = cut(image, region, 4 * 64).resize((64, 64), Image.Resampling.LANCZOS)
    far = np.abs(np.asarray(cut(image, region, 64)).astype(int) - np.asarray(expected))
    assert far.mean() < 1 and np.percentile(far, 99) < 16
    assert np.asarray(expected).std() > 10 or x < 0, "beyond the picture its edge is repeated"


def test_feet_have_room_for_a_third():
    picture = world.render(scene(), 128, world.Anatomy(feet="third"))
    region = feet_region(picture.feet)
    left, top, right, bottom = region.box()
    assert (picture.feet[..., 0] > left).all() and (picture.feet[..., 0] < right).all()
    assert (picture.feet[..., 1] > top).all() and (picture.feet[..., 1] < bottom).all()


def test_close_ups_are_cut_with_captions_and_joints(drawn, tmp_path):
    cuts = write_close_ups(read_dataset(drawn), tmp_path / "cuts", 64)
    assert len(cuts) == 3 * (2 * 12 + 8)
    assert len(write_close_ups(read_dataset(drawn), tmp_path / "feet", 64, ["feet"])) == 3 * 8
    texts = {sample.text for sample in cuts.samples}
    assert any("手部特写, 五指张开" in text for text in texts) and all("特写" in text for text in texts)
    keypoints = read_keypoints(tmp_path / "cuts")
    for sample in cuts.samples:
        with Image.open(sample.path) as image:
            assert image.size == (64, 64)
        whole = [group for group in keypoints[sample.path.name].hands if (group[:, 2] > 0).all()]
        assert whole or "feet" in sample.path.name


def test_bare_feet_can_be_asked_for_alone(drawn, tmp_path):
    rows = [json.loads(line) for line in (drawn / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    for k, row in enumerate(rows):
        row["text"] = row["text"].replace("光脚", "穿鞋") if k else row["text"].replace("穿鞋", "赤足")
    (drawn / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert shows_bare_feet(rows[0]["text"]) and not shows_bare_feet(rows[1]["text"])
    cuts = write_close_ups(read_dataset(drawn), tmp_path / "cuts", 64, ["bare_feet"])
    assert len(cuts) == 8 and all("光脚" in sample.text for sample in cuts.samples)


def test_squares_of_feet_end_with_the_picture():
    low = above_the_edge(Region("feet", 60, 120, 40), 128)
    assert low.y + low.side * CONTEXT["feet"] / 2 == 128 and above_the_edge(low, 128) == low
    hand = Region("hand", 60, 120, 40)
    assert above_the_edge(hand, 128) == hand


def test_close_ups_need_keypoints_and_hands(drawn, tmp_path):
    rows = (drawn / "keypoints.jsonl").read_text(encoding="utf-8").splitlines()
    hidden = []
    for row in map(json.loads, rows):
        for name in ("hands", "feet"):
            row[name] = (np.array(row[name]) * [1, 1, 0]).tolist()
        hidden.append(json.dumps(row))
    (drawn / "keypoints.jsonl").write_text("\n".join(hidden), encoding="utf-8")
    with pytest.raises(QwenlabError, match="no picture of .* shows what close_ups asks for: hand, feet"):
        write_close_ups(read_dataset(drawn), tmp_path / "a", 64)
    (drawn / "keypoints.jsonl").write_text(rows[0], encoding="utf-8")
    with pytest.raises(QwenlabError, match="no line for img_002.jpg"):
        write_close_ups(read_dataset(drawn), tmp_path / "b", 64)
    with pytest.raises(QwenlabError, match="hand_share"):
        config_from_mapping({"hand_share": 0.0})
    with pytest.raises(QwenlabError, match="close_ups: 'hands'.*'hand'"):
        config_from_mapping({"close_ups": ["hands"]})


def settings(folder, out, **changes):
    values = {
        "dataset": str(folder), "output_dir": str(out), "resolution": 32, "max_train_steps": 2, "rank": 2,
        "batch_size_per_gpu": 4, "augment_hands": True,
    }  # fmt: skip
    return config_from_mapping(values | changes)


def test_training_sees_close_ups_as_often_as_it_is_told(drawn, pipeline, tmp_path, monkeypatch):
    from qwenlab.training import batches

    seen = []
    monkeypatch.setattr(batches, "picture_at", lambda *given: seen.append(picture_at(*given)) or seen[-1])
    config = settings(drawn, tmp_path / "run", hand_share=0.75, use_structural_loss=True)
    result = train_lora(pipeline, config, progress=False, **hand_options(pipeline, config))
    assert len(seen) == 8 and all(np.isfinite(result.losses))
    assert [len(source) for source, _ in seen].count(3) == 2, "a quarter are the three pictures themselves"
    assert len(list((tmp_path / "run" / "close_ups" / "images").iterdir())) == 3 * (2 * 12 + 8)


def test_both_sets_keep_their_own_epochs(drawn, pipeline, tmp_path):
    import dataclasses

    plain = encode_dataset(pipeline, read_dataset(drawn), settings(drawn, tmp_path, augment_hands=False))
    both = dataclasses.replace(plain, close_ups=dataclasses.replace(plain), hand_share=0.4)
    visits = [picture_at(both, 0, visit) for visit in range(15)]
    cuts = [index for source, index in visits if source is both.close_ups]
    assert len(cuts) == 6 and sorted(cuts[:3]) == [0, 1, 2] == sorted(cuts[3:])
    for count in range(1, 15):
        assert abs(sum(s is both.close_ups for s, _ in visits[:count]) - 0.4 * count) < 1


def test_the_shipped_detector_finds_hands_right_and_wrong():
    rates = detection_rates(load_finder(), seed=88, count=80)
    assert min(rates.values()) > 0.93, rates


def test_the_detector_keeps_the_pictures_own_pixels():
    picture = world.render(scene(3), 256)
    (found,) = find_regions(load_finder(), [Image.fromarray(picture.image)])
    true = [hand_region(joints) for joints in picture.hands]
    for region in true:
        near = min(found, key=lambda f: np.hypot(f.x - region.x, f.y - region.y))
        assert np.hypot(near.x - region.x, near.y - region.y) < 0.15 * region.side
        assert near.side == pytest.approx(region.side, rel=0.25) and near.mirrored == region.mirrored
    with pytest.raises(QwenlabError, match="train_finder"):
        from pathlib import Path

        load_finder(Path("/nowhere/finder.safetensors"))


def test_mirrored_examples_are_those_of_mirrored_hands():
    pictures, maps, regions = examples(np.random.default_rng(5), 6)
    seen, turned = mirrored(pictures, maps)
    for k, found in enumerate(regions):
        for region in found:
            if region.kind != "hand":
                continue
            other = region.in_mirror(128)
            row, column = int(region.y / 4), 31 - min(int(region.x / 4), 31)
            angle = np.deg2rad(other.angle)
            expected = [np.cos(angle), np.sin(angle), 1.0 if other.mirrored else -1.0]
            assert turned[k, -3:, row, column].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(seen.flip(3), pictures)


def test_training_the_detector_lowers_its_loss(monkeypatch):
    from qwenlab.lab.hands import train_finder as module

    monkeypatch.setattr(module, "examples", lambda rng, count: examples(rng, 24))
    trained = train_finder(30, 8, 24, None, say=False)
    pictures, maps, _ = examples(np.random.default_rng(module.SEED), 24)
    with torch.no_grad():
        assert detection_loss(trained(pictures), maps) < 0.5 * detection_loss(Finder()(pictures), maps)


def test_the_score_prefers_five_fingers_to_a_smear():
    score = PoseScore(load_pose_net())
    right, wrong = [], []
    for number in range(6):
        for marks, fingers in ((right, 5), (wrong, "smear")):
            picture = world.render(scene(number), 128, world.Anatomy((fingers, fingers)))
            regions = [hand_region(joints) for joints in picture.hands]
            marks += score.of_pictures([Image.fromarray(picture.image)], [[*regions, feet_region(picture.feet)]])
    assert len(right) == 12, "feet are passed over"
    assert min(right) > 0.5 and np.mean(right) > np.mean(wrong) + 0.2
    assert score.of_pictures([], []) == []


def test_repair_changes_the_squares_alone(pipeline):
    images = [Image.fromarray(world.render(scene(k), 64).image) for k in range(3)]
    regions = [[Region("hand", 16, 16, 12, 30.0)], [], [Region("hand", 40, 16, 12), Region("feet", 30, 50, 14)]]
    prompts = [world.caption(scene(k)) for k in range(3)]
    fixed = repair(pipeline, images, prompts, [1, 2, 3], regions, steps=4)
    assert np.array_equal(fixed[1], images[1])
    for k in (0, 2):
        changed = np.abs(np.asarray(fixed[k]).astype(int) - np.asarray(images[k])).max(-1) > 0
        rows, columns = np.nonzero(changed)
        assert changed.any() and all(
            any(max(abs(x - r.x), abs(y - r.y)) < 1.1 * r.side for r in regions[k])
            for x, y in zip(columns, rows, strict=True)
        )
    alone = repair(pipeline, images[:1], prompts[:1], [1], regions[:1], steps=4)
    assert np.abs(np.asarray(alone[0]).astype(int) - np.asarray(fixed[0])).max() <= 1, "neighbours do not matter"


def test_of_several_tries_the_best_is_kept(pipeline):
    image, prompt, regions = Image.new("RGB", (64, 64), "white"), world.caption(scene()), [[Region("hand", 32, 32, 20)]]

    def darkness(squares, regions):
        return np.array([-np.asarray(square).mean() for square in squares])

    def drawn(sign, tries):
        found = repair(
            pipeline, [image], [prompt], [0], regions, steps=4, tries=tries,
            score=lambda *given: sign * darkness(*given),
        )  # fmt: skip
        return np.asarray(found[0]).mean()

    assert drawn(1, 4) < drawn(-1, 4)
    kept = repair(pipeline, [image], [prompt], [0], regions, steps=4, score=lambda squares, here: np.ones(len(here)))
    assert np.array_equal(kept[0], image), "what is good enough stays"
    with pytest.raises(ValueError, match="tries"):
        repair(pipeline, [image], [prompt], [0], regions, tries=2)


def test_only_what_is_not_good_enough_is_drawn_again(pipeline):
    seen = []

    def marks(images):
        seen.append(len(images))
        return [-np.asarray(image).mean() for image in images]

    prompts, seeds = ["1女孩, 挥手", "1女孩, 站立"], [1, 2]
    settings = {"steps": 3, "guidance": 1.0}
    first = [-np.asarray(image).mean() for image in generate(pipeline, prompts, seeds, **settings)]
    enough = (min(first) + max(first)) / 2  # one of the two will do
    draw_until_well_formed(pipeline, prompts, seeds, marks, tries=3, enough=enough, **settings)
    assert seen[0] == 2 and seen[1] == 1
    best = draw_until_well_formed(pipeline, prompts, seeds, marks, tries=3, enough=0.0, **settings)
    assert all(-np.asarray(image).mean() >= mark for image, mark in zip(best, first, strict=True))
    once = draw_until_well_formed(pipeline, prompts, seeds, marks, tries=3, enough=-256.0, **settings)
    assert [-np.asarray(image).mean() for image in once] == first, "good enough at once: the seeds as they are"


def test_two_legs_under_one_prompt_are_one_walk(pipeline):
    prompts = ["1女孩, 挥手, 五指张开", "1女孩, 站立"]
    whole = generate(pipeline, prompts, [5, 6], steps=6, guidance=2.5)
    sigmas, called = pipeline.scheduler.sigmas.tolist(), []
    for switch in (0, 2, 6):
        drawn, sigma = draw_in_two_legs(
            pipeline, prompts, prompts, [5, 6], switch, steps=6, guidance=2.5, between=lambda: called.append(1)
        )
        for a, b in zip(drawn, whole, strict=True):
            assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1
        assert sigma == pytest.approx(sigmas[switch], abs=1e-6)
    assert len(called) == 3


def test_the_second_leg_follows_the_second_prompt(pipeline):
    first, second = ["1女孩, 挥手"], ["1男孩, 夜空, 坐着"]
    only_second = generate(pipeline, second, [5], steps=6, guidance=2.5)[0]
    drawn, _ = draw_in_two_legs(pipeline, first, second, [5], 0, steps=6, guidance=2.5)
    assert np.abs(np.asarray(drawn[0]).astype(int) - np.asarray(only_second)).max() <= 1
    mixed, _ = draw_in_two_legs(pipeline, first, second, [5], 3, steps=6, guidance=2.5)
    assert np.abs(np.asarray(mixed[0]).astype(int) - np.asarray(only_second)).max() > 1


def test_redrawing_starts_at_the_sigma_it_says(pipeline):
    images = [Image.fromarray(world.render(scene(k), 32).image) for k in range(2)]
    prompts = ["1女孩, 挥手", "1女孩, 站立"]
    little, low = redraw_from(pipeline, images, prompts, [1, 2], 0.2, steps=10)
    much, high = redraw_from(pipeline, images, prompts, [1, 2], 0.9, steps=10)
    assert 0 < low < high < 1 and len(little) == len(much) == 2


def test_the_latent_critic_learns_and_its_loss_has_a_gradient(drawn, pipeline, tmp_path):
    from qwenlab.lab.hands.latent_critic import CriticLoss, critic_examples, train_critic
    from tests.hands.test_hands import loss_of

    crops, right = critic_examples(pipeline, 24)
    assert crops.shape[1:] == (16, 6, 6) and 0 < right.mean() < 1
    crops[:, :4] += 2 * right[:, None, None, None]  # the tiny VAE's latents say nothing of hands
    critic = train_critic((crops, right), steps=60, batch=16, say=False)
    assert ((critic(crops) > 0) == (right > 0.5)).float().mean() > 0.8
    batch, _ = loss_of(pipeline, drawn, tmp_path / "run", resolution=128)
    prediction = batch.target.clone().requires_grad_()
    CriticLoss(critic, weight=1.0, max_sigma=1.0)(batch, prediction).backward()
    touched = prediction.grad.abs().sum(-1) > 0
    assert touched.any() and not touched.all() and torch.isfinite(prediction.grad).all()
    assert CriticLoss(critic, max_sigma=0.0)(batch, prediction).item() == 0


def test_a_loss_of_ones_own_takes_the_place_of_the_structure_loss(drawn, pipeline, tmp_path):
    from qwenlab.lora.io import remove_lora

    asked = []
    config = settings(drawn, tmp_path / "run", augment_hands=False)
    own = train_lora(
        pipeline, config, progress=False,
        extra=lambda step: asked.append(step) or (lambda batch, prediction: prediction.square().mean()),
    )  # fmt: skip
    remove_lora(pipeline)
    plain = train_lora(pipeline, settings(drawn, tmp_path / "plain", augment_hands=False), progress=False)
    assert asked == [1, 2] and own.losses[0] > plain.losses[0]
