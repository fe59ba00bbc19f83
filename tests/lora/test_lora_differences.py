"""Whole differences of matrices, norms and biases, as ComfyUI's trainer and LyCORIS write them."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qwenlab.lora.files import diagnose, fix, read_lora
from qwenlab.lora.files.comfyui import ask_comfyui
from tests.lora.lora_layouts import DOWN, RANK, Layout, accounted, written

EXACT = 1e-12  # relative, in float64
QUERY = "transformer_blocks.0.attn.to_q"


def moved(model, state, prefix):
    """A copy of the model in which ComfyUI's differences and LoRAs are added to the weights, in float64."""
    copy = type(model).from_config(model.config).double()
    copy.load_state_dict(model.state_dict())
    parameters = dict(copy.named_parameters())
    with torch.no_grad():
        for key, value in state.items():
            stem, _, end = key.removeprefix(prefix).rpartition(".")
            if end == "diff_b":
                parameters[f"{stem}.bias"] += value.double()
            elif end in ("diff", "w_norm"):
                parameters[f"{stem}.weight"] += value.double()
            elif key.endswith(".lora_up.weight"):
                stem = stem.removesuffix(".lora_up")
                a, alpha = (state[f"{prefix}{stem}.{end}"].double() for end in ("lora_down.weight", "alpha"))
                parameters[f"{stem}.weight"] += alpha / len(a) * value.double() @ a
    return copy


def picture(model):
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    inputs = torch.randn(1, 4, 64, generator=generator), torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        return model(
            hidden_states=inputs[0].to(dtype), encoder_hidden_states=inputs[1].to(dtype), img_shapes=[[(1, 2, 2)]],
            timestep=torch.tensor([0.5], dtype=dtype), return_dict=False,
        )[0].double()  # fmt: skip


def train_lora_node(model, names, seed=0):
    """What ComfyUI's Train LoRA node writes: LoRA for matrices, `.diff` for norms, `.diff_b` for biases."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.1 * torch.randn(*shape, generator=generator)

    state = {}
    for name, module in model.named_modules():
        stem = f"diffusion_model.{name}"
        if isinstance(module, nn.Linear) and name in names:
            d, k = module.weight.shape
            state |= {f"{stem}.lora_up.weight": draw(d, RANK), f"{stem}.lora_down.weight": draw(RANK, k)}
            state |= {f"{stem}.alpha": torch.tensor(1.0), f"{stem}.diff_b": draw(d)}
        elif name.endswith("norm_added_k"):
            state[f"{stem}.diff"] = draw(*module.weight.shape)
    return state


def test_comfyuis_trainer_is_read_and_rewritten(stock, tiny, tmp_path):
    names = [name for name in dict(tiny.named_modules()) if name.endswith((".to_q", ".to_add_out", "img_mlp.net.2"))]
    state = train_lora_node(tiny, names)
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path)
    text = str(report)
    assert "6 differences of biases" in text and "2 differences of norms" in text and "another model" not in text
    assert report.comfyui.works and report.diffusers.outcome == "error"
    refused = str(report.diffusers).split("refused for ")[1]
    assert "6 differences of biases" in refused and "2 differences of norms" in refused
    assert accounted(report.file) == sorted(state)
    result = fix(path, tmp_path / "out.safetensors")
    assert len(result.left) == 1 and result.left[0].startswith("2 differences of norms")
    assert diagnose(result.lora).diffusers.works
    stock(result.lora, loaded := type(tiny).from_config(tiny.config))
    loaded.load_state_dict(tiny.state_dict(), strict=False)
    for name, module in loaded.named_modules():  # the base's weights moved into peft's wrappers
        if hasattr(module, "base_layer"):
            module.base_layer.load_state_dict(tiny.get_submodule(name).state_dict())
    without_norms = {key: value for key, value in state.items() if "norm_added_k" not in key}
    expected = picture(moved(tiny, without_norms, "diffusion_model."))
    assert (picture(loaded) - expected).norm() <= 1e-5 * expected.norm()
    assert (picture(tiny) - expected).norm() > 1e-2 * expected.norm()
    kept = load_file(fix(path, tmp_path / "c.safetensors", "comfyui").lora)
    assert all(torch.equal(kept[key], value) for key, value in state.items() if key.endswith((".diff", ".diff_b")))


def test_whole_matrices_become_loras_of_full_rank(stock, tiny, tmp_path):
    names = (QUERY, "transformer_blocks.1.img_mlp.net.0.proj", "transformer_blocks.1.img_mlp.net.2")
    state = {f"diffusion_model.{name}.diff": torch.randn_like(tiny.get_submodule(name).weight) for name in names}
    save_file(state, path := tmp_path / "a.safetensors")
    assert "3 full differences of matrices (.diff)" in str(diagnose(path))
    out = fix(path, tmp_path / "out.safetensors").lora
    assert diagnose(out).diffusers.works and diagnose(out).comfyui.works
    for name, (a, b) in stock(out).items():
        assert torch.equal(b @ a, state[f"diffusion_model.{name}.diff"].double())
        assert len(a) == 32
    kohya = load_file(fix(path, tmp_path / "k.safetensors", "kohya").lora)
    assert {key.rpartition(".")[2] for key in kohya} == {"diff"} and len(kohya) == 3


@pytest.mark.parametrize(
    "prefix, end", [("diffusion_model.", "diff"), ("lycoris_", "w_norm"), ("transformer.", "diff")]
)
def test_norms_are_named_and_kept_where_a_layout_holds_them(prefix, end, tiny, tmp_path):
    names = [name for name, module in tiny.named_modules() if name.rpartition(".")[2].startswith("norm_")
             and hasattr(module, "weight")]  # fmt: skip
    layout = Layout(prefix, *DOWN, "", "", 1.0)
    norms = {f"{layout.name(name)}.{end}": torch.randn(16) for name in names}
    written(tmp_path / "a.safetensors", tiny, prefix, DOWN, 1.0, lambda state: state.update(norms))
    report = diagnose(tmp_path / "a.safetensors")
    assert "8 differences of norms" in str(report) and report.comfyui.works and not report.diffusers.works
    result = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors")
    assert "8 differences of norms" in result.left[0] and "--format comfyui keeps them" in result.left[0]
    kept = fix(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "comfyui")
    assert not kept.left and ask_comfyui(read_lora(kept.lora)).works
    state = load_file(kept.lora)
    for name in names:
        assert torch.equal(state[f"diffusion_model.{name}.diff"], norms[f"{layout.name(name)}.{end}"])


def test_differences_of_zero_are_no_loss(tiny, tmp_path):
    zero = {"transformer.txt_norm.diff": torch.zeros(32)}
    written(tmp_path / "a.safetensors", tiny, change=lambda state: state.update(zero))
    (sentence,) = fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors").left
    assert "all zero, so that nothing is lost" in sentence


@pytest.mark.parametrize("scaling", [1.0, 0.5])
def test_biases_of_a_lora_count_as_the_factors_do(scaling, stock, tiny, tmp_path):
    bias = torch.randn(32)
    change = {f"transformer.{QUERY}.lora_B.bias": bias}
    alpha = None if scaling == 1 else RANK * scaling
    written(tmp_path / "a.safetensors", tiny, alpha=alpha, change=lambda state: state.update(change))
    comfy = load_file(fix(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "comfyui").lora)
    assert torch.equal(comfy[f"diffusion_model.{QUERY}.diff_b"], scaling * bias)
    stock(
        fix(tmp_path / "a.safetensors", tmp_path / "o.safetensors").lora, model := type(tiny).from_config(tiny.config)
    )
    biases = {
        name: module.lora_B["default_0"].bias for name, module in model.named_modules() if hasattr(module, "lora_B")
    }
    assert torch.equal(biases.pop(QUERY).detach(), scaling * bias) and not any(b.any() for b in biases.values())
