"""LoRA injection, and files that the stock loader reads to the same pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.generate import generate
from qwenlab.lora import (
    TARGETS,
    inject_lora,
    load_lora,
    lora_metadata,
    model_fingerprint,
    remove_lora,
    save_lora,
    target_modules,
)
from tests.tiny import tiny_pipeline


def randomise(parameters, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def pixels(pipeline):
    images = generate(pipeline, ["1女孩", "1女孩, 挥手"], [1, 2], steps=2)
    return np.stack([np.asarray(image) for image in images])


@pytest.mark.parametrize(
    "name, layers", [("attention-4", 4), ("attention-8", 8), ("mlp", 4), ("attention+mlp", 12)]
)
def test_targets_name_exactly_these_layers_of_every_block(pipeline, name, layers):
    parameters = inject_lora(pipeline, rank=2, alpha=2, apply_to=name)
    blocks = pipeline.transformer.config.num_layers
    assert len(parameters) == 2 * layers * blocks
    assert all("transformer_blocks" in key and "lora_" in key and "_mod." not in key for key in parameters)
    wrapped = {key.split(".", 2)[2].split(".lora_")[0].removeprefix("attn.") for key in parameters}
    assert wrapped == set(TARGETS[name])


@pytest.mark.parametrize(
    "name, millions", [("attention-4", 23.6), ("attention-8", 47.2), ("attention+mlp", 106.2)]
)
def test_parameters_at_the_real_size(real_transformer, name, millions):
    endings = tuple(f".{module}" for module in target_modules(name))
    layers = [module for key, module in real_transformer.named_modules() if key.endswith(endings)]
    assert sum(16 * (layer.in_features + layer.out_features) for layer in layers) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@pytest.fixture(scope="module")
def real_transformer():
    """Qwen-Image's 20 billion parameters without their memory."""
    with torch.device("meta"):
        return QwenImageTransformer2DModel()


def test_target_names_combine_without_repeats_and_unknown_ones_are_refused():
    assert target_modules(["attention-4", "attention-8", "mlp"]) == target_modules("attention+mlp")
    with pytest.raises(QwenlabError, match="'ff' names no layers"):
        target_modules(["attention-8", "ff"])


def test_a_fresh_lora_changes_nothing_and_gets_gradients(pipeline):
    before = pixels(pipeline)
    parameters = inject_lora(pipeline, rank=4, alpha=8, seed=1)
    assert np.array_equal(pixels(pipeline), before)
    for name, parameter in parameters.items():
        assert bool(parameter.any()) == ("lora_A" in name), "A is random, B is zero"
    remove_lora(pipeline)
    assert np.array_equal(pixels(pipeline), before)


def test_injection_depends_on_its_seed_only():
    def draw(seed):
        return torch.cat(
            [p.flatten() for p in inject_lora(tiny_pipeline(), rank=2, alpha=2, seed=seed).values()]
        )

    state = torch.random.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_stock_loading_gives_the_same_pixels(pipeline, tmp_path: Path):
    randomise(inject_lora(pipeline, rank=4, alpha=10.0))  # alpha is not rank: a loader that ignores it shows
    path = save_lora(pipeline, tmp_path / "lora.safetensors")
    fresh = tiny_pipeline()
    fresh.load_lora_weights(str(path))
    assert np.array_equal(pixels(fresh), pixels(pipeline))


def test_file_records_where_it_comes_from(pipeline, tmp_path: Path):
    base = model_fingerprint(pipeline.transformer)
    inject_lora(pipeline, rank=2, alpha=6, apply_to="attention-4")
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
    randomise(inject_lora(pipeline, rank=3, alpha=1.5, apply_to=["attention-8"]))
    path = save_lora(pipeline, tmp_path / "a.safetensors")
    fresh = tiny_pipeline()
    load_lora(fresh, path)
    assert np.array_equal(pixels(fresh), pixels(pipeline))


def test_lora_of_other_weights_loads_with_a_warning(pipeline, tmp_path: Path):
    inject_lora(pipeline, rank=2, alpha=2)
    path = save_lora(pipeline, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="trained on other weights"):
        load_lora(tiny_pipeline(seed=1), path)


@pytest.fixture
def lora_file(pipeline, tmp_path: Path) -> Path:
    inject_lora(pipeline, rank=2, alpha=2)
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
    save_file(
        {key.removeprefix("transformer."): value for key, value in load_file(lora_file).items()}, broken
    )
    assert_refused(broken, "not in the 'transformer")
