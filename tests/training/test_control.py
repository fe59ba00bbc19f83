"""Training with control pictures: what steps read, resumed and shared runs, previews, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import QwenImageControlNetModel
from PIL import Image
from safetensors.torch import load_file

from qwenlab.config import TrainConfig, config_from_mapping
from qwenlab.data.caches import Caches, hash_tensors
from qwenlab.data.dataset import read_dataset
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import model_fingerprint
from qwenlab.model.controlled import generate_controlled
from qwenlab.model.controlnet import WEIGHTS, Controlled, controlnet_metadata, make_controlnet, save_controlnet
from qwenlab.model.encoding import encode_image, image_tensor
from qwenlab.training import train_lora
from qwenlab.training.batches import draw_batches, flow_loss
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import encode_dataset
from tests.pairs import noise, write_controlled
from tests.tiny import SIZE, tiny_pipeline
from tests.tiny_edit import tiny_edit_pipeline
from tests.training.resuming import crash_and_resume, same_bits
from tests.training.test_training_set import run_processes


@pytest.fixture
def folder(tmp_path):
    return write_controlled(tmp_path / "set", 6)


@pytest.fixture
def config(folder, tmp_path) -> TrainConfig:
    return TrainConfig(
        resolution=SIZE, dataset=str(folder), output_dir=str(tmp_path / "run"), max_train_steps=4,
        batch_size_per_gpu=2, warmup_steps=1, learning_rate=1e-2, save_every_n_steps=1, seed=3,
        control_kind="controlnet",
    )  # fmt: skip


def train(config, **options):
    return train_lora(tiny_pipeline(), config, progress=False, **options)


def weights(path):
    return load_file(path / WEIGHTS)


def first_batch(config, pipeline):
    training = encode_dataset(pipeline, read_dataset(config.dataset), config)
    return training, draw_batches(pipeline, training, config, 1, 0, make_accelerator(pipeline, config, "fp32"))[0]


# The configuration


def test_the_section_understands_the_beginning_of_its_keys():
    short = {"control": {"kind": "controlnet", "blocks": 1, "start": "zero"}, "preview": {"preview_steps": 5}}
    flat = {"control_kind": "controlnet", "control_blocks": 1, "control_start": "zero", "preview_steps": 5}
    assert config_from_mapping(short) == config_from_mapping(flat)
    assert config_from_mapping({"control": {"kind": "in_context", "rank": 4}}).rank == 4, "no key has two homes"
    with pytest.raises(QwenlabError, match="control_kind: is set twice"):
        config_from_mapping({"control": {"kind": "controlnet"}, "control_kind": "controlnet"})


def test_older_settings_keep_their_hash_and_controls_have_one():
    plain = TrainConfig()
    assert TrainConfig(control_blocks=2, control_start="img_in").hash() == plain.hash()
    nets = [TrainConfig(control_kind="controlnet", control_blocks=n).hash() for n in (2, 3)]
    assert len({plain.hash(), *nets}) == 3
    drawn = TrainConfig(control_kind="controlnet", preview_prompts=["红"], preview_controls=["a.png"])
    assert drawn.hash() == nets[0], "previews change no weights"


NET = {"control_kind": "controlnet"}
REFUSED = [
    ({"control_blocks": 3}, "control_blocks: needs control_kind: controlnet"),
    ({"control_kind": "in_context", "control_net": "x"}, "control_net: needs control_kind: controlnet"),
    ({"preview_controls": ["a.png"]}, "preview_controls: needs control_kind: controlnet or in_context"),
    (NET | {"rank": 4}, "rank: is a LoRA's"),
    (NET | {"apply_to": ["mlp"]}, "apply_to: is a LoRA's"),
    (NET | {"init_lora": "a.safetensors"}, "init_lora: is a LoRA's, .* name a ControlNet in control_net"),
    (NET | {"dylora": True}, "dylora: is a LoRA's"),
    (NET | {"text_encoder_rank": 2}, "text_encoder_rank: is a LoRA's"),
    (NET | {"modulation_timesteps": 50}, "modulation_timesteps: takes layers away"),
    (NET | {"prior_dataset": "x"}, "prior_dataset: keeps a base from forgetting"),
    (NET | {"random_flip": True}, "random_flip: would mirror"),
    ({"control_kind": "in_context", "random_flip": True}, "random_flip: would mirror"),
    (NET | {"augment_hands": True}, "augment_hands: cuts close-ups"),
    (NET | {"control_net": "x", "control_blocks": 3}, "control_blocks: is that of a new ControlNet"),
    (NET | {"preview_prompts": ["红"], "preview_every_n_steps": 2}, "preview_controls: 0 for 1 preview_prompts"),
    ({"control_kind": "lora"}, "control_kind: 'lora' is not one of"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_make_no_sense_together_are_one_line(settings, message):
    with pytest.raises(QwenlabError, match=message) as error:
        TrainConfig(**settings)
    assert "\n" not in str(error.value)


# What steps read


def test_a_batch_holds_the_mean_of_its_control_pictures(config, pipeline):
    training, batch = first_batch(config, pipeline)
    latents = [encode_image(pipeline, image_tensor(noise(20 + number)))[0] for number in range(6)]
    packed = [pipeline._pack_latents(z[None], 1, *z.shape)[0] for z in latents]
    assert batch.control.shape == batch.x_t.shape and batch.references is None
    assert all(any(torch.equal(row, known) for known in packed) for row in batch.control)
    assert torch.equal(training.control_latents(training.choices[2][0][1]), latents[2])
    plain = encode_dataset(pipeline, read_dataset(config.dataset), replace(config, control_kind=""))
    assert plain.controls is None and len(plain.latents.mean) == 6, "the column alone changes nothing"


def test_the_loss_is_that_of_the_stock_pipelines_calls(config, pipeline):
    training, batch = first_batch(config, pipeline)
    net = make_controlnet(pipeline.transformer)
    torch.nn.init.normal_(net.controlnet_blocks[1].weight, std=0.3)
    told = {
        "hidden_states": batch.x_t, "timestep": batch.sigma, "encoder_hidden_states": batch.text,
        "encoder_hidden_states_mask": batch.text_mask, "img_shapes": batch.image_shapes, "return_dict": False,
    }  # fmt: skip
    residuals = net(controlnet_cond=batch.control, **told)
    answer = pipeline.transformer(controlnet_block_samples=residuals, **told)[0]
    model = Controlled(pipeline.transformer, net)
    torch.testing.assert_close(flow_loss(model, batch), (answer - batch.target).square().mean())
    assert abs(flow_loss(model, replace(batch, control=batch.control.flip(0))) - flow_loss(model, batch)) > 1e-6
    measured = held_out_loss(pipeline, training, net=net)
    other = replace(training, controls=training.controls[::-1])
    assert measured != held_out_loss(pipeline, other, net=net)
    assert not net.training and not pipeline.transformer.training


def test_in_context_is_a_reference(config, pipeline):
    training, batch = first_batch(replace(config, control_kind="in_context"), pipeline)
    assert batch.control is None and batch.references.shape == batch.x_t.shape
    assert batch.image_shapes[0] == [(1, 2, 2)] * 2
    own = encode_image(pipeline, image_tensor(noise(21)))[0]
    assert torch.equal(training.reference_latents(1)[0], own)


def test_a_control_picture_is_fitted_as_its_picture_is(config, pipeline, folder):
    noise(21, (2 * SIZE, 2 * SIZE)).save(folder / "control" / "1.png")
    for kind in ("controlnet", "in_context"):
        training, _ = first_batch(replace(config, control_kind=kind), pipeline)
        latents = training.control_latents(1) if kind == "controlnet" else training.reference_latents(1)[0]
        assert latents.shape == training.latents.mean[0].shape


# Runs


def test_a_run_trains_the_net_alone_and_leaves_a_folder_for_stock_diffusers(config):
    pipeline = tiny_pipeline()
    before = hash_tensors(pipeline.transformer.state_dict())
    start = make_controlnet(pipeline.transformer).state_dict()
    result = train_lora(pipeline, config, progress=False)
    assert hash_tensors(pipeline.transformer.state_dict()) == before
    stock = QwenImageControlNetModel.from_pretrained(result.lora_path).state_dict()
    assert all(torch.equal(stock[name], tensor) for name, tensor in result.net.state_dict().items())
    moved = {name for name in stock if not torch.equal(stock[name], start[name])}
    assert {"controlnet_x_embedder.weight", "controlnet_blocks.1.weight", "img_in.weight", "txt_norm.weight"} <= moved
    history = controlnet_metadata(result.lora_path)
    assert history["qwenlab.config"] == config.hash()
    assert history["qwenlab.base_model"] == model_fingerprint(pipeline.transformer)
    drawn = [
        generate_controlled(pipeline, net, [noise(20)], "1女孩", 5, steps=2)[0].tobytes()
        for net in (result.net, QwenImageControlNetModel.from_pretrained(result.lora_path))
    ]
    assert drawn[0] == drawn[1]
    assert not any(parameter.requires_grad for parameter in pipeline.transformer.parameters())


def test_killed_and_resumed_gives_the_same_bits(config, tmp_path):
    config = replace(config, validation_share=0.3, validate_every_n_steps=2, ema_decay=0.5, keep_checkpoints=1)
    whole = train(replace(config, output_dir=str(tmp_path / "whole")))
    resumed = crash_and_resume(train, config, 3)
    assert resumed.losses == whole.losses and resumed.validation == whole.validation
    assert same_bits(resumed.lora_path / WEIGHTS, whole.lora_path / WEIGHTS)
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-000003"]


def test_two_processes_agree_with_one(config, tmp_path):
    config = replace(config, batch_size_per_gpu=4, max_train_steps=3)
    (alone,) = run_processes(config, 1, tmp_path / "alone")
    both = replace(config, batch_size_per_gpu=2, output_dir=str(tmp_path / "both"))
    first, second = run_processes(both, 2, tmp_path / "both")
    assert first == second
    np.testing.assert_allclose(first, alone, atol=1e-5)
    a, b = weights(tmp_path / "run" / "controlnet"), weights(tmp_path / "both" / "controlnet")
    assert all(torch.allclose(a[key], b[key], atol=1e-3) for key in a)


def test_training_goes_on_from_a_saved_net(config, tmp_path, pipeline):
    """As from InstantX's, whose class and layout this is."""
    theirs = make_controlnet(pipeline.transformer, 1)
    torch.nn.init.normal_(theirs.controlnet_blocks[0].weight, std=0.1)
    theirs.save_pretrained(tmp_path / "InstantX")
    config = replace(config, control_net=str(tmp_path / "InstantX"), max_train_steps=2)
    result = train(replace(config, learning_rate=1e-6, output_dir=str(tmp_path / "slow")))
    assert result.net.config["num_layers"] == 1
    slow = weights(result.lora_path)
    assert all(torch.allclose(slow[name], tensor, atol=1e-4) for name, tensor in theirs.state_dict().items())

    def change(step, loss):
        if step == 2:
            save_controlnet(make_controlnet(pipeline.transformer, 1), tmp_path / "InstantX")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(config, on_step=change)
    with pytest.raises(QwenlabError, match="control_net differ"):
        train(config, resume=True)


@pytest.mark.parametrize("kind", ["controlnet", "in_context"])
def test_previews_are_drawn_by_their_control_pictures(config, folder, kind):
    config = replace(
        config, control_kind=kind, preview_prompts=["1女孩"] * 2, preview_every_n_steps=4, preview_steps=2,
        preview_controls=[str(folder / "control" / f"{n}.png") for n in (0, 1)], free_text_encoder=True,
        gradient_checkpointing=True, learning_rate=5e-2,
    )  # fmt: skip
    pictures = [np.asarray(Image.open(path)) for path in train(config).previews]
    assert [p.shape for p in pictures] == [(32, 32, 3)] * 4
    assert not any(np.array_equal(a, b) for a, b in zip(pictures[:2], pictures[2:], strict=True))


def test_checkpointing_changes_no_loss(config, tmp_path):
    plain = train(replace(config, max_train_steps=2))
    less = train(replace(config, max_train_steps=2, gradient_checkpointing=True, output_dir=str(tmp_path / "less")))
    np.testing.assert_allclose(plain.losses, less.losses, rtol=1e-5)


def test_a_base_in_bfloat16_trains_a_net_in_float32(config, tmp_path):
    pipeline = tiny_pipeline()
    for part in (pipeline.transformer, pipeline.text_encoder, pipeline.vae):
        part.to(torch.bfloat16)
    result = train_lora(pipeline, replace(config, max_train_steps=2), progress=False)
    assert {tensor.dtype for tensor in weights(result.lora_path).values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights(tmp_path / "run" / "checkpoint-000001").values()} == {torch.float32}


# What is refused before anything is encoded


def without_control(config, folder):
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").replace(', "control": "control/2.png"', "")
    (folder / "captions.jsonl").write_text(lines, encoding="utf-8")
    return config


def with_reference(config, folder):
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8")
    lines = lines.replace('"control": "control/2.png"', '"control": "control/2.png", "reference": "control/1.png"')
    (folder / "captions.jsonl").write_text(lines, encoding="utf-8")
    return config


FIRST = {
    "a row without": (without_control, '2.png: its row has no "control"'),
    "a reference": (with_reference, '2.png: its row has a "reference"'),
    "blocks": (lambda c, f: replace(c, control_blocks=3), "of 3 blocks for a transformer of 2 the last would never"),
    "no net": (lambda c, f: replace(c, control_net="nowhere"), "nowhere: no such folder"),
    "another net": (lambda c, f: replace(c, control_net="a/Qwen-Fun-Controlnet"), "another architecture"),
    "preview": (
        lambda c, f: replace(c, preview_prompts=["红"], preview_controls=["no.png"], preview_every_n_steps=2),
        "no.png: not a readable image",
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_what_does_not_go_is_said_before_anything_is_encoded(config, folder, name, monkeypatch):
    monkeypatch.setattr(Caches, "latents", lambda *args: pytest.fail("pictures were encoded"))
    change, message = FIRST[name]
    with pytest.raises(QwenlabError, match=message) as error:
        train(change(config, folder))
    assert "\n" not in str(error.value)


def test_a_net_is_for_a_text_to_image_model(config):
    with pytest.raises(QwenlabError, match="is for text-to-image models"):
        train_lora(tiny_edit_pipeline(), config, progress=False)


def test_a_column_that_nobody_reads_is_a_warning(config, capfd):
    train_lora(tiny_pipeline(), replace(config, control_kind="", max_train_steps=2))
    assert 'the column "control" is not read' in capfd.readouterr().err
