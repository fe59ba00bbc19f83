"""DoRA in every trainer's spelling: the same magnitudes for diffusers and for ComfyUI."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import diagnose, fix, read_lora
from qwenlab.lora.files.comfyui import ask_comfyui
from tests.lora.lora_factors import relative
from tests.lora.lora_layouts import ALPHA, RANK

EXACT = 1e-12  # relative, in float64
QUERY = "transformer_blocks.0.attn.to_q"


BLOCK = "transformer.transformer_blocks.0"


def pair(stem, d=32, k=32):
    return {f"{stem}.lora_A.weight": torch.randn(RANK, k), f"{stem}.lora_B.weight": torch.randn(d, RANK)}


SPELLINGS = (
    "dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight",
    "lora_magnitude_vector.default", "magnitude", "magnitude.weight", "dora_magnitude", "lora_magnitude",
    "magnitude_vector", "m",
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_magnitudes_are_known_in_every_spelling_and_mean_the_same(spelling, alpha, stock, tiny, tmp_path):
    names = [name for name in dict(tiny.named_modules()) if name.endswith((".to_q", "img_mlp.net.2"))]
    state, expected = {}, {}
    for name in names:
        d, k = tiny.get_submodule(name).weight.shape
        a, b, m = torch.randn(RANK, k), torch.randn(d, RANK), torch.rand(d) + 0.5
        state |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
        state[f"transformer.{name}.{spelling}"] = m[:, None] if spelling == "dora_scale" else m
        if alpha is not None:
            state[f"transformer.{name}.alpha"] = torch.tensor(alpha)
        moved = tiny.get_submodule(name).weight.detach().double() + (alpha or RANK) / RANK * b.double() @ a.double()
        expected[name] = m.double()[:, None] * moved / moved.norm(dim=1, keepdim=True)
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path)
    assert report.file.kinds == ["DoRA"]
    assert f"4 of 4 layers have magnitudes of DoRA (.{spelling}), one for each output" in str(report)
    assert report.comfyui.outcome == ("wrong scale" if spelling == "dora_scale" else "drops DoRA")
    assert report.diffusers.works == (spelling in SPELLINGS[1:3] and alpha is None)
    (out,) = fix(path, tmp_path / "out.safetensors")
    model = type(tiny).from_config(tiny.config)
    model.load_state_dict(tiny.state_dict())
    assert len(stock(out, model)) == 4
    for name, weight in expected.items():  # what the loaded layer computes, column by column
        layer = model.get_submodule(name)
        with torch.no_grad():
            got = layer(torch.eye(weight.shape[1])) - layer.base_layer.bias
        assert relative(got.T.double(), weight) <= 1e-5
    comfy = load_file(fix(path, tmp_path / "c.safetensors", "comfyui").lora)
    assert comfy[f"diffusion_model.{QUERY}.dora_scale"].shape == (32, 1)


def test_magnitudes_that_a_layout_cannot_hold_are_refused(tiny, tmp_path):
    inputs = {f"{BLOCK}.img_mlp.net.2.dora_scale": torch.ones(1, 128)} | pair(f"{BLOCK}.img_mlp.net.2", 32, 128)
    save_file(inputs, path := tmp_path / "a.safetensors")
    assert "one for each input" in str(diagnose(path)) and diagnose(path).comfyui.works
    with pytest.raises(QwenlabError, match="one for each input and peft knows one for each output"):
        fix(path, tmp_path / "out.safetensors")
    assert ask_comfyui(read_lora(fix(path, tmp_path / "c.safetensors", "comfyui").lora)).works
    save_file(inputs | pair(f"{BLOCK}.attn.to_q"), path)
    with pytest.raises(QwenlabError, match="1 layers have no magnitudes and peft wants them for all"):
        fix(path, tmp_path / "out.safetensors")
    save_file({f"{BLOCK}.img_mlp.net.2.magnitude": torch.ones(7)} | pair(f"{BLOCK}.img_mlp.net.2", 32, 128), path)
    with pytest.raises(QwenlabError, match="has 7 numbers, but the layer 32 outputs and 128 inputs"):
        read_lora(path)
