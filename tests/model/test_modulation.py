"""The modulation table changes nothing but memory: not a bit at batch 1, and it can be taken off again."""

import contextlib

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors.torch import load_file, save_file

from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import model_fingerprint
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.flow import model_timestep, to_grid
from qwenlab.model.generation import generate
from qwenlab.model.modulation import ModulationTable, bound_timesteps, is_bound, pipeline_timesteps, unbind
from qwenlab.model.pipeline import load_pipeline
from qwenlab.model.quantize import quantise
from qwenlab.training import opening, runtime, train_lora
from qwenlab.training.batches import flow_loss, make_batch
from qwenlab.training.gradient_checkpointing import enable_checkpointing
from tests.tiny import SIZE, tiny_pipeline

DTYPES = [torch.float32, torch.bfloat16]


def in_dtype(pipeline, dtype):
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        part.to(dtype)
    return pipeline


def lora(transformer, apply_to="attention+mlp"):
    factors = inject_lora(transformer, target_modules(apply_to), rank=4, alpha=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for factor in factors.values():
            torch.nn.init.normal_(factor, std=0.1)
    return factors


def batch_of(pipeline, sigmas, features, cells=8):
    generator = torch.Generator().manual_seed(1)
    count = len(sigmas)
    x0, noise = (torch.randn(count, 16, cells, cells, generator=generator) for _ in range(2))
    texts = [torch.randn(6, features, generator=generator) for _ in range(count)]
    return make_batch(pipeline, x0, noise, torch.tensor(sigmas), texts)


def step(pipeline, batch, factors):
    for factor in factors.values():
        factor.grad = None
    loss = flow_loss(pipeline.transformer, batch)
    loss.backward()
    return loss.item(), {name: factor.grad.clone() for name, factor in factors.items() if factor.grad is not None}


def same(first, second):
    return first[0] == second[0] and first[1].keys() == second[1].keys() and all(
        torch.equal(first[1][name], second[1][name]) for name in first[1]
    )  # fmt: skip


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradients_of_the_micro_model_keep_every_bit(dtype, checkpointing):
    pipeline = in_dtype(load_pipeline("micro", device="cpu"), dtype)
    transformer = pipeline.transformer
    if checkpointing:
        enable_checkpointing(transformer, selective=True)
    transformer.train()
    factors, batch = lora(transformer), batch_of(pipeline, [0.377], 192)
    before = step(pipeline, batch, factors)
    table = ModulationTable.of(transformer, [model_timestep(torch.tensor(s), dtype) for s in (0.2, 0.377, 0.9)])
    table.bind(transformer)
    assert before[0] > 0 and len(before[1]) > 100
    assert same(step(pipeline, batch, factors), before)
    unbind(transformer)
    assert same(step(pipeline, batch, factors), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_of_the_real_size_keeps_every_bit(pipeline, dtype):
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            transformer = QwenImageTransformer2DModel(num_layers=1)
    finally:
        torch.set_default_dtype(torch.float32)
    pipeline.transformer = transformer
    factors, batch = lora(transformer), batch_of(pipeline, [0.61], 3584)
    before, parameters = step(pipeline, batch, factors), sum(p.numel() for p in transformer.parameters())
    table = ModulationTable.of(transformer, [model_timestep(batch.sigma, dtype)])
    assert table.rows.shape == (1, 1, 2, 18432)
    table.bind(transformer)
    gone = parameters - sum(p.numel() for p in transformer.parameters())
    assert gone == 2 * 18432 * 3073 + 257 * 3072 + 3072 * 3073, "both modulation layers and the timestep embedding"
    assert same(step(pipeline, batch, factors), before)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_larger_batches_differ_by_rounding(dtype, tolerance):
    pipeline = in_dtype(load_pipeline("micro", device="cpu"), dtype)
    batch = batch_of(pipeline, [0.1, 0.4, 0.4, 0.8], 192)
    factors = lora(pipeline.transformer)
    loss, gradients = step(pipeline, batch, factors)
    ModulationTable.of(pipeline.transformer, model_timestep(batch.sigma, dtype)).bind(pipeline.transformer)
    loss2, gradients2 = step(pipeline, batch, factors)
    assert loss2 == pytest.approx(loss, rel=tolerance)
    for name, gradient in gradients.items():
        assert (gradients2[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("dtype", DTYPES)
def test_pictures_on_a_fixed_schedule_are_the_same(pipeline, dtype):
    in_dtype(pipeline, dtype)
    before = np.asarray(generate(pipeline, "1女孩", 3, steps=4)[0])
    received = []
    embed = pipeline.transformer.time_text_embed
    hook = embed.register_forward_pre_hook(lambda module, arguments: received.append(arguments[0].float().item()))
    generate(pipeline, "1女孩", 3, steps=4)
    hook.remove()
    timesteps = pipeline_timesteps(pipeline, 4, (SIZE, SIZE))
    assert received[::2] == timesteps.tolist(), "twice each: guidance"
    table = ModulationTable.of(pipeline.transformer, timesteps)
    table.bind(pipeline.transformer)
    assert np.array_equal(np.asarray(generate(pipeline, "1女孩", 3, steps=4)[0]), before)


def test_training_rounds_the_timestep_as_the_pipeline_does():
    sigmas = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    rounded = model_timestep(sigmas, torch.bfloat16)
    assert torch.equal(rounded, (sigmas * 1000).bfloat16() / 1000)
    assert 0.25 < (rounded != sigmas.bfloat16()).float().mean() < 0.27
    assert model_timestep(sigmas, torch.float32) is sigmas
    grid = to_grid(torch.tensor([0.0, 0.0004, 0.12345, 1.0]), 100)
    assert torch.equal(grid, torch.tensor([1, 1, 12, 100]) / 100)


def test_binding_is_undone_without_a_trace(pipeline, tmp_path):
    transformer = pipeline.transformer
    transformer.save_pretrained(tmp_path / "before")
    table = ModulationTable.of(transformer, [0.25, 0.5])
    table.bind(transformer)
    assert is_bound(transformer) and bound_timesteps(transformer).tolist() == [0.25, 0.5]
    assert not [name for name in transformer.state_dict() if "_mod" in name or "time_text_embed" in name]
    unbind(transformer)
    transformer.save_pretrained(tmp_path / "after")
    files = [sorted((tmp_path / name).iterdir()) for name in ("before", "after")]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]


def test_a_table_is_saved_and_knows_its_model(pipeline, tmp_path):
    transformer = pipeline.transformer
    path = ModulationTable.of(transformer, [0.5, 0.25, 0.5]).save(tmp_path / "table.safetensors")
    table = ModulationTable.load(path)
    assert table.timesteps.tolist() == [0.25, 0.5]
    with pytest.raises(QwenlabError, match="another model"):
        table.bind(tiny_pipeline(seed=1).transformer)
    table.bind(transformer)
    with pytest.raises(QwenlabError, match="has a modulation table already"):
        table.bind(transformer)
    with pytest.raises(QwenlabError, match="has a modulation table already"):
        ModulationTable.of(transformer, [0.5])
    with pytest.raises(QwenlabError, match=r"timestep 0\.3 .*nearest: 0\.25"):
        transformer.time_text_embed(torch.tensor([0.5, 0.3]), torch.empty(0))
    unbind(transformer)
    with pytest.raises(QwenlabError, match="no modulation table to unbind"):
        unbind(transformer)


def test_other_files_are_no_tables(pipeline, tmp_path):
    with pytest.raises(QwenlabError, match="cannot be read"):
        ModulationTable.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(QwenlabError, match="cannot be read"):
        ModulationTable.load(tmp_path / "broken.safetensors")
    save_file({"rows": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(QwenlabError, match="holds no modulation table"):
        ModulationTable.load(tmp_path / "other.safetensors")


def test_a_lora_on_the_modulation_is_refused(pipeline):
    table = ModulationTable.of(pipeline.transformer, [0.5])
    lora(pipeline.transformer, "modulation")
    with pytest.raises(QwenlabError, match="'modulation' out of apply_to"):
        table.bind(pipeline.transformer)
    with pytest.raises(QwenlabError, match="modulation_timesteps"):
        config_from_mapping({"modulation_timesteps": 10, "apply_to": ["attention-4", "modulation"]})


def test_models_with_other_conditions_have_no_table():
    transformer = QwenImageTransformer2DModel(
        num_layers=1, num_attention_heads=1, attention_head_dim=16, joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6), zero_cond_t=True,
    )  # fmt: skip
    with pytest.raises(QwenlabError, match="more than the timestep"):
        ModulationTable.of(transformer, [0.5])


def settings(folder, out, **changes):
    values = {
        "dataset": str(folder), "output_dir": str(out), "resolution": SIZE, "max_train_steps": 4, "rank": 4,
        "learning_rate": 1e-2, "modulation_timesteps": 50, "batch_size_per_gpu": 1,
        "preview_prompts": ["1女孩"], "preview_every_n_steps": 2, "preview_steps": 3,
    }  # fmt: skip
    return config_from_mapping(values | changes)


def test_training_on_the_grid_gives_the_same_lora_with_and_without_the_table(dataset_folder, tmp_path, monkeypatch):
    with_table = train_lora(tiny_pipeline(), settings(dataset_folder, tmp_path / "a"), progress=False)
    monkeypatch.setattr(runtime, "table_for_training", lambda *arguments: contextlib.nullcontext())
    without = train_lora(tiny_pipeline(), settings(dataset_folder, tmp_path / "b"), progress=False)
    tensors, others = load_file(with_table.lora_path), load_file(without.lora_path)
    assert tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert [a.read_bytes() for a in with_table.previews] == [b.read_bytes() for b in without.previews]


@pytest.mark.parametrize("base_precision", ["fp32", "bf16"])
def test_an_opened_model_trains_under_its_table_and_draws(dataset_folder, tmp_path, monkeypatch, base_precision):
    def read(base, precision, device):
        pipeline = tiny_pipeline()
        return (in_dtype(pipeline, torch.bfloat16) if precision == "bf16" else pipeline), precision

    monkeypatch.setattr(opening, "read_pipeline", read)
    config = settings(
        dataset_folder, tmp_path / "run", base_precision=base_precision, mixed_precision="bf16",
        free_text_encoder=True,
    )  # fmt: skip
    pipeline = opening.open_pipeline(config, "cpu")
    assert is_bound(pipeline.transformer) == (base_precision == "bf16")
    result = train_lora(pipeline, config, progress=False)
    assert len(result.previews) == 3 and pipeline.text_encoder is None
    if base_precision == "bf16":
        other = settings(dataset_folder, tmp_path / "other", modulation_timesteps=49)
        with (
            pytest.raises(QwenlabError, match="not in the table that is bound"),
            opening.table_for_training(pipeline, other),
        ):
            pass


def test_rows_are_made_block_by_block(pipeline, monkeypatch):
    """No two blocks' modulation layers are away from home at once: a GPU never holds them all."""
    away, most = set(), []
    home, device = torch.device("cpu"), torch.device("cpu:0")
    move = torch.nn.Module.to

    def watched(module, place):
        if isinstance(module, torch.nn.Sequential):
            (away.add if place == device else away.discard)(id(module))
            most.append(len(away))
        return move(module, "cpu")

    monkeypatch.setattr(torch.nn.Module, "to", watched)
    assert home != device
    ModulationTable.of(pipeline.transformer, [0.2, 0.7], device=device)
    assert most == [1, 0] * 4, "two layers in each of two blocks"


def test_a_lora_knows_its_base_whatever_the_table_and_the_precision():
    prints = set()
    for change in (
        lambda pipeline: None,
        lambda pipeline: ModulationTable.of(pipeline.transformer, [0.5]).bind(pipeline.transformer),
        lambda pipeline: quantise(pipeline.transformer, "int8"),
        lambda pipeline: quantise(pipeline.transformer, "nf4"),
        lambda pipeline: pipeline.transformer.to(torch.bfloat16),
    ):
        pipeline = tiny_pipeline()
        change(pipeline)
        prints.add(model_fingerprint(pipeline.transformer))
    assert len(prints) == 1
