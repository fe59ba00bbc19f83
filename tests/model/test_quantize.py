"""Base weights of 8 and 4 bits: how far they are rounded, that training goes on after a picture, what they keep."""

import copy

import pytest
import torch
from torch import nn

from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError
from qwenlab.lora.layers import inject_lora, lora_layers, merge_lora
from qwenlab.lora.targets import target_modules
from qwenlab.memory.live_bytes import LiveBytes
from qwenlab.model.pipeline import place_pipeline
from qwenlab.model.quantize import (
    QUANTISED,
    Int8Linear,
    quantise,
    quantise_linear,
    quantised_layers,
    weight_precision,
)
from qwenlab.training import train_lora
from tests.tiny import SIZE, tiny_pipeline


def linear(dtype=torch.float32, inputs=128, outputs=256):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs).to(dtype)


def test_int8_rounds_by_half_a_step_at_most():
    layer = linear()
    quantised = Int8Linear.of(layer, "cpu")
    error = (quantised.dequantised(torch.float32) - layer.weight).abs()
    assert torch.all(error <= 0.51 * quantised.scale[:, None])
    assert torch.equal(quantised.scale, quantised.scale.bfloat16().float()), "no second rounding in bfloat16"
    assert quantised.weight.abs().max() == 127
    zero = nn.Linear(4, 2)
    nn.init.zeros_(zero.weight)
    assert torch.equal(Int8Linear.of(zero, "cpu").dequantised(torch.float32), torch.zeros(2, 4))


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.01), ("nf4", 0.12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_and_gradients_are_those_of_the_rounded_weights(precision, error, dtype):
    layer = linear(dtype)
    quantised = quantise_linear(copy.deepcopy(layer), precision, "cpu")
    assert not any(parameter.requires_grad for parameter in quantised.parameters())
    weight = quantised(torch.eye(128, dtype=dtype)).detach().t() - layer.bias.detach()[:, None]  # (d, k)
    assert 0 < (weight - layer.weight).norm() / layer.weight.norm() < error
    x = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = quantised(x)
    assert y.shape == (3, 5, 256) and y.dtype == dtype
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    y.backward(dy)
    torch.testing.assert_close(x.grad, dy @ weight, rtol=2e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-3)


def test_nothing_is_kept_for_the_backward_pass_of_a_frozen_layer():
    quantised = quantise_linear(linear(torch.bfloat16, 512, 512), "int8", "cpu")
    x = torch.randn(2, 512, dtype=torch.bfloat16, requires_grad=True)
    watch = LiveBytes()
    with watch:
        y = quantised(x)
    assert watch.record.peak >= 2 * 512 * 512, "the dequantised weights were there"
    assert watch.record.live[-1] < 20_000 and y.requires_grad, "and are gone"


@pytest.mark.parametrize("precision", QUANTISED)
def test_int8_and_nf4_run_under_autocast(precision):
    quantised = quantise_linear(linear(), precision, "cpu")
    x = torch.randn(4, 128, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = quantised(x)
    y.float().sum().backward()
    assert x.grad.abs().sum() > 0


def test_only_the_layers_of_the_blocks_are_rounded(pipeline):
    assert quantise(pipeline.transformer, "int8") == 28
    assert len(quantised_layers(pipeline.transformer)) == 28
    assert type(pipeline.transformer.proj_out) is nn.Linear
    with pytest.raises(QwenlabError, match="no linear layers left"):
        quantise(pipeline.transformer, "int8")
    with pytest.raises(QwenlabError, match="'int4' is not one of int8, nf4"):
        quantise(pipeline.transformer, "int4")


def test_a_lora_stays_on_the_layers_that_are_rounded(pipeline):
    inject_lora(pipeline.transformer, target_modules("attention+mlp"), rank=2, alpha=2)
    assert quantise(pipeline.transformer, "int8") == 28
    bases = {type(layer.base_layer) for layer in lora_layers(pipeline.transformer).values()}
    assert bases == {Int8Linear}
    with pytest.raises(QwenlabError, match="cannot be merged into Int8Linear"):
        merge_lora(pipeline.transformer)


@pytest.mark.parametrize("table", [0, 40])
@pytest.mark.parametrize("precision", QUANTISED)
def test_training_goes_on_after_a_preview(precision, table, dataset_folder, tmp_path):
    """On CPUs with bfloat16 arithmetic bitsandbytes repacks NF4 for the first picture; gradients then vanished."""
    config = config_from_mapping({
        "dataset": str(dataset_folder), "output_dir": str(tmp_path / "run"), "resolution": SIZE, "rank": 4,
        "max_train_steps": 8, "learning_rate": 1e-2, "preview_prompts": ["1女孩"], "preview_every_n_steps": 2,
        "preview_steps": 2, "modulation_timesteps": table, "free_text_encoder": True, "gradient_checkpointing": True,
        "selective_checkpointing": True,
    })  # fmt: skip
    pipeline = place_pipeline(tiny_pipeline(), precision, torch.device("cpu"))
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    moved = []

    def on_step(step, loss):
        factors = [layer.lora_B.weight.detach().clone() for layer in lora_layers(pipeline.transformer).values()]
        moved.append(torch.cat([factor.flatten() for factor in factors]))

    result = train_lora(pipeline, config, progress=False, on_step=on_step)
    assert len(result.previews) == 5 and all(torch.isfinite(torch.tensor(result.losses)))
    changes = [(after - earlier).norm().item() for earlier, after in zip(moved, moved[1:], strict=False)]
    assert min(changes) > 0, "every step moved the LoRA, those after pictures too"
    state = pipeline.transformer.state_dict()
    for name, value in before.items():
        where = name if name in state else name.replace(".weight", ".base_layer.weight")
        kept = state.get(where, state.get(_base_name(name)))
        assert torch.equal(kept, value), name


def test_a_pipeline_in_another_precision_than_the_configuration_is_refused(pipeline, dataset_folder, tmp_path):
    config = config_from_mapping({
        "dataset": str(dataset_folder), "output_dir": str(tmp_path / "run"), "resolution": SIZE,
        "base_precision": "nf4",
    })  # fmt: skip
    with pytest.raises(QwenlabError, match="base_precision: nf4, but the pipeline's weights are fp32"):
        train_lora(pipeline, config, progress=False)
    found = [weight_precision(pipeline.transformer)]
    found.append(weight_precision(tiny_pipeline().transformer.to(torch.bfloat16)))
    for precision in QUANTISED:
        found.append(weight_precision(place_pipeline(tiny_pipeline(), precision, torch.device("cpu")).transformer))
    assert found == ["fp32", "bf16", "int8", "nf4"]


def _base_name(name):
    layer, _, rest = name.rpartition(".weight.")
    if layer:
        return f"{layer}.base_layer.weight.{rest}"
    layer, _, rest = name.rpartition(".")
    return f"{layer}.base_layer.{rest}"
