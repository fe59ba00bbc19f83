"""Files that the stock loader reads to the same pixels, and files that are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.io import carries_lora, load_lora, lora_metadata, model_fingerprint, remove_lora, save_lora
from qwenlab.lora.layers import inject_lora, merge_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.generation import generate
from tests.tiny import tiny_pipeline


def randomise(parameters, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def inject(pipeline, apply_to="attention+mlp", **options):
    return inject_lora(pipeline.transformer, target_modules(apply_to), **options)


def pixels(pipeline):
    images = generate(pipeline, ["1女孩", "1女孩, 挥手"], [1, 2], steps=2)
    return np.stack([np.asarray(image) for image in images])


def test_a_fresh_lora_changes_nothing(pipeline):
    before = pixels(pipeline)
    inject(pipeline, rank=4, alpha=8, seed=1)
    assert np.array_equal(pixels(pipeline), before)
    remove_lora(pipeline)
    assert np.array_equal(pixels(pipeline), before)


@pytest.mark.parametrize("rslora", [False, True])
def test_stock_loading_gives_the_same_pixels(pipeline, tmp_path: Path, rslora):
    # alpha is not rank: a loader that ignores it shows
    randomise(inject(pipeline, ["attention+mlp", "modulation"], rank=4, alpha=10.0, rslora=rslora))
    path = save_lora(pipeline, tmp_path / "lora.safetensors")
    fresh = tiny_pipeline()
    fresh.load_lora_weights(str(path))
    assert np.array_equal(pixels(fresh), pixels(pipeline))


def test_merging_into_the_transformer_keeps_the_picture(pipeline):
    parameters = inject(pipeline, rank=4, alpha=10.0)
    randomise(parameters)
    unmerged = pixels(pipeline).astype(int)
    merge_lora(pipeline.transformer)
    assert not any("lora_" in name for name, _ in pipeline.transformer.named_parameters())
    assert np.abs(pixels(pipeline) - unmerged).max() <= 1  # rounding to 8 bits


def test_file_records_where_it_comes_from(pipeline, tmp_path: Path):
    base = model_fingerprint(pipeline.transformer)
    inject(pipeline, "attention-4", rank=2, alpha=6)
    assert model_fingerprint(pipeline.transformer) == base, "the LoRA is no part of the base's fingerprint"
    path = save_lora(pipeline, tmp_path / "new" / "a.safetensors", {"qwenlab.trigger": "1女孩"})
    metadata = lora_metadata(path)
    assert metadata["qwenlab.trigger"] == "1女孩" and metadata["qwenlab.base_model"] == base
    adapter = json.loads(metadata["lora_adapter_metadata"])
    assert adapter["transformer.r"] == 2 and adapter["transformer.lora_alpha"] == 6
    with safe_open(path, framework="pt") as file:
        assert all(key.startswith("transformer.transformer_blocks.") for key in file.keys())


def test_fingerprint_tells_models_apart_but_not_precisions():
    base = model_fingerprint(tiny_pipeline().transformer)
    assert base == model_fingerprint(tiny_pipeline().transformer.bfloat16())
    assert base != model_fingerprint(tiny_pipeline(seed=1).transformer)


def test_load_lora_equals_the_trained_one(pipeline, tmp_path: Path):
    randomise(inject(pipeline, "attention-8", rank=3, alpha=1.5))
    path = save_lora(pipeline, tmp_path / "a.safetensors")
    fresh = tiny_pipeline()
    load_lora(fresh, path)
    assert np.array_equal(pixels(fresh), pixels(pipeline))


def test_lora_of_other_weights_loads_with_a_warning(pipeline, tmp_path: Path):
    inject(pipeline, rank=2, alpha=2)
    path = save_lora(pipeline, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="trained on other weights"):
        load_lora(tiny_pipeline(seed=1), path)


@pytest.fixture
def lora_file(pipeline, tmp_path: Path) -> Path:
    inject(pipeline, rank=2, alpha=2)
    return save_lora(pipeline, tmp_path / "a.safetensors")


def assert_refused(path: Path, expected: str, pipeline=None):
    pipeline = pipeline or tiny_pipeline()
    with pytest.raises(QwenlabError, match=expected) as caught:
        load_lora(pipeline, path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not getattr(pipeline.transformer, "peft_config", None)


def test_lora_of_a_wider_model_is_refused(lora_file):
    assert_refused(
        lora_file, r"another model: 'transformer_blocks.0.\S+' is 48 wide here and 32", tiny_pipeline(heads=3)
    )


def test_lora_of_a_deeper_model_is_refused(lora_file):
    state = {key.replace("blocks.1.", "blocks.7."): value for key, value in load_file(lora_file).items()}
    save_file(state, lora_file)
    assert_refused(lora_file, "another model: this one has no layer 'transformer_blocks.7")


def test_files_that_hold_no_usable_lora_are_refused(lora_file, tmp_path: Path):
    assert_refused(tmp_path / "absent.safetensors", "no such LoRA file")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(lora_file.read_bytes()[:-100])
    assert_refused(broken, "not a readable safetensors file")
    broken.write_bytes(b"")
    assert_refused(broken, "not a readable safetensors file")
    save_file({"vae.weight": torch.zeros(2)}, broken)
    assert_refused(broken, "holds no LoRA")
    save_file({key.removeprefix("transformer."): value for key, value in load_file(lora_file).items()}, broken)
    assert_refused(broken, "not in the 'transformer")


@pytest.mark.parametrize("name", ["pop", "keys", "fox.1"])
def test_names_that_torch_cannot_hold_are_refused_before_anything_is_loaded(lora_file, name):
    fresh = tiny_pipeline()
    with pytest.raises(QwenlabError, match="adapter_name"):
        load_lora(fresh, lora_file, name)
    assert not carries_lora(fresh)


def test_nothing_to_save_and_nothing_on_top_of_a_trained_lora(pipeline, lora_file, tmp_path: Path):
    with pytest.raises(QwenlabError, match="carries a trained LoRA"):
        load_lora(pipeline, lora_file)
    remove_lora(pipeline)
    with pytest.raises(QwenlabError, match="nothing to save"):
        save_lora(pipeline, tmp_path / "b.safetensors")
    load_lora(pipeline, lora_file)
    with pytest.raises(QwenlabError, match="carries a LoRA already"):
        inject(pipeline, rank=2, alpha=2)
