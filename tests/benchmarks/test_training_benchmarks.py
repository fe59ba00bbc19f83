"""The benchmarks of the training lesson in miniature: a tiny pipeline, a few steps, rows that are kept."""

import dataclasses
import json
import sys

import pytest

from benchmarks.training import choices as training_choices
from benchmarks.training import long_run
from benchmarks.training import speed as training_speed
from qwenlab.config import config_from_mapping
from tests.tiny import tiny_pipeline


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (long_run, training_choices, training_speed):
        monkeypatch.setattr(module, "load_pipeline", lambda model, precision=None: tiny_pipeline())
    monkeypatch.setattr(training_choices, "LOSS_PICTURES", 2)
    monkeypatch.setattr(long_run, "LOSS_PICTURES", 2)


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_every_variant_is_a_valid_configuration():
    for variants in training_choices.STUDIES.values():
        assert next(iter(variants.values())) == {}, "the first variant is the reference"
        for changes in variants.values():
            config_from_mapping(changes)


def test_training_choices_keep_their_rows_and_share_the_reference(monkeypatch, tmp_path):
    work, out = tmp_path / "work", tmp_path / "out.json"
    studies = {"timesteps": {"shifted": {}, "uniform": {"timestep_sampling": "uniform"}}, "rate": {"4e-3": {}}}
    monkeypatch.setattr(training_choices, "STUDIES", studies)
    arguments = ["--steps", 2, "--prompts", 2, "--seeds", 0, 1, "--work", work, "--out", out]
    call(training_choices, monkeypatch, *arguments, "--studies", "timesteps")
    assert not out.exists()
    rows = sorted(work.glob("*.json"))
    assert len(rows) == 1 + 2 * 2
    before = [path.stat().st_mtime_ns for path in rows]
    call(training_choices, monkeypatch, *arguments)
    assert [path.stat().st_mtime_ns for path in sorted(work.glob("*.json"))] == before, "nothing is trained twice"
    stored = json.loads(out.read_text())
    assert "against" in stored["timesteps"]["uniform"] and "against" not in stored["timesteps"]["shifted"]
    assert stored["rate"]["4e-3"] == stored["timesteps"]["shifted"] and stored["made_with"]


def test_the_rungs_train_alike(monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    call(training_speed, monkeypatch, "--block", 2, "--turns", 1, "--work", tmp_path, "--out", out)
    rungs = json.loads(out.read_text())["rungs"]
    assert {"plain loop with peft", "own LoRA layers", "+ fast forward pass", "qwenlab's loop"} <= rungs.keys()
    for name, row in rungs.items():
        tolerance = 0.05 if "bf16" in name or "bf16" in json.loads(out.read_text())["baseline"] else 1e-4
        assert row["mean_loss_difference"] < tolerance, name


def test_the_long_run_goes_on_in_three_ways_and_is_not_repeated(monkeypatch, tmp_path):
    shrunk = {"STAGES": (2, 4), "EVERY": 2, "CONTINUE_FROM": 2, "CONTINUE_STEPS": 2, "NEW_PICTURES": 2}
    shrunk |= {"PROMPTS": 2, "VARIED": 2, "EACH": 2}
    for name, value in shrunk.items():
        monkeypatch.setattr(long_run, name, value)
    read = long_run.read_config

    def quick(path):
        return dataclasses.replace(read(path), batch_size_per_gpu=1, rank=2, resolution=32, warmup_steps=1)

    monkeypatch.setattr(long_run, "read_config", quick)
    work, out = tmp_path / "work", tmp_path / "out.json"
    call(long_run, monkeypatch, "--seeds", 0, "--work", work, "--out", out)
    stored = json.loads(out.read_text())
    assert stored["stages"].keys() == {"2", "4"} and len(stored["go_on"]) == 3
    assert set(stored["stages"]["2"]["loss"]) == {"validation", "training", "renderings"}
    assert [len(run["validation"]) for run in stored["runs"]] == [3]
    monkeypatch.setattr(long_run, "train_lora", lambda *args, **kwargs: pytest.fail("trained again"))
    call(long_run, monkeypatch, "--seeds", 0, "--work", work, "--out", out)
