"""The comparison of caption forms, on readings whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from qwenlab.captions import lint
from qwenlab.lab import world
from qwenlab.lab.caption_effects import FORMS, effects, estimate
from qwenlab.lab.judge import Reading, wanted

SCENES = [world.sample_scene(np.random.default_rng(seed), split="test") for seed in range(12)]


def perfect(scene):
    """A reading of exactly what the scene asks for."""
    return Reading(wanted(scene), {}, (), "2", 1.0, 0.0, False)


def recoloured(scene, colour):
    reading = perfect(scene)
    return replace(reading, attributes=reading.attributes | {"hair_color": colour})


def test_forms_say_the_same_or_nothing():
    for scene in SCENES:
        texts = {form: write(scene) for form, write in FORMS.items()}
        assert len(set(texts.values())) == len(FORMS)
        assert texts["template"] == f"1{texts['no number']}" and texts["number 2"] == f"2{texts['no number']}"
        for value in filter(None, wanted(scene).values()):
            assert value in texts["prose"]
        assert scene.hair_color not in texts["vague hair"].split(", ")[1] and scene.clothes in texts["vague hair"]
        facts = set(wanted(scene).values()) - {"", scene.gender}
        assert not any(value in texts["vague"] for value in facts)


def test_the_linter_knows_which_form_is_which():
    found = {form: {f.rule for scene in SCENES for f in lint(write(scene))} for form, write in FORMS.items()}
    assert found["template"] == found["number 2"] == set()
    assert found["no number"] == {"missing-anchor"} and "missing-anchor" in found["prose"]
    assert found["vague hair"] == {"vague-word"} and "vague-word" in found["vague"]


def test_a_perfect_reading_scores_one_and_pairs_agree():
    readings = [perfect(scene) for scene in SCENES for _ in range(3)]
    (row,) = effects({"template": readings}, SCENES).values()
    assert row["right"]["value"] == row["identity"]["value"] == row["stability"]["value"] == 1
    assert row["chance"] < 0.6 and row["stability_chance"] < 0.1
    assert row["attributes"]["feet"]["total"] == 3 * sum(scene.framing == "全身" for scene in SCENES)
    assert all(rate["value"] == 1 for rate in row["attributes"].values())


def test_a_wrong_attribute_costs_its_share_and_the_difference_is_paired():
    good = [perfect(scene) for scene in SCENES for _ in range(2)]
    other = ["橙色" if k % 2 else scene.hair_color for scene in SCENES for k in range(2)]
    bad = [recoloured(scene, colour) for scene, colour in zip(np.repeat(SCENES, 2), other, strict=True)]
    rows = effects({"good": good, "bad": bad}, SCENES)
    assert rows["bad"]["identity"]["value"] == 0.5 and rows["bad"]["stability"]["value"] == 0
    lost = np.mean([1 / len(wanted(scene)) for scene in SCENES]) / 2
    assert rows["bad"]["right"]["value"] == pytest.approx(1 - lost)
    difference = rows["bad"]["minus_first"]["right"]
    assert difference["value"] == pytest.approx(-lost) and difference["high"] < 0
    assert "minus_first" not in rows["good"]


def test_one_picture_a_scene_has_no_stability():
    (row,) = effects({"template": [perfect(scene) for scene in SCENES]}, SCENES).values()
    assert "stability" not in row and "stability_chance" not in row


def test_chance_of_stability_counts_pairs_of_different_scenes():
    one, two = SCENES[0], SCENES[0]  # two scenes with the same child: other pictures agree always
    (row,) = effects({"a": [perfect(one), perfect(one), perfect(two), perfect(two)]}, [one, two]).values()
    assert row["stability_chance"] == 1
    other = replace(one, hair_color=next(c for c in world.ATTRIBUTES["hair_color"] if c != one.hair_color))
    (row,) = effects({"a": [perfect(one), perfect(one), perfect(other), perfect(other)]}, [one, other]).values()
    assert row["stability_chance"] == 0


def test_the_interval_covers_the_mean_of_the_scenes():
    rng = np.random.default_rng(0)
    covered = [(e := estimate(rng.random(40) < 0.7)).low <= 0.7 <= e.high for _ in range(200)]
    assert 0.88 <= np.mean(covered) <= 1
    assert estimate([0.5] * 5).low == estimate([0.5] * 5).high == 0.5


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no multiple"):
        effects({"template": [perfect(SCENES[0])] * 5}, SCENES[:2])
    with pytest.raises(ValueError, match="one value a scene"):
        estimate([])
