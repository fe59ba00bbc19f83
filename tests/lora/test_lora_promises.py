"""Every loader that the doctor names is run on a file of exactly that kind, and changes what the model computes."""

import re

import pytest
import torch
from peft.tuners.lokr.layer import factorization
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import diagnose, fix, read_lora
from qwenlab.lora.files.header import TensorFile
from qwenlab.lora.files.text_encoder import layer_name
from qwenlab.lora.io import load_lora
from tests.lora.lora_factors import relative
from tests.lora.lora_layouts import RANK, applied, written
from tests.tiny import SIZE, tiny_pipeline

PROMPT = "1女孩, 红色"


def draw(pipeline):
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(
        pipeline(PROMPT, height=SIZE, width=SIZE, num_inference_steps=2, true_cfg_scale=1.0, generator=generator,
                 output_type="np").images
    )  # fmt: skip


def embeddings(pipeline):
    with torch.no_grad():
        return pipeline.encode_prompt(PROMPT)[0].double()


def add(model, updates):
    """The updates (d, k) added to the weights."""
    with torch.no_grad():
        for name, update in updates.items():
            model.get_submodule(name).weight += update.to(torch.float32)


# The transformer's part


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya"])
def test_the_pipeline_draws_with_what_is_said_to_work(form, pipeline, tmp_path):
    meant = written(tmp_path / "a.safetensors", pipeline.transformer, "pipe.dit.", alpha=1.0)
    out = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors", form).lora
    assert diagnose(out).diffusers.works
    before = draw(pipeline)
    pipeline.load_lora_weights(str(out))
    after = draw(pipeline)
    pipeline.unload_lora_weights()
    add(pipeline.transformer, meant)
    assert (after - before).abs().max() > 0.01 and torch.allclose(after, draw(pipeline), atol=1e-4)


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model.", "lora_unet_", ""])
def test_a_negative_alpha_is_not_given_to_a_loader_that_never_ends(prefix, pipeline, tmp_path):
    meant = written(tmp_path / "a.safetensors", pipeline.transformer, prefix, alpha=-2.0)
    for execute in (False, True):
        verdict = diagnose(tmp_path / "a.safetensors", execute=execute).diffusers
        assert verdict.outcome == "hangs" and not verdict.works and ".alpha" in verdict.detail
    for form in ("diffusers", "comfyui", "kohya"):
        out = fix(tmp_path / "a.safetensors", tmp_path / f"{form}.safetensors", form).lora
        assert diagnose(out, execute=True).diffusers.works
        layers, file = read_lora(out).layers, TensorFile(out)
        for name, update in meant.items():
            a, b = (torch.tensor(file.array(key.text), dtype=torch.float64) for key in (layers[name].a, layers[name].b))
            assert relative(layers[name].scaling * b @ a, update) < 1e-7


# The text encoder's part


LAYERS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
NAMES = {
    "diffusers": ("text_encoder.model.language_model.layers.0.{}", "lora_A.weight", "lora_B.weight"),
    "older transformers": ("text_encoder.model.layers.0.{}", "lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model.model.language_model.layers.0.{}", "lora_A.weight", "lora_B.weight"),
    "OneTrainer": ("text_encoder.model.language_model.layers.0.{}", "lora_down.weight", "lora_up.weight"),
    "OneTrainer as kohya": ("lora_te_model_language_model_layers_0_{}", "lora_down.weight", "lora_up.weight"),
    "OneTrainer of before": ("lora_te1_model_layers_0_{}", "lora_down.weight", "lora_up.weight"),
    "kohya": ("lora_te_layers_0_{}", "lora_down.weight", "lora_up.weight"),
    "ComfyUI": ("text_encoders.qwen25_7b.transformer.model.layers.0.{}", "lora_A.weight", "lora_B.weight"),
    "DiffSynth, prefix left": (
        "pipe.text_encoder.model.model.language_model.layers.0.{}",
        "lora_A.weight",
        "lora_B.weight",
    ),
    "distributed": ("module._orig_mod.model.language_model.layers.0.{}", "lora_A.weight", "lora_B.weight"),
    "a conditioner": ("conditioner.llm.model.layers.0.{}", "lora_down.weight", "lora_up.weight"),
    "DiffSynth": ("text_encoder.model.language_model.layers.0.{}", "lora_A.default.weight", "lora_B.default.weight"),
}


def text_part(pipeline, names, alpha=None, rank=RANK):
    """Tensors for the text encoder in a trainer's names, and the updates that they mean."""
    stem, down, up = names
    state, meant = {}, {}
    for number, layer in enumerate(LAYERS):
        own = f"model.language_model.layers.0.{layer}"
        d, k = pipeline.text_encoder.get_submodule(own).weight.shape
        r = rank + 2 * (number == 2)
        a, b = torch.randn(r, k) / 8, torch.randn(d, r) / 8
        name = stem.format(layer.replace(".", "_") if stem.startswith("lora_te") else layer)
        state |= {f"{name}.{down}": a, f"{name}.{up}": b}
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
        meant[own] = (alpha or r) / r * b.double() @ a.double()
    return state, meant


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_the_text_encoder_loads_the_folder_that_fix_writes(names, alpha, pipeline, tmp_path):
    state, meant = text_part(pipeline, NAMES[names], alpha)
    written(tmp_path / "a.safetensors", pipeline.transformer, change=lambda file: file.update(state))
    report = str(diagnose(tmp_path / "a.safetensors"))
    assert f"{len(state)} tensors: the stock pipeline never loads them" in report
    assert "peft's folder, which pipeline.text_encoder.load_adapter(FOLDER) reads" in report
    folder = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors").text_encoder
    before = embeddings(pipeline)
    pipeline.text_encoder.load_adapter(str(folder))
    found = applied(pipeline.text_encoder)
    assert found.keys() == meant.keys()
    for name, (a, b) in found.items():
        assert b.any() and relative(b @ a, meant[name]) <= 1e-6
    after = embeddings(pipeline)
    plain = tiny_pipeline()
    add(plain.text_encoder, meant)
    assert (after - before).norm() > 1e-3 * before.norm()
    assert (after - embeddings(plain)).norm() <= 1e-4 * before.norm()


def test_our_own_loader_takes_both_parts(pipeline, tmp_path):
    state, meant = text_part(pipeline, NAMES["kohya"], 2.0)
    written(tmp_path / "a.safetensors", pipeline.transformer, change=lambda file: file.update(state))
    out = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors").lora
    load_lora(pipeline, out)
    assert len(applied(pipeline.transformer)) == 28
    for name, (a, b) in applied(pipeline.text_encoder).items():
        assert relative(b @ a, meant[name]) <= 1e-6


@pytest.mark.parametrize(
    "stem, own",
    [
        ("text_encoder.model.layers.27.self_attn.k_proj", "model.language_model.layers.27.self_attn.k_proj"),
        ("lora_te_model_layers_3_mlp_gate_proj", "model.language_model.layers.3.mlp.gate_proj"),
        ("text_encoder.model.layers.3.mlp.fc1", None),
        ("text_encoder.text_model.encoder.layers.3.self_attn.q_proj", None),
        ("text_encoder.model.visual.blocks.0.attn.qkv", None),
        ("lora_te2_text_model_encoder_layers_3_self_attn_q_proj", None),
    ],
)
def test_names_of_the_language_model(stem, own):
    assert layer_name(stem) == own


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(next(key for key in state if key.endswith("lora_up.weight"))),
        lambda state: state.update({"lora_te_layers_0_self_attn_q_proj.dora_scale": torch.ones(32, 1)}),
        lambda state: state.update({"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(3, 4)}),
    ],
)
def test_no_loader_is_promised_for_what_none_reads(change, pipeline, tmp_path):
    state, _ = text_part(pipeline, NAMES["kohya"], 2.0)
    change(state)
    written(tmp_path / "a.safetensors", pipeline.transformer, change=lambda file: file.update(state))
    report = str(diagnose(tmp_path / "a.safetensors"))
    assert "no other loader is known for their names" in report and "load_adapter" not in report
    result = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    kept = load_file(result.text_encoder)
    assert kept.keys() == state.keys() and all(torch.equal(kept[key], state[key]) for key in state)
    assert "no loader is known" in result.left[0]


# LoKr


def lokr(transformer, kind, alpha, prefix, factor=4):
    """LoKr of three layers, whole or as products ("full", "low", "both low"), and the updates that it means."""
    state, meant = {}, {}
    for name in (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.1.attn.to_q",
        "transformer_blocks.1.img_mlp.net.2",
    ):
        d, k = transformer.get_submodule(name).weight.shape
        (l1, l2), (m1, m2) = factorization(d, factor), factorization(k, factor)
        w1, w2, scaling = torch.randn(l1, m1) / 4, torch.randn(l2, m2) / 4, 1.0
        stem = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
        if kind == "both low":
            a, b = torch.randn(l1, 2), torch.randn(2, m1) / 4
            state |= {f"{stem}.lokr_w1_a": a, f"{stem}.lokr_w1_b": b}
            w1 = a @ b
        else:
            state[f"{stem}.lokr_w1"] = w1
        if kind == "full":
            state[f"{stem}.lokr_w2"] = w2
        else:
            a, b = torch.randn(l2, 2), torch.randn(2, m2) / 4
            state |= {f"{stem}.lokr_w2_a": a, f"{stem}.lokr_w2_b": b}
            w2, scaling = a @ b, 1.0 if alpha is None else alpha / 2
        if alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(alpha)
        meant[name] = scaling * torch.kron(w1.double(), w2.double())
    return state, meant


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model.", "", "pipe.dit.", "lycoris_", "lora_unet_"])
@pytest.mark.parametrize("kind", ["full", "low", "both low"])
@pytest.mark.parametrize("alpha", [None, 2.0, 8.0])
def test_lokr_is_read_by_the_loader_that_is_named(prefix, kind, alpha, pipeline, tmp_path):
    state, meant = lokr(pipeline.transformer, kind, alpha, prefix)
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path)
    verdict = str(report.diffusers)
    assert report.file.kinds == ["LoKr"] and report.file.width == 32 and verdict.startswith("error")
    with pytest.raises(ValueError):
        pipeline.load_lora_weights(str(path))
    call = re.search(r"transformer\.load_lora_adapter\(FILE, prefix=(.+?)\) (.+) \(executed\)", verdict)
    if prefix.endswith("_"):
        assert call is None and "load_lora_adapter does not know these names either" in verdict
        return
    before = draw(pipeline)
    pipeline.transformer.load_lora_adapter(str(path), prefix=eval(call[1]))
    strength = 0.0 if kind == "both low" else 1.0
    if call[2] == "reads it exactly":
        assert kind == "full" or (kind == "low" and alpha != 8.0)
    elif "passes over alpha" in call[2]:
        strength = float(re.search(r"acts with (\S+) times", call[2])[1])
        assert strength == 2 / alpha
    else:
        assert call[2] == "loads nothing"
    after = draw(pipeline)
    pipeline.unload_lora_weights()
    add(pipeline.transformer, {name: strength * update for name, update in meant.items()})
    assert torch.allclose(after, draw(pipeline), atol=1e-4)
    assert ((after - before).abs().max() > 1e-3) == (strength > 0)


def test_lokr_in_16_bits_is_read_up_to_rounding(pipeline, tmp_path):
    state, _ = lokr(pipeline.transformer, "full", None, "transformer.")
    save_file({key: value.bfloat16() for key, value in state.items()}, path := tmp_path / "a.safetensors")
    assert "reads it" in diagnose(path).diffusers.detail
    state["transformer.transformer_blocks.0.attn.to_k.lokr_w1"] = torch.ones(4, 4)
    save_file(state, path)
    assert "the LoKr of transformer_blocks.0.attn.to_k lacks a factor" in read_lora(path).doubts[0]


def test_lokr_beside_a_lora_is_promised_nothing(pipeline, tmp_path):
    state, _ = lokr(pipeline.transformer, "full", None, "transformer.")
    stem = "transformer.transformer_blocks.0.attn.to_k.lora"
    save_file(state | {f"{stem}_A.weight": torch.ones(2, 32), f"{stem}_B.weight": torch.ones(32, 2)},
              path := tmp_path / "a.safetensors")  # fmt: skip
    report = diagnose(path)
    assert report.file.kinds == ["LoRA", "LoKr"] and "load_lora_adapter" not in str(report)
    result = fix(path, tmp_path / "out.safetensors")
    assert "6 LoKr" in result.left[0] and diagnose(result.lora).diffusers.works
    kept = fix(path, tmp_path / "c.safetensors", "comfyui")
    assert not kept.left and diagnose(kept.lora, execute=False).comfyui.works
    with pytest.raises(QwenlabError, match="LoKr is not rewritten for diffusers"):
        save_file(state, path)
        fix(path, tmp_path / "second.safetensors")
