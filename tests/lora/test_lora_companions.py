"""Tensors that are no factors: each sort is named, no verdict passes over it, --fix leaves out what it must."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import diagnose, fix
from qwenlab.lora.files.architecture import FAMILIES, kind_in
from tests.lora.lora_factors import relative, updates
from tests.lora.lora_layouts import RANK, accounted, written

EXACT = 1e-12  # relative, in float64
QUERY = "transformer_blocks.0.attn.to_q"


def pair(stem, d=32, k=32):
    return {f"{stem}.lora_A.weight": torch.randn(RANK, k), f"{stem}.lora_B.weight": torch.randn(d, RANK)}


BLOCK = "transformer.transformer_blocks.0"
COMPANIONS = {
    "norm": (pair(f"{BLOCK}.attn.norm_q"), "tensors for modules without a matrix"),
    "layer norm": (pair(f"{BLOCK}.img_norm1"), "tensors for modules without a matrix"),
    "dropout": (pair(f"{BLOCK}.attn.to_out.1"), "tensors for modules without a matrix"),
    "container": (pair(f"{BLOCK}.img_mlp"), "tensors for modules without a matrix"),
    "top norm": (pair("transformer.txt_norm"), "tensors for modules without a matrix"),
    "no such weight": ({f"{BLOCK}.img_norm2.diff": torch.ones(32)}, "tensors for modules without such a weight"),
    "norm's bias": ({f"{BLOCK}.attn.norm_k.b_norm": torch.ones(16)}, "tensors for modules without such a weight"),
    "no layer": (pair(f"{BLOCK}.attn.to_gate"), "tensors for layers that no Qwen-Image has"),
    "no layer outside": (pair("transformer.caption_projection"), "tensors for layers that no Qwen-Image has"),
    "2.1's layer": ({f"{BLOCK}.img_mlp.gate_layer.diff_b": torch.ones(96)}, "tensors for layers of another Qwen"),
    "embeddings": ({"bundle_emb.<fox>.qwen25_7b": torch.ones(2, 32)}, "trained embeddings"),
    "more embeddings": ({"bundle_emb.fox.string_to_param.*": torch.ones(2, 32)}, "trained embeddings"),
    "t5 embeddings": ({"emb_params": torch.ones(2, 32)}, "trained embeddings"),
    "optimizer": ({f"optimizer.state.0.{name}": torch.ones(3) for name in ("exp_avg", "step")}, "optimizer states"),
    "moments": ({f"{BLOCK}.attn.to_q.lora_A.weight.exp_avg_sq": torch.ones(3)}, "optimizer states"),
    "average": ({f"ema.{QUERY}.weight.shadow": torch.ones(3)}, "moving averages of weights"),
    "step": ({"global_step": torch.tensor(100)}, "bookkeeping of the training"),
    "auxiliary": ({"_aux.5f3a": torch.ones(3)}, "bookkeeping of the training"),
    "whole weight": ({f"{BLOCK}.attn.to_q.weight": torch.ones(32, 32)}, "whole weights of modules"),
    "trained whole": ({"transformer.proj_out.modules_to_save.default.weight": torch.ones(64, 32)}, "whole weights"),
    "set": ({f"{BLOCK}.attn.norm_q.set_weight": torch.ones(16)}, "weights to be put in place"),
    "VAE": ({"vae.decoder.conv_in.weight": torch.ones(3, 3)}, "weights of the VAE"),
    "encoder": ({"text_encoder.model.layers.0.mlp.up_proj.weight": torch.ones(3, 3)}, "whole weights of the text enc"),
    "alpha alone": ({f"{BLOCK}.attn.mystery.alpha": torch.tensor(2.0)}, "alphas without factors"),
    "alpha of many": ({f"{BLOCK}.attn.to_q.alpha": torch.ones(3)}, "alphas without factors"),
    "unknown": ({f"{BLOCK}.attn.to_q.mystery": torch.ones(3)}, "unknown tensors"),
    "quite unknown": ({"something": torch.ones(3)}, "unknown tensors"),
}  # fmt: skip
HARMLESS = ("optimizer", "moments", "average", "step", "auxiliary", "alpha alone", "alpha of many")


@pytest.mark.parametrize("name", COMPANIONS)
def test_companions_are_named_and_never_work_in_silence(name, stock, tiny, tmp_path):
    tensors, sort = COMPANIONS[name]
    meant = written(tmp_path / "a.safetensors", tiny, change=lambda state: state.update(tensors))
    report = diagnose(tmp_path / "a.safetensors")
    text = str(report)
    assert f"besides: {len(tensors)} {sort}" in text and "--fix leaves them out" in text, text
    assert next(iter(tensors)) in text or sorted(tensors)[0] in text
    assert accounted(report.file) == sorted(load_file(tmp_path / "a.safetensors"))
    for verdict in (report.diffusers, report.comfyui):
        assert sort in verdict.detail or (name == "set" and verdict is report.comfyui), verdict
        assert not verdict.works or name in HARMLESS or name == "set", verdict
    result = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    assert sort in result.left[0]
    found = updates(result.lora)
    assert found.keys() == meant.keys() and max(relative(found[key], meant[key]) for key in meant) <= EXACT
    assert len(stock(result.lora)) == 28 and diagnose(result.lora).comfyui.works


def test_a_file_of_companions_alone_is_not_rewritten(tiny, tmp_path):
    save_file(pair(f"{BLOCK}.attn.norm_q") | pair(f"{BLOCK}.img_norm1"), path := tmp_path / "a.safetensors")
    assert "4 tensors for modules without a matrix" in str(diagnose(path))
    with pytest.raises(QwenlabError, match="is not rewritten for diffusers: 4 tensors for modules without a matrix"):
        fix(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_the_tables_of_modules_are_the_real_classes(family, tiny, tiny_21):
    """Each module of the class has the kind that the tables say; fused layers have the rows of their parts."""
    model = tiny if family is FAMILIES[0] else tiny_21
    kinds = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        vector = own and all(parameter.ndim == 1 for parameter in own.values())
        kinds[name] = "linear" if isinstance(module, nn.Linear) else "norm" if vector else "empty"
        if isinstance(module, nn.Linear):
            assert (module.bias is not None) == family.biases
    for name in kinds.keys() - {"", "transformer_blocks", "transformer_blocks.0", "transformer_blocks.1"}:
        assert kind_in(family, name) == kinds[name], name
    for name, parts in family.fused.items():
        assert {kind_in(family, f"transformer_blocks.0.{part}") for part in parts} == {"linear"}
        assert kind_in(family, f"transformer_blocks.0.{name}") == "fused"
