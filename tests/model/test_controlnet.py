"""ControlNets: what a new one is, which files are taken, and that pictures differ by the net and nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import QwenImageControlNetModel
from safetensors.torch import load_file, save_file

from qwenlab.errors import QwenlabError
from qwenlab.lora.io import load_lora, save_lora
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.controlled import generate_controlled
from qwenlab.model.controlnet import (
    CONFIG,
    WEIGHTS,
    Controlled,
    check_blocks,
    controlnet_metadata,
    load_controlnet,
    make_controlnet,
    save_controlnet,
    unused_blocks,
)
from qwenlab.model.generation import generate
from qwenlab.model.quantize import quantise
from tests.pairs import noise
from tests.tiny import tiny_pipeline

TEXTS = ["1女孩, 红", "1女孩, 挥手, 蓝"]


def inputs(batch=2):
    generator = torch.Generator().manual_seed(0)
    return {
        "hidden_states": torch.randn(batch, 4, 64, generator=generator), "timestep": torch.full((batch,), 0.5),
        "encoder_hidden_states": torch.randn(batch, 5, 32, generator=generator),
        "img_shapes": [[(1, 2, 2)]] * batch, "return_dict": False,
    }  # fmt: skip


def condition(seed=1, batch=2):
    return torch.randn(batch, 4, 64, generator=torch.Generator().manual_seed(seed))


def active(transformer, blocks=2):
    """A net that does something."""
    net = make_controlnet(transformer, blocks)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in net.controlnet_blocks:
            torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def test_a_new_net_holds_the_bases_weights_and_changes_nothing(pipeline):
    transformer = pipeline.transformer
    torch.nn.init.uniform_(transformer.txt_norm.weight)
    net = make_controlnet(transformer, 2)
    theirs = transformer.state_dict()
    copied = [name for name in net.state_dict() if not name.startswith("controlnet_")]
    assert len(copied) > 60 and all(torch.equal(net.state_dict()[name], theirs[name]) for name in copied)
    assert torch.equal(net.controlnet_x_embedder.weight, transformer.img_in.weight)
    assert not net.controlnet_x_embedder.bias.any(), "the bias of img_in is added already"
    with torch.no_grad():
        base = transformer(**inputs())[0]
        assert torch.equal(Controlled(transformer, net)(controlnet_cond=condition(), **inputs())[0], base)
        net = active(transformer)
        first, other = (Controlled(transformer, net)(controlnet_cond=condition(s), **inputs())[0] for s in (1, 2))
    assert not torch.allclose(first, base, atol=1e-4) and not torch.allclose(first, other, atol=1e-4)


@pytest.mark.parametrize("start", ["img_in", "zero"])
def test_what_the_start_of_the_projection_decides(pipeline, start):
    transformer = pipeline.transformer.requires_grad_(False)
    net = make_controlnet(transformer, 2, start)

    def gradients():
        net.zero_grad(set_to_none=True)
        Controlled(transformer, net)(controlnet_cond=condition(), **inputs())[0].square().sum().backward()
        return net.controlnet_x_embedder.weight.grad, net.controlnet_blocks[0].weight.grad

    projection, residual = gradients()
    assert residual.abs().sum() > 0
    assert projection.abs().sum() == 0, "nothing reaches it through layers of zeros, from either start"
    with torch.no_grad():
        net.controlnet_blocks[0].weight.add_(residual, alpha=-0.1)
    assert gradients()[0].abs().sum() > 0
    seen = [net(controlnet_cond=condition(seed), **inputs())[0] for seed in (1, 2)]
    assert torch.equal(*seen) == (start == "zero"), "after one step only a copy of img_in tells two pictures apart"


def test_blocks_that_never_act_are_refused(pipeline):
    assert [unused_blocks(n, 6) for n in (1, 2, 3, 4, 5, 6, 7)] == [0, 0, 0, 1, 2, 0, 1]
    assert not any(unused_blocks(n, 60) for n in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60))
    samples = [torch.full((1, 1, 1), float(n)) for n in range(5)]
    used = {int(samples[i // int(np.ceil(6 / 5))].item()) for i in range(6)}  # as the stock transformer picks them
    assert len(used) == 5 - unused_blocks(5, 6)
    with pytest.raises(QwenlabError, match="control_blocks: of 3 blocks for a transformer of 2 the last would never"):
        check_blocks(pipeline.transformer, 3)


def test_only_plain_weights_are_copied(pipeline):
    inject_lora(pipeline.transformer, target_modules(["attention-4"]), rank=2, alpha=2)
    with pytest.raises(QwenlabError, match="no plain weight .* to copy; take off its LoRA"):
        make_controlnet(pipeline.transformer)
    quantised = tiny_pipeline().transformer
    quantise(quantised, "int8", "cpu")
    with pytest.raises(QwenlabError, match="quantised weights cannot be copied"):
        make_controlnet(quantised)


def test_a_saved_net_is_the_stock_layout_with_its_history(pipeline, tmp_path):
    net = active(pipeline.transformer)
    folder = save_controlnet(net, tmp_path / "net", {"qwenlab.base": "micro"})
    stock = QwenImageControlNetModel.from_pretrained(folder)
    again = load_controlnet(folder, pipeline.transformer)
    for other in (stock, again):
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert controlnet_metadata(folder) == {"format": "pt", "qwenlab.base": "micro"}
    half = save_controlnet(net, tmp_path / "half", dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(half / WEIGHTS).values()} == {torch.bfloat16}
    assert (half / WEIGHTS).stat().st_size < 0.6 * (folder / WEIGHTS).stat().st_size
    stock.save_pretrained(tmp_path / "theirs")
    assert load_controlnet(tmp_path / "theirs", pipeline.transformer).config["num_layers"] == 2


def changed_config(folder, **change):
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))


def changed_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


BAD = {
    "of Fun": (
        lambda f: changed_weights(f, lambda t: t.update({"control_blocks.0.after_proj.weight": torch.zeros(2)})),
        "another architecture",
    ),
    "blockwise": (
        lambda f: changed_weights(f, lambda t: t.update({"controlnet_blocks.0.x_rms.weight": torch.zeros(2)})),
        "another architecture",
    ),
    "a transformer": (lambda f: changed_config(f, _class_name="QwenImageTransformer2DModel"), "no QwenImageControlNet"),
    "other heads": (lambda f: changed_config(f, num_attention_heads=24), "for another base .num_attention_heads 24"),
    "inpainting": (lambda f: changed_config(f, extra_condition_channels=4), "for inpainting"),
    "idle blocks": (lambda f: changed_config(f, num_layers=3), "3 blocks would never act on 2"),
    "no config": (lambda f: (f / CONFIG).unlink(), "holds no ControlNet .no config.json"),
    "broken config": (lambda f: (f / CONFIG).write_text("{"), "cannot be loaded as a ControlNet"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "cannot be loaded as a ControlNet"),
    "broken weights": (lambda f: (f / WEIGHTS).write_bytes(b"x" * 99), "cannot be loaded as a ControlNet"),
    "a tensor less": (lambda f: changed_weights(f, lambda t: t.pop("img_in.weight")), "lacks tensor img_in.weight"),
    "a tensor more": (lambda f: changed_weights(f, lambda t: t.update(x=torch.zeros(2))), "has a foreign tensor x"),
    "not finite": (lambda f: changed_weights(f, lambda t: t["img_in.bias"].fill_(torch.nan)), "img_in.bias holds"),
    "gone": (shutil.rmtree, "no such folder"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_controlnet(make_controlnet(tiny_pipeline().transformer), tmp_path_factory.mktemp("net") / "net")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_net_is_one_line(pipeline, saved, tmp_path, name):
    change, message = BAD[name]
    folder = tmp_path / "net"
    shutil.copytree(saved, folder)
    change(folder)
    with pytest.raises(QwenlabError, match=message) as error:
        load_controlnet(folder, pipeline.transformer)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "name, message",
    [
        ("alibaba-pai/Qwen-Image-2512-Fun-Controlnet-Union", "another architecture"),
        ("DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Depth", "another architecture"),
        ("InstantX/Qwen-Image-ControlNet-Union", "is this machine online"),
    ],
)
def test_names_on_the_hub(pipeline, name, message):
    with pytest.raises(QwenlabError, match=message) as error:
        load_controlnet(name, pipeline.transformer)
    assert "\n" not in str(error.value)


def test_an_idle_net_draws_the_bases_pictures_and_another_draws_by_its_control(pipeline):
    controls = [noise(1), noise(2)]
    base = generate(pipeline, TEXTS, [3, 4], steps=2)
    idle = generate_controlled(pipeline, make_controlnet(pipeline.transformer), controls, TEXTS, [3, 4], steps=2)
    assert [a.tobytes() for a in base] == [b.tobytes() for b in idle]
    net = active(pipeline.transformer)

    def draw(pictures, **options):
        return [p.tobytes() for p in generate_controlled(pipeline, net, pictures, TEXTS, [3, 4], steps=2, **options)]

    drawn = draw(controls)
    assert all(a.tobytes() != b for a, b in zip(base, drawn, strict=True)) and drawn != draw(controls[::-1])
    assert draw(controls, scale=0.0) == draw(controls, end=0.0) == [a.tobytes() for a in base]
    assert draw(controls, end=0.5) not in (drawn, [a.tobytes() for a in base])
    alone = generate_controlled(pipeline, net, controls[1:], TEXTS[1], 4, steps=2)[0]
    difference = np.abs(np.asarray(alone, float) - np.frombuffer(drawn[1], np.uint8).reshape(32, 32, 3))
    assert difference.max() <= 1, "a picture does not depend on its neighbours"


def test_a_lora_acts_beside_a_net(pipeline, tmp_path):
    teacher = tiny_pipeline()
    for name, factor in inject_lora(teacher.transformer, target_modules(["attention-4"]), rank=2, alpha=2).items():
        torch.nn.init.normal_(factor, std=0.5) if "lora_B" in name else None
    save_lora(teacher, tmp_path / "lora.safetensors")
    idle, net = make_controlnet(pipeline.transformer), active(pipeline.transformer)
    without = generate_controlled(pipeline, net, [noise(1)], TEXTS[0], 3, steps=2)[0]
    load_lora(pipeline, tmp_path / "lora.safetensors")
    alone = generate(pipeline, TEXTS[0], 3, steps=2)[0]
    assert generate_controlled(pipeline, idle, [noise(1)], TEXTS[0], 3, steps=2)[0].tobytes() == alone.tobytes()
    both = generate_controlled(pipeline, net, [noise(1)], TEXTS[0], 3, steps=2)[0]
    assert both.tobytes() not in (alone.tobytes(), without.tobytes())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"controls": []}, "0 control pictures, 0 prompts and 0 seeds"),
        ({"seeds": [1, 2]}, "1 control pictures, 1 prompts and 2 seeds"),
        ({"controls": [noise(1).convert("L")]}, "control 1: its mode is L"),
        ({"controls": [noise(1), noise(1, (48, 32))]}, "control 2: pictures of 32 x 32 and 48 x 32 pixels"),
        ({"controls": [noise(1, (40, 32))]}, "control picture 40: is no multiple of 16"),
        ({"steps": 1}, "steps 1: must be a number from 2"),
        ({"scale": float("nan")}, "scale nan: must be a number from 0"),
        ({"end": 1.5}, "end 1.5: must be a number from 0 to 1"),
    ],
)
def test_what_cannot_be_drawn_with_is_one_line(pipeline, change, message):
    asked = {"controls": [noise(1)], "prompts": TEXTS[0], "seeds": 1} | change
    with pytest.raises(QwenlabError, match=message):
        generate_controlled(pipeline, None, **asked)
