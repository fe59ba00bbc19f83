"""Memory predicted, simulated and measured: three ways that must agree."""

import dataclasses
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from qwenlab.lab.micro.transformer import TRANSFORMER_CONFIG
from qwenlab.memory import formula
from qwenlab.memory.flops import count_operations, predict_operations
from qwenlab.memory.formula import GIB, adamw_8bit_bytes, nf4_bytes, predict_step, weight_parameters
from qwenlab.memory.live_bytes import LiveBytes
from qwenlab.memory.measure import measure_step
from qwenlab.memory.phases import (
    TEXT_ENCODER_BLOCKS,
    TEXT_ENCODER_PARAMETERS,
    VAE_PARAMETERS,
    text_encoder_bytes,
    vae_bytes,
)
from qwenlab.memory.settings import MICRO, MID, QWEN_IMAGE, ModelSize, StepSettings
from qwenlab.memory.simulate import simulate_step, watch_step
from qwenlab.memory.step import build_step
from qwenlab.model.quantize import quantised_layers

REAL_BLOCK = dataclasses.replace(QWEN_IMAGE, num_layers=1)
SIZES = {
    "micro": {"model": MICRO, "height": 128, "width": 128, "batch": 4, "rank": 8, "text_tokens": 40},
    "mid": {"model": MID, "height": 128, "width": 192, "rank": 16, "text_tokens": 64},
    "real block": {"model": REAL_BLOCK, "height": 128, "width": 128, "rank": 64, "text_tokens": 64},
}

FEW_TOKENS = {"height": 32, "width": 32, "text_tokens": 8}


def fast_bf16():
    """Whether oneDNN multiplies bf16 with instructions of this processor; without, it takes a hundred times as long."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def small(**changes):
    return StepSettings(**{**SIZES["micro"], "batch": 2, **changes})


def test_live_bytes_follow_storages():
    watch = LiveBytes()
    first = torch.zeros(1000)
    watch.add([first], "weights")
    with watch:
        with watch.phase("one", "activations"):
            second = first * 2
            view = second[10:20]
        del second
        third = torch.ones(10)
        held = watch.record.live[-1]
        del view
    assert held == 4000 + 4000 + 40, "a view keeps its storage alive"
    assert watch.record.live[-1] == 4000 + 40
    assert watch.record.peak == 8040
    assert watch.record.at_peak() == {"weights": 4000, "activations": 4000, "other": 40}
    assert sum(series[-1] for series in watch.record.by_kind().values()) == watch.record.live[-1]
    assert [piece.bytes for piece in watch.record.alive_at_peak()] == [4000, 4000, 40]
    assert watch.record.phases == {"one": 1} and third.numel() == 10


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
def test_the_simulation_is_the_step_that_is_really_run(size, weights, checkpointing):
    few = FEW_TOKENS if weights == "bf16" and size != "micro" and not fast_bf16() else {}  # else twelve minutes
    settings = StepSettings(**SIZES[size] | few, weights=weights, checkpointing=checkpointing)
    measured, simulated = measure_step(settings, repeats=1), simulate_step(settings)
    assert simulated.peak == pytest.approx(measured.live, rel=0.001)
    assert simulated.peak == pytest.approx(measured.allocator, rel=0.03), "PyTorch's own allocator"
    assert measured.process > measured.live and measured.seconds > 0 and 0 < measured.loss < 10
    assert predict_step(settings).tensors == pytest.approx(measured.live, rel=0.1)


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_quantised_steps_agree_too(weights):
    few = {} if fast_bf16() else FEW_TOKENS
    settings = StepSettings(**SIZES["mid"] | few, weights=weights, modulation_table=True)
    measured, simulated = measure_step(settings, repeats=1), simulate_step(settings)
    # bitsandbytes dequantises inside its operator: the allocator sees it, LiveBytes does not.
    assert simulated.peak == pytest.approx(measured.allocator, rel=0.03)
    assert predict_step(settings).tensors == pytest.approx(measured.allocator, rel=0.1)
    assert len(quantised_layers(build_step(settings).transformer)) == 12 * MID.num_layers


VARIANTS = {
    "selective": {"checkpointing": "selective"},
    "math": {"attention": "math"},
    "math, none": {"attention": "math", "checkpointing": "none"},
    "table": {"modulation_table": True},
    "float32 states": {"optimizer": "adamw"},
    "accumulation": {"accumulation": 3},
    "accumulation, none": {"accumulation": 2, "checkpointing": "none"},
    "image attention": {"apply_to": ("attention-4",), "checkpointing": "none"},
    "MLPs": {"apply_to": ("mlp",), "checkpointing": "none"},
    "modulation": {"apply_to": ("attention-8", "modulation")},
    "batch and text": {"batch": 3, "text_tokens": 300},
    "a reference": {"references": 1},
    "references, none": {"references": 2, "checkpointing": "none"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_formula_counts_what_the_simulation_holds(name):
    model = dataclasses.replace(QWEN_IMAGE, num_layers=3)
    settings = StepSettings(model=model, height=512, width=512, rank=32, **VARIANTS[name])
    record, predicted = simulate_step(settings), predict_step(settings)
    assert predicted.tensors == pytest.approx(record.peak, rel=0.06)
    kinds = record.at_peak()
    assert predicted.weights == pytest.approx(kinds["weights"], rel=0.001)
    assert predicted.lora == kinds["LoRA"]
    assert predicted.optimizer == kinds["optimizer states"]


NETS = {
    "fp32": {"weights": "fp32", "checkpointing": "none"},
    "fp32, blocks": {"weights": "fp32"},
    "bf16": {"checkpointing": "none"},
    "bf16, blocks, 8 bits": {"optimizer": "adamw_8bit"},
    "nf4, selective, accumulation": {"weights": "nf4", "checkpointing": "selective", "accumulation": 2},
}


@pytest.mark.parametrize("name", NETS)
def test_the_formula_counts_what_training_a_controlnet_holds(name):
    model = dataclasses.replace(QWEN_IMAGE, num_layers=3)
    options = {"height": 512, "width": 512, "control_blocks": 1, "optimizer": "adamw"} | NETS[name]
    settings = StepSettings(model=model, **options)
    record, predicted = simulate_step(settings), predict_step(settings)
    assert predicted.tensors == pytest.approx(record.peak, rel=0.06)
    kinds = record.at_peak()
    assert predicted.weights == pytest.approx(kinds["weights"], rel=0.001)
    assert predicted.lora == kinds["ControlNet"] and "LoRA" not in kinds
    assert predicted.optimizer == kinds["optimizer states"]


def test_the_simulation_of_a_controlnet_is_the_step_that_is_really_run():
    settings = StepSettings(**SIZES["micro"], weights="fp32", control_blocks=2, checkpointing="none", optimizer="adamw")
    assert simulate_step(settings).peak == pytest.approx(measure_step(settings, repeats=1).live, rel=0.001)


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_operations_of_a_controlnet(checkpointing):
    settings = small(control_blocks=2, checkpointing=checkpointing, attention="math", optimizer="adamw")
    assert predict_operations(settings).total == pytest.approx(count_operations(settings), rel=0.02)


def test_the_net_that_is_predicted_is_the_one_that_is_trained():
    """Of InstantX's size: 5 blocks."""
    from diffusers import QwenImageControlNetModel

    with torch.device("meta"):
        net = QwenImageControlNetModel(num_layers=5)
    sizes = sorted(parameter.numel() for parameter in net.parameters())
    shapes = formula._net_shapes(StepSettings(control_blocks=5))
    assert sorted(size for size, _ in shapes) == sizes
    assert predict_step(StepSettings(control_blocks=5)).lora == 4 * sum(sizes)


def test_every_rung_saves_what_it_promises():
    full = StepSettings(model=dataclasses.replace(QWEN_IMAGE, num_layers=2), height=512, width=512)
    peaks = {}
    for name, changes in {
        "all": {}, "no table": {}, "no checkpointing": {"checkpointing": "none"}, "math": {"attention": "math"},
        "adamw": {"optimizer": "adamw"}, "fp32": {"weights": "fp32"},
    }.items():  # fmt: skip
        settings = dataclasses.replace(full, modulation_table=name != "no table", **changes)
        peaks[name] = simulate_step(settings).peak
    assert all(peaks["all"] < peak for name, peak in peaks.items() if name != "all")
    assert peaks["no table"] - peaks["all"] == pytest.approx(2 * 2 * 2 * 18432 * 3073, rel=0.1)


def test_parameters_are_those_of_the_models():
    assert sum(weight_parameters(StepSettings())) == 20_430_401_088
    assert sum(weight_parameters(StepSettings(model=MICRO))) == 8_221_312
    assert ModelSize.of(TRANSFORMER_CONFIG | {"joint_attention_dim": 192}) == MICRO
    from diffusers import AutoencoderKLQwenImage
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
        encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    assert sum(p.numel() for p in vae.parameters()) == VAE_PARAMETERS
    assert sum(p.numel() for p in encoder.parameters()) == TEXT_ENCODER_PARAMETERS
    blocks = [p for name, p in encoder.named_parameters() if ".layers." in name and "language" in name and p.ndim > 1]
    assert sum(p.numel() for p in blocks) == TEXT_ENCODER_BLOCKS
    assert 15.4 < text_encoder_bytes("bf16") / GIB < 15.7
    assert text_encoder_bytes("nf4") < text_encoder_bytes("int8") < text_encoder_bytes("bf16")


@pytest.mark.parametrize("pixels", [256, 512])
def test_the_vae_phase_is_what_the_folded_vae_holds(pixels):
    from diffusers import AutoencoderKLQwenImage

    from qwenlab.model.vae2d import fold_causal_vae

    with FakeTensorMode(), torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        try:
            vae = fold_causal_vae(AutoencoderKLQwenImage())
        finally:
            torch.set_default_dtype(torch.float32)
        peaks = []
        latents = torch.zeros(1, 16, 1, pixels // 8, pixels // 8, dtype=torch.bfloat16)
        picture = torch.zeros(1, 3, 1, pixels, pixels, dtype=torch.bfloat16)
        for call in (lambda: vae.decode(latents).sample, lambda: vae.encode(picture).latent_dist.mean):
            watch = LiveBytes()
            watch.add(list(vae.parameters()), "weights")
            with watch:
                call()
            peaks.append(watch.record.peak)
    assert vae_bytes(pixels, pixels) == pytest.approx(max(peaks), rel=0.02)


@pytest.mark.parametrize("numbers", [64 * 256 * 3, 1000, 3072 * 3072])
def test_nf4_bytes_are_those_of_bitsandbytes(numbers):
    from bitsandbytes.functional import quantize_4bit

    data, state = quantize_4bit(torch.randn(numbers), compress_statistics=True, quant_type="nf4")
    scales = state.absmax.numel() * state.absmax.element_size() + state.state2.absmax.numel() * 4
    assert nf4_bytes(numbers) == data.numel() + scales


def test_adam_bytes_are_those_of_bitsandbytes():
    from bitsandbytes.optim import AdamW8bit

    for numbers in (100, 4096, 3072 * 64):
        parameter = torch.nn.Parameter(torch.zeros(numbers))
        parameter.grad = torch.ones(numbers)
        optimizer = AdamW8bit([parameter])
        optimizer.step()
        state = optimizer.state[parameter]
        own = {key: value for key, value in state.items() if torch.is_tensor(value) and "qmap" not in key}
        assert adamw_8bit_bytes(numbers) == sum(v.numel() * v.element_size() for v in own.values()), own.keys()


def test_a_reference_costs_the_tokens_of_a_picture():
    """Twice the picture's tokens, but for the target, which references have none of."""
    wide = StepSettings(width=2048)
    beside = StepSettings(references=1)
    assert beside.tokens == wide.tokens
    saved = 4096 * 64 * 4
    assert predict_step(wide).tensors - predict_step(beside).tensors == saved
    assert predict_operations(beside).total == predict_operations(wide).total


OPERATIONS = list(itertools.product([MICRO, MID], ["none", "blocks"], [False, True]))


@pytest.mark.parametrize(("model", "checkpointing", "table"), OPERATIONS)
def test_operations_are_those_of_the_counter(model, checkpointing, table):
    settings = StepSettings(
        model=model, checkpointing=checkpointing, modulation_table=table, height=256, width=256, rank=16,
        accumulation=2, attention="math",
    )  # fmt: skip
    assert predict_operations(settings).total == pytest.approx(count_operations(settings), rel=0.01)


def test_operations_of_the_real_step():
    plain = predict_operations(StepSettings(checkpointing="none"))
    assert 70e12 < plain.forward < 75e12 and 90e12 < plain.backward < 97e12 and plain.recomputed == 0
    blocks, selective = (predict_operations(StepSettings(checkpointing=way)) for way in ("blocks", "selective"))
    assert blocks.recomputed == pytest.approx(plain.forward, rel=0.01)
    assert 12e12 < blocks.recomputed - selective.recomputed < 14e12, "attention is not computed again"


def test_the_promised_sizes():
    """1024 x 1024, rank 64 on attention and MLPs, float32 LoRA, 8-bit Adam, 128 text tokens, workspace included."""
    gib = {w: predict_step(StepSettings(weights=w, modulation_table=True)).total / GIB for w in ("bf16", "int8", "nf4")}
    assert gib["bf16"] <= 32 and gib["int8"] <= 18 and gib["nf4"] <= 12, gib


def test_one_step_of_any_kind_trains():
    for changes in ({}, {"attention": "math"}, {"accumulation": 2, "optimizer": "adamw"}, {"weights": "nf4"}):
        step = build_step(small(modulation_table=True, **changes))
        before = [parameter.detach().clone() for parameter in step.parameters]
        first = step.run().item()
        assert any(not torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True))
        watch_step(step)
        assert first > 0 and all(parameter.grad is None for parameter in step.parameters)
