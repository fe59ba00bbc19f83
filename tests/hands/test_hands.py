"""Hands and feet: where they are, masks, the pose network, and a structure loss that has a gradient."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from qwenlab.config import config_from_mapping
from qwenlab.data.dataset import read_dataset
from qwenlab.data.keypoints import Keypoints, read_keypoints, write_keypoints
from qwenlab.data.regions import Region, region_mask, regions, write_masks
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.hands.finder import load_finder
from qwenlab.hands.form_net import load_form_net
from qwenlab.hands.pose_net import PoseNet, heat_targets, joint_positions, load_pose_net
from qwenlab.hands.structure import MicroPose, StructureLoss, crop_cells, decode_normalised, unpack
from qwenlab.hands.training import structure_schedule
from qwenlab.lab import world
from qwenlab.lab.hands.train_pose_net import examples, joint_error, train
from qwenlab.lab.judge.reading import load_networks
from qwenlab.lab.judge.second import load_second_judge
from qwenlab.lab.world.keypoints import of_picture
from qwenlab.lab.world.sample import sample_scenes, write_scenes
from qwenlab.training import train_lora
from qwenlab.training.batches import draw_batch, flow_loss
from qwenlab.training.runtime import make_accelerator
from qwenlab.training.training_set import encode_dataset

OPEN = {"hands": "五指张开", "framing": "全身", "action": "举起双手", "view": "正面"}


@pytest.fixture
def drawn(tmp_path):
    """Four drawings of 64 x 64 with open hands, their captions and keypoints."""
    rng = np.random.default_rng(0)
    scenes = [world.sample_character_scene(rng, **OPEN) for _ in range(4)]
    folder = tmp_path / "drawn"
    write_scenes(folder, scenes, 64)
    names = [f"img_{k:03d}.jpg" for k in range(1, 5)]
    pairs = zip(names, scenes, strict=True)
    write_keypoints(folder, {name: of_picture(world.render(scene, 64)) for name, scene in pairs})
    return folder


def settings(folder, out, **changes):
    values = {
        "dataset": str(folder), "output_dir": str(out), "resolution": 64, "max_train_steps": 3, "rank": 4,
        "learning_rate": 1e-3, "batch_size_per_gpu": 2, "caption_dropout": 0.0, "use_structural_loss": True,
        "structural_max_sigma": 1.0,
    }  # fmt: skip
    return config_from_mapping(values | changes)


@pytest.mark.parametrize("load", [load_pose_net, load_form_net, load_finder, load_networks, load_second_judge])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 64, (5).to_bytes(8, "little") + b'{"a"', "cut", "other"])
def test_a_missing_damaged_or_other_file_of_weights_is_one_line(tmp_path, load, content):
    path = tmp_path / "weights.safetensors"
    if content in ("cut", "other"):
        save_file({"a.weight": torch.zeros(300)}, path)
        path.write_bytes(path.read_bytes()[: 200 if content == "cut" else None])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(
        QwenlabError, match=rf"cannot load the .* from {path}: train it with python -m qwenlab\."
    ) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_keypoints_are_written_and_read(drawn):
    found = read_keypoints(drawn)
    assert list(found) == [f"img_{k:03d}.jpg" for k in range(1, 5)]
    joints = found["img_001.jpg"]
    assert joints.size == (64, 64) and joints.hands.shape == (2, 21, 3)
    assert np.all(joints.hands[..., 2] == 1), "both hands are open and seen"
    assert len(regions(joints)) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 5: no keypoints"),
        ('{"file_name": "a.png"}', "line 5: no keypoints"),
        (json.dumps({"file_name": "a", "size": [1, 1], "body": [], "hands": [], "feet": []}), "line 5: body is"),
    ],
)
def test_broken_keypoints_name_their_line(drawn, line, message):
    with open(drawn / "keypoints.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(QwenlabError, match=message):
        read_keypoints(drawn)


def test_regions_hold_all_joints_and_leave_out_what_is_not_seen():
    joints = of_picture(world.render(sample_scenes(20)[0], 128))
    hidden = Keypoints(joints.size, joints.body, joints.hands * [1, 1, 0], joints.feet)
    assert {region.kind for region in regions(hidden)} <= {"foot"}
    picture = world.render(world.sample_scene(np.random.default_rng(1), **OPEN), 128)
    joints = of_picture(picture)
    for region, group in zip(regions(joints), [*joints.hands, *joints.feet], strict=True):
        left, top, right, bottom = region.box()
        assert (left < group[:, 0]).all() and (group[:, 0] < right).all()
        assert (top < group[:, 1]).all() and (group[:, 1] < bottom).all()
    mask = np.asarray(region_mask(joints))
    assert 0.02 < (mask == 255).mean() < 0.4 and mask.shape == (128, 128)


def test_masks_are_written_where_training_looks_for_them(drawn):
    dataset = read_dataset(drawn)
    assert write_masks(dataset) == 4
    assert Image.open(drawn / "masks" / "img_001.png").size == (64, 64)
    keep = read_keypoints(drawn)
    keep.pop("img_002.jpg")
    write_keypoints(drawn, keep)
    with pytest.raises(QwenlabError, match="no line for img_002.jpg"):
        write_masks(dataset)
    (drawn / "keypoints.jsonl").unlink()
    with pytest.raises(QwenlabError, match="no such file"):
        write_masks(dataset)


def test_views_move_their_regions(drawn, pipeline, tmp_path):
    config = settings(drawn, tmp_path / "run", resolution=32, random_flip=True)
    training_set = encode_dataset(pipeline, read_dataset(drawn), config)
    plain, mirrored = training_set.regions[:2]
    original = regions(read_keypoints(drawn)["img_001.jpg"])
    for region, half, other in zip(original, plain, mirrored, strict=True):
        assert (half.x, half.y, half.side) == pytest.approx((region.x / 2, region.y / 2, region.side / 2))
        assert (other.x, other.y) == pytest.approx((32 - half.x, half.y))


def test_a_pose_network_learns_from_drawings():
    crops, joints = examples(np.random.default_rng(3), 12)
    assert crops.shape == (12, 3, 48, 48) and joints.shape == (12, 24, 3) and crops.abs().max() <= 1
    heat = heat_targets(joints)
    there = joints[..., 2] > 0
    assert heat[there].amax((1, 2)).min() > 0.5 and heat[~there].max() == 0
    off = (joint_positions(heat)[there] - joints[there][:, :2]).abs().max()
    assert off <= 1.01, "within half a cell"
    assert [feature.shape[1:] for feature in PoseNet().features(crops)] == [(48, 24, 24), (64, 12, 12)]


def test_tokens_become_the_latents_that_the_pipeline_unpacks(pipeline):
    latents = torch.randn(2, 16, 8, 6)
    tokens = pipeline._pack_latents(latents, 2, 16, 8, 6)
    assert torch.equal(unpack(tokens, 8, 6), latents)


@pytest.mark.parametrize(("x", "y"), [(4, 4), (64, 64), (127, 60)])
def test_crops_are_whole_cells_inside_the_picture(x, y):
    latents = torch.arange(256.0).view(1, 16, 16)
    piece = crop_cells(latents, Region("hand", x, y, 30))
    assert piece.shape == (1, 6, 6)
    column, row = piece[0, 0, 0] % 16, piece[0, 0, 0] // 16
    assert 0 <= column <= 10 and 0 <= row <= 10
    assert abs(column + 3 - x / 8) <= 3.5 and abs(row + 3 - y / 8) <= 3.5


def loss_of(pipeline, folder, out, **changes):
    config = settings(folder, out, **changes)
    dataset = read_dataset(folder)
    training_set = encode_dataset(pipeline, dataset, config)
    batch = draw_batch(pipeline, training_set, config, 1, 0, make_accelerator(pipeline, config, "fp32"))
    torch.manual_seed(0)
    network = MicroPose(PoseNet().requires_grad_(False))
    return batch, StructureLoss(pipeline.vae.requires_grad_(False), {"hand": network, "foot": network})


def test_the_loss_is_zero_for_the_truth_and_has_a_gradient_otherwise(drawn, pipeline, tmp_path):
    batch, loss = loss_of(pipeline, drawn, tmp_path / "run", resolution=128)
    loss.max_sigma = 1.0
    assert loss(batch, batch.target).item() == pytest.approx(0, abs=1e-6)
    prediction = (batch.target + 0.3 * torch.randn_like(batch.target)).requires_grad_()
    value = loss(batch, prediction)
    value.backward()
    assert value > 0 and prediction.grad.abs().sum() > 0 and torch.isfinite(prediction.grad).all()
    touched = prediction.grad.abs().sum(-1) > 0  # (B, S)
    assert touched.any() and not touched.all(), "only around hands and feet"


def test_samples_with_much_noise_and_pictures_without_hands_are_left_out(drawn, pipeline, tmp_path):
    batch, loss = loss_of(pipeline, drawn, tmp_path / "run")
    prediction = torch.zeros_like(batch.target).requires_grad_()
    loss.max_sigma = float(batch.sigma.min()) / 2
    assert loss(batch, prediction).item() == 0
    loss.max_sigma = 1.0
    assert loss(dataclasses.replace(batch, regions=None), prediction).item() == 0
    assert loss(dataclasses.replace(batch, regions=[[], []]), prediction).item() == 0


def test_pixels_beyond_the_clamp_keep_their_gradient(pipeline):
    pipeline.vae.decoder.conv_out.bias.data += 3.0  # every pixel is saturated
    latents = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pictures = decode_normalised(pipeline.vae, latents)
    assert pictures.shape == (1, 3, 32, 32) and pictures.min() > 1
    pictures.square().sum().backward()
    assert latents.grad.abs().sum() > 0
    stock = latents.detach()[:, :, None].requires_grad_()
    pipeline.vae.decode(stock).sample.square().sum().backward()
    assert stock.grad.abs().sum() == 0, "the stock decoder's clamp lets nothing through"


def test_a_detector_without_gradient_trains_nothing(drawn, pipeline, tmp_path):
    """The article's version: keypoints found under no_grad."""
    batch, loss = loss_of(pipeline, drawn, tmp_path / "run")
    loss.max_sigma = 1.0

    class Detector(MicroPose):
        @torch.no_grad()
        def __call__(self, crops):
            return [joint_positions(self.network(crops))]

    prediction = (batch.target + 0.3).requires_grad_()
    value = StructureLoss(pipeline.vae, {"hand": Detector(PoseNet())}, max_sigma=1.0)(batch, prediction)
    assert not value.requires_grad, "a number, nothing more"


def test_training_uses_the_loss_from_its_step_on(drawn, pipeline, tmp_path, monkeypatch):
    from qwenlab.hands import pose_net

    monkeypatch.setattr(pose_net, "load_pose_net", lambda: PoseNet().requires_grad_(False))
    config = settings(drawn, tmp_path / "run", structural_from_step=2, structural_weight=5.0)
    schedule = structure_schedule(pipeline, config)
    assert schedule(2) is None and schedule(3) is not None
    with_loss = train_lora(pipeline, config, progress=False, extra=schedule).losses
    from qwenlab.lora.io import remove_lora

    remove_lora(pipeline)
    plain = dataclasses.replace(config, use_structural_loss=False, output_dir=str(tmp_path / "plain"))
    without = train_lora(pipeline, plain, progress=False).losses
    assert with_loss[:2] == without[:2] and with_loss[2] > without[2]


def test_gradients_reach_the_lora_in_bfloat16(drawn, pipeline, tmp_path):
    from qwenlab.lora.layers import inject_lora
    from qwenlab.lora.targets import target_modules

    batch, loss = loss_of(pipeline, drawn, tmp_path / "run")
    loss.max_sigma = 1.0
    factors = inject_lora(pipeline.transformer, target_modules("attention+mlp"), rank=2, alpha=2)
    for factor in factors.values():
        torch.nn.init.normal_(factor, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        flow_loss(pipeline.transformer, batch, loss).backward()
    gradients = [factor.grad for factor in factors.values() if factor.grad is not None]
    assert len(gradients) > 20 and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_without_keypoints_or_weights_there_is_one_clear_line(dataset_folder, pipeline, tmp_path):
    config = settings(dataset_folder, tmp_path / "run", resolution=32)
    with pytest.raises(QwenlabError, match="keypoints.jsonl: no such file"):
        encode_dataset(pipeline, read_dataset(dataset_folder), config)
    with pytest.raises(QwenlabError, match="train_pose_net"):
        load_pose_net(tmp_path / "none.safetensors")
    with pytest.raises(QwenlabError, match="structural_max_sigma"):
        config_from_mapping({"structural_max_sigma": 0.0})


def test_training_the_pose_network_lowers_its_loss(capsys, monkeypatch):
    from qwenlab.lab.hands import train_pose_net

    monkeypatch.setattr(train_pose_net, "examples", lambda rng, count: examples(rng, 48))
    network = train(40, 8, None, say=False)
    crops, joints = examples(np.random.default_rng(31), 48)
    with torch.no_grad():
        fresh = train_pose_net.heat_loss(PoseNet()(crops), heat_targets(joints))
        trained = train_pose_net.heat_loss(network(crops), heat_targets(joints))
    assert trained < 0.8 * fresh


def test_the_sample_comes_with_its_keypoints():
    found = read_keypoints(REPOSITORY / "data_sample")
    assert len(found) == 60
    for number, scene in enumerate(sample_scenes()[:3], 1):
        joints = found[f"img_{number:03d}.jpg"]
        small = of_picture(world.render(scene, 128))
        assert joints.size == (1024, 1024)
        assert np.abs(joints.hands[..., :2] - 8 * small.hands[..., :2]).max() < 8
        assert np.array_equal(joints.hands[..., 2], small.hands[..., 2])


def test_the_shipped_pose_network_finds_the_joints_of_other_drawings():
    network = load_pose_net()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert joint_error(network, seed=77, count=120) < 1.5
