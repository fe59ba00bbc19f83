"""The MMDiT written here against the stock transformer: the same numbers, gradients, packing and padding."""

import copy
import re
import sys

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from qwenlab.files import REPOSITORY
from qwenlab.model import mmdit
from qwenlab.model import pipeline as door
from qwenlab.model.mmdit import MMDiT, MMDiTConfig

TINY = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 12, 12),
}
LENGTHS = (9, 4, 1, 6)  # text tokens of a padded batch

needs_weights = pytest.mark.skipif(
    not (door.MICRO_WEIGHTS / "model_index.json").exists(), reason="the micro weights are being trained"
)


def randomised(**overrides):
    """A stock transformer in which no parameter is zero or one, unlike a fresh one of any kind."""
    generator = torch.Generator().manual_seed(0)
    stock = QwenImageTransformer2DModel(**TINY | overrides).eval()
    with torch.no_grad():
        for name, value in stock.named_parameters():
            spread = value.shape[-1] ** -0.5 if value.ndim == 2 else 0.3
            value.copy_(spread * torch.randn(value.shape, generator=generator) + ("norm" in name and value.ndim == 1))
    return stock


@pytest.fixture(scope="module")
def tiny():
    stock = randomised()
    return stock, MMDiT.from_stock(stock)


@pytest.fixture(scope="module", params=["random", pytest.param("micro", marks=needs_weights)])
def models(request):
    """(stock, ours): a random network, and the trained micro model."""
    stock = randomised() if request.param == "random" else door.load_pipeline("micro", device="cpu").transformer
    return stock, MMDiT.from_stock(stock)


def inputs(config, grid=(4, 4), batch=1, padded=False, seed=1):
    """Random arguments of both networks; padding is filled with noise, which must not reach any token."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    length = max(LENGTHS)
    mask = torch.arange(length) < torch.tensor(LENGTHS)[:batch, None] if padded else None
    return {
        "hidden_states": draw(batch, grid[0] * grid[1], config.in_channels),
        "encoder_hidden_states": draw(batch, length, config.joint_attention_dim),
        "timestep": torch.rand(batch, generator=generator),
        "encoder_hidden_states_mask": mask,
    }


def run_stock(stock, grid, batch, **arguments):
    return stock(img_shapes=[[(1, *grid)]] * batch, return_dict=False, **arguments)[0]


@pytest.mark.parametrize(("batch", "padded"), [(1, False), (4, False), (4, True)], ids=["one", "batch", "padded"])
@pytest.mark.parametrize("grid", [(8, 8), (4, 6), (7, 5), (1, 9)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
@torch.no_grad()
def test_velocity_is_the_stock_models(models, grid, batch, padded):
    stock, ours = models
    arguments = inputs(stock.config, grid, batch, padded)
    expected = run_stock(stock, grid, batch, **arguments)
    assert expected.std() > 0.1  # not the zero of a fresh network
    assert (ours(**arguments, grid=grid) - expected).abs().max() <= 1e-5


@needs_weights
@torch.no_grad()
def test_velocity_of_captions_is_the_stock_models():
    pipeline = door.load_pipeline("micro", device="cpu")
    text, mask = pipeline.encode_prompt(["1女孩, 粉色双马尾, 白色连衣裙, 挥手", " "])
    arguments = inputs(pipeline.transformer.config, (8, 8), 2)
    arguments |= {"encoder_hidden_states": text, "encoder_hidden_states_mask": mask}
    assert mask is not None
    expected = run_stock(pipeline.transformer, (8, 8), 2, **arguments)
    ours = MMDiT.from_stock(pipeline.transformer)
    assert (ours(**arguments, grid=(8, 8)) - expected).abs().max() <= 1e-5


def test_gradients_are_the_stock_models():
    stock = randomised()
    ours = MMDiT(MMDiTConfig(**TINY))
    ours.load_state_dict(stock.state_dict(), strict=True)  # a copy, so that each has its own gradients
    given = {}
    for name, model in (("stock", stock), ("ours", ours)):
        arguments = inputs(stock.config, (4, 6), 4, padded=True)
        arguments["hidden_states"].requires_grad_()
        arguments["encoder_hidden_states"].requires_grad_()
        run = run_stock if name == "stock" else lambda model, grid, _, **rest: model(grid=grid, **rest)
        run(model, (4, 6), 4, **arguments).square().mean().backward()
        given[name] = {key: value.grad for key, value in model.named_parameters()}
        given[name] |= {key: arguments[key].grad for key in ("hidden_states", "encoder_hidden_states")}
    assert given["stock"].keys() == given["ours"].keys()
    for name, expected in given["stock"].items():
        if expected is None:
            assert given["ours"][name] is None, name
        else:
            difference = (given["ours"][name] - expected).abs().max()
            assert difference <= 1e-4 * expected.abs().max(), name
    # The last block's text goes nowhere: what makes it never learns.
    unused = {name for name, gradient in given["stock"].items() if gradient is None}
    assert unused == {
        f"transformer_blocks.2.{layer}.{kind}"
        for layer in ("attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
        for kind in ("weight", "bias")
    }
    for gradients in given.values():  # these have one, of zero: shift 1 and scale 1 act on keys and values
        last = {name: gradients[f"transformer_blocks.2.{name}.weight"] for name in ("attn.add_q_proj", "txt_mod.1")}
        assert not last["attn.add_q_proj"].any()
        assert [bool(part.any()) for part in last["txt_mod.1"].chunk(6)] == [True, True, False, False, False, False]


@torch.no_grad()
def test_bfloat16_rounds_no_more_than_the_stock_model(models):
    stock, _ = models
    arguments = inputs(stock.config, (4, 6), 4)
    exact = run_stock(stock, (4, 6), 4, **arguments)
    half = copy.deepcopy(stock).to(torch.bfloat16)
    arguments = {name: value if value is None else value.bfloat16() for name, value in arguments.items()}
    errors = [
        (velocity.float() - exact).norm() / exact.norm()
        for velocity in (run_stock(half, (4, 6), 4, **arguments), MMDiT.from_stock(half)(**arguments, grid=(4, 6)))
    ]
    assert errors[1] <= 1.1 * errors[0] + 1e-3


def test_full_size_has_the_stock_models_parameters():
    with torch.device("meta"):
        stock, ours = QwenImageTransformer2DModel(), MMDiT(MMDiTConfig())
    shapes = lambda model: {name: value.shape for name, value in model.state_dict().items()}  # noqa: E731
    assert shapes(ours) == shapes(stock)
    assert sum(value.numel() for value in ours.parameters()) == 20_430_401_088


def test_weights_are_shared_and_foreign_ones_refused(tiny):
    stock, ours = tiny
    assert ours.proj_out.weight.data_ptr() == stock.proj_out.weight.data_ptr()
    with pytest.raises(ValueError, match="zero_cond_t"):
        MMDiT.from_stock(QwenImageTransformer2DModel(**TINY | {"num_layers": 1, "zero_cond_t": True}))


def test_packing_is_the_pipelines():
    latents = torch.randn(2, 16, 6, 10)
    packed = mmdit.pack(latents)
    assert torch.equal(packed, QwenImagePipeline._pack_latents(latents, 2, 16, 6, 10))
    assert torch.equal(mmdit.unpack(packed, (3, 5)), latents)
    assert torch.equal(mmdit.unpack(packed, (3, 5))[:, :, None], QwenImagePipeline._unpack_latents(packed, 48, 80, 8))


def test_places_are_centred_and_words_lie_beyond_the_picture():
    places = mmdit.token_positions((3, 4), text_length=2)
    assert places[:2].tolist() == [[2, 2, 2], [3, 3, 3]]
    assert places[2].tolist() == [0, -2, -2] and places[-1].tolist() == [0, 0, 1]


def test_rotated_products_depend_on_the_difference_of_places_alone():
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    turn = lambda x, *place: mmdit.rotate(x, mmdit.rotary_angles(torch.tensor([place]), (4, 6, 6)))  # noqa: E731
    near, far = turn(q, 0, 1, 2) * turn(k, 0, 3, 1), turn(q, 0, 8, 5) * turn(k, 0, 10, 4)
    torch.testing.assert_close(near.sum(), far.sum(), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn(q, 0, 7, -3).norm(), q.norm())


@torch.no_grad()
def test_maps_are_recorded_without_changing_the_result(tiny):
    _, ours = tiny
    arguments = inputs(ours.config, (4, 6), 4, padded=True)
    maps = []
    recorded = ours(**arguments, grid=(4, 6), maps=maps)
    assert (recorded - ours(**arguments, grid=(4, 6))).abs().max() <= 1e-5
    joint = max(LENGTHS) + 24
    assert [tuple(weights.shape) for weights in maps] == [(4, 2, joint, joint)] * 3
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(4, 2, joint))
    assert maps[0][1, :, :, LENGTHS[1] : max(LENGTHS)].abs().max() == 0  # nobody reads padding


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_a_blind_stream_reads_nothing_of_the_other(tiny, padded):
    _, ours = tiny
    arguments, other = (inputs(ours.config, (4, 6), 4, padded, seed=seed) for seed in (1, 2))
    text, image = slice(None, max(LENGTHS)), slice(max(LENGTHS), None)
    for blind, queries, keys in (("image", image, text), ("text", text, image)):
        maps = []
        fused = ours(**arguments, grid=(4, 6), blind=blind)
        assert (ours(**arguments, grid=(4, 6), blind=blind, maps=maps) - fused).abs().max() <= 1e-5
        for weights in maps:
            assert weights[:, :, queries, keys].abs().max() == 0
            assert weights[:, :, keys, queries].max() > 0
    # The picture of a blind image does not depend on the words at all; a seeing one does.
    words = arguments | {"encoder_hidden_states": other["encoder_hidden_states"]}
    assert torch.equal(*(ours(**given, grid=(4, 6), blind="image") for given in (arguments, words)))
    assert (ours(**arguments, grid=(4, 6)) - ours(**words, grid=(4, 6))).abs().max() > 1e-2


@torch.no_grad()
def test_padding_changes_nothing(tiny):
    _, ours = tiny
    arguments = inputs(ours.config, (4, 6), 4, padded=True)
    together = ours(**arguments, grid=(4, 6))
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1] for name, value in arguments.items()}
        alone |= {"encoder_hidden_states_mask": None}
        alone["encoder_hidden_states"] = alone["encoder_hidden_states"][:, :length]
        torch.testing.assert_close(ours(**alone, grid=(4, 6)), together[row : row + 1], atol=1e-5, rtol=0)


def test_the_module_stands_alone_and_is_short():
    code = (REPOSITORY / "qwenlab" / "model" / "mmdit.py").read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE)
    assert set(imported) - sys.stdlib_module_names == {"torch", "einops"}
    assert len(code.splitlines()) <= 300
