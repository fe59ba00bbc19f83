"""The training loop on a tiny pipeline."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import lora_metadata, remove_lora
from qwenlab.lora.layers import inject_lora
from qwenlab.model.encoding import LatentStatistics
from qwenlab.model.flow import predict_x0
from qwenlab.model.generation import generate
from qwenlab.training import draw_batch, encode_dataset, flow_loss, train_lora, usable_precision
from qwenlab.training.batches import picture_of_visit
from qwenlab.training.runtime import make_accelerator
from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE,
        dataset=str(dataset_folder),
        output_dir=str(tmp_path / "run"),
        max_train_steps=6,
        batch_size_per_gpu=2,
        learning_rate=1e-2,
        rank=4,
        alpha=8.0,
        seed=3,
    )


def train(config, pipeline=None, **options):
    return train_lora(pipeline or tiny_pipeline(), config, progress=False, **options)


def pixels(pipeline):
    return np.stack([np.asarray(image) for image in generate(pipeline, "1女孩, blue", [1, 2], steps=2)])


def test_a_run_learns_and_leaves_its_files(pipeline, config):
    before = pixels(pipeline)
    steps = []
    config = replace(config, max_train_steps=60, caption_dropout=0.0)
    result = train(config, pipeline, on_step=lambda step, loss: steps.append((step, loss)))
    assert steps == list(enumerate(result.losses, start=1)) and len(steps) == 60
    assert np.mean(result.losses[-10:]) < 0.9 * np.mean(result.losses[:10])
    record = json.loads((Path(config.output_dir) / "training.json").read_text())
    assert record["losses"] == result.losses and record["config"]["rank"] == 4
    assert lora_metadata(result.lora_path)["qwenlab.config"] == config.hash()
    assert not np.array_equal(pixels(pipeline), before)
    remove_lora(pipeline)
    assert np.array_equal(pixels(pipeline), before), "the base weights must be untouched"


def test_the_file_gives_the_same_pixels_in_a_fresh_process(pipeline, config, tmp_path):
    pipeline.save_pretrained(tmp_path / "base")
    result = train(config, pipeline)
    script = """
import sys, numpy, torch
from diffusers import QwenImagePipeline
pipe = QwenImagePipeline.from_pretrained(sys.argv[1])
pipe.load_lora_weights(sys.argv[2])
images = pipe(["1女孩, blue"] * 2, negative_prompt=[" "] * 2, true_cfg_scale=4.0, num_inference_steps=2,
    width=32, height=32, generator=[torch.Generator().manual_seed(s) for s in (1, 2)]).images
numpy.save(sys.argv[3], numpy.stack([numpy.asarray(image) for image in images]))
"""
    output = tmp_path / "there.npy"
    command = [sys.executable, "-c", script, str(tmp_path / "base"), str(result.lora_path), str(output)]
    subprocess.run(command, check=True, capture_output=True)
    assert np.array_equal(np.load(output), pixels(pipeline))


def test_runs_repeat_bit_for_bit_and_follow_the_seed(config):
    first, second = train(config), train(replace(config, output_dir=config.output_dir + "2"))
    assert first.losses == second.losses
    a, b = load_file(first.lora_path), load_file(second.lora_path)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert train(replace(config, seed=4)).losses != first.losses


def test_dropout_repeats_too_and_leaves_the_callers_random_state(config):
    config = replace(config, dropout=0.3)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = train(config).losses
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert train(config).losses == first


def test_accumulation_equals_a_larger_batch(config):
    large = train(replace(config, batch_size_per_gpu=4))
    small = train(
        replace(config, batch_size_per_gpu=2, gradient_accumulation_steps=2, output_dir=config.output_dir + "2")
    )
    np.testing.assert_allclose(large.losses, small.losses, atol=1e-6)
    a, b = load_file(large.lora_path), load_file(small.lora_path)
    assert all(torch.allclose(a[key], b[key], atol=1e-4) for key in a)


def test_gradient_checkpointing_changes_nothing(pipeline, config):
    plain = train(config)
    checkpointed = train(replace(config, gradient_checkpointing=True), pipeline)
    assert checkpointed.losses == plain.losses and not pipeline.transformer.gradient_checkpointing


def batch_of(pipeline, config):
    """The first batch of a run."""
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)
    return draw_batch(pipeline, training_set, config, 1, 0, make_accelerator(pipeline, config, "fp32"))


def test_a_batch_is_packed_as_the_pipeline_packs(pipeline, config):
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)
    mean = training_set.latents.mean
    exact = replace(training_set, latents=LatentStatistics(mean, torch.zeros_like(mean)))
    batch = draw_batch(pipeline, exact, config, 1, 0, make_accelerator(pipeline, config, "fp32"))
    assert batch.x_t.shape == batch.target.shape == (2, 4, 64)
    assert batch.image_shapes == [[(1, 2, 2)]] * 2
    x0 = predict_x0(batch.x_t, batch.target, batch.sigma)
    x0 = pipeline._unpack_latents(x0, SIZE, SIZE, pipeline.vae_scale_factor)[:, :, 0]
    pictures = [picture_of_visit(config.seed, visit, training_set.sizes) for visit in (0, 1)]
    torch.testing.assert_close(x0, mean[pictures], atol=1e-5, rtol=0)


def test_every_picture_is_visited_once_an_epoch():
    visits = [picture_of_visit(7, visit, [SIZE] * 10) for visit in range(30)]
    epochs = [visits[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and epochs[0] != epochs[1]


def test_padded_captions_do_not_change_the_loss(pipeline, config):
    batch = batch_of(pipeline, config)
    assert batch.text_mask is not None, "the captions of the fixture differ in length"
    together = flow_loss(pipeline.transformer, batch)
    alone = []
    for index in range(2):
        part = slice(index, index + 1)
        length = int(batch.text_mask[index].sum())
        single = replace(
            batch,
            x_t=batch.x_t[part],
            target=batch.target[part],
            sigma=batch.sigma[part],
            text=batch.text[part, :length],
            text_mask=None,
            image_shapes=batch.image_shapes[part],
        )
        alone.append(flow_loss(pipeline.transformer, single))
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-6, rtol=0)


def test_caption_dropout_uses_the_negative_prompt(pipeline, config):
    batch = batch_of(pipeline, replace(config, caption_dropout=0.999999))
    expected = pipeline.encode_prompt(" ")[0]
    assert torch.equal(batch.text, expected.expand_as(batch.text)) and batch.text_mask is None


def test_previews_and_checkpoints(pipeline, config):
    config = replace(
        config,
        preview_prompts=["1女孩", "1男孩"],
        preview_every_n_steps=3,
        preview_steps=2,
        save_every_n_steps=2,
    )
    result = train(config, pipeline)
    names = [path.name for path in result.previews]
    assert names == [f"step-{step:06d}-{number}.png" for step in (0, 3, 6) for number in (0, 1)]
    assert all(path.is_file() for path in result.previews)
    folder = Path(config.output_dir)
    assert [path.name for path in sorted(folder.glob("checkpoint-*"))] == [
        "checkpoint-000002.safetensors",
        "checkpoint-000004.safetensors",
    ]
    assert result.losses == train(replace(config, preview_every_n_steps=0)).losses, "previews must not disturb"


def test_a_loss_that_is_not_finite_stops_with_one_line(pipeline, config):
    with torch.no_grad():
        pipeline.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(QwenlabError, match="training stopped at step 1: loss nan, gradient nan") as caught:
        train(config, pipeline)
    assert "\n" not in str(caught.value)


def test_an_output_folder_that_cannot_be_made(pipeline, config, dataset_folder):
    with pytest.raises(QwenlabError, match="output_dir: .* cannot be made"):
        train(replace(config, output_dir=str(dataset_folder / "captions.jsonl" / "run")), pipeline)


def test_a_second_run_replaces_the_first_lora(pipeline, config, capfd):
    first = train(config, pipeline).losses
    assert train_lora(pipeline, config, progress=True).losses == first
    assert "note: the LoRA that was loaded is removed first" in capfd.readouterr().err


def test_bf16_falls_back_where_the_cpu_has_none(monkeypatch):
    said = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert usable_precision("bf16", "cpu", said.append) == "fp32" and len(said) == 1
    assert usable_precision("fp32", "cpu", said.append) == "fp32" and len(said) == 1
    assert usable_precision("bf16", "cuda", said.append) == "bf16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert usable_precision("bf16", "cpu", said.append) == "bf16" and len(said) == 1


def test_bf16_autocast_trains_and_is_taken_off_again(pipeline, config, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    forward = pipeline.transformer.forward
    result = train(replace(config, mixed_precision="bf16", max_train_steps=2), pipeline)
    assert pipeline.transformer.forward == forward and "forward" not in vars(pipeline.transformer)
    np.testing.assert_allclose(result.losses, train(replace(config, max_train_steps=2)).losses, rtol=0.05)


def test_8bit_adam_trains(config):
    assert len(train(replace(config, optimizer="adamw_8bit")).losses) == 6


def test_only_lora_parameters_are_trained(pipeline, config):
    base = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    train(config, pipeline)
    remove_lora(pipeline)
    assert all(torch.equal(value, base[name]) for name, value in pipeline.transformer.state_dict().items())
    assert all("lora_" in name for name in inject_lora(pipeline.transformer, ["to_q"], rank=2, alpha=2))
