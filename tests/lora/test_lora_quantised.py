"""LoRA beside quantised weights: trained, previewed, loaded and drawn, alone and with others; merging is refused."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError
from qwenlab.lora.fusion import Source, fused
from qwenlab.lora.io import carries_lora, load_lora, remove_lora, text_encoder_folder, weigh_loras
from qwenlab.lora.layers import lora_layers
from qwenlab.model.generation import generate
from qwenlab.model.pipeline import place_pipeline
from qwenlab.model.quantize import QUANTISED, quantised_layers, weight_precision
from qwenlab.training import train_lora
from tests.tiny import SIZE, tiny_pipeline

CAPTION = "1女孩, red"


def quantised(precision: str, dtype: torch.dtype = torch.float32):
    pipeline = tiny_pipeline()
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        part.to(dtype)
    return place_pipeline(pipeline, precision, torch.device("cpu"))


def settings(folder: Path, precision: str, **changes):
    return config_from_mapping(
        {
            "dataset": str(folder), "output_dir": str(folder / "run"), "base_precision": precision,
            "resolution": SIZE, "max_train_steps": 2, "learning_rate": 0.05, "rank": 3, "alpha": 6.0,
            "preview_prompts": [CAPTION], "preview_every_n_steps": 1, "preview_steps": 2,
        }
        | changes
    )  # fmt: skip


def picture(pipeline) -> np.ndarray:
    return np.asarray(generate(pipeline, CAPTION, 0, steps=2, size=SIZE)[0]).astype(int)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", QUANTISED)
def test_the_file_draws_what_the_last_preview_showed(dataset_folder, precision, dtype):
    config = settings(dataset_folder, precision, text_encoder_rank=2)
    base = picture(quantised(precision, dtype))
    result = train_lora(quantised(precision, dtype), config, progress=False)
    assert (text_encoder_folder(result.lora_path) / "adapter_model.safetensors").is_file()
    first, *_, last = (np.asarray(Image.open(path)).astype(int) for path in result.previews)
    assert np.array_equal(first, base) and np.abs(last - base).max() > 8
    fresh = quantised(precision, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*trained on other weights")
        load_lora(fresh, result.lora_path)
    assert weight_precision(fresh.transformer) == precision
    tolerance = 1 if dtype == torch.float32 else 8  # bfloat16: peft and LoRALinear round in other places
    assert np.abs(picture(fresh) - last).max() <= tolerance
    remove_lora(fresh)
    assert np.array_equal(picture(fresh), base) and not carries_lora(fresh)


@pytest.fixture
def lora_file(pipeline, tmp_path: Path) -> Path:
    """A LoRA of random factors, in the layout of diffusers."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, layer in pipeline.transformer.named_modules():
        if name.endswith(("to_q", "to_out.0")):
            for side, shape in (("A", (2, layer.in_features)), ("B", (layer.out_features, 2))):
                state[f"transformer.{name}.lora_{side}.weight"] = torch.randn(shape, generator=generator) * 0.5
    save_file(state, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("precision", QUANTISED)
def test_two_files_weigh_as_they_do_on_full_weights(lora_file, precision):
    def drawn(weights: dict[str, float], pipeline) -> np.ndarray:
        for name in weights:
            load_lora(pipeline, lora_file, name)
        weigh_loras(pipeline, weights)
        return picture(pipeline)

    both = drawn({"one": 0.75, "two": -0.25}, quantised(precision))
    half = drawn({"alone": 0.5}, quantised(precision))
    assert np.abs(both - half).max() <= 1
    assert np.abs(half - picture(quantised(precision))).max() > 8
    assert np.array_equal(drawn({"without": 0.0}, quantised(precision)), picture(quantised(precision)))


@pytest.mark.parametrize("precision", QUANTISED)
def test_merging_into_quantised_weights_is_refused_and_costs_nothing(lora_file, precision):
    pipeline = quantised(precision)
    before = picture(pipeline)
    with pytest.raises(QwenlabError, match=f"cannot be merged into {precision} weights.*load_lora") as caught:
        with fused(pipeline, [Source(lora_file)]):
            raise AssertionError("nothing to draw with")
    assert "\n" not in str(caught.value)
    assert not carries_lora(pipeline) and quantised_layers(pipeline.transformer)
    assert np.array_equal(picture(pipeline), before)


@pytest.mark.parametrize("precision", ["fp32", *QUANTISED])
def test_a_name_is_taken_once(lora_file, precision):
    pipeline = tiny_pipeline() if precision == "fp32" else quantised(precision)
    load_lora(pipeline, lora_file, "fox")
    before = picture(pipeline)
    with pytest.raises(QwenlabError, match="carries a LoRA named 'fox'.*remove_lora.*adapter_name") as caught:
        load_lora(pipeline, lora_file, "fox")
    assert "\n" not in str(caught.value) and np.array_equal(picture(pipeline), before)
    with pytest.raises(QwenlabError, match="no LoRA named 'wolf' is loaded; there are 'fox'"):
        weigh_loras(pipeline, {"wolf": 1.0})
    with pytest.raises(QwenlabError, match="carries a LoRA already"), fused(pipeline, [Source(lora_file)]):
        pass
    remove_lora(pipeline)
    load_lora(pipeline, lora_file, "fox")
    assert np.array_equal(picture(pipeline), before)


def test_a_file_with_nan_is_refused(pipeline, lora_file):
    state = load_file(lora_file)
    state[next(iter(state))][0, 0] = float("nan")
    save_file(state, lora_file)
    with pytest.raises(QwenlabError, match="holds NaN or infinity"):
        load_lora(pipeline, lora_file)
    assert not carries_lora(pipeline)


def test_a_broken_text_encoder_part_leaves_nothing_behind(pipeline, lora_file):
    folder = text_encoder_folder(lora_file)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(QwenlabError, match="no LoRA for this text encoder") as caught:
        load_lora(pipeline, lora_file)
    assert "\n" not in str(caught.value)
    assert not carries_lora(pipeline) and not lora_layers(pipeline.transformer)
