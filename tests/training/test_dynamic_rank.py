"""Ranks that change while training, prefixes, and ranks shared out by energy."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.rank.dynamic import arms
from qwenlab.config import TrainConfig, read_config
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lora.io import load_lora, remove_lora, save_lora
from qwenlab.lora.layers import LoRALinear, inject_lora, lora_layers
from qwenlab.lora.rank import allocate, change_ranks, compress, prefix
from qwenlab.lora.targets import target_modules
from qwenlab.model.generation import generate
from qwenlab.training import encode_dataset, held_out_loss, train_lora
from qwenlab.training.rank_changes import change_due, rate_factor, step_prefix
from tests.tiny import SIZE, tiny_pipeline
from tests.training.resuming import crash_and_resume, same_bits


def filled(model, scale=0.3, seed=0):
    """The factors of an injected LoRA, all random."""
    rng = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        layer.lora_B.weight.data = scale * torch.randn(layer.lora_B.weight.shape, generator=rng)
    return model


def injected(rank=4, alpha=6.0, rslora=False):
    pipeline = tiny_pipeline()
    targets = target_modules(["attention+mlp"])
    inject_lora(pipeline.transformer, targets, rank=rank, alpha=alpha, rslora=rslora)
    filled(pipeline.transformer)
    return pipeline


def deltas(model):
    return {name: layer.delta().double() for name, layer in lora_layers(model).items()}


@pytest.mark.parametrize("rslora", [False, True])
def test_growth_changes_no_output_and_keeps_the_scaling(rslora):
    model = injected(rslora=rslora).transformer
    x, before = torch.randn(5, 32), deltas(model)
    layer = lora_layers(model)["transformer_blocks.0.attn.to_q"]
    answer, scaling, parameters = layer(x), layer.scaling, list(layer.parameters())
    assert set(change_ranks(model, 7).values()) == {1.0}
    assert (layer(x) - answer).abs().max() <= 1e-6 * answer.abs().max()
    assert layer.scaling == pytest.approx(scaling) and layer.rank == 7 == len(layer.lora_A.weight)
    assert [a is b for a, b in zip(layer.parameters(), parameters, strict=True)].count(False) == 0
    for name, delta in deltas(model).items():
        assert (delta - before[name]).norm() <= 1e-6 * before[name].norm()
    assert layer.lora_A.weight[4:].abs().min() > 0 and not layer.lora_B.weight[:, 4:].any()


def test_shrinkage_is_the_best_there_is_and_says_what_it_kept():
    model = injected(rank=6).transformer
    before = deltas(model)
    kept = change_ranks(model, 2)
    for name, delta in deltas(model).items():
        singular = torch.linalg.svdvals(before[name])
        assert (delta - before[name]).norm().item() == pytest.approx(singular[2:].norm().item(), rel=1e-5)
        assert kept[name] == pytest.approx((singular[:2].norm() / singular.norm()).item() ** 2, abs=1e-6)
        assert torch.linalg.matrix_rank(delta, rtol=1e-6) == 2


def test_a_changed_factor_starts_adam_anew_and_the_others_do_not():
    model = injected().transformer
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    change_ranks(model, {"transformer_blocks.1.attn.to_q": 6}, optimizer)
    for name, parameter in parameters.items():
        assert (parameter in optimizer.state) == ("blocks.1.attn.to_q.lora" not in name)
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    changed = lora_layers(model)["transformer_blocks.1.attn.to_q"].lora_B.weight
    assert optimizer.state[changed]["step"] == 1 and optimizer.state[changed]["exp_avg"].shape == changed.shape


def test_energy_shares_the_ranks_out_and_keeps_the_most():
    model = injected(rank=5).transformer
    layers = lora_layers(model)
    for name, layer in layers.items():
        if "blocks.0" in name:
            layer.lora_B.weight.data *= 0.05
    before, ranks = deltas(model), allocate(model, 2)
    assert sum(ranks.values()) == 2 * len(layers) and min(ranks.values()) >= 1 and max(ranks.values()) <= 5
    strong = np.mean([rank for name, rank in ranks.items() if "blocks.1" in name])
    assert strong > np.mean([rank for name, rank in ranks.items() if "blocks.0" in name])
    change_ranks(model, ranks)
    lost = sum((delta - before[name]).square().sum() for name, delta in deltas(model).items())
    even = sum(torch.linalg.svdvals(delta)[2:].square().sum() for delta in before.values())
    assert lost < even, "the same number of ranks, evenly spread, loses more"
    with pytest.raises(ValueError, match="mean rank of 9"):
        allocate(model, 9)


def test_impossible_ranks_are_refused():
    model = injected().transformer
    with pytest.raises(ValueError, match="0 is no rank"):
        change_ranks(model, 0)
    with pytest.raises(KeyError):
        change_ranks(model, {"nothing": 3})
    with pytest.raises(ValueError, match="no prefix"), prefix(model, 5):
        pass


def test_a_prefix_is_the_first_rows_and_columns():
    layer = LoRALinear(nn.Linear(6, 5), rank=4, alpha=8)
    nn.init.normal_(layer.lora_B.weight)
    model, x = nn.ModuleDict({"layer": layer}), torch.randn(3, 6)
    whole = layer(x)
    with prefix(model, 2):
        part = 8 / 2 * (x @ layer.lora_A.weight[:2].T) @ layer.lora_B.weight[:, :2].T
        assert torch.allclose(layer(x), layer.base_layer(x) + part, atol=1e-6)
        layer(x).sum().backward()
    assert layer.lora_A.weight.grad[:2].any() and not layer.lora_A.weight.grad[2:].any()
    assert not layer.lora_B.weight.grad[:, 2:].any() and torch.equal(layer(x), whole)


def draw(pipeline):
    return np.asarray(generate(pipeline, "1女孩, red", 3, steps=3, guidance=1.0)[0], int)


@pytest.mark.parametrize("case", ["ranks by layer", "prefix"])
def test_the_stock_pipeline_draws_the_same_from_the_file(case, tmp_path):
    pipeline = injected(rank=5, alpha=8.0)
    model = pipeline.transformer
    if case == "ranks by layer":
        change_ranks(model, allocate(model, 3))
        assert len({layer.rank for layer in lora_layers(model).values()}) > 1
    with prefix(model, 2 if case == "prefix" else None):
        path, own = save_lora(pipeline, tmp_path / "lora.safetensors"), draw(pipeline)
    remove_lora(pipeline)
    base = draw(pipeline)
    load_lora(pipeline, path)
    assert np.abs(draw(pipeline) - own).max() <= 1 < np.abs(own - base).max()


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=8,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, alpha=4, save_every_n_steps=2, rank_warmup_steps=2,
    )  # fmt: skip


def train(config, **options):
    return train_lora(tiny_pipeline(), config, progress=False, **options)


def ranks_of(path):
    return {value.shape[0] for name, value in load_file(path).items() if "lora_A" in name}


@pytest.mark.parametrize(
    "changes", [{"rank_schedule": {3: 6, 6: 2}}, {"rank_schedule": {4: 2}, "rank_by_energy": True}, {"dylora": True}]
)
@pytest.mark.parametrize("crash", [3, 5, 7])
def test_a_crashed_run_goes_on_to_the_same_bits(config, tmp_path, changes, crash):
    config = replace(config, **changes)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    result = crash_and_resume(train, config, crash)
    assert result.losses == whole.losses
    assert same_bits(whole.lora_path, result.lora_path)
    if changes == {"rank_schedule": {3: 6, 6: 2}}:
        assert ranks_of(whole.lora_path) == {2} and ranks_of(tmp_path / "whole/checkpoint-000004.safetensors") == {6}
    elif "rank_by_energy" in changes:
        assert len(ranks_of(whole.lora_path)) > 1


def test_the_rate_rises_again_after_each_change():
    config = TrainConfig(max_train_steps=30, rank_schedule={10: 12, 20: 8}, rank_warmup_steps=4)
    factors = [rate_factor(config, step) for step in range(1, 31)]
    assert factors[:9] == [1.0] * 9 and factors[9:14] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[19] == pytest.approx(0.2) and factors[-1] == 1.0
    assert [rate_factor(TrainConfig(), step) for step in (1, 500)] == [1.0, 1.0]


def test_dylora_draws_every_rank_and_the_same_for_a_step():
    model, config = injected(rank=4).transformer, TrainConfig(rank=4, dylora=True)
    layer = next(iter(lora_layers(model).values()))

    def drawn(step):
        with step_prefix(model, config, step):
            return layer.active_rank

    ranks = [drawn(step) for step in range(200)]
    assert {rank: ranks.count(rank) > 30 for rank in set(ranks)} == dict.fromkeys((1, 2, 3, 4), True)
    assert ranks == [drawn(step) for step in range(200)] and layer.active_rank is None


def held_out(pipeline, config):
    return encode_dataset(pipeline, read_dataset(config.dataset), config)


def mean_loss(pipeline, data):
    return float(np.mean(list(held_out_loss(pipeline, data, (0.2, 0.5, 0.8)).values())))


def test_a_change_makes_no_spike_and_alpha_left_behind_does(config):
    """Bound: 2% of the loss, at the change and in the steps after it."""
    pipeline = tiny_pipeline()
    data = held_out(pipeline, config)
    config = replace(config, max_train_steps=60, rank_schedule={41: 8}, save_every_n_steps=0, lr_scheduler="constant")
    losses = {}
    train_lora(
        pipeline, config, progress=False,
        on_step=lambda step, loss: losses.update({step: mean_loss(pipeline, data)}) if step >= 38 else None,
    )  # fmt: skip
    before = np.mean([losses[step] for step in (38, 39, 40)])
    assert max(losses[step] for step in range(41, 61)) < 1.02 * before
    layers = lora_layers(pipeline.transformer)
    grown = mean_loss(pipeline, data)
    change_due(pipeline.transformer, torch.optim.AdamW(pipeline.transformer.parameters()), config, 41)
    assert mean_loss(pipeline, data) == grown, "rank 8 already"
    change_ranks(pipeline.transformer, 12)
    assert mean_loss(pipeline, data) == pytest.approx(grown, rel=1e-5)
    for layer in layers.values():  # alpha left behind
        layer.alpha *= 8 / 12
    assert mean_loss(pipeline, data) > 1.003 * grown


def test_prefixes_of_dylora_do_what_the_whole_does(config):
    found = {}
    for dylora in (True, False):
        settings = replace(
            config, dylora=dylora, max_train_steps=150, save_every_n_steps=0, lr_scheduler="constant",
            caption_dropout=0.0,
        )  # fmt: skip
        pipeline = tiny_pipeline()
        data = held_out(pipeline, settings)
        base = mean_loss(pipeline, data)
        train_lora(pipeline, settings, progress=False)
        whole = base - mean_loss(pipeline, data)
        with prefix(pipeline.transformer, 1):
            found[dylora] = (base - mean_loss(pipeline, data)) / whole
    assert found[True] > 0.98 and found[True] > found[False], found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank_schedule: {1: 8}", "step from 2"),
        ("rank_schedule: {50: 0}", "a rank from 1"),
        ("rank_schedule: {5000: 8}", "max_train_steps"),
        ("rank_schedule: [8, 12]", "steps and ranks"),
        ("rank_schedule: {50: many}", "steps and ranks"),
        ("rank_schedule: {50: 8}\nema_decay: 0.9", "ema_decay"),
        ("rank_schedule: {50: 8}\ndylora: true", "dylora"),
        ("dylora: true\ntext_encoder_rank: 2", "text_encoder_rank"),
        ("rank_warmup_steps: -1", "0 or more"),
        ("rank_by_energy: true", "rank_schedule"),
    ],
)
def test_bad_settings_are_one_clear_line(text, message, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(QwenlabError, match=message) as caught:
        read_config(file)
    assert "\n" not in str(caught.value)


def test_the_ready_configuration_is_the_schedule_of_the_article_at_micro_width():
    config = read_config(REPOSITORY / "configs" / "micro_dynamic_rank.yaml")
    assert config.rank == config.alpha == 8 and list(config.rank_schedule.values()) == [12, 8]


def test_compressed_factors_lie_in_memory_as_a_file_gives_them_back():
    rng = torch.Generator().manual_seed(0)
    pair = torch.randn(6, 40, generator=rng), torch.randn(50, 6, generator=rng)
    assert all(factor.is_contiguous() for factor in compress(pair, 3)[0]), "else a resumed run rounds otherwise"


def test_the_stored_study_has_every_arm_and_three_seeds():
    stored = json.loads((REPOSITORY / "benchmarks/rank/dynamic.json").read_text())
    study, made = stored["arms"], stored["made_with"]["config"]
    assert made["arms"] == json.loads(json.dumps(arms(made["steps"]))) and made["arms"].keys() <= study.keys()
    for name, row in study.items():
        assert len(row["mean_held_out_loss"]) == len(row["detail"]) == 3, name
        assert all(0.3 < detail < 3 for detail in row["detail"])
    for name, mean in {"8": 8, "10": 10, "12": 12, "8-12-8": 8, "8-12-8 by energy": 8, "12-8 by energy": 8}.items():
        for ranks in study[name]["ranks"]:
            assert np.mean(list(ranks.values())) == pytest.approx(mean), name
    assert len(set(study["8-12-8 by energy"]["ranks"][0].values())) > 3
