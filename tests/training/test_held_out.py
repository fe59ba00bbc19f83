"""The held-out flow loss: fixed numbers, no side effects, and a trained model has less of it."""

from dataclasses import replace

import pytest
import torch

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.training import encode_dataset, held_out_loss, train_lora
from tests.tiny import SIZE


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=40,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, caption_dropout=0.0,
    )  # fmt: skip


def test_same_numbers_whatever_the_batch_and_the_mode(pipeline, config):
    held_out = encode_dataset(pipeline, read_dataset(config.dataset), config)
    pipeline.transformer.train()
    state = torch.random.get_rng_state()
    first = held_out_loss(pipeline, held_out, (0.2, 0.8))
    assert pipeline.transformer.training and torch.equal(torch.random.get_rng_state(), state)
    assert list(first) == [0.2, 0.8] and all(value > 0 for value in first.values())
    one_by_one = held_out_loss(pipeline, held_out, (0.2, 0.8), batch_size=1)
    assert one_by_one == pytest.approx(first, rel=1e-4)
    assert held_out_loss(pipeline, held_out, (0.2, 0.8), seed=1) != first


def test_training_lowers_it_on_the_pictures_that_were_seen(pipeline, config):
    dataset = read_dataset(config.dataset)
    held_out = encode_dataset(pipeline, dataset, config)
    before = held_out_loss(pipeline, held_out)
    train_lora(pipeline, replace(config, seed=1), dataset=dataset, progress=False)
    after = held_out_loss(pipeline, held_out)
    assert sum(after.values()) < sum(before.values())
