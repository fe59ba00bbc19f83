"""A training run that is killed, stopped or interrupted goes on to the very same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from qwenlab.config import TrainConfig
from qwenlab.errors import QwenlabError
from qwenlab.training import train_lora
from qwenlab.training.run import STATE_FILE
from tests.tiny import SIZE, tiny_pipeline
from tests.training.resuming import Crash, crash_and_resume, crash_at, same_bits

# A process that stays clean and warm forks the runs, so that ten of them start in no time.
PROGRAM = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from qwenlab.config import read_config
from qwenlab.training import train_lora
from qwenlab.training.run import STATE_FILE
from tests.tiny import tiny_pipeline

config, kills = read_config(sys.argv[1]), int(sys.argv[2])
state, generator, saving = Path(config.output_dir) / STATE_FILE, random.Random(5), 0
changed = lambda: state.stat().st_mtime_ns if state.exists() else 0
for kill in range(kills + 1):
    before, child = changed(), os.fork()
    if not child:
        keep = lambda step, loss: step == 250 and shutil.copy(state, state.with_name("last-state.safetensors"))
        train_lora(tiny_pipeline(), config, progress=False, resume=state.exists(), on_step=keep)
        os._exit(0)
    if kill < kills:
        while changed() == before:  # at least one step, so that the run gets on
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.2))
        if kill % 2:  # while a file is being written
            while not list(Path(config.output_dir).glob(".*.tmp")):
                pass
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status == (signal.SIGKILL if kill < kills else 0), status
    saving += bool(list(Path(config.output_dir).glob(".*.tmp")))
print(json.dumps(saving))
"""


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=6,
        batch_size_per_gpu=2, warmup_steps=2, learning_rate=1e-2, rank=4, dropout=0.2, save_every_n_steps=2, seed=3,
    )  # fmt: skip


def train(config, **options):
    return train_lora(tiny_pipeline(), config, progress=False, **options)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_crashed_run_goes_on_to_the_same_bits(config, tmp_path, optimizer):
    config = replace(config, optimizer=optimizer)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    with pytest.raises(Crash):
        train(config, on_step=crash_at(5))
    steps = []
    result = train(config, resume=True, on_step=lambda step, loss: steps.append(step))
    assert steps == [5, 6], "what step 4 had saved is not trained again"
    assert result.losses == whole.losses
    assert same_bits(result.lora_path, whole.lora_path)
    assert not (Path(config.output_dir) / STATE_FILE).exists()


def test_other_versions_are_told(config, monkeypatch, capfd):
    with pytest.raises(Crash):
        train(config, on_step=crash_at(3))
    monkeypatch.setattr("qwenlab.training.run.package_versions", lambda: {"torch": "99.0"})
    train_lora(tiny_pipeline(), config, resume=True)
    assert "warning: the run began with" in capfd.readouterr().err


def test_validation_is_carried_over(config, tmp_path):
    rng = np.random.default_rng(0)
    for path in (Path(config.dataset) / "images").iterdir():  # near duplicates would not be split
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((SIZE, SIZE)).save(path)
    config = replace(config, validation_share=0.4, validate_every_n_steps=2)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    assert crash_and_resume(train, config, 5).validation == whole.validation
    assert list(whole.validation) == [0, 2, 4, 6]


def test_ctrl_c_saves_after_the_step_in_hand(config, tmp_path):
    config = replace(config, save_every_n_steps=0)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))

    def press(step, loss):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(QwenlabError, match=r"stopped after step 3; .*: go on with --resume \(resume=True\)") as caught:
        train(config, on_step=press)
    assert "\n" not in str(caught.value) and signal.getsignal(signal.SIGINT) is before
    assert same_bits(train(config, resume=True).lora_path, whole.lora_path)


def test_an_unfinished_run_is_neither_overwritten_nor_continued_with_other_settings(config):
    with pytest.raises(QwenlabError, match="no unfinished run is there"):
        train(config, resume=True)
    with pytest.raises(Crash):
        train(config, on_step=crash_at(3))
    state = Path(config.output_dir) / STATE_FILE
    before = state.read_bytes()
    with pytest.raises(QwenlabError, match="holds an unfinished run: go on with --resume"):
        train(config)
    with pytest.raises(QwenlabError, match=r"other settings \(learning_rate, seed differ\)"):
        train(replace(config, seed=4, learning_rate=1e-3), resume=True)
    captions = Path(config.dataset) / "captions.jsonl"
    text = captions.read_text(encoding="utf-8")
    captions.write_text(text.replace("1女孩", "2女孩", 1), encoding="utf-8")
    with pytest.raises(QwenlabError, match=r"other settings \(dataset differ\)"):
        train(config, resume=True)
    captions.write_text(text, encoding="utf-8")
    assert state.read_bytes() == before
    state.write_bytes(before[:-100])
    with pytest.raises(QwenlabError, match="cannot read the checkpoint .*; delete it"):
        train(config, resume=True)


def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bits(config, tmp_path):
    config = replace(config, max_train_steps=250, save_every_n_steps=1, keep_checkpoints=2)
    file = tmp_path / "config.yaml"

    def runs(folder, kills):
        settings = asdict(replace(config, output_dir=str(tmp_path / folder)))
        file.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
        command = [sys.executable, "-c", PROGRAM, str(file), str(kills)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout)

    assert runs("whole", 0) == 0
    assert runs("killed", 10) >= 1, "no file was being written when a run was killed"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert same_bits(whole / "lora.safetensors", killed / "lora.safetensors")
    losses = [json.loads((folder / "training.json").read_text())["losses"] for folder in (whole, killed)]
    assert losses[0] == losses[1] and len(losses[0]) == 250
    for name in ("checkpoint-000249", "last-state"):  # the latter holds the optimizer after step 249
        assert same_bits(whole / f"{name}.safetensors", killed / f"{name}.safetensors"), name
    assert not list(killed.glob(".*.tmp")), "what was half written is swept away"
