"""Training a LoRA of Qwen-Image-Edit-Plus: the instruction is encoded together with its references."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock
from PIL import Image

from qwenlab.config import TrainConfig
from qwenlab.data.caches import Caches
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import load_lora
from qwenlab.model.pipeline import load_pipeline
from qwenlab.model.references import encode_instruction, generate_beside
from qwenlab.training import train_lora
from qwenlab.training.batches import draw_batches, flow_loss
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import encode_dataset
from tests.pairs import noise, write_pairs
from tests.tiny import SIZE
from tests.tiny_edit import tiny_edit_pipeline
from tests.training.resuming import crash_and_resume, same_bits


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", SIZE * SIZE)
    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", 56 * 56)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("edit_base")
    tiny_edit_pipeline(zero_cond_t=True).save_pretrained(folder)
    return folder


@pytest.fixture
def config(base, tmp_path) -> TrainConfig:
    folder = write_pairs(tmp_path / "pairs", 3, 3, "红色短发")
    return TrainConfig(
        base=str(base), resolution=SIZE, dataset=str(folder), output_dir=str(tmp_path / "run"), max_train_steps=4,
        batch_size_per_gpu=2, learning_rate=1e-2, rank=4, save_every_n_steps=1, seed=3, free_text_encoder=True,
        cache_dir=str(tmp_path / "cache"), preview_prompts=["红色短发"], preview_steps=2, preview_every_n_steps=4,
        preview_references=[str(folder / "references" / "0.png")],
    )  # fmt: skip


def opened(base):
    pipeline = load_pipeline(base)
    pipeline.default_sample_size = SIZE // 8
    return pipeline


def train(config, **options):
    return train_lora(opened(config.base), config, progress=False, **options)


def test_texts_are_encoded_with_their_pictures_and_so_is_the_dropped_one(config):
    pipeline = opened(config.base)
    training = encode_dataset(pipeline, read_dataset(config.dataset), config)
    for number, (text, dropped) in enumerate(zip(training.texts, training.dropped_texts, strict=True)):
        assert torch.equal(text, encode_instruction(pipeline, "红色短发", [noise(10 + number)]))
        assert torch.equal(dropped, encode_instruction(pipeline, " ", [noise(10 + number)]))
    always = replace(config, caption_dropout=0.999)
    (batch,) = draw_batches(pipeline, training, always, 1, 0, make_accelerator(pipeline, config, "fp32"))
    assert any(torch.equal(batch.text[0], dropped) for dropped in training.dropped_texts)
    loss = flow_loss(pipeline.transformer, batch)
    pipeline.transformer.zero_cond_t = False  # as 2509: references are modulated as the noisy tokens are
    for block in pipeline.transformer.transformer_blocks:
        block.zero_cond_t = False
    assert flow_loss(pipeline.transformer, batch) != loss


def test_the_cache_key_holds_the_pictures(config):
    pipeline, cache = opened(config.base), Path(config.cache_dir)

    def entries(kind):
        encode_dataset(pipeline, read_dataset(config.dataset), config, cache)
        return {path.name for path in (cache / kind).iterdir()}

    before = entries("texts")
    assert len(before) == 7, "three instructions, three dropped ones with pictures, one without"
    noise(99).save(Path(config.dataset) / "references" / "1.png")
    assert len(entries("texts") - before) == 2
    pipeline.processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    assert len(entries("texts") - before) >= 7, "another processor, other embeddings"


def test_a_run_is_resumed_to_the_same_bits_and_the_stock_pipeline_draws_with_its_file(config, tmp_path):
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    resumed = crash_and_resume(train, config, 3)
    assert resumed.losses == whole.losses and same_bits(resumed.lora_path, whole.lora_path)
    pipeline = QwenImageEditPlusPipeline.from_pretrained(config.base)
    pipeline.set_progress_bar_config(disable=True)
    before = np.asarray(generate_beside(pipeline, [noise(10)], "红色短发", steps=2))
    pipeline.load_lora_weights(str(whole.lora_path))
    after = np.asarray(generate_beside(pipeline, [noise(10)], "红色短发", steps=2))
    preview = np.asarray(Image.open(whole.previews[-1])).astype(int)
    assert not np.array_equal(before, after) and np.abs(preview - after).max() <= 1
    other = opened(config.base)
    load_lora(other, whole.lora_path)
    assert np.abs(after.astype(int) - generate_beside(other, [noise(10)], "红色短发", steps=2)).max() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder_rank": 2, "free_text_encoder": False}, "text_encoder_rank: an Edit model's text encoder"),
        ({"modulation_timesteps": 10}, "modulation_timesteps: this model modulates references by themselves"),
        ({"preview_references": []}, "preview_references: an Edit model draws from pictures only"),
    ],
)
def test_what_an_edit_model_cannot_do_is_said_before_anything_is_encoded(config, change, message, monkeypatch):
    monkeypatch.setattr(Caches, "texts", lambda *args: pytest.fail("captions were encoded"))
    with pytest.raises(QwenlabError, match=message) as error:
        train(replace(config, **change))
    assert "\n" not in str(error.value)
