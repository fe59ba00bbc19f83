"""What goes wrong while training costs nothing that was done before, and is told in one line."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from qwenlab import files
from qwenlab.config import TrainConfig
from qwenlab.errors import QwenlabError
from qwenlab.training import train_lora
from qwenlab.training.run import STATE_FILE
from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=6,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, seed=3, save_every_n_steps=2,
    )  # fmt: skip


def train(config, pipeline=None, **options):
    options = {"progress": False} | options
    return train_lora(pipeline or tiny_pipeline(), config, **options)


def names(folder):
    return sorted(path.name for path in Path(folder).glob("*.safetensors"))


class Disk:
    """A disk that is full while `full` is set."""

    def __init__(self, monkeypatch):
        self.full, fsync = False, os.fsync

        def sync(handle):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        monkeypatch.setattr(files.os, "fsync", sync)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(config, monkeypatch, tmp_path, capfd):
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    disk = Disk(monkeypatch)

    def fill(step, loss):
        disk.full = step == 4

    result = train(config, on_step=fill, progress=True)
    assert "warning: step 4 was not saved (No space left on device" in capfd.readouterr().err
    assert result.losses == whole.losses
    assert names(config.output_dir) == ["checkpoint-000002.safetensors", "lora.safetensors"]


def test_a_full_disk_at_the_end_leaves_the_lora_elsewhere_and_the_run_resumable(config, monkeypatch, tmp_path):
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    disk = Disk(monkeypatch)
    write = files.atomic_write_bytes

    def only_here(path, data):
        disk.full = disk.full and Path(path).is_relative_to(config.output_dir)
        return write(path, data)

    monkeypatch.setattr("qwenlab.lora.io.atomic_write_bytes", only_here)

    def fill(step, loss):
        disk.full = step == 6

    with pytest.raises(QwenlabError, match="lora.safetensors: not written .*; the LoRA is in (.*): move it") as caught:
        train(config, on_step=fill)
    assert "\n" not in str(caught.value)
    refuge = Path(str(caught.value).partition("the LoRA is in ")[2].partition(": move")[0])
    expected = load_file(whole.lora_path)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(refuge).items())
    disk.full = False
    assert train(config, resume=True).losses == whole.losses


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(config):
    pipeline = tiny_pipeline()
    bias = pipeline.transformer.proj_out.bias

    def poison(step, loss):
        if step == 4:
            with torch.no_grad():
                bias.fill_(float("nan"))

    with pytest.raises(
        QwenlabError, match="training stopped at step 5: loss nan.* go on from (.*): name it in"
    ) as caught:
        train(config, pipeline, on_step=poison)
    assert "\n" not in str(caught.value) and "checkpoint-000004.safetensors" in str(caught.value)
    last = Path(config.output_dir) / "checkpoint-000004.safetensors"
    kept = load_file(last)
    assert all(torch.isfinite(value).all() for value in kept.values())
    layer = pipeline.transformer.transformer_blocks[0].attn.to_q
    assert torch.equal(layer.lora_A.weight, kept["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"])
    again = replace(config, init_lora=str(last), output_dir=config.output_dir + "2", learning_rate=1e-3)
    assert len(train(again).losses) == 6


def test_a_picture_that_disappears_does_not_stop_the_run(config, tmp_path):
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))

    def remove(step, loss):
        if step == 3:
            (Path(config.dataset) / "images" / "img_1.png").unlink()

    assert train(config, on_step=remove).losses == whole.losses
    with pytest.raises(QwenlabError, match="captions.jsonl, line 2: no image"):
        train(replace(config, output_dir=str(tmp_path / "later")))


def test_a_damaged_cache_entry_is_made_again(config, tmp_path, capfd):
    whole = train(replace(config, output_dir=str(tmp_path / "whole"), cache_dir=str(tmp_path / "cache")))
    entry = sorted((tmp_path / "cache" / "latents").glob("*.safetensors"))[0]
    entry.write_bytes(entry.read_bytes()[:-1])
    result = train(replace(config, cache_dir=str(tmp_path / "cache")), progress=True)
    assert "damaged cache entry" in capfd.readouterr().err and result.losses == whole.losses


SECOND = """
import sys
from qwenlab.config import TrainConfig
from qwenlab.errors import QwenlabError
from qwenlab.training import train_lora
from tests.tiny import tiny_pipeline
import json
try:
    train_lora(tiny_pipeline(), TrainConfig(**json.loads(sys.argv[1])), progress=False)
except QwenlabError as error:
    print(error)
"""


def test_two_runs_cannot_share_a_folder(config, tmp_path):
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    said = []

    def start_another(step, loss):
        if step == 1:
            command = [sys.executable, "-c", SECOND, json.dumps(vars(config))]
            said.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert train(config, on_step=start_another).losses == whole.losses
    assert said[0].strip().endswith("another run is writing there; wait for it, or choose another output_dir")


def test_the_result_of_other_settings_keeps_a_name_of_its_own(config):
    first = load_file(train(config).lora_path)
    train(config)
    assert names(config.output_dir).count("lora.safetensors") == 1 and len(names(config.output_dir)) == 3
    train(replace(config, seed=4))
    (kept,) = Path(config.output_dir).glob("lora-*.safetensors")
    assert kept.stem == f"lora-{config.hash()}"
    assert all(torch.equal(value, first[name]) for name, value in load_file(kept).items())


def test_the_last_checkpoints_and_the_best_are_kept(config):
    rng = np.random.default_rng(0)
    for path in (Path(config.dataset) / "images").iterdir():  # near duplicates would not be split
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((SIZE, SIZE)).save(path)
    config = replace(config, max_train_steps=10, keep_checkpoints=2, validation_share=0.3, validate_every_n_steps=2)
    result = train(config)
    kept = names(config.output_dir)
    assert kept[-1] == "lora.safetensors" and set(kept) >= {
        "checkpoint-000006.safetensors",
        "checkpoint-000008.safetensors",
    }
    assert len([name for name in kept if name.startswith("checkpoint")]) == 2
    means = {step: sum(row.values()) for step, row in result.validation.items()}
    assert list(means) == [0, 2, 4, 6, 8, 10] and result.best_step == min(means, key=means.get)
    assert ("best.safetensors" in kept) == (result.best_step > 0)
    assert not (Path(config.output_dir) / STATE_FILE).exists()
