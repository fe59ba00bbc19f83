"""Weights and ranks that are none are refused before a file is read; peft's names mean what they mean in peft."""

from pathlib import Path
from typing import get_args, get_type_hints

import peft
import pytest
import torch
from peft.utils.merge_utils import dare_linear
from safetensors.torch import load_file, save_file
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.lora.files.reading import open_tensors, read_factors, read_lora
from qwenlab.lora.fusion import Source, fuse, parse_source
from qwenlab.lora.fusion.methods import _PEFT_OTHERS, PEFT_NAMES, drop_and_rescale
from qwenlab.lora.resizing import resize

LAYER = "transformer_blocks.0.attn.to_q"


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("weight", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999", "1e5", "-101", "100.5"])
def test_weights_out_of_range(weight):
    with pytest.raises(QwenlabError, match=r"^none.safetensors: weight \S+: must be a number from -100.0 to 100.0$"):
        parse_source(f"none.safetensors:{weight}")


@pytest.mark.parametrize("weight", ["", "heavy", "0,8", "1_0", "0x1", "--1", "0.8.9", "None", "true", "1e"])
def test_weights_that_are_no_numbers(weight):
    with pytest.raises(QwenlabError, match="is no weight; write FILE.safetensors:0.8") as caught:
        parse_source(f"none.safetensors:{weight}")
    one_line(caught)


def test_colons_in_paths(tmp_path: Path):
    assert parse_source(r"C:\loras\fox.safetensors").path == Path(r"C:\loras\fox.safetensors")
    assert parse_source(r"C:\loras\fox.safetensors:-0.5").weight == -0.5
    odd = tmp_path / "fox:2"
    odd.write_bytes(b"")
    assert parse_source(str(odd)) == Source(odd)
    with pytest.raises(QwenlabError, match="is no weight"):
        parse_source(":0.8")


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -1000.0])
def test_weights_of_layers(factor):
    with pytest.raises(QwenlabError, match=r"none.safetensors: weight of 'a\*'"):
        Source(Path("none.safetensors"), 1.0, {"a*": factor})


@pytest.mark.parametrize("rank", [0, -1, 4097, 10**12])
def test_ranks_out_of_range_are_refused_before_files_are_read(tmp_path, rank):
    for act in (
        lambda: fuse([Source(Path("none.safetensors"))], tmp_path / "out.safetensors", method="svd", rank=rank),
        lambda: resize("none.safetensors", tmp_path / "out.safetensors", rank=rank),
    ):
        with pytest.raises(QwenlabError, match=f"^--rank {rank}: must be a number from 1 to 4096$"):
            act()


@pytest.mark.parametrize("energy", [float("nan"), float("inf"), float("-inf"), 0.0, -0.5, 1.01])
def test_energies_out_of_range_are_refused_before_files_are_read(tmp_path, energy):
    with pytest.raises(QwenlabError, match="^--energy .*: must be more than 0 and at most 1$"):
        resize("none.safetensors", tmp_path / "out.safetensors", energy=energy)


def test_methods_and_dtypes_are_refused_before_files_are_read(tmp_path):
    for how, match in (({"method": "best"}, "unknown; choose from"), ({"dtype": "float8"}, "--dtype 'float8'")):
        with pytest.raises(QwenlabError, match=match):
            fuse([Source(Path("none.safetensors"))], tmp_path / "out.safetensors", **how)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two LoRAs of rank 2 and 3 for one layer of the micro model."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for name, rank in (("a", 2), ("b", 3)):
        state = {
            f"transformer.{LAYER}.lora_A.weight": torch.randn(rank, 192, generator=generator),
            f"transformer.{LAYER}.lora_B.weight": torch.randn(192, rank, generator=generator),
        }
        save_file(state, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    return paths


def update(path: Path) -> torch.Tensor:
    state = load_file(path)
    return state[f"transformer.{LAYER}.lora_B.weight"].float() @ state[f"transformer.{LAYER}.lora_A.weight"].float()


def test_a_product_that_overflows_is_refused(tmp_path):
    state = {
        f"transformer.{LAYER}.lora_A.weight": torch.ones(2, 192),
        f"transformer.{LAYER}.lora_B.weight": torch.full((192, 2), 3e38),
    }
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(QwenlabError, match="leaves the range of float32"):
        fuse([Source(tmp_path / "a.safetensors", 2.0)], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("method", "rank"), [("cat", None), ("svd", 2)])
def test_what_has_pefts_name_is_what_peft_computes(files, tmp_path, method, rank):
    weights = [0.75, -0.5]
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(192, 192, bias=False))
    for name, path in zip(("fox", "ink"), files, strict=True):
        state = load_file(path)
        r = len(state[f"transformer.{LAYER}.lora_A.weight"])
        adapter = peft.LoraConfig(r=r, lora_alpha=r, target_modules=["layer"])
        model = peft.get_peft_model(model, adapter, name) if name == "fox" else model
        if name == "ink":
            model.add_adapter(name, adapter)
        layer = model.base_model.model.layer
        layer.lora_A[name].weight.data = state[f"transformer.{LAYER}.lora_A.weight"]
        layer.lora_B[name].weight.data = state[f"transformer.{LAYER}.lora_B.weight"]
    model.add_weighted_adapter(["fox", "ink"], weights, "both", combination_type=method, svd_rank=rank)
    expected = model.base_model.model.layer.get_delta_weight("both")
    sources = [Source(path, weight) for path, weight in zip(files, weights, strict=True)]
    out = fuse(sources, tmp_path / "out.safetensors", method=method, rank=rank).path
    torch.testing.assert_close(update(out), expected.detach(), rtol=1e-4, atol=1e-4)


def test_dare_is_pefts_dare_linear_on_the_updates(monkeypatch):
    updates = [torch.randn(64, 48, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    generator = torch.Generator().manual_seed(0)
    ours = sum(drop_and_rescale(update, 0.5, generator) for update in updates)
    generator = torch.Generator().manual_seed(0)  # the same entries are dropped
    monkeypatch.setattr(torch, "bernoulli", lambda share: (torch.rand(share.shape, generator=generator) >= 0.5).float())
    torch.testing.assert_close(ours, dare_linear(updates, torch.ones(2), 0.5))


def test_pefts_names_reach_the_methods(files, tmp_path):
    sources = [Source(path) for path in files]
    for theirs, ours in PEFT_NAMES.items():
        rank = 4 if ours == "dare" else None
        one = fuse(sources, tmp_path / f"{theirs}.safetensors", method=theirs, rank=rank).path
        other = fuse(sources, tmp_path / f"{ours}.safetensors", method=ours, rank=rank).path
        assert one.read_bytes() == other.read_bytes()


def test_every_name_of_peft_is_answered(tmp_path):
    names = set(get_args(get_type_hints(peft.LoraModel.add_weighted_adapter)["combination_type"]))
    assert {"cat", "linear", "magnitude_prune_svd"} <= names
    for name in names - set(PEFT_NAMES) - {"svd", "ties"}:
        assert name in _PEFT_OTHERS
        with pytest.raises(QwenlabError, match=f"--method {name}: not offered; peft ") as caught:
            fuse([Source(Path("none.safetensors"))], tmp_path / "out.safetensors", method=name, rank=4)
        one_line(caught)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layout_holds_the_same_update(files, tmp_path, layout, dtype):
    sources = [Source(path, 0.5) for path in files]
    plain = update(fuse(sources, tmp_path / "plain.safetensors", dtype=dtype).path)
    smaller = update(resize(files[1], tmp_path / "small.safetensors", rank=2, dtype=dtype).path)
    for path, expected in (
        (fuse(sources, tmp_path / "new" / "both.safetensors", layout=layout, dtype=dtype).path, plain),
        (resize(files[1], tmp_path / "new" / "less.safetensors", rank=2, layout=layout, dtype=dtype).path, smaller),
    ):
        lora = read_lora(path)
        assert list(lora.layers) == [LAYER] and lora.layers[LAYER].scaling == 1.0
        assert lora.layers[LAYER].a.text.startswith(
            {"diffusers": "transformer.", "comfyui": "diffusion_model.", "kohya": "lora_unet_"}[layout]
        )
        with open_tensors(path) as tensors:
            a, b = read_factors(tensors, lora.layers[LAYER])
        assert a.dtype == getattr(torch, dtype) and torch.equal((b.float() @ a.float()), expected)
        assert "qwenlab.fused_from" in lora.metadata or "qwenlab.resized" in lora.metadata
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["both.safetensors", "less.safetensors"]


def test_layouts_that_do_not_exist_or_cannot_hold_the_layers(tmp_path):
    none = Path("none.safetensors")
    for act in (
        lambda: fuse([Source(none)], tmp_path / "out.safetensors", layout="a1111"),
        lambda: resize(none, tmp_path / "out.safetensors", rank=2, layout="a1111"),
    ):
        with pytest.raises(
            QwenlabError, match="--format 'a1111': unknown layout; choose from diffusers, comfyui, kohya"
        ):
            act()
    name = "transformer_blocks.0.img_mlp.out"
    state = {
        f"transformer.{name}.lora_A.weight": torch.ones(2, 12288),
        f"transformer.{name}.lora_B.weight": torch.ones(4096, 2),
    }
    save_file(state, tmp_path / "newer.safetensors")
    with pytest.raises(QwenlabError, match="in the kohya layout; use --format diffusers or comfyui"):
        fuse([Source(tmp_path / "newer.safetensors")], tmp_path / "out.safetensors", layout="kohya")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_rank_that_no_layer_can_use_is_refused(files, tmp_path):
    with pytest.raises(QwenlabError, match="--rank 193: no layer of .* can use more than 192; take that or less"):
        resize(files[0], tmp_path / "out.safetensors", rank=193)
    assert set(resize(files[0], tmp_path / "out.safetensors", rank=192).ranks.values()) == {192}
    sources = [Source(path) for path in files]
    whole = update(fuse(sources, tmp_path / "whole.safetensors").path)
    torch.testing.assert_close(
        update(fuse(sources, tmp_path / "same.safetensors", method="svd", rank=4096).path), whole
    )
