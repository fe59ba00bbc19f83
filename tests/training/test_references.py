"""Training on pictures that come of others: what the transformer reads, resumed and shared runs, previews."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from qwenlab.config import TrainConfig
from qwenlab.data.caches import Caches
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.model.encoding import encode_image, image_tensor
from qwenlab.training import train_lora
from qwenlab.training.batches import draw_batches, flow_loss
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import encode_dataset
from tests.pairs import noise, write_pairs
from tests.tiny import SIZE, tiny_pipeline
from tests.training.resuming import crash_and_resume, same_bits
from tests.training.test_training_set import run_processes


@pytest.fixture
def folder(tmp_path):
    """Six pictures: four with the picture before the change, one of these with a further reference, two without."""
    folder = write_pairs(tmp_path / "pairs", 6, 4)
    noise(50, (40, 60)).save(folder / "references" / "thing.png")
    captions = (folder / "captions.jsonl").read_text(encoding="utf-8")
    several = captions.replace('"references/3.png"', '["references/3.png", "references/thing.png"]')
    (folder / "captions.jsonl").write_text(several, encoding="utf-8")
    return folder


@pytest.fixture
def config(folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(folder), output_dir=str(tmp_path / "run"), max_train_steps=4,
        batch_size_per_gpu=2, warmup_steps=1, learning_rate=1e-2, rank=4, save_every_n_steps=1, seed=3,
    )  # fmt: skip


def train(config, **options):
    return train_lora(tiny_pipeline(), config, progress=False, **options)


def all_batches(config, pipeline, steps=6):
    training = encode_dataset(pipeline, read_dataset(config.dataset), config)
    accelerator = make_accelerator(pipeline, config, "fp32")
    return training, [
        b for step in range(1, steps) for b in draw_batches(pipeline, training, config, step, 0, accelerator)
    ]


def test_batches_hold_alike_references_as_clean_tokens_of_their_own_frame(config, pipeline):
    config = replace(config, batch_size_per_gpu=6)
    training, batches = all_batches(config, pipeline, steps=2)
    side = SIZE // 16
    kinds = {tuple(batch.image_shapes[0]): batch for batch in batches}
    own = (1, side, side)
    assert len(kinds) == len(batches) == 3
    assert {shapes[:2] for shapes in kinds} == {(own,), (own, own)}
    assert kinds[(own,)].references is None
    assert kinds[own, own].references.shape == (3, side * side, 64)
    (three,) = (shapes for shapes in kinds if len(shapes) == 3)
    assert three[2] == (1, 2, 2), "40 x 60 pixels in whole tokens, about 32 x 32 pixels"
    latents, _ = encode_image(pipeline, image_tensor(noise(10)))
    packed = pipeline._pack_latents(latents[None], 1, *latents.shape)
    assert any(torch.equal(tokens, packed[0]) for tokens in kinds[own, own].references), "the posterior's mode"
    assert set(training.sizes) == {(4, 4), (4, 4, 4, 4), (4, 4, 4, 4, 2 * three[2][1], 2 * three[2][2])}


def test_the_loss_is_that_of_the_edit_pipelines_call(config, pipeline):
    """The transformer called as `QwenImageEditPlusPipeline` does, and only the picture's own tokens are compared."""
    training, batches = all_batches(config, pipeline)
    batch = next(batch for batch in batches if len(batch.image_shapes[0]) == 3)
    answer = pipeline.transformer(
        hidden_states=torch.cat([batch.x_t, batch.references], dim=1),
        timestep=batch.sigma,
        encoder_hidden_states=batch.text,
        encoder_hidden_states_mask=batch.text_mask,
        img_shapes=batch.image_shapes,
        return_dict=False,
    )[0][:, : batch.x_t.shape[1]]
    loss = flow_loss(pipeline.transformer, batch)
    torch.testing.assert_close(loss, (answer - batch.target).square().mean())
    other = replace(batch, references=batch.references + 1)
    assert abs(flow_loss(pipeline.transformer, other) - loss) > 1e-5, "references are read"
    held_out = held_out_loss(pipeline, training)
    moved = replace(training, references=tuple(row[::-1] if len(row) > 1 else row for row in training.references))
    assert held_out != held_out_loss(pipeline, moved)


def test_a_mirrored_picture_has_mirrored_references(config, pipeline):
    training = encode_dataset(pipeline, read_dataset(config.dataset), replace(config, random_flip=True))
    (_, text), (_, mirrored) = training.choices[0]
    straight, _ = encode_image(pipeline, image_tensor(noise(10)))
    turned, _ = encode_image(pipeline, image_tensor(noise(10).transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert torch.equal(training.reference_latents(text)[0], straight)
    assert torch.equal(training.reference_latents(mirrored)[0], turned)


def test_rows_without_references_keep_their_cache_entries(config, pipeline, tmp_path, folder):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "images").symlink_to(folder / "images")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({k: v for k, v in row.items() if k != "reference"}, ensure_ascii=False) for row in rows]
    (plain / "images").unlink()
    (folder / "images").rename(plain / "images")
    (plain / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    cache = tmp_path / "cache"
    encode_dataset(pipeline, read_dataset(plain), config, cache)
    before = {path.name for path in cache.rglob("*.safetensors")}
    (plain / "images").rename(folder / "images")
    training = encode_dataset(pipeline, read_dataset(folder), config, cache)
    after = {path.name for path in cache.rglob("*.safetensors")}
    assert before < after and len(after - before) == 5, "the five references alone are encoded anew"
    assert training.dropped_texts is None


def test_a_changed_reference_changes_the_run_and_its_cache(config, folder):
    whole = train(config)
    entries = set((folder.parent / "run" / "cache" / "latents").iterdir())
    noise(99).save(folder / "references" / "0.png")
    again = train(
        replace(config, output_dir=str(folder.parent / "again"), cache_dir=str(folder.parent / "run" / "cache"))
    )
    assert whole.losses != again.losses
    assert len(set((folder.parent / "run" / "cache" / "latents").iterdir()) - entries) == 1


def test_killed_and_resumed_gives_the_same_bits(config, tmp_path, folder):
    config = replace(config, validation_share=0.3, validate_every_n_steps=2)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    resumed = crash_and_resume(train, config, 3)
    assert resumed.losses == whole.losses and resumed.validation == whole.validation
    assert same_bits(resumed.lora_path, whole.lora_path)


def test_a_run_is_not_resumed_with_another_reference(config, folder):
    with pytest.raises(QwenlabError, match="dataset differ"):

        def change(step, loss):
            if step == 2:
                noise(77).save(folder / "references" / "1.png")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            train(config, on_step=change)
        train(config, resume=True)


def test_two_processes_agree_with_one(config, tmp_path):
    config = replace(config, batch_size_per_gpu=4)
    (alone,) = run_processes(config, 1, tmp_path / "alone")
    both = replace(config, batch_size_per_gpu=2, output_dir=str(tmp_path / "both"))
    first, second = run_processes(both, 2, tmp_path / "both")
    assert first == second
    np.testing.assert_allclose(first, alone, atol=1e-5)
    a, b = load_file(tmp_path / "run" / "lora.safetensors"), load_file(tmp_path / "both" / "lora.safetensors")
    assert all(torch.allclose(a[key], b[key], atol=1e-3) for key in a)


def test_previews_are_drawn_beside_their_reference(config, folder):
    names = [str(folder / "references" / "0.png"), "", str(folder / "references" / "thing.png")]
    config = replace(
        config, preview_prompts=["红色", "红色", "红色"], preview_references=names, preview_every_n_steps=4,
        preview_steps=2, free_text_encoder=True,
    )  # fmt: skip
    paths = train(config).previews
    pictures = [np.asarray(Image.open(path)) for path in paths[-3:]]
    assert [p.shape for p in pictures] == [(32, 32, 3)] * 3
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augment_hands": True}, "augment_hands: captions of rows with references"),
        ({"preview_references": ["nowhere.png"]}, "nowhere.png: not a readable image"),
        ({"preview_references": ["a.png", "b.png"]}, "preview_references: 2 for 1 preview_prompts"),
    ],
)
def test_what_does_not_go_with_references_is_said_before_anything_is_encoded(config, change, message, monkeypatch):
    monkeypatch.setattr(Caches, "latents", lambda *args: pytest.fail("pictures were encoded"))
    with pytest.raises(QwenlabError, match=message) as error:
        settings = replace(config, preview_prompts=["红色"], preview_every_n_steps=2, **change)
        train(settings, close_ups=lambda *args: None)
    assert "\n" not in str(error.value)
