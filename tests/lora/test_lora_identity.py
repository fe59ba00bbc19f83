"""Which model a LoRA was trained on: metadata of every trainer against names, widths, blocks and targets."""

import json
import warnings

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.errors import QwenlabError
from qwenlab.lora.files import diagnose, fix, read_lora
from qwenlab.lora.files.architecture import LOOKALIKES, SHARED_NAMES
from qwenlab.lora.files.identity import lookalikes, name_model
from qwenlab.lora.fusion import Source, fuse
from qwenlab.lora.io import load_lora
from qwenlab.lora.resizing import resize

runner = CliRunner()
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def lora_file(path, blocks=19, width=3072, names=tuple(f"attn.{name}" for name in ATTENTION), metadata=None, step=1):
    """A LoRA of rank 1; by default of every attention layer of FLUX.1's 19 double blocks."""
    factor = {size: torch.ones(1, size) for size in (width, 4 * width)}
    state = {}
    for block in range(0, blocks, step):
        for name in names:
            d, k = {"img_mlp.net.0.proj": (4 * width, width)}.get(name, (width, width))
            stem = f"transformer.transformer_blocks.{block}.{name}.lora"
            state |= {f"{stem}_A.weight": factor[k].clone(), f"{stem}_B.weight": factor[d].clone().T.contiguous()}
    save_file(state, path, metadata=metadata)
    return path


def config(**entries):
    return {"lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in entries.items()})}


# What each trainer writes for a model that is not Qwen-Image.
OTHER_MODELS = {
    "kohya's architecture": ({"modelspec.architecture": "flux-1-dev/lora"}, "FLUX.1"),
    "kohya's version": ({"ss_base_model_version": "flux1", "ss_network_module": "networks.lora"}, "FLUX.1"),
    "kohya's network": ({"ss_network_module": "networks.lora_flux"}, "FLUX.1"),
    "kohya's file": ({"ss_sd_model_name": "/models/qwen/flux1-dev-fp8.safetensors"}, "FLUX.1"),
    "kohya's repository": ({"modelspec.implementation": "https://github.com/black-forest-labs/flux"}, "FLUX.1"),
    "kohya's SD 2": ({"ss_v2": "True"}, "Stable Diffusion"),
    "kohya's SDXL": ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "Stable Diffusion XL"),
    "kohya's SD3": ({"modelspec.architecture": "stable-diffusion-3-5-large/lora"}, "Stable Diffusion 3"),
    "kohya's Chroma": ({"modelspec.architecture": "chroma/lora"}, "Chroma"),
    "musubi's Kontext": ({"modelspec.architecture": "Flux.1-dev/lora", "ss_base_model_version": "flux_kontext"},
                         "FLUX.1"),
    "musubi's HunyuanVideo": ({"ss_base_model_version": "hunyuan_video"}, "HunyuanVideo"),
    "musubi's FramePack": ({"modelspec.architecture": "framepack/lora"}, "HunyuanVideo"),
    "musubi's Wan": ({"modelspec.architecture": "wan2.1/lora", "ss_base_model_version": "wan"}, "Wan"),
    "musubi's Z-Image": ({"ss_base_model_version": "z_image"}, "Z-Image"),
    "ai-toolkit's FLUX": (
        {"software": '{"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit", "version": "0.7"}',
         "training_info": '{"step": 2000, "epoch": 33}', "ss_base_model_version": "flux.1_kontext"}, "FLUX.1"),
    "ai-toolkit's klein": ({"software": '{"name": "ai-toolkit"}', "ss_base_model_version": "flux2_klein_4b"}, "FLUX.2"),
    "ai-toolkit's config": ({"config": '{"model": {"name_or_path": "black-forest-labs/FLUX.1-dev"}}'}, "FLUX.1"),
    "ai-toolkit's switch": ({"model": '{"is_flux": true}'}, "FLUX.1"),
    "OneTrainer": ({"modelspec.architecture": "Flux.1-dev/lora", "ot_branch": "master"}, "FLUX.1"),
    "OneTrainer's config": ({"ot_config": '{"model_type": "FLUX_DEV_1", "base_model_name": "x"}'}, "FLUX.1"),
    "SimpleTuner": ({"modelspec.architecture": "flux-dev/lora", "modelspec.implementation": "diffusers"}, "FLUX.1"),
    "diffusers' base": (config(r=1, base_model_name_or_path="black-forest-labs/FLUX.1-dev"), "FLUX.1"),
    "diffusers' class": (config(r=1, auto_mapping={"base_model_class": "FluxTransformer2DModel"}), "FLUX.1"),
    "Qwen-Image-2.1": ({"modelspec.architecture": "qwen_image-v2.1/lora"}, "Qwen-Image-2.1"),
    "2.1 by its class": (config(auto_mapping={"base_model_class": "QwenImage21Transformer2DModel"}), "Qwen-Image-2.1"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_metadata_that_names_another_model_refuses(name, tmp_path):
    metadata, model = OTHER_MODELS[name]
    path = lora_file(tmp_path / "a.safetensors", metadata=metadata)
    result = runner.invoke(app, ["doctor", str(path), "--fix", str(tmp_path / "out.safetensors")])
    assert result.exit_code == 2 and not result.stdout
    (line,) = result.stderr.strip().splitlines()
    assert f"({model})" in line and f"load it on {model}" in line and any(key in line for key in metadata), line
    own = lora_file(tmp_path / "own.safetensors", 2)
    with pytest.raises(QwenlabError, match="LoRA of another model"):
        fuse([Source(own), Source(path)], tmp_path / "fused.safetensors", allow_partial=True)
    with pytest.raises(QwenlabError, match="LoRA of another model"):
        resize(path, tmp_path / "resized.safetensors", rank=1)
    assert {item.name for item in tmp_path.iterdir()} == {"a.safetensors", "own.safetensors"}


def test_targets_and_peft_folders_that_name_another_model_refuse(tmp_path):
    targets = ["attn.to_q", "attn.to_k", "ff.net.0.proj", "ff_context.net.2"]
    path = lora_file(tmp_path / "a.safetensors", metadata=config(r=1, lora_alpha=1, target_modules=targets))
    with pytest.raises(QwenlabError, match="the target 'ff.net.0.proj', which FLUX or Stable Diffusion 3 has"):
        read_lora(path)
    path = lora_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "base_model_name_or_path": "black-forest-labs/FLUX.1-dev"}')
    with pytest.raises(QwenlabError, match=r"base_model_name_or_path says .* \(FLUX.1\)"):
        read_lora(path)


def test_a_pipeline_refuses_by_metadata_what_fits_by_shape(pipeline, tmp_path):
    state = {f"transformer.transformer_blocks.0.attn.to_q.lora_{f}.weight": torch.ones(1, 32) for f in "AB"}
    state = {key: value.T.contiguous() if "_B." in key else value for key, value in state.items()}
    save_file(state, path := tmp_path / "a.safetensors", metadata={"modelspec.architecture": "flux-1-dev/lora"})
    with pytest.raises(QwenlabError, match="LoRA of another model"):
        load_lora(pipeline, path)
    assert not getattr(pipeline.transformer, "peft_config", None)


# What says that it is Qwen-Image, and which one
OURS = {
    "musubi": ({"modelspec.architecture": "Qwen-Image/lora", "ss_network_module": "networks.lora_qwen_image"},
               "Qwen-Image"),
    "musubi's Edit": ({"modelspec.architecture": "Qwen-Image-Edit/lora", "ss_base_model_version": "qwen_image_edit"},
                      "Qwen-Image-Edit"),
    "musubi's 2511": ({"modelspec.architecture": "Qwen-Image-Edit-2511/lora"}, "Qwen-Image-Edit-2511"),
    "musubi's Layered": ({"ss_base_model_version": "qwen_image_layered"}, "Qwen-Image-Layered"),
    "ai-toolkit": ({"software": '{"name": "ai-toolkit"}', "ss_base_model_version": "qwen_image"}, "Qwen-Image"),
    "ai-toolkit's Edit": ({"ss_base_model_version": "qwen_image_edit_plus"}, "Qwen-Image-Edit-Plus"),
    "OneTrainer": ({"ot_config": '{"model_type": "QWEN", "base_model_name": "Qwen/Qwen-Image-2512"}'},
                   "Qwen-Image-2512"),
    "SimpleTuner's 2512": ({"modelspec.architecture": "qwen_image-v2.0/lora"}, "Qwen-Image-2512"),
    "SimpleTuner's Edit": ({"modelspec.architecture": "qwen_image-edit-v2+/lora"}, "Qwen-Image-Edit-2509"),
    "diffusers": (config(r=1, lora_alpha=1, auto_mapping={"base_model_class": "QwenImageTransformer2DModel"}),
                  "Qwen-Image"),
    "a file": ({"ss_sd_model_name": "D:\\flux\\qwen_image_fp8_e4m3fn.safetensors"}, "Qwen-Image"),
}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_variants_of_qwen_image_are_told_and_leave_no_doubt(name, tmp_path):
    metadata, variant = OURS[name]
    lora = read_lora(lora_file(tmp_path / "a.safetensors", metadata=metadata))
    assert lora.base == variant and not lora.doubts
    text = str(diagnose(lora.path, execute=False))
    assert f"fits: Qwen-Image; made for {variant}, its metadata says" in text
    assert read_lora(fix(lora.path, tmp_path / "out.safetensors").lora).base == ("" if "diffusers" in name else variant)


def test_variants_are_fused_with_a_warning(tmp_path):
    paths = [lora_file(tmp_path / f"{n}.safetensors", 2, metadata={"ss_base_model_version": n})
             for n in ("qwen_image", "qwen_image_edit")]  # fmt: skip
    with pytest.warns(UserWarning, match="names variants of one model .*for Qwen-Image, .* for Qwen-Image-Edit"):
        fuse([Source(path) for path in paths], tmp_path / "out.safetensors")


# Doubts


@pytest.mark.parametrize(
    "metadata, sentence",
    [
        ({}, "names, width and block numbers are also those of FLUX.1 (19 blocks)"),
        ({"modelspec.title": "fox flux lora"}, "modelspec.title says 'fox flux lora', which names FLUX.1"),
        ({"ss_output_name": "wan_fox"}, "ss_output_name says 'wan_fox', which names Wan"),
        ({"modelspec.architecture": "fancy-net"}, "says 'fancy-net', a name that is not known here"),
        ({"modelspec.architecture": "qwen-image-flux"}, "a name that is not known here"),
        ({"ss_base_model_version": "qwen_image_edit", "modelspec.architecture": "Qwen-Image-2512/lora"},
         "its metadata names several models: Qwen-Image-2512, Qwen-Image-Edit"),
        (config(r=1, target_modules=["to_q", "fancy_proj"]), "names targets that no Qwen-Image has: fancy_proj"),
        (config(r=1, use_dora=True), "says DoRA, but the file holds no magnitudes"),
        ({"ss_network_dim": "16", "ss_network_alpha": "16"}, "ss_network_dim says rank 16, the factors have rank 1"),
        ({"ss_network_dim": "1", "ss_network_alpha": "0.25"}, "every reader takes alpha = rank, 4 times that strength"),
    ],
)  # fmt: skip
def test_doubts_are_said(metadata, sentence, tmp_path):
    path = lora_file(tmp_path / "a.safetensors", metadata=metadata)
    assert any(sentence in doubt for doubt in read_lora(path).doubts), read_lora(path).doubts
    report = str(diagnose(path, execute=False))
    assert "  doubt: " in report and sentence in report
    with pytest.warns(UserWarning, match="doubt|" + sentence.split("(")[0].split("'")[0]):
        fuse([Source(path)], tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "blocks, names, width, others",
    [
        (19, ("attn.to_q",), 3072, ("FLUX.1", "Chroma", "Bria", "LongCat-Image", "HunyuanVideo")),
        (
            5,
            ("attn.to_q",),
            3072,
            ("FLUX.1", "Chroma", "Bria", "LongCat-Image", "HunyuanVideo", "Ovis-Image", "FLUX.2 klein 4B"),
        ),
        (8, ("attn.to_q",), 4096, ("FLUX.2 klein 9B",)),
        (20, ("attn.to_q",), 3072, ("HunyuanVideo",)),
        (21, ("attn.to_q",), 3072, ()),
        (19, ("attn.to_q", "img_mlp.net.0.proj"), 3072, ()),
        (60, ("attn.to_q",), 3072, ()),
        (24, ("attn.add_q_proj",), 1536, ("Stable Diffusion 3 medium",)),
        (6, ("attn.to_q",), 192, ()),
    ],
)
def test_lookalikes_by_width_and_blocks(blocks, names, width, others, tmp_path):
    doubts = read_lora(lora_file(tmp_path / "a.safetensors", blocks, width, names)).doubts
    assert lookalikes([f"transformer_blocks.{blocks - 1}.{name}" for name in names], width)[: len(others)] == [
        f"{name} ({LOOKALIKES[name][1]} blocks)" for name in others
    ]
    assert len(doubts) == bool(others)
    with pytest.warns(UserWarning) if others else warnings.catch_warnings(action="error"):
        fuse([Source(tmp_path / "a.safetensors")], tmp_path / "out.safetensors")


REAL = {
    "FLUX.1": "FluxTransformer2DModel", "Chroma": "ChromaTransformer2DModel", "Bria": "BriaTransformer2DModel",
    "LongCat-Image": "LongCatImageTransformer2DModel", "HunyuanVideo": "HunyuanVideoTransformer3DModel",
    "Ovis-Image": "OvisImageTransformer2DModel", "FLUX.2": "Flux2Transformer2DModel",
    "HunyuanImage": "HunyuanImageTransformer2DModel", "HunyuanVideo-1.5": "HunyuanVideo15Transformer3DModel",
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_lookalikes_are_the_real_classes(name):
    """Width and number of blocks, and that their attention has Qwen-Image's names."""
    with torch.device("meta"):
        model = getattr(diffusers, REAL[name])()
    blocks = model.transformer_blocks
    shapes = {n: m.weight.shape for n, m in blocks[0].named_modules() if isinstance(m, nn.Linear) and n in SHARED_NAMES}
    assert len(shapes) == 8 and LOOKALIKES[name] == (shapes["attn.to_q"][0], len(blocks))
    assert {tuple(shape) for shape in shapes.values()} == {(LOOKALIKES[name][0],) * 2}


# Names


@pytest.mark.parametrize(
    "text, model",
    [
        ("Qwen/Qwen-Image", "Qwen-Image"),
        ("qwen-image-2.0", "Qwen-Image"),
        ("Qwen/Qwen-Image-2.1", "Qwen-Image-2.1"),
        ("qwen_image_21_turbo", "Qwen-Image-2.1"),
        ("Qwen-Image-2512-Lightning", "Qwen-Image-2512"),
        ("qwen_2.5_vl_7b.safetensors", ""),
        ("taiwan_landscape", ""),
        ("https://github.com/huggingface/diffusers", ""),
        ("networks.lora", ""),
        ("model.safetensors", ""),
        ("krea/Krea-2", "Krea 2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion XL"),
        ("runwayml/stable-diffusion-v1-5", "Stable Diffusion"),
        ("", ""),
    ],
)
def test_names_of_models(text, model):
    assert name_model(text) == model


def test_the_text_encoders_entries_say_nothing_of_the_model(tmp_path):
    nested = {"text_encoder": {"model_name": "flux-clip"}, "vae": {"model_name": "flux-ae"}, "lora_model_name": "flux"}
    path = lora_file(tmp_path / "a.safetensors", 60, metadata={"ot_config": json.dumps(nested), "ss_vae_name": "flux"})
    assert not read_lora(path).doubts
    deep = {"ss_datasets": "[" * 100_000, "note": "{" * 100_000, "ss_tag_frequency": '{"flux": 1}'}
    save_file(load_file(path), path, metadata=deep)
    assert not read_lora(path).doubts
