"""What a run can be told to do besides the plain loop: each option does what it says and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from qwenlab.config import TrainConfig
from qwenlab.data.dataset import View, read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import load_lora, remove_lora, text_encoder_folder
from qwenlab.model.encoding import encode_text
from qwenlab.model.generation import generate
from qwenlab.training import draw_batch, encode_dataset, flow_loss, train_lora
from qwenlab.training.batches import batches_loss
from qwenlab.training.observers import Observer
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import mask_path, token_weights
from tests.tiny import SIZE, tiny_pipeline
from tests.training.resuming import crash_and_resume, same_bits


@pytest.fixture
def config(dataset_folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(dataset_folder), output_dir=str(tmp_path / "run"), max_train_steps=4,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, seed=3, lr_scheduler="constant",
    )  # fmt: skip


def train(config, pipeline=None, **options):
    return train_lora(pipeline or tiny_pipeline(), config, progress=False, **options)


def elsewhere(config, name, **changes):
    return replace(config, output_dir=str(Path(config.output_dir).with_name(name)), **changes)


def first_batch(pipeline, config):
    training_set = encode_dataset(pipeline, read_dataset(config.dataset), config)
    return draw_batch(pipeline, training_set, config, 1, 0, make_accelerator(pipeline, config, "fp32"))


# Rates and optimizers


def test_a_ratio_is_a_factor_of_the_rate(config):
    halved = train(replace(config, transformer_lr_ratio=0.5)).lora_path
    lower = train(elsewhere(config, "lower", learning_rate=5e-3)).lora_path
    a, b = load_file(halved), load_file(lower)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_prodigy_finds_a_rate_and_resumes_with_it(config):
    config = replace(config, optimizer="prodigy", learning_rate=1.0, max_train_steps=8, save_every_n_steps=4)
    whole, resumed = train(elsewhere(config, "whole")), crash_and_resume(train, config, 6)
    assert resumed.losses == whole.losses
    assert same_bits(whole.lora_path, resumed.lora_path)


def test_a_missing_optimizer_package_is_one_line(config, monkeypatch):
    monkeypatch.setattr("qwenlab.training.runtime.OPTIMIZERS", {"adamw": ("no_such_package.optim", "X")})
    with pytest.raises(QwenlabError, match="optimizer: adamw needs no_such_package; pip install no_such_package"):
        train(config)


# Loss


def sample_of(batch, index):
    """A batch of one sample."""
    part = slice(index, index + 1)
    tensors = {name: getattr(batch, name)[part] for name in ("x_t", "target", "sigma", "text", "text_mask")}
    return replace(batch, **tensors, image_shapes=batch.image_shapes[part])


def test_weights_of_sigmas_are_those_of_diffusers(pipeline, config):
    plain = first_batch(pipeline, config)
    each = torch.stack([flow_loss(pipeline.transformer, sample_of(plain, index)) for index in range(2)])
    sigma = plain.sigma
    weights = {"sigma_sqrt": sigma**-2, "cosmap": 2 / (torch.pi * (1 - 2 * sigma + 2 * sigma**2))}
    for scheme, weight in weights.items():
        batch = first_batch(pipeline, replace(config, loss_weighting=scheme))
        torch.testing.assert_close(flow_loss(pipeline.transformer, batch), (weight * each).mean(), rtol=1e-5, atol=0)


def write_mask(config, name, mask):
    folder = Path(config.dataset) / "masks"
    folder.mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / name)


def test_a_mask_says_which_tokens_count(pipeline, config):
    mask = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    mask[:SIZE, :SIZE] = 255  # the first of four tokens
    for index in range(4):
        write_mask(config, f"img_{index}.png", mask)
    batch = first_batch(pipeline, replace(config, unmasked_weight=0.0))
    torch.testing.assert_close(batch.weight, torch.tensor([[4.0, 0, 0, 0]] * 2), atol=0.05, rtol=0)
    everywhere = first_batch(pipeline, config)
    prediction = pipeline.transformer(
        hidden_states=batch.x_t, timestep=batch.sigma, encoder_hidden_states=batch.text,
        encoder_hidden_states_mask=batch.text_mask, img_shapes=batch.image_shapes, return_dict=False,
    )[0]  # fmt: skip
    first = (prediction - everywhere.target)[:, 0].square().mean()
    torch.testing.assert_close(flow_loss(pipeline.transformer, batch), first, rtol=0.02, atol=0)
    white = replace(config, unmasked_weight=0.5)
    for index in range(4):
        write_mask(config, f"img_{index}.png", np.full_like(mask, 255))
    torch.testing.assert_close(
        flow_loss(pipeline.transformer, first_batch(pipeline, white)),
        flow_loss(pipeline.transformer, everywhere), rtol=1e-6, atol=0,
    )  # fmt: skip


def test_masks_follow_cropping_and_mirroring(config):
    mask = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    mask[:SIZE, :SIZE] = 255
    write_mask(config, "img_0.png", mask)
    dataset = read_dataset(config.dataset)
    view = View(mask_path(dataset.samples[0]), (SIZE, SIZE))
    assert token_weights(view, view.size, 0.0).argmax() == 0
    assert token_weights(replace(view, mirrored=True), view.size, 0.0).argmax() == 1
    assert torch.equal(token_weights(None, (SIZE, SIZE), 0.3), torch.ones(4))


def test_pictures_of_joined_data_sets_bring_their_own_masks(pipeline, config, tmp_path):
    mask = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    mask[:SIZE, :SIZE] = 255
    write_mask(config, "img_0.png", mask)
    first = read_dataset(config.dataset)
    shutil.copytree(config.dataset, tmp_path / "second")
    second = read_dataset(tmp_path / "second")
    loose = shutil.copy(first.samples[0].path, tmp_path / "loose.png")
    samples = (first.samples[1], second.samples[0], replace(first.samples[0], path=Path(loose)))
    joined = replace(first, samples=samples)
    assert [mask_path(sample) for sample in samples] == [None, tmp_path / "second" / "masks" / "img_0.png", None]
    result = train_lora(pipeline, replace(config, unmasked_weight=0.5), dataset=joined, progress=False)
    assert len(result.losses) == config.max_train_steps


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda config: None, "unmasked_weight: .*masks holds no NAME.png for a picture; add masks"),
        (lambda config: write_mask(config, "img_1.png", np.zeros((8, 8), np.uint8)), "img_1.png: is all black"),
    ],
)
def test_masks_that_cannot_be_used(config, prepare, message):
    prepare(config)
    with pytest.raises(QwenlabError, match=message):
        train(replace(config, unmasked_weight=0.0))


def test_prior_pictures_add_their_loss(pipeline, config, tmp_path):
    (folder := tmp_path / "prior" / "images").mkdir(parents=True)
    Image.new("RGB", (SIZE, SIZE), "purple").save(folder / "p.png")
    (folder.parent / "captions.jsonl").write_text(json.dumps({"file_name": "p.png", "text": "1男孩"}))
    with_prior = replace(config, prior_dataset=str(folder.parent), prior_weight=0.5, max_train_steps=1)
    result, plain = train(with_prior), train(elsewhere(config, "plain", max_train_steps=1))
    prior_set = encode_dataset(pipeline, read_dataset(folder.parent), config)
    batch = draw_batch(pipeline, prior_set, config, 1, 0, make_accelerator(pipeline, config, "fp32"))
    assert result.losses[0] > plain.losses[0] and batch.x_t.shape[0] == 2
    none = train(elsewhere(with_prior, "none", prior_weight=0.0))
    assert none.losses == pytest.approx(plain.losses, rel=1e-6)
    half, full = result.losses[0], train(elsewhere(with_prior, "full", prior_weight=1.0)).losses[0]
    assert full - plain.losses[0] == pytest.approx(2 * (half - plain.losses[0]), rel=1e-4)


# Average of the weights


def test_the_average_is_what_is_saved(config):
    config = replace(config, ema_decay=0.5)
    seen = []

    class Watch(Observer):
        def on_step(self, step, loss, learning_rate):
            seen.append(pipeline.transformer.get_submodule(layer).lora_B.weight.detach().clone())

    pipeline, layer = tiny_pipeline(), "transformer_blocks.0.attn.to_q"
    result = train(config, pipeline, observers=[Watch()])
    average = torch.zeros_like(seen[0])
    for step, value in enumerate(seen, 1):  # diffusers' EMAModel: the decay grows from 0 to its limit
        decay = min((1 + step - 1) / (10 + step - 1), 0.5) if step > 1 else 0.0
        average = decay * average + (1 - decay) * value
    saved = load_file(result.lora_path)[f"transformer.{layer}.lora_B.weight"]
    torch.testing.assert_close(saved, average, rtol=1e-5, atol=1e-8)
    assert not torch.equal(saved, seen[-1])
    assert result.losses == train(elsewhere(config, "plain", ema_decay=0.0)).losses, "the average changes no step"


# A LoRA that goes on, a LoRA on the text encoder


def test_training_goes_on_from_a_file_of_another_scale(config):
    first = train(replace(config, alpha=4))
    start = elsewhere(config, "second", alpha=8, init_lora=str(first.lora_path), learning_rate=1e-9, max_train_steps=1)
    a, b = load_file(first.lora_path), load_file(train(start).lora_path)
    for name in a:
        torch.testing.assert_close(b[name], a[name] * (0.5 if "lora_B" in name else 1.0), rtol=1e-4, atol=1e-7)


def test_a_lora_that_does_not_fit_cannot_be_continued(config):
    first = train(config).lora_path
    with pytest.raises(QwenlabError, match="init_lora: .*: rank 4, here 2; set rank to the file's"):
        train(elsewhere(config, "a", init_lora=str(first), rank=2))
    with pytest.raises(QwenlabError, match="init_lora: .*apply_to does not name layer"):
        train(elsewhere(config, "b", init_lora=str(first), apply_to=["mlp"]))
    with pytest.raises(QwenlabError, match="no such"):
        train(elsewhere(config, "c", init_lora="nowhere.safetensors"))


def test_a_text_encoder_lora_learns_is_saved_and_loaded_the_stock_way(config):
    config = replace(config, text_encoder_rank=2, text_encoder_alpha=2.0, text_encoder_lr_ratio=0.5, dropout=0.0)
    pipeline = tiny_pipeline()
    before = encode_text(pipeline, "1女孩")
    result = train(config, pipeline)
    learnt = encode_text(pipeline, "1女孩")
    assert (learnt - before).abs().max() > 1e-3
    folder = text_encoder_folder(result.lora_path)
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    drawn = generate(pipeline, "1女孩", 5, steps=2)[0]
    fresh = tiny_pipeline()
    load_lora(fresh, result.lora_path)
    torch.testing.assert_close(encode_text(fresh, "1女孩"), learnt, rtol=1e-5, atol=1e-6)
    again = generate(fresh, "1女孩", 5, steps=2)[0]
    assert np.abs(np.asarray(again, int) - np.asarray(drawn, int)).max() <= 1
    for carrier in (fresh, pipeline):
        remove_lora(carrier)
        assert torch.equal(encode_text(carrier, "1女孩"), before)


def test_the_text_encoder_lora_resumes_to_the_same_bits(config):
    config = replace(config, text_encoder_rank=2, save_every_n_steps=2)
    whole, resumed = train(elsewhere(config, "whole")), crash_and_resume(train, config, 3)
    assert resumed.losses == whole.losses
    for path in ("", "-text-encoder/adapter_model"):
        name = f"lora{path}.safetensors"
        assert same_bits(whole.lora_path.parent / name, resumed.lora_path.parent / name)


def test_embeddings_with_gradients_are_those_of_the_cache(pipeline, config):
    live = first_batch(pipeline, replace(config, text_encoder_rank=2))
    cached = first_batch(pipeline, config)
    torch.testing.assert_close(live.text, cached.text, rtol=1e-4, atol=1e-5)
    assert live.text.requires_grad and not cached.text.requires_grad
    torch.testing.assert_close(
        batches_loss(pipeline.transformer, [live]), batches_loss(pipeline.transformer, [cached]), rtol=1e-5, atol=0
    )


# Watching


def test_tensorboard_gets_losses_and_previews(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(replace(
        config, tensorboard=True, preview_prompts=["1女孩"], preview_every_n_steps=2, preview_steps=2
    ))  # fmt: skip
    events = EventAccumulator(str(result.lora_path.parent / "logs"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(result.losses)
    assert [event.step for event in events.Images("previews")] == [0, 2]


def test_tensorboard_that_is_not_installed_is_named_before_anything_runs(config, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    with pytest.raises(QwenlabError, match="pip install tensorboard"):
        train(replace(config, tensorboard=True))
