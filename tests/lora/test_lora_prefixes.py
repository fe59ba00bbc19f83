"""Known layers under unknown prefixes, and several layers in one matrix: read, named and rewritten exactly."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import FORMATS, diagnose, fix, read_lora
from qwenlab.lora.files.comfyui import ask_comfyui
from qwenlab.lora.files.readers import ask_diffusers
from tests.lora.lora_factors import relative, updates
from tests.lora.lora_layouts import AB, ALPHA, DOWN, RANK, accounted, written

EXACT = 1e-12  # relative, in float64
QUERY = "transformer_blocks.0.attn.to_q"


# A known layer behind an unknown prefix


WRAPPERS = (
    "pipe.dit.", "_orig_mod.", "transformer._orig_mod.", "transformer.transformer.", "module.", "module.module.",
    "model.diffusion_model.model.", "diffusion_model.diffusion_model.", "base_model.model.base_model.model.", "net.",
    "student.unet.", "lora_dit_", "lora_unet__", "lycoris_transformer_", "module.lora_unet_", "transformer_",
)  # fmt: skip


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_an_unknown_prefix_is_taken_off(prefix, alpha, stock, tiny, tmp_path):
    flat = prefix.endswith("_")
    meant = written(tmp_path / "a.safetensors", tiny, prefix, DOWN if flat else AB, alpha)
    report = diagnose(tmp_path / "a.safetensors", execute=False)
    assert report.file.kinds == ["LoRA"] and len(report.file.layers) == 28
    assert f"prefix: {prefix!r} is no layout's" in str(report) and "--fix does" in str(report)
    assert report.comfyui.outcome == "loads nothing"
    assert not ask_diffusers(report.file).works
    for form in FORMATS:
        (out,) = fix(tmp_path / "a.safetensors", tmp_path / f"{form}.safetensors", form)
        found = updates(out)
        assert found.keys() == meant.keys()
        assert max(relative(found[name], meant[name]) for name in meant) <= EXACT
        assert ask_comfyui(read_lora(out)).works and len(stock(out)) == 28


@pytest.mark.parametrize("inside", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"])
def test_wrappers_inside_a_name_are_taken_out(inside, tiny, tmp_path):
    meant = written(tmp_path / "a.safetensors", tiny)
    state = {}
    for key, value in load_file(tmp_path / "a.safetensors").items():
        block, layer = key[: len("transformer.transformer_blocks.0")], key[len("transformer.transformer_blocks.0.") :]
        name, end = layer.split(".lora_")
        middle = f"{name}.{inside}" if inside == "base_layer" else f"{inside}.{name}"
        state[f"{block}.{middle}.lora_{end}"] = value
    save_file(state, tmp_path / "a.safetensors")
    assert inside in str(diagnose(tmp_path / "a.safetensors", execute=False))
    (out,) = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    found = updates(out)
    assert found.keys() == meant.keys() and max(relative(found[name], meant[name]) for name in meant) == 0


@pytest.mark.parametrize(
    "name, guess",
    [
        ("transformer.single_transformer_blocks.0.attn.to_q", "FLUX"),
        ("transformer.single_transformer_blocks.0.proj_out", "FLUX"),
        ("lora_unet_single_transformer_blocks_0_attn_to_q", "FLUX"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "FLUX"),
        ("transformer.transformer_blocks.0.ff.net.0.proj", "FLUX or Stable Diffusion 3"),
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn.to_q", "Stable Diffusion"),
        ("lora_unet_input_blocks_4_1_proj_out", "Stable Diffusion"),
        ("diffusion_model.layers.0.attention.to_q", "Z-Image or Lumina"),
        ("controlnet.transformer_blocks.0.attn.to_q", None),
    ],
)
def test_no_wrapper_makes_another_models_layer_ours(name, guess, tmp_path):
    save_file({f"{name}.lora_A.weight": torch.ones(4, 64), f"{name}.lora_B.weight": torch.ones(64, 4)},
              path := tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(QwenlabError, match="no Qwen-Image has a layer") as caught:
        read_lora(path)
    assert (f"(it looks like {guess})" in str(caught.value)) == bool(guess)


# Fused layers


FUSED = {
    "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.add_qkv_proj": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.to_kv": ("attn.to_k", "attn.to_v"),
    "attn.to_added_kv": ("attn.add_k_proj", "attn.add_v_proj"),
    "img_mlp.gate_up": ("img_mlp.gate_layer", "img_mlp.proj"),
    "img_mlp.gate_up_proj": ("img_mlp.gate_layer", "img_mlp.proj"),
}


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("prefix, ends, alpha", [("diffusion_model.", DOWN, 1.0), ("transformer.", AB, None)])
def test_fused_layers_are_split_by_rows(fused, prefix, ends, alpha, stock, tiny, tiny_21, tmp_path):
    """As a model with the fused matrix would apply it: each part gets its rows of scaling B A."""
    model = tiny_21 if "gate_up" in fused else tiny
    linear = dict(model.named_modules())
    state, meant = {}, {}
    for block in (0, 1):
        parts = [f"transformer_blocks.{block}.{part}" for part in FUSED[fused]]
        rows, k = [linear[part].out_features for part in parts], linear[parts[0]].in_features
        a, b = torch.randn(RANK, k), torch.randn(sum(rows), RANK)
        stem = f"{prefix}transformer_blocks.{block}.{fused}"
        state |= {stem + ends[0]: a, stem + ends[1]: b}
        if alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(alpha)
        whole = (alpha or RANK) / RANK * (b.double() @ a.double())
        meant |= dict(zip(parts, whole.split(rows), strict=True))
    if "gate_up" in fused:  # a layer that tells the family
        name = "transformer_blocks.0.img_mlp.out"
        a, b = torch.randn(RANK, 96), torch.randn(32, RANK)
        state |= {prefix + name + ends[0]: a, prefix + name + ends[1]: b}
        meant[name] = b.double() @ a.double()
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path)
    assert f"fused: {fused} holds the rows of {', '.join(FUSED[fused])}" in str(report)
    assert not report.diffusers.works and accounted(report.file) == sorted(state)
    (out,) = fix(path, tmp_path / "out.safetensors")
    found = updates(out)
    assert found.keys() == meant.keys() and max(relative(found[name], meant[name]) for name in meant) <= EXACT
    got = stock(out, type(model).from_config(model.config))
    assert got.keys() == meant.keys()
    for name, (a, b) in got.items():
        assert relative(b @ a, meant[name]) <= 1e-6
    assert ask_comfyui(read_lora(fix(path, tmp_path / "c.safetensors", "comfyui").lora)).works


def test_a_fused_layer_beside_one_of_its_own_is_refused(tiny, tmp_path):
    fused = {"transformer.transformer_blocks.0.attn.to_qkv.lora_A.weight": torch.ones(4, 32)}
    fused["transformer.transformer_blocks.0.attn.to_qkv.lora_B.weight"] = torch.ones(96, 4)
    written(tmp_path / "a.safetensors", tiny, change=lambda state: state.update(fused))
    with pytest.raises(QwenlabError, match="two LoRAs for 'transformer_blocks.0.attn.to_[qkv]'"):
        read_lora(tmp_path / "a.safetensors")
    fused["transformer.transformer_blocks.0.attn.to_qkv.lora_B.weight"] = torch.ones(97, 4)
    save_file(fused, tmp_path / "b.safetensors")
    with pytest.raises(QwenlabError, match="3 layers in one, but B has 97 rows"):
        read_lora(tmp_path / "b.safetensors")


# Scaling


def test_scaling_that_is_no_power_of_two_is_rounded_once(tiny, tmp_path):
    meant = written(tmp_path / "a.safetensors", tiny, "diffusion_model.", AB, 1.3)
    for form, limit in (("diffusers", 1e-7), ("comfyui", EXACT), ("kohya", EXACT)):
        found = updates(fix(tmp_path / "a.safetensors", tmp_path / f"{form}.safetensors", form).lora)
        stored = float(torch.tensor(1.3)) / 1.3  # what the file's own float32 alpha is
        worst = max(relative(found[name], stored * meant[name]) for name in meant)
        assert worst <= limit
