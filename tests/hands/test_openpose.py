"""OpenPose's networks as plain modules: conversions, gradients in float32 and bfloat16, loading from a folder."""

import dataclasses

import pytest
import torch
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.hands.openpose import FILES, OpenPose, build, load_openpose, to_openpose
from qwenlab.hands.structure import StructureLoss
from qwenlab.hands.training import pose_networks, structure_schedule
from qwenlab.training.batches import flow_loss
from tests.hands.test_hands import drawn, loss_of, settings  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def networks():
    """Both networks at their real sizes, random weights that keep signals alive through 40 layers (He et al.)."""
    torch.manual_seed(0)
    built = {kind: build(kind) for kind in FILES}
    for layer in [layer for network in built.values() for layer in network.modules() if isinstance(layer, nn.Conv2d)]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return built


def test_sizes_are_the_real_ones(networks):
    millions = {kind: sum(p.numel() for p in network.parameters()) / 1e6 for kind, network in networks.items()}
    assert millions["hand"] == pytest.approx(36.8, abs=0.1) and millions["foot"] == pytest.approx(52.3, abs=0.1)


def test_pictures_become_what_openpose_reads():
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 4, 4)
    seen = to_openpose(red)[0, :, 0, 0]
    assert seen.tolist() == pytest.approx([-0.5, -0.5, 255 / 256 - 0.5]), "blue, green, red"


def test_maps_have_their_shapes_and_the_last_one_can_be_negative(networks):
    crops = torch.rand(1, 3, 64, 64) * 2 - 1
    (hand,) = OpenPose(networks["hand"])(crops)
    limbs, joints = OpenPose(networks["foot"])(crops)
    assert hand.shape == (1, 22, 8, 8) and limbs.shape == (1, 38, 8, 8) and joints.shape == (1, 19, 8, 8)
    assert not any(isinstance(layer, nn.ReLU) for layer in list(networks["foot"].model6_2)[-1:])
    from controlnet_aux.open_pose.model import bodypose_model

    stock = bodypose_model()
    stock.load_state_dict(networks["foot"].state_dict())
    last = stock(to_openpose(crops))[1]
    assert torch.allclose(last, joints.clamp(min=0), atol=1e-6), "the stock network's slip: a ReLU on the heat map"
    assert joints.min() < 0 <= last.min()


@pytest.mark.parametrize("kind", ["hand", "foot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_pixels(networks, kind, dtype):
    import copy

    network = OpenPose(copy.deepcopy(networks[kind]).to(dtype))
    crops = (torch.rand(1, 3, 64, 64) * 2 - 1).requires_grad_()
    sum(maps.square().mean() for maps in network(crops)).backward()
    assert torch.isfinite(crops.grad).all() and crops.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.network.parameters())


def test_gradients_reach_the_lora_through_them_in_bfloat16(networks, drawn, pipeline, tmp_path):  # noqa: F811
    from qwenlab.lora.layers import inject_lora
    from qwenlab.lora.targets import target_modules

    batch, _ = loss_of(pipeline, drawn, tmp_path / "run")
    found = {kind: OpenPose(network) for kind, network in networks.items()}
    for network in found.values():
        network.size = 32  # the real 368 takes minutes on a CPU, bf16 without AVX-512 more; pose_cost.py measures it
    loss = StructureLoss(pipeline.vae.requires_grad_(False), found, weight=1.0, max_sigma=1.0)
    factors = inject_lora(pipeline.transformer, target_modules("attention+mlp"), rank=2, alpha=2)
    for factor in factors.values():
        nn.init.normal_(factor, std=0.1)

    def gradients(extra):
        for factor in factors.values():
            factor.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            flow_loss(pipeline.transformer, batch, extra).backward()
        return torch.cat([factor.grad.flatten() for factor in factors.values() if factor.grad is not None])

    with_it, without = gradients(loss), gradients(None)
    assert torch.isfinite(with_it).all() and (with_it - without).abs().max() > 0


def test_weights_come_from_a_folder_of_the_user(networks, drawn, pipeline, tmp_path):  # noqa: F811
    for kind, name in FILES.items():
        # As the released files are: without the names of the blocks.
        stored = {key.split(".", 1)[1]: value for key, value in networks[kind].state_dict().items()}
        torch.save(stored, tmp_path / name)
        loaded = load_openpose(tmp_path, kind).network
        for a, b in zip(loaded.state_dict().values(), networks[kind].state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    config = settings(drawn, tmp_path / "run", openpose_dir=str(tmp_path))
    chosen = pose_networks(config, pipeline.vae)
    assert {kind: type(network) for kind, network in chosen.items()} == {"hand": OpenPose, "foot": OpenPose}
    assert structure_schedule(pipeline, config)(1).networks.keys() == {"hand", "foot"}


def test_missing_and_wrong_files_are_one_clear_line(tmp_path, drawn, pipeline):  # noqa: F811
    with pytest.raises(QwenlabError, match="hand_pose_model.pth: no such file.*non-commercial"):
        load_openpose(tmp_path, "hand")
    torch.save({"conv1_1.weight": torch.zeros(1)}, tmp_path / FILES["hand"])
    with pytest.raises(QwenlabError, match="does not hold the weights"):
        load_openpose(tmp_path, "hand")
    (tmp_path / FILES["hand"]).write_bytes(b"not a file of torch")
    with pytest.raises(QwenlabError, match="does not hold the weights"):
        load_openpose(tmp_path, "hand")
    config = dataclasses.replace(settings(drawn, tmp_path / "run"), openpose_dir=str(tmp_path / "none"))
    with pytest.raises(QwenlabError, match="no such file"):
        structure_schedule(pipeline, config)
