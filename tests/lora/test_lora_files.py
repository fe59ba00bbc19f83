"""The LoRA doctor: verdicts against the stock loader, rewriting against the source, files that are refused."""

import json
import struct
from importlib import metadata
from pathlib import Path

import pytest
import torch
from diffusers import (
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImageEditPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.loaders.lora_pipeline import QwenImageLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.errors import QwenlabError
from qwenlab.lab.micro.transformer import TRANSFORMER_CONFIG
from qwenlab.lora.files import FORMATS, diagnose, fix, read_lora
from qwenlab.lora.files.architecture import MODELS, find_place, width_in
from qwenlab.lora.files.comfyui import ask_comfyui
from qwenlab.lora.files.layouts import parse_key
from qwenlab.lora.files.readers import ask_diffusers
from qwenlab.lora.files.text_encoder import text_encoder_folder
from qwenlab.lora.files.writing import text_encoder_path
from qwenlab.lora.io import load_lora
from tests.lora.lora_layouts import ALPHA, LAYOUTS, RANK, applied, distance, factors

runner = CliRunner()


def meant(source, layout):
    """The update that the file means, as scaled float64 factors."""
    return {
        name: ((a.double() if layout.mixed else layout.scaling * a.double()), b.double())
        for name, (a, b) in source.items()
    }


def write(tmp_path, transformer, name="lora_unet alpha", layout=None, change=None):
    """A file of a layout with everything in it, changed by `change(state)`."""
    layout = layout or LAYOUTS[name]
    path = layout.write(tmp_path / "lora.safetensors", factors(transformer, layout))
    if change:
        state = load_file(path)
        change(state)
        save_file(state, path)
    return path


def executed_outcome(stock, path, expected):
    """What the stock pipeline really does, in the doctor's words, from nothing but the loaded weights."""
    try:
        got = stock(path)
    except Exception:
        return "error"
    if not got:
        return "loads nothing"
    if any(a.is_meta for a, _ in got.values()):
        return "leaves weights empty"
    if got.keys() != expected.keys():
        return "loads a part"
    worst = max(distance(got[name], expected[name]) for name in expected)
    if worst < 1e-5:
        return "works"
    return "rounds" if worst < 1e-2 else "wrong"


# Verdicts


@pytest.mark.parametrize("name", LAYOUTS)
def test_verdicts_are_what_the_stock_pipeline_does(name, stock, tiny, tmp_path):
    layout = LAYOUTS[name]
    source = factors(tiny, layout)
    path = layout.write(tmp_path / "lora.safetensors", source)
    report = diagnose(path)
    truth = executed_outcome(stock, path, meant(source, layout))
    told = {"wrong scale": "wrong", "ignores alpha": "wrong"}.get(report.diffusers.outcome, report.diffusers.outcome)
    assert told == truth
    if metadata.version("diffusers") == "0.42.1":
        assert report.diffusers.outcome == layout.diffusers
    assert report.comfyui.outcome == layout.comfyui and "not executed" in str(report)
    lora = report.file
    assert set(lora.layers) == set(source)
    if not layout.mixed:
        assert all(layer.scaling == pytest.approx(layout.scaling) for layer in lora.layers.values())


def test_alpha_applied_twice_is_measured(tiny, tmp_path):
    verdict = ask_diffusers(read_lora(write(tmp_path, tiny, "diffusion_model twice")))
    assert verdict.outcome == "wrong scale" and "0.5 times" in verdict.detail


def test_a_reader_that_ignores_alpha_would_be_found_out(tiny, tmp_path, monkeypatch):
    from qwenlab.lora.files import readers

    def forgets(transformer, folder, name):
        state = {key: value for key, value in load_file(Path(folder) / name).items() if not key.endswith(".alpha")}
        QwenImagePipeline(None, None, None, None, transformer).load_lora_weights(state)

    monkeypatch.setattr(readers, "load_stock", forgets)
    verdict = ask_diffusers(read_lora(write(tmp_path, tiny, "diffusion_model alpha")))
    assert verdict.outcome == "ignores alpha" and "2 times" in verdict.detail


def test_half_a_lora_would_be_found_out(tiny, tmp_path, monkeypatch):
    from qwenlab.lora.files import readers

    def halves(transformer, folder, name):
        state = {key: value for key, value in load_file(Path(folder) / name).items() if ".to_q." not in key}
        QwenImagePipeline(None, None, None, None, transformer).load_lora_weights(state)

    monkeypatch.setattr(readers, "load_stock", halves)
    verdict = ask_diffusers(read_lora(write(tmp_path, tiny, "transformer")))
    assert verdict.outcome == "loads a part" and "2 of 28 layers" in verdict.detail


def test_the_pipelines_share_one_loader():
    for pipeline in (QwenImagePipeline, QwenImageEditPipeline, QwenImage21Pipeline):
        assert pipeline.load_lora_weights is QwenImageLoraLoaderMixin.load_lora_weights


# Rewriting


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_rewritten_to_the_same_update(name, stock, micro, tmp_path):
    layout = LAYOUTS[name]
    source = factors(micro, layout)
    path = layout.write(tmp_path / "lora.safetensors", source)
    before = path.read_bytes()
    expected = meant(source, layout)
    for form in FORMATS:
        (out,) = fix(path, tmp_path / f"{form}.safetensors", form)
        got = stock(out, QwenImageTransformer2DModel.from_config(micro.config))
        assert got.keys() == expected.keys()
        assert max(distance(got[key], expected[key]) for key in expected) <= 1e-6, form
        lora = read_lora(out)
        assert ask_comfyui(lora).works and lora.model.name == "micro"
        if layout.dtype == torch.bfloat16 and layout.alpha == ALPHA:
            assert {tensor.dtype for key, tensor in load_file(out).items() if "alpha" not in key} == {torch.bfloat16}
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_at_the_real_size(name, stock, tmp_path):
    """One block of width 3072 whose weights are one number each, seen as a matrix: loading reads none of them."""

    def block():
        with torch.device("meta"):
            model = QwenImageTransformer2DModel(num_layers=1)
        for name, parameter in list(model.named_parameters()):
            owner, _, leaf = name.rpartition(".")
            weight = nn.Parameter(torch.zeros(1).expand(parameter.shape), requires_grad=False)
            setattr(model.get_submodule(owner), leaf, weight)
        return model

    model = block()
    layout = LAYOUTS[name]
    source = factors(model, layout)
    path = layout.write(tmp_path / "lora.safetensors", source)
    expected = meant(source, layout)
    assert read_lora(path).model.name == "Qwen-Image"
    for form in FORMATS:
        (out,) = fix(path, tmp_path / f"{form}.safetensors", form)
        got = stock(out, block())
        assert len(got) == 14
        assert max(distance(got[key], expected[key]) for key in expected) <= 1e-6, form


def test_names_are_as_the_readers_want_them(tiny, tmp_path):
    path = write(tmp_path, tiny)
    stem = "transformer_blocks.0.attn.to_out.0"
    wanted = {
        "diffusers": {f"transformer.{stem}.lora_A.weight", f"transformer.{stem}.lora_B.weight"},
        "comfyui": {f"diffusion_model.{stem}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")},
        "kohya": {
            f"lora_unet_{stem.replace('.', '_')}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
        },
    }
    for form, keys in wanted.items():
        (out,) = fix(path, tmp_path / f"{form}.safetensors", form)
        state = load_file(out)
        assert {key for key in state if "0.attn.to_out.0" in key or "0_attn_to_out_0" in key} == keys
        assert all(state[key] == ALPHA for key in keys if key.endswith(".alpha"))


def test_other_metadata_stays_and_the_old_alpha_goes(tiny, tmp_path):
    path = write(tmp_path, tiny, "transformer metadata")
    state = load_file(path)
    entries = {
        "qwenlab.trigger": "1女孩",
        "sshs_model_hash": "0",
        "lora_adapter_metadata": json.dumps({"lora_alpha": 2}),
    }
    save_file(state, path, metadata=entries)
    (out,) = fix(path, tmp_path / "out.safetensors")
    kept = read_lora(out).metadata
    assert kept["qwenlab.trigger"] == "1女孩" and len(kept["qwenlab.rewritten_from"]) == 64
    assert not {"lora_adapter_metadata", "sshs_model_hash"} & set(kept)


def test_alpha_patterns_of_peft_are_followed(stock, tiny, tmp_path):
    source = factors(tiny, LAYOUTS["transformer"])
    patterns = {"attn.to_q": 8, "^transformer_blocks.1.img_mod.1": 1, r"transformer_blocks\.0\.attn\.to_[kv]": 3}
    adapter = {"lora_alpha": 2, "alpha_pattern": patterns}
    layout = LAYOUTS["transformer"]
    path = type(layout)(**(vars(layout) | {"adapter": adapter})).write(tmp_path / "a.safetensors", source)
    alphas = {
        name: 8 if name.endswith(".to_q") else 1 if name == "transformer_blocks.1.img_mod.1"
        else 3 if name.startswith("transformer_blocks.0.attn.to_") and name[-1] in "kv" else 2
        for name in source
    }  # fmt: skip
    lora = read_lora(path)
    assert {name: layer.alpha for name, layer in lora.layers.items()} == alphas
    assert ask_diffusers(lora).outcome == "works"
    (out,) = fix(path, tmp_path / "out.safetensors")
    got = stock(out)
    for name, (a, b) in source.items():
        assert distance(got[name], (alphas[name] / RANK * a.double(), b.double())) <= 1e-6


# What the report says


def test_report_in_words(micro, tmp_path):
    layout = LAYOUTS["lora_unet alpha"]
    source = {name: pair for name, pair in factors(micro, layout).items() if "_mod." not in name}
    text = str(diagnose(layout.write(tmp_path / "lora.safetensors", source)))
    for part in (
        "kind: LoRA\n",
        "fits: micro\n",
        "format: kohya (lora_unet_*.lora_down.weight, *.lora_up.weight)",
        "ranks: 4\n",
        "alpha: 2, from tensors; scaling 0.5",
        "12 of the 14 linear layers of a block; in 2 of 6 blocks; not img_mod.1, txt_mod.1",
        "dtype: float32",
        f"diffusers {metadata.version('diffusers')}: works",
        "ComfyUI (from its source, not executed): works",
    ):
        assert part in text, text


def test_report_on_an_uneven_lora(micro, tmp_path):
    layout = LAYOUTS["transformer mixed ranks"]
    source = factors(micro, layout)
    keep = {name for name in source if name.endswith((".to_q", ".to_k"))} - {"transformer_blocks.1.attn.to_k"}
    source = {name: pair for name, pair in source.items() if name in keep}
    top = micro.get_submodule("norm_out.linear")
    source["norm_out.linear"] = (torch.randn(4, top.in_features), torch.randn(top.out_features, 4))
    text = str(diagnose(layout.write(tmp_path / "lora.safetensors", source)))
    assert "ranks: 4 (3x), 6 (1x)" in text
    assert "2 of the 14 linear layers of a block; in 2 of 6 blocks; namely attn.to_k, attn.to_q" in text
    assert "of these blocks only: attn.to_k in 1; outside the blocks: norm_out.linear" in text
    assert "none stored" in text


def test_damage_is_reported_and_not_rewritten(tiny, tmp_path):
    def damage(state):
        state["lora_unet_transformer_blocks_0_attn_to_q.lora_up.weight"][0, 0] = torch.nan
        state["lora_unet_transformer_blocks_1_attn_to_q.lora_up.weight"].zero_()

    path = write(tmp_path, tiny, change=damage)
    report = diagnose(path)
    assert "1 layers hold NaN or infinity (transformer_blocks.0.attn.to_q" in report.damage
    assert "1 layers are zero and change nothing (transformer_blocks.1.attn.to_q" in report.idle
    assert_refused(path, "holds NaN", fix=tmp_path / "out.safetensors")


def test_a_lora_of_no_published_width_is_told(tiny, tmp_path):
    report = diagnose(write(tmp_path, tiny))
    assert report.file.model is None and "width 32; no published model" in str(report)


# Models and names


@pytest.mark.parametrize(
    "number, build",
    [
        (0, lambda: QwenImageTransformer2DModel()),
        (1, lambda: QwenImage21Transformer2DModel()),
        (2, lambda: QwenImageTransformer2DModel(**TRANSFORMER_CONFIG)),
    ],
)
def test_the_table_of_models_is_the_real_classes(number, build):
    model, family = MODELS[number], MODELS[number].family
    with torch.device("meta"):
        real = build()
    assert len(real.transformer_blocks) == model.blocks
    linear = {name: module for name, module in real.named_modules() if isinstance(module, nn.Linear)}
    for name, layer in linear.items():
        assert width_in(family, name, (layer.out_features, layer.in_features)) in (model.width, 0), name
        assert find_place(name.replace(".", "_"), flat=True).name == name == find_place(name).name
    assert len(linear) == len(family.block) * model.blocks + len(family.top)


def test_a_lora_of_qwen_image_21_is_recognised_and_rewritten(tmp_path):
    with torch.device("meta"):
        model = QwenImage21Transformer2DModel(num_layers=1)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    source = {
        name: (torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2))
        for name, layer in linear.items()
        if name.startswith("transformer_blocks.")
    }
    state = {f"transformer.{name}.lora_{'AB'[i]}.weight": pair[i] for name, pair in source.items() for i in (0, 1)}
    save_file(state, path := tmp_path / "a.safetensors")
    report = diagnose(path)
    assert "fits: Qwen-Image-2.1\n" in str(report) and "7 of the 7 linear layers" in str(report)
    assert report.diffusers.works and report.comfyui.works
    (out,) = fix(path, tmp_path / "comfy.safetensors", "comfyui")
    lora = read_lora(out)
    assert ask_comfyui(lora).works and ask_diffusers(lora).works
    assert_refused(path, "2.1's MLP in the kohya layout", fix=tmp_path / "k.safetensors", form="kohya")
    attention = {key: value for key, value in state.items() if ".attn." in key}
    save_file(attention, path)
    (out,) = fix(path, tmp_path / "kohya.safetensors", "kohya")
    assert ask_diffusers(read_lora(out)).works and read_lora(out).model.name == "Qwen-Image-2.1"
    # the halves of ComfyUI's fused matrix have no such name
    comfy = {key.replace("transformer.", "diffusion_model.", 1): value for key, value in state.items()}
    save_file(comfy, path)
    assert ask_comfyui(read_lora(path)).outcome == "loads a part"


@pytest.mark.parametrize(
    "flat, name",
    [
        ("transformer_blocks_0_attn_to_out_0", "transformer_blocks.0.attn.to_out.0"),
        ("transformer_blocks_11_img_mlp_net_0_proj", "transformer_blocks.11.img_mlp.net.0.proj"),
        ("transformer_blocks_59_txt_mlp_net_2", "transformer_blocks.59.txt_mlp.net.2"),
        ("transformer_blocks_5_img_mod_1", "transformer_blocks.5.img_mod.1"),
        ("transformer_blocks_5_attn_add_q_proj", "transformer_blocks.5.attn.add_q_proj"),
        ("transformer_blocks_5_attn_to_add_out", "transformer_blocks.5.attn.to_add_out"),
        ("time_text_embed_timestep_embedder_linear_1", "time_text_embed.timestep_embedder.linear_1"),
        ("transformer_blocks_05_attn_to_q", None),
        ("transformer_blocks_5_attn.to_q", None),
        ("transformer_blocks_5_ff_net_2", None),
    ],
)
def test_underscored_names_come_back_exactly(flat, name):
    place = find_place(flat, flat=True)
    assert (place and place.name) == name
    assert parse_key(f"lora_unet_{flat}.lora_down.weight").layer == name


@pytest.mark.parametrize(
    "prefix", ["", "transformer.", "diffusion_model.", "base_model.model.", "transformer.base_model.model.", "lycoris_"]
)
@pytest.mark.parametrize(
    "end, role, adapter",
    [
        (".lora_A.weight", "A", ""),
        (".lora_down.weight", "A", ""),
        (".lora_B.hero.weight", "B", "hero"),
        (".lora.up.weight", "B", ""),
        (".lora_linear_layer.up.weight", "B", ""),
        (".lora_B", "B", ""),
        (".alpha", "alpha", ""),
        (".lora_B.bias", "bias", ""),
        (".lokr_w2_a", "LoKr", ""),
        (".hada_w1_b", "LoHa", ""),
        (".oft_blocks", "OFT", ""),
        (".diff_b", "full difference", ""),
    ],
)
def test_keys_come_apart(prefix, end, role, adapter):
    layer = "transformer_blocks.12.txt_mlp.net.0.proj"
    key = parse_key(prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer) + end)
    assert (key.prefix, key.layer, key.role, key.adapter) == (prefix, layer, role, adapter)


# Text encoder, and relatives of LoRA


TEXT = "text_encoder.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "name, stem, ends, known_to_comfyui",
    [
        ("transformer", TEXT, ("lora_A.weight", "lora_B.weight"), False),
        ("lora_unet alpha", "lora_te_layers_0_self_attn_q_proj", ("lora_down.weight", "lora_up.weight", "alpha"), True),
    ],
)
def test_the_text_encoders_part_goes_to_its_own_file(name, stem, ends, known_to_comfyui, stock, tiny, tmp_path):
    tensors = {"alpha": torch.tensor(2.0)} | dict(zip(ends[:2], (torch.randn(4, 32), torch.randn(32, 4)), strict=True))
    part = {f"{stem}.{end}": tensors[end] for end in ends}
    path = write(tmp_path, tiny, name, change=lambda state: state.update(part))
    report = diagnose(path)
    assert report.diffusers.outcome == "loads a part" and "text encoder's part is dropped" in str(report.diffusers)
    assert len(stock(path)) == len(report.file.layers) == 28  # the stock loader says nothing and drops them
    assert f"{len(ends)} tensors: the stock pipeline never loads them" in str(report)
    assert ("is loaded with its CLIP input" in str(report.comfyui)) == known_to_comfyui
    out, second = fix(path, tmp_path / "out.safetensors")
    assert second == text_encoder_folder(out) == tmp_path / "out-text-encoder"
    assert not read_lora(out).text_encoder and ask_diffusers(read_lora(out)).outcome == "works"
    save_file(part, alone := tmp_path / "alone.safetensors")
    report = diagnose(alone)
    assert report.diffusers.outcome in ("loads nothing", "error") and report.comfyui.works == known_to_comfyui
    assert "kind: nothing for the transformer" in str(report)
    (third,) = fix(alone, tmp_path / "third.safetensors")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (third / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("end", ["lora_A.weight", "dora_scale"])
def test_a_text_encoders_part_that_nothing_loads_is_kept_as_it_is(end, tiny, tmp_path):
    part = {f"text_encoder.vision.layers.0.proj.{end}": torch.randn(4, 32)}
    path = write(tmp_path, tiny, "transformer", change=lambda state: state.update(part))
    assert "no other loader is known for their names" in str(diagnose(path))
    result = fix(path, tmp_path / "out.safetensors")
    assert result.text_encoder == text_encoder_path(result.lora) == tmp_path / "out.text_encoder.safetensors"
    kept = load_file(result.text_encoder)
    assert kept.keys() == part.keys() and all(torch.equal(kept[key], part[key]) for key in part)
    assert "no loader is known" in result.left[-1]
    assert_refused(result.text_encoder, "text encoder alone", fix=tmp_path / "third.safetensors")


def test_a_text_encoder_file_in_the_way_stops_everything(tiny, tmp_path):
    text = {f"{TEXT}.lora_A.weight": torch.ones(1, 1)}
    path = write(tmp_path, tiny, "transformer", change=lambda state: state.update(text))
    (tmp_path / "out.text_encoder.safetensors").write_bytes(b"mine")
    assert_refused(path, "exists already and is never overwritten", fix=tmp_path / "out.safetensors")
    assert (tmp_path / "out.text_encoder.safetensors").read_bytes() == b"mine"
    (tmp_path / "other-text-encoder").mkdir()
    assert_refused(path, "exists already and is never overwritten", fix=tmp_path / "other.safetensors")


def relatives(transformer, prefix):
    """LoKr and LoHa tensors for every to_q, and DoRA's two kinds of magnitude."""
    linear = {name: layer for name, layer in transformer.named_modules() if name.endswith("to_q")}
    stems = {
        (prefix + (name.replace(".", "_") if prefix.endswith("_") else name)): layer for name, layer in linear.items()
    }
    d, k = next(iter(linear.values())).weight.shape

    def each(tensors):
        return {stem + end: shape() for stem in stems for end, shape in tensors.items()}

    ab = {".lora_A.weight": lambda: torch.randn(4, k), ".lora_B.weight": lambda: torch.randn(d, 4)}
    alpha = {".alpha": lambda: torch.tensor(1.0)}
    return {
        "LoKr": each({".lokr_w1": lambda: torch.randn(4, 4), ".lokr_w2": lambda: torch.randn(d // 4, k // 4)} | alpha),
        "LoHa": each(
            {f".hada_w{n}_a": lambda: torch.randn(d, 2) for n in "12"}
            | {f".hada_w{n}_b": lambda: torch.randn(2, k) for n in "12"}
            | alpha
        ),
        "DoRA": each(ab | {".dora_scale": lambda: torch.rand(d, 1) + 0.5}),
        "DoRA of peft": each(ab | {".lora_magnitude_vector": lambda: torch.rand(d) + 0.5}),
    }


@pytest.mark.parametrize(
    "kind, prefix, diffusers, comfyui",
    [
        ("LoKr", "transformer.", "error", "works"),
        ("LoKr", "diffusion_model.", "error", "works"),
        ("LoKr", "lycoris_", "error", "works"),
        ("LoHa", "transformer.", "error", "works"),
        ("LoHa", "lora_unet_", "error", "works"),
        ("DoRA", "transformer.", "drops DoRA", "wrong scale"),
        ("DoRA", "diffusion_model.", "drops DoRA", "wrong scale"),
        ("DoRA", "", "loads nothing", "wrong scale"),
        ("DoRA of peft", "transformer.", "works", "drops DoRA"),
        ("DoRA of peft", "diffusion_model.", "error", "drops DoRA"),
    ],
)
def test_relatives_of_lora_are_named_and_left_alone(kind, prefix, diffusers, comfyui, stock, tiny, tmp_path):
    save_file(relatives(tiny, prefix)[kind], path := tmp_path / "a.safetensors")
    report = diagnose(path)
    assert report.file.kinds == [kind.split()[0]] and f"kind: {kind.split()[0]}\n" in str(report)
    assert "in 2 of 2 blocks; namely attn.to_q" in str(report)
    try:
        got = stock(path)
        truth = "loads nothing" if not got else "loads"
    except Exception:
        truth = "error"
    assert truth == {"works": "loads", "drops DoRA": "loads"}.get(report.diffusers.outcome, report.diffusers.outcome)
    if metadata.version("diffusers") == "0.42.1":
        assert report.diffusers.outcome == diffusers
    assert report.comfyui.outcome == comfyui
    if "DoRA" not in kind:
        assert_refused(path, f"{kind} is not rewritten", fix=tmp_path / "out.safetensors")
        return
    (out,) = fix(path, tmp_path / "out.safetensors")  # one magnitude for each output: peft's and ComfyUI's are the same
    assert diagnose(out).diffusers.outcome == "works" and len(stock(out)) == 2
    (back,) = fix(out, tmp_path / "back.safetensors", "comfyui")
    verdict = ask_comfyui(read_lora(back))
    assert verdict.outcome == "wrong scale" and "not computed as trained" in verdict.detail
    states = [{key.rsplit(".attn.", 1)[-1]: value for key, value in load_file(file).items()} for file in (path, back)]
    ends = ("dora_scale", "magnitude_vector")
    before, after = (next(v for k, v in state.items() if k.endswith(ends)).flatten() for state in states)
    assert torch.equal(before, after)


def test_unknown_companions_of_a_lora_are_named_and_kept_where_a_layout_holds_them(stock, tiny, tmp_path):
    bias = "transformer.transformer_blocks.0.attn.to_q.lora_B.bias"
    path = write(tmp_path, tiny, "transformer", change=lambda state: state.update({bias: torch.ones(32)}))
    assert "1 biases of the LoRA (lora_B.bias)" in str(diagnose(path))
    (out,) = fix(path, tmp_path / "out.safetensors")
    assert torch.equal(load_file(out)[bias], torch.ones(32)) and diagnose(out).diffusers.works and len(stock(out)) == 28
    mystery = "transformer.transformer_blocks.0.attn.mystery"
    path = write(tmp_path, tiny, "transformer", change=lambda state: state.update({mystery: torch.ones(32)}))
    report = diagnose(path)
    assert mystery in str(report) and not report.diffusers.works and not report.comfyui.works
    result = fix(path, tmp_path / "second.safetensors")
    assert mystery in result.left[0] and len(stock(result.lora)) == 28


# Files that are refused


def assert_refused(path, expected, fix=None, form="diffusers"):
    """One line that names the file, status 2, and nothing written."""
    before = {item: item.read_bytes() for item in path.parent.iterdir() if item.is_file() and item.stat().st_size < 1e8}
    command = ["doctor", str(path)] + (["--fix", str(fix), "--format", form] if fix else [])
    result = runner.invoke(app, command)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("qwenlab: ") and expected in lines[0], result.stderr
    assert "Traceback" not in result.output
    after = {item: item.read_bytes() for item in path.parent.iterdir() if item.is_file() and item.stat().st_size < 1e8}
    assert after == before


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "truncated or no safetensors file (0 bytes)"),
        (b"PK\x03\x04" + bytes(100), "pickled torch file"),
        (b"\x80\x02}q\x00." + bytes(100), "can run any code"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"SQLite format 3\0" + bytes(100), "an SQLite database"),
        (b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0a.npy", "a file of NumPy arrays (.npz)"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (struct.pack("<Q", 2**62) + b"{" + bytes(100), "truncated"),
        (struct.pack("<Q", 20) + b'{"a": nonsense......', "damaged"),
        (struct.pack("<Q", 10) + b'{"a": "b"}', "damaged"),
    ],
)
def test_files_that_are_no_safetensors(content, expected, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(path, expected)
    assert_refused(path, expected, fix=tmp_path / "out.safetensors")


def test_a_pickle_is_not_executed(tmp_path):
    code = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    for start in (b"", b"\x80\x02"):
        (path := tmp_path / "a.safetensors").write_bytes(start + code)
        assert_refused(path, "a.safetensors: ")
    torch_file = {"a": torch.zeros(1)}
    torch.save(torch_file, path)
    assert_refused(path, "pickled torch file")
    assert not (tmp_path / "owned").exists()


def test_a_huge_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    with open(path, "wb") as file:  # sparse: 8 GiB of nothing
        file.write(struct.pack("<Q", 7 * 1024**3) + b"{")
        file.truncate(8 * 1024**3)
    assert_refused(path, "claims a header of 7516192768 bytes")


def test_truncated_and_missing_files(tiny, tmp_path):
    path = write(tmp_path, tiny)
    whole = path.read_bytes()
    for length in (4, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(path, "truncated" if length <= 200 else "damaged")
    assert_refused(tmp_path / "none.safetensors", "no such LoRA file")


@pytest.mark.parametrize(
    "state, expected",
    [
        ({"vae.weight": (2, 2)}, "holds no LoRA"),
        ({"transformer_blocks.0.attn.to_q.weight": (32, 32)}, "holds no LoRA"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 3072)}, "it looks like FLUX"),
        ({"lora_unet_down_blocks_0_attn_to_q.lora_down.weight": (4, 320)}, "it looks like Stable Diffusion"),
        ({"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": (4, 64)}, "it looks like Wan"),
        ({"transformer.transformer_blocks.0.attn.to_gate.lora_A.weight": (4, 64)}, "no Qwen-Image has a layer"),
        ({"A": (4, 64), "B": (96, 4)}, "is 96x64"),
        ({"A": (4, 64)}, "no factor B to go with A"),
        ({"A": (4, 64), "B": (64, 3)}, "make no low-rank product"),
        ({"A": (0, 64), "B": (64, 0)}, "make no low-rank product"),
        ({"text_encoder.model.layers.0.self_attn.q_proj.weight": (4, 4)}, "holds no LoRA"),
        ({"A": (4, 3072), "B": (3072, 4), "block": 60}, "block 60, but Qwen-Image has 60 blocks"),
    ],
)
def test_loras_of_other_models_and_broken_ones(state, expected, tmp_path):
    stem = f"transformer.transformer_blocks.{state.pop('block', 0)}.attn.to_q.lora_"
    names = {"A": f"{stem}A.weight", "B": f"{stem}B.weight"}
    save_file(
        {names.get(key, key): torch.ones(shape) for key, shape in state.items()}, path := tmp_path / "a.safetensors"
    )
    assert_refused(path, expected)
    assert_refused(path, expected, fix=tmp_path / "out.safetensors")


def test_odd_contents_are_one_line(tiny, tmp_path):
    def rewrite(change, **entries):
        path = write(tmp_path, tiny)
        state = load_file(path)
        change(state)
        save_file(state, path, metadata=entries or None)
        return path

    stem = "lora_unet_transformer_blocks_0_attn_to_q"
    double = {f"diffusion_model.transformer_blocks.0.attn.to_q.lora_{f}.weight": torch.ones(2, 2) for f in "AB"}
    assert_refused(rewrite(lambda state: state.update(double)), "two LoRAs for 'transformer_blocks.0.attn.to_q'")
    integers = {f"{stem}.lora_down.weight": torch.ones(4, 32, dtype=torch.int8)}
    assert_refused(rewrite(lambda state: state.update(integers)), "is stored as I8 and F32")
    assert_refused(rewrite(lambda state: state.update({f"{stem}.alpha": torch.tensor(torch.inf)})), "is inf")
    for text in ("{", "[1]", '{"lora_alpha": "many"}', '{"alpha_pattern": 3}', "[" * 100_000):
        assert_refused(rewrite(lambda state: None, lora_adapter_metadata=text), "not one that peft writes")
    (tmp_path / "adapter_config.json").write_bytes(b"\xff")
    path = rewrite(lambda state: None).rename(tmp_path / "adapter_model.safetensors")
    assert_refused(path, "adapter_config.json is not one that peft writes")


def test_foreign_text_is_printed_safely(tiny, tmp_path):
    path = write(tmp_path, tiny)
    save_file(load_file(path), path, metadata={"modelspec.title": "a\n\x1b[31mb" + "c" * 1000})
    text = str(diagnose(path))
    assert "modelspec.title: a??[31mbccc" in text and "\x1b" not in text and len(text) < 2000


# Where to write


def test_nothing_is_overwritten(tiny, tmp_path):
    path = write(tmp_path, tiny)
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    (tmp_path / "link.safetensors").symlink_to(path)
    assert_refused(path, "is the file itself", fix=path)
    assert_refused(path, "is the file itself", fix=tmp_path / "link.safetensors")
    assert_refused(path, "exists already", fix=tmp_path / "mine.safetensors")
    assert_refused(path, "end the name in .safetensors", fix=tmp_path / "out.bin")
    assert_refused(path, "is no folder", fix=path / "out.safetensors")
    assert_refused(path, "unknown layout", fix=tmp_path / "out.safetensors", form="webui")


def test_a_crash_leaves_no_file(tiny, tmp_path, monkeypatch):
    path = write(tmp_path, tiny)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fix(path, tmp_path / "out.safetensors")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


# Command line


def test_doctor_prints_and_rewrites(tiny, stock, tmp_path):
    path = write(tmp_path, tiny, "bare")
    result = runner.invoke(app, ["doctor", str(path)])
    assert result.exit_code == 0 and "bare (*.lora_A.weight, *.lora_B.weight)" in result.output
    assert f"diffusers {metadata.version('diffusers')}: loads nothing" in result.output
    out = tmp_path / "new" / "out.safetensors"
    result = runner.invoke(app, ["doctor", str(path), "--fix", str(out)])
    assert result.exit_code == 0, result.output
    assert f"unchanged: {out}" in result.output
    assert f"diffusers {metadata.version('diffusers')}: works" in result.output
    assert len(stock(out)) == 28
    result = runner.invoke(app, ["doctor", str(path), "--format", "kohya"])
    assert result.exit_code == 2 and "give --fix" in result.stderr


def test_help_lists_doctor():
    assert "doctor" in runner.invoke(app, ["--help"]).output


def test_load_lora_points_to_the_doctor(pipeline, tmp_path):
    for name in ("lora_unet alpha", "bare", "transformer alpha", "transformer default"):
        path = write(tmp_path, pipeline.transformer, name)
        with pytest.raises(QwenlabError, match="see qwenlab doctor") as caught:
            load_lora(pipeline, path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    (out,) = fix(path, tmp_path / "out.safetensors")
    load_lora(pipeline, out)
    assert len(applied(pipeline.transformer)) == 28
