"""The benchmark of data set sizes: which pictures a run sees, what is counted, and that finished runs are kept."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.data import size as dataset_size
from benchmarks.data.size import SIZES, Bench, chosen, more_scenes, paired_difference, summary
from qwenlab.config import read_config
from qwenlab.data.dataset import Dataset, Sample
from qwenlab.files import REPOSITORY
from qwenlab.lab import world
from qwenlab.lab.world.sample import character_test_scenes, is_reserved, sample_scenes
from tests.tiny import tiny_pipeline


def data_set(prefix, count):
    return Dataset(Path("x"), tuple(Sample(Path(f"{prefix}{i}.jpg"), f"1女孩, {i}", i) for i in range(count)))


def test_further_scenes_are_new_and_keep_to_the_pairs_of_training():
    known, more = {world.caption(scene) for scene in sample_scenes()}, more_scenes(60)
    captions = {world.caption(scene) for scene in more}
    assert len(captions) == len(more) == 60 and not captions & known
    assert not any(is_reserved(scene.action, scene.background) for scene in more)
    prompts = character_test_scenes(128, dataset_size.PROMPT_SEED)
    assert all(is_reserved(scene.action, scene.background) for scene in prompts)


def test_seeds_choose_pictures_and_larger_sets_hold_the_sample():
    sample, more = data_set("a", 60), data_set("b", 60)
    for count in SIZES:
        picked = chosen(sample, more, count, seed=1).samples
        assert len(set(picked)) == count and chosen(sample, more, count, seed=1).samples == picked
    assert chosen(sample, more, 15, seed=1).samples != chosen(sample, more, 15, seed=2).samples
    assert chosen(sample, more, 60, seed=2).samples == sample.samples
    assert chosen(sample, more, 120, seed=2).samples == sample.samples + more.samples


def test_differences_are_paired():
    found = paired_difference([0.9, 0.8, 0.7], [0.8, 0.7, 0.6])
    assert found == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    wide = paired_difference([0.9, 0.7, 0.8], [0.6, 0.7, 0.8])  # mean 0.1, standard error 0.1, t(2) = 4.303
    assert wide == pytest.approx({"value": 0.1, "low": -0.3303, "high": 0.5303}, abs=1e-4)


def test_summary_pools_the_pictures_of_all_runs():
    runs = [
        {"identity": 3, "action": 4, "background": 0, "total": 4, "held_out_loss": 0.5},
        {"identity": 1, "action": 4, "background": 0, "total": 4, "held_out_loss": 0.3},
    ]
    result = summary(runs)
    assert result["identity"]["value"] == 0.5 and result["identity"]["runs"] == [0.75, 0.25]
    assert result["identity"]["total"] == 8 and result["action"]["value"] == 1 and result["background"]["value"] == 0
    assert result["held_out_loss"] == {"value": 0.4, "runs": [0.5, 0.3]} and "train_loss" not in result


def test_finished_runs_are_read_and_other_settings_are_not(tmp_path, monkeypatch):
    """A miniature of the whole: a tiny pipeline, two steps, two prompts, three sizes."""
    monkeypatch.setattr(dataset_size, "load_pipeline", lambda model: tiny_pipeline())
    monkeypatch.setattr(dataset_size, "SIZES", (15, 60, 61))
    monkeypatch.setattr(dataset_size, "LOSS_PICTURES", 2)
    monkeypatch.setattr(dataset_size, "SAMPLER_STEPS", 2)
    work, out = tmp_path / "work", tmp_path / "out.json"

    def run(prompts):
        arguments = ["--steps", "2", "--seeds", "0", "1", "--count", prompts, "--work", str(work), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["dataset_size.py", *arguments])
        dataset_size.main()
        return set(work.glob("*.json"))

    rows = run("2")
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 1 + 3 * 2 and stored["sizes"].keys() == {"15", "60", "61"} and stored["made_with"]
    assert "against_60" in stored["sizes"]["15"] and "against_60" not in stored["sizes"]["60"]
    next(path for path in rows if path.name.startswith("15-1-")).unlink()
    trained = []
    monkeypatch.setattr(dataset_size, "train_lora", _watched(dataset_size.train_lora, trained))
    assert run("2") == rows and trained == [15]
    config = replace(read_config(REPOSITORY / "configs" / "micro_lora.yaml"), max_train_steps=2, warmup_steps=0)
    keys = [Bench("micro", config, prompts, work).key for prompts in (2, 3)]
    assert all(path.stem.endswith(keys[0]) for path in rows) and keys[0] != keys[1]


def _watched(function, calls):
    def wrapper(*args, **kwargs):
        calls.append(len(kwargs["dataset"]))
        return function(*args, **kwargs)

    return wrapper
