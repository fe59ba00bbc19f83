"""Rendered pairs before and after an edit: exact, told in words of captions, with combinations held out."""

from collections import Counter

import numpy as np
import pytest

from qwenlab.config import read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.lab import world
from qwenlab.lab.editing.pairs import (
    ATTRIBUTES,
    Edit,
    held_out_edits,
    is_held_out,
    loss_mask,
    sample_variants,
    training_edits,
    write_pairs,
)
from qwenlab.lab.editing.scores import psnr, score_edits, untouched
from qwenlab.lab.judge import load_judge
from qwenlab.lab.localisation import region
from qwenlab.training.training_set import View, token_weights

STYLES = world.ATTRIBUTES["style"]


def differing(before, after):
    return [name for name in vars(before) if getattr(before, name) != getattr(after, name)]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_each_value_is_held_out_in_one_style_and_trained_in_the_others(attribute):
    for value in filter(None, world.ATTRIBUTES[attribute]):
        assert sum(is_held_out(attribute, value, style) for style in STYLES) == 1
    held = Counter(
        style for style in STYLES for v in world.ATTRIBUTES[attribute] if v and is_held_out(attribute, v, style)
    )
    assert attribute == "feet" or len(held) >= 3, "not one style alone"


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_pairs_differ_in_one_attribute_and_say_it_in_words_of_the_caption(attribute):
    rng = np.random.default_rng(1)
    for _ in range(20):
        scenes = sample_variants(rng, attribute)
        assert not any(map(world.is_held_out, scenes)), "nothing that the base has not seen"
        for i, j, edit in training_edits(scenes, attribute):
            assert (edit.source, edit.target) == (scenes[i], scenes[j]) and i != j
            assert differing(edit.source, edit.target) == [attribute]
            assert edit.instruction in world.caption(edit.target)
            assert edit.instruction not in world.caption(edit.source)
            assert not is_held_out(attribute, getattr(edit.target, attribute), edit.target.style)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_edits_to_judge_are_new_combinations(attribute):
    edits = held_out_edits(attribute, 12)
    assert edits == held_out_edits(attribute, 12) != held_out_edits(attribute, 12, seed=1)
    assert all(is_held_out(attribute, getattr(edit.target, attribute), edit.target.style) for edit in edits)
    assert len({edit.source.seed for edit in edits}) == 12
    assert len({getattr(edit.target, attribute) for edit in edits}) > 1


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_true_edit_changes_what_belongs_to_the_attribute(attribute):
    for edit in held_out_edits(attribute, 3):
        changed = ~untouched(edit)
        assert changed.any() and not changed.all()
        thing = region(edit.source, attribute)
        assert (changed & thing).sum() > 0.6 * thing.sum(), "the thing itself"


def test_a_data_set_of_pairs_is_read_as_it_was_written(tmp_path):
    count = write_pairs(tmp_path / "a", 14, seed=2, size=32)
    assert write_pairs(tmp_path / "b", 14, seed=2, size=32) == count
    assert (tmp_path / "a" / "captions.jsonl").read_bytes() == (tmp_path / "b" / "captions.jsonl").read_bytes()
    dataset = read_dataset(tmp_path / "a")
    assert len(dataset) == count >= 20 and all(len(sample.references) == 1 for sample in dataset.samples)
    used = {path for sample in dataset.samples for path in (sample.path, *sample.references)}
    assert used == set((tmp_path / "a" / "images").iterdir()), "no picture is drawn in vain"
    assert f"{count} of {count} captions have references" in dataset.warnings[0] and len(dataset.warnings) == 1


def test_what_an_edit_changes_counts_more_in_the_loss(tmp_path):
    answer, other = np.zeros((128, 128, 3), np.uint8), np.zeros((128, 128, 3), np.uint8)
    other[20, 40], other[100:128, 100:128] = 255, 255  # a pixel in one token, and the last four tokens
    grey = np.asarray(loss_mask(answer, [other]))
    tokens = grey[::16, ::16]
    assert (grey == tokens.repeat(16, 0).repeat(16, 1)).all(), "whole tokens"
    assert tokens[1, 2] == 255 and (tokens[6:, 6:] == 255).all() and (tokens == 255).sum() == 5
    assert tokens.min() == pytest.approx(255 / (1 + np.log2(64 / 5)), abs=1)
    assert (np.asarray(loss_mask(answer, [answer])) < 255).all() and (
        np.asarray(loss_mask(~answer, [answer])) == 255
    ).all()

    write_pairs(tmp_path, 14, seed=2)
    config = read_config("configs/micro_edit.yaml")
    assert config.unmasked_weight == 0, "the grey of the masks counts as it is"
    for image in sorted((tmp_path / "images").iterdir()):
        view = View(tmp_path / "masks" / image.name, (128, 128), crop=False, mirrored=False)
        weights = token_weights(view, (128, 128), config.unmasked_weight)
        assert weights.mean() == pytest.approx(1) and weights.min() > 0, image.name


def test_scores_know_the_true_edit_from_none():
    edits = held_out_edits("hair_color", 8)
    truths = [world.render(edit.target).image for edit in edits]
    sources = [world.render(edit.source).image for edit in edits]
    judge = load_judge()
    done, undone = score_edits(judge, edits, truths), score_edits(judge, edits, sources)
    assert np.mean([score.success for score in done]) >= 0.8 and not any(score.success for score in undone)
    assert all(score.truth == 100 and score.others_kept == 1 for score in done)
    assert all(score.outside == 100 and score.truth < 40 for score in undone)
    assert all(score.outside > 35 for score in done), "what is called untouched is"
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert psnr(black, white) == 0 and psnr(black, white, np.zeros((4, 4), bool) | (np.arange(4) < 2)) == 0


def test_an_instruction_names_the_whole_thing():
    scene = world.sample_scene(np.random.default_rng(0), hair_color="黑色", hair_style="短发", gender="女孩")
    target = world.Scene(**vars(scene) | {"hair_color": "红色"})
    assert Edit(scene, target, "hair_color").instruction == "红色短发"
