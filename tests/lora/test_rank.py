"""Spectra of updates, and full fine-tuning as the reference that LoRA approximates."""

from dataclasses import replace

import pytest
import torch

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.lora.rank import energy_by_rank, truncate
from qwenlab.training import encode_dataset, held_out_loss
from qwenlab.training.full import add_updates, train_full
from tests.tiny import SIZE


def test_a_product_of_rank_three_has_all_its_energy_in_three():
    torch.manual_seed(0)
    delta = torch.randn(20, 3) @ torch.randn(3, 30)
    energy = energy_by_rank(delta)
    assert energy.shape == (20,) and (energy.diff() >= -1e-6).all()
    assert energy[1] < 0.999 and energy[2:] == pytest.approx(torch.ones(18), abs=1e-5)
    assert torch.allclose(truncate(delta, 3), delta, atol=1e-4)


def test_truncation_is_the_best_of_its_rank_and_keeps_the_stated_energy():
    torch.manual_seed(0)
    delta = torch.randn(20, 30)
    kept = truncate(delta, 5)
    assert torch.linalg.matrix_rank(kept) == 5
    share = 1 - (delta - kept).square().sum() / delta.square().sum()
    assert share.item() == pytest.approx(energy_by_rank(delta)[4].item(), abs=1e-5)
    assert truncate(delta.bfloat16(), 5).dtype == torch.bfloat16


def test_zero_update_has_no_spectrum():
    with pytest.raises(ValueError, match="zero everywhere"):
        energy_by_rank(torch.zeros(3, 4))


def test_full_training_learns_and_leaves_the_base_alone(pipeline, dataset_folder):
    config = TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), max_train_steps=30, batch_size_per_gpu=2, learning_rate=3e-3,
        caption_dropout=0.0,
    )  # fmt: skip
    data = encode_dataset(pipeline, read_dataset(config.dataset), config)
    base = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    before = sum(held_out_loss(pipeline, data).values())
    losses = []
    updates, seconds = train_full(pipeline, data, config, lambda step, loss: losses.append(loss))
    assert len(losses) == 30 and seconds > 0
    assert all(torch.equal(value, base[name]) for name, value in pipeline.transformer.state_dict().items())
    assert len(updates) == 12 * 2 and updates["transformer_blocks.0.attn.to_q"].shape == (32, 32)
    add_updates(pipeline, updates)
    assert sum(held_out_loss(pipeline, data).values()) < before
    add_updates(pipeline, updates, -1.0)
    assert sum(held_out_loss(pipeline, data).values()) == pytest.approx(before, rel=1e-4)
    only_attention, _ = train_full(pipeline, data, replace(config, apply_to=["attention-4"], max_train_steps=1))
    assert len(only_attention) == 4 * 2
