"""Files of more trainers: magnitudes beside LoKr and LoHa, IA3, wrappers inside names, notes that refine each other."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.files import diagnose, fix, read_lora
from qwenlab.lora.io import load_lora, remove_lora
from tests.lora.lora_factors import relative, updates
from tests.lora.lora_layouts import AB, DOWN, accounted, written
from tests.lora.test_lora_identity import lora_file

QUERY = "transformer_blocks.0.attn.to_q"
PREFIXES = ("lycoris_", "transformer.", "diffusion_model.", "lora_unet_")


def stem_of(prefix, layer=QUERY):
    return prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)


# Magnitudes of DoRA beside adapters that are no LoRA, as LyCORIS and OneTrainer write them


ADAPTERS = {
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)},
    "LoHa": {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)},
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("shape, outcome", [((1, 32), "works"), ((32, 1), "wrong scale"), ((32,), "wrong scale")])
def test_magnitudes_beside_adapters_are_a_part_of_them(prefix, kind, shape, outcome, tmp_path):
    state = {f"{stem_of(prefix)}.{name}": torch.randn(size) for name, size in ADAPTERS[kind].items()}
    state |= {f"{stem_of(prefix)}.alpha": torch.tensor(1.0), f"{stem_of(prefix)}.dora_scale": torch.rand(shape)}
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path, execute=False)
    assert report.comfyui.outcome == outcome and accounted(report.file) == sorted(state)
    assert "1 magnitudes of DoRA beside LoKr or LoHa" in str(report) and "scale nothing" not in str(report)
    for form in ("comfyui", "kohya"):
        result = fix(path, tmp_path / f"{form}.safetensors", form)
        assert not result.left
        found = load_file(result.lora)
        assert sorted(key.split(".")[-1] for key in found) == sorted(key.split(".")[-1] for key in state)
        (scale,) = (value for key, value in found.items() if key.endswith(".dora_scale"))
        assert torch.equal(scale, state[f"{stem_of(prefix)}.dora_scale"])
    with pytest.raises(QwenlabError, match=f"{kind} is not rewritten for diffusers|, {kind} is|is not rewritten"):
        fix(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model."])
def test_the_loader_of_lokr_is_said_to_leave_magnitudes_out(prefix, tiny, tmp_path):
    state = {f"{stem_of(prefix)}.{name}": torch.randn(size) for name, size in ADAPTERS["LoKr"].items()}
    state |= {f"{stem_of(prefix)}.alpha": torch.tensor(2.0), f"{stem_of(prefix)}.dora_scale": torch.ones(32, 1)}
    save_file(state, path := tmp_path / "a.safetensors")
    assert "reads it exactly, and leaves out the magnitudes of DoRA" in diagnose(path, execute=True).diffusers.detail
    tiny = type(tiny).from_config(tiny.config)
    tiny.load_lora_adapter(str(path), prefix=prefix.rstrip("."))
    layer = tiny.get_submodule(QUERY)
    w1, a, b = (state[f"{stem_of(prefix)}.{name}"] for name in ADAPTERS["LoKr"])
    assert torch.allclose(layer.get_delta_weight(layer.active_adapters[0]), torch.kron(w1, a @ b), atol=1e-5)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_ia3_holds_is_named_and_not_written(prefix, tmp_path):
    state = {f"{stem_of(prefix)}.weight": torch.ones(32, 1), f"{stem_of(prefix)}.on_input": torch.tensor(0)}
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path, execute=False)
    assert report.file.kinds == ["IA3"] and "2 IA3" in str(report) and report.comfyui.outcome == "loads nothing"
    for form in ("diffusers", "comfyui", "kohya"):
        with pytest.raises(QwenlabError, match="IA3 is not rewritten .* no reader of Qwen-Image applies it"):
            fix(path, tmp_path / "out.safetensors", form)


# DoRA of ComfyUI: m (W + BA) / |W|, where a file means m (W + BA) / |W + BA|


@pytest.mark.parametrize("prefix, ends", [("lycoris_", DOWN), ("diffusion_model.", AB), ("lora_unet_", DOWN)])
@pytest.mark.parametrize("shape, outcome", [((1, 32), "works"), ((32, 1), "wrong scale"), ((32,), "wrong scale")])
def test_comfyuis_lengths_of_rows_are_not_called_right(prefix, ends, shape, outcome, tmp_path):
    stem = stem_of(prefix)
    state = {
        stem + ends[0]: torch.randn(4, 32),
        stem + ends[1]: torch.randn(32, 4),
        f"{stem}.dora_scale": torch.ones(shape),
    }
    save_file(state, path := tmp_path / "a.safetensors")
    verdict = diagnose(path, execute=False).comfyui
    assert verdict.outcome == outcome and ("lengths" in verdict.detail) == (outcome != "works")


@pytest.mark.parametrize("axis", [0, 1])
def test_why_they_are_wrong(axis, tmp_path):
    """`weight_decompose` of comfy/weight_adapter/base.py, against the weight that the file means."""
    weight, update, scale = (
        torch.randn(32, 24).double(),
        torch.randn(32, 24).double(),
        torch.rand(32, 24).double() + 0.5,
    )
    scale = scale.select(axis, 0).unsqueeze(axis)
    moved = weight + update
    by_rows = scale.shape[0] == len(weight)
    norm = weight.norm(dim=1, keepdim=True) if by_rows else moved.norm(dim=0, keepdim=True)
    meant = scale * moved / moved.norm(dim=axis, keepdim=True)
    off = moved.norm(dim=1, keepdim=True) / weight.norm(dim=1, keepdim=True) if by_rows else 1.0
    assert (
        relative(scale * moved / norm, meant * off) < 1e-12 and (relative(scale * moved / norm, meant) > 0.1) == by_rows
    )


# Words inside a layer's name


@pytest.mark.parametrize("word", ["linear", "orig_module", "wrapped", "layer", "inner", "_linear", "module.linear"])
@pytest.mark.parametrize("place", [2, 3, 9])
def test_words_of_wrappers_inside_names_are_taken_out(word, place, tiny, tmp_path):
    meant = written(tmp_path / "a.safetensors", tiny)
    state = {}
    for key, value in load_file(tmp_path / "a.safetensors").items():
        name, end = key.removeprefix("transformer.").split(".lora_")
        words = name.split(".")
        state[".".join(["transformer", *words[:place], word, *words[place:]]) + f".lora_{end}"] = value
    save_file(state, tmp_path / "a.safetensors")
    report = diagnose(tmp_path / "a.safetensors", execute=False)
    assert f"{word}.' is no layout's" in str(report) and report.comfyui.outcome == "loads nothing"
    found = updates(fix(tmp_path / "a.safetensors", tmp_path / "out.safetensors").lora)
    assert found.keys() == meant.keys() and max(relative(found[name], meant[name]) for name in meant) == 0


@pytest.mark.parametrize("name, layer, words", [
    ("transformer.transformer_blocks.0.foo.attn.to_q", QUERY, "foo"),
    ("transformer_blocks.0.attn.bar.baz.to_q", QUERY, "bar.baz"),
    ("diffusion_model.transformer_blocks.0.attn.to_out.0.tail", "transformer_blocks.0.attn.to_out.0", "tail"),
    ("x.transformer_blocks.3.img_mlp.odd.net.2", "transformer_blocks.3.img_mlp.net.2", "odd"),
])  # fmt: skip
def test_unknown_words_inside_a_name_are_no_other_model(name, layer, words, tmp_path):
    save_file({f"{name}.lora_A.weight": torch.ones(4, 32), f"{name}.lora_B.weight": torch.ones(32, 4)},
              path := tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(QwenlabError, match="names that are not known here") as caught:
        read_lora(path)
    assert repr(layer) in str(caught.value) and repr(words) in str(caught.value) and "model:" not in str(caught.value)


@pytest.mark.parametrize("name", [
    "transformer_blocks.0.ip_adapter.attn.to_q", "transformer_blocks.0.controlnet.attn.to_q",
    "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.ff.net.0.proj", "blocks.0.linear.attn.to_q",
])  # fmt: skip
def test_other_models_layers_stay_other_models(name, tmp_path):
    save_file({f"{name}.lora_A.weight": torch.ones(4, 32), f"{name}.lora_B.weight": torch.ones(32, 4)},
              path := tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(QwenlabError, match="LoRA of another model: no Qwen-Image has a layer"):
        read_lora(path)


# Notes that say the same, one more exactly than the other


@pytest.mark.parametrize("notes, base", [
    # musubi-tuner's pairs
    ({"modelspec.architecture": "Qwen-Image-Edit-2511", "ss_base_model_version": "qwen_image_edit"},
     "Qwen-Image-Edit-2511"),
    ({"modelspec.architecture": "Qwen-Image-Edit-Plus", "ss_base_model_version": "qwen_image_edit"},
     "Qwen-Image-Edit-Plus"),
    ({"ss_base_model_version": "qwen_image_edit", "ss_sd_model_name": "qwen_image_edit_2509_bf16.safetensors"},
     "Qwen-Image-Edit-2509"),
    # ai-toolkit calls 2509 and 2511 alike, its configuration does not
    ({"ss_base_model_version": "qwen_image_edit_plus"}, "Qwen-Image-Edit-Plus"),
    ({"ss_base_model_version": "qwen_image_edit_plus", "config": '{"model": {"arch": "qwen_image_edit_plus:2511"}}'},
     "Qwen-Image-Edit-2511"),
    ({"ss_base_model_version": "qwen_image", "config": '{"model": {"name_or_path": "Qwen/Qwen-Image-2512"}}'},
     "Qwen-Image-2512"),
])  # fmt: skip
def test_a_more_exact_name_is_no_second_model(notes, base, tmp_path):
    lora = read_lora(lora_file(tmp_path / "a.safetensors", metadata=notes))
    assert lora.base == base and not lora.doubts


@pytest.mark.parametrize("first, second", [
    ("qwen_image_edit_2509", "qwen_image_edit_2511"), ("qwen_image_2512", "qwen_image_edit"),
    ("qwen_image_layered", "qwen_image_edit_plus"),
])  # fmt: skip
def test_two_variants_are_a_doubt_but_not_about_the_family(first, second, tmp_path):
    notes = {"ss_base_model_version": first, "ss_sd_model_name": f"{second}.safetensors"}
    (doubt,) = read_lora(lora_file(tmp_path / "a.safetensors", metadata=notes)).doubts
    assert doubt.startswith("its metadata names several models: ")


# Numbers that make a LoRA nothing, or that lie beside it


def test_an_alpha_of_zero_leaves_every_layer_idle(tiny, tmp_path):
    written(tmp_path / "a.safetensors", tiny, "diffusion_model.", alpha=0.0)
    assert "28 layers are zero and change nothing" in str(diagnose(tmp_path / "a.safetensors", execute=False))
    state = load_file(tmp_path / "a.safetensors")
    state[f"diffusion_model.{QUERY}.alpha"] = torch.tensor(1.0)
    save_file(state, tmp_path / "a.safetensors")
    assert "27 layers are zero and change nothing" in str(diagnose(tmp_path / "a.safetensors", execute=False))


@pytest.mark.parametrize("name, entries, doubted", [
    ("fox", {"lora_alpha": 8}, True), ("adapter_model-1", {"lora_alpha": 2.5, "use_rslora": True}, True),
    ("fox", {"lora_alpha": 4}, False), ("fox", {"r": 4}, False), ("fox", ["no", "entries"], False),
])  # fmt: skip
def test_pefts_configuration_beside_another_name_is_a_doubt(name, entries, doubted, tiny, tmp_path):
    written(path := tmp_path / f"{name}.safetensors", tiny, "base_model.model.")
    path.with_name("adapter_config.json").write_text(json.dumps(entries))
    doubts = read_lora(path).doubts
    assert [doubt.startswith("adapter_config.json beside it says alpha") for doubt in doubts] == [True] * doubted
    path.rename(tmp_path / "adapter_model.safetensors")
    if isinstance(entries, dict):
        lora = read_lora(tmp_path / "adapter_model.safetensors")
        assert not lora.doubts and (lora.layers[QUERY].scaling != 1) == doubted


# What --fix writes for diffusers, and files whose configuration lies, in `load_lora`


def companions(kind, layers):
    """Tensors besides the factors of `layers`: name -> outputs, under the names that diffusers reads."""
    if kind == "DoRA":
        return {f"transformer.{name}.lora_magnitude_vector": torch.rand(size) + 0.5 for name, size in layers.items()}
    return {f"transformer.{name}.lora_B.bias": torch.randn(size) for name, size in layers.items()}


@pytest.mark.parametrize("kind", ["DoRA", "biases"])
@pytest.mark.parametrize("rewritten", [False, True])
def test_load_lora_takes_what_the_doctor_calls_right(kind, rewritten, pipeline, tmp_path):
    model = pipeline.transformer
    written(path := tmp_path / "a.safetensors", model)
    layers = {name: layer.shape[0] for name, layer in read_lora(path).layers.items()}
    state = load_file(path) | companions(kind, layers)
    save_file(state, path)
    assert diagnose(path, execute=True).diffusers.works
    path = fix(path, tmp_path / "fixed.safetensors").lora if rewritten else path
    before = {name: model.get_submodule(name).weight.detach().clone() for name in layers}
    load_lora(pipeline, path)
    for name in layers:
        layer = model.get_submodule(name)
        a, b = (state[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
        moved, x = before[name] + b @ a, torch.randn(3, a.shape[1])
        if kind == "DoRA":
            moved *= (state[f"transformer.{name}.lora_magnitude_vector"] / moved.norm(dim=1))[:, None]
        more = 0 if kind == "DoRA" else state[f"transformer.{name}.lora_B.bias"]
        with torch.no_grad():
            assert torch.allclose(layer(x), x @ moved.T + layer.base_layer.bias + more, atol=1e-3)
    remove_lora(pipeline)


@pytest.mark.parametrize("kind", ["DoRA", "biases"])
def test_load_lora_refuses_what_only_some_layers_have(kind, pipeline, tmp_path):
    written(path := tmp_path / "a.safetensors", pipeline.transformer)
    save_file(load_file(path) | companions(kind, {QUERY: read_lora(path).layers[QUERY].shape[0]}), path)
    with pytest.raises(QwenlabError, match="1 of 28 layers have .* diffusers wants all or none"):
        load_lora(pipeline, path)


@pytest.mark.parametrize("entries, doubt", [
    ({"r": 16, "lora_alpha": 16}, "says rank 16, the factors have 4"), ({"use_dora": True}, "holds no magnitudes"),
    ({"no_such_option": 3}, ""), ({"r": "four"}, ""),
])  # fmt: skip
def test_a_configuration_that_lies_is_one_line_and_undone(entries, doubt, pipeline, tmp_path):
    written(path := tmp_path / "a.safetensors", pipeline.transformer)
    state = load_file(path)
    entries = {"r": 4, "lora_alpha": 4, "target_modules": ["to_q"]} | entries
    notes = {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in entries.items()})}
    save_file(state, path, metadata=notes)
    assert any(doubt in said for said in read_lora(path).doubts) == bool(doubt)
    before = {name: weight.clone() for name, weight in pipeline.transformer.named_parameters()}
    with warnings.catch_warnings(), pytest.raises(QwenlabError, match="diffusers does not load it .*--fix") as caught:
        warnings.simplefilter("ignore")
        load_lora(pipeline, path)
    assert "\n" not in str(caught.value)
    after = dict(pipeline.transformer.named_parameters())
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    load_lora(pipeline, fix(path, tmp_path / "fixed.safetensors").lora)  # the configuration is gone
    remove_lora(pipeline)
