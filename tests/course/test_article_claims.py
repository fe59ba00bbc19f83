"""Claims of the article that a few lines settle; the lessons explain them. Cited by notebooks/claims.yaml."""

import inspect
import typing

import pytest
import torch
from torch import nn

WIDTH, RANK = 1024, 64


@pytest.fixture(scope="module")
def two_blocks():
    """Qwen-Image's own configuration but for the depth, without memory for its weights."""
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):
        return QwenImageTransformer2DModel(num_layers=2)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_c2_qwen_image_has_20_billion_parameters_in_60_joint_blocks(two_blocks):
    depth = inspect.signature(type(two_blocks).__init__).parameters["num_layers"].default
    block, rest = parameters(two_blocks.transformer_blocks[0]), parameters(two_blocks)
    rest -= 2 * block
    assert depth == 60
    assert rest + depth * block == 20_430_401_088
    # One attention of a block projects both streams: text and image attend to each other, both ways.
    attention = two_blocks.transformer_blocks[0].attn
    assert {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"} <= set(dict(attention.named_modules()))


def test_c3_the_text_encoder_is_qwen2_5_vl_and_34_template_tokens_are_dropped(pipeline):
    hints = typing.get_type_hints(type(pipeline).__init__)
    assert hints["text_encoder"].__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert pipeline.prompt_template_encode_start_idx == 34


def lora_gradients(a, b):
    """Largest absolute gradient of A (rank, in) and B (out, rank) for a squared error of B A x."""
    a, b = a.requires_grad_(), b.requires_grad_()
    x, target = torch.randn(8, WIDTH), torch.randn(8, WIDTH)
    ((x @ a.T @ b.T - target) ** 2).mean().backward()
    return a.grad.abs().max().item(), b.grad.abs().max().item()


def test_c6_two_zero_factors_never_get_a_gradient():
    torch.manual_seed(0)
    assert lora_gradients(torch.zeros(RANK, WIDTH), torch.zeros(WIDTH, RANK)) == (0, 0)
    a = nn.init.kaiming_uniform_(torch.empty(RANK, WIDTH), a=5**0.5)
    of_a, of_b = lora_gradients(a, torch.zeros(WIDTH, RANK))
    assert of_a == 0 and of_b > 0  # B moves first, and A with it from the second step on


def test_c7_a_new_layer_in_its_place_throws_the_pretrained_weight_away():
    torch.manual_seed(0)
    pretrained, x = nn.Linear(WIDTH, WIDTH), torch.randn(4, WIDTH)
    replaced = nn.Linear(pretrained.in_features, pretrained.out_features)  # what the article's injection makes
    difference = (replaced(x) - pretrained(x)).norm() / pretrained(x).norm()
    assert difference > 1  # as far from the pretrained output as an unrelated layer
    a, b = torch.randn(RANK, WIDTH), torch.zeros(WIDTH, RANK)
    assert torch.equal(pretrained(x) + x @ a.T @ b.T, pretrained(x))  # a wrapped layer starts where it was


def test_c8_the_scale_is_alpha_over_rank(pipeline):
    from qwenlab.lora.layers import inject_lora, unwrap_lora

    layer, x = "transformer_blocks.0.attn.to_q", torch.randn(1, 3, 32)
    base, effect = pipeline.transformer.get_submodule(layer)(x), {}
    for alpha in (4, 8):
        inject_lora(pipeline.transformer, ["to_q"], rank=4, alpha=alpha, seed=0)
        wrapped = pipeline.transformer.get_submodule(layer)
        nn.init.ones_(wrapped.lora_B.weight)
        effect[alpha] = wrapped(x) - base
        product = x @ wrapped.lora_A.weight.T @ torch.ones(4, base.shape[-1])
        assert torch.allclose(effect[alpha], alpha / 4 * product, atol=1e-5)
        unwrap_lora(pipeline.transformer)
    assert torch.allclose(effect[8], 2 * effect[4], atol=1e-5)  # 1.0 is right for alpha = rank alone


def test_c9_rank_64_of_a_1024_layer_saves_seven_eighths():
    full, lora = WIDTH * WIDTH, RANK * (WIDTH + WIDTH)
    assert (full, lora) == (1_048_576, 131_072)
    assert 1 - lora / full == 0.875


def test_c10_projections_are_separate_and_ff_matches_nothing(two_blocks):
    linear = [name for name, module in two_blocks.named_modules() if isinstance(module, nn.Linear)]
    blocks = [name for name in linear if name.startswith("transformer_blocks.0.")]
    assert not [name for name in linear if "ff" in name]
    attention = {name.split(".attn.")[1] for name in blocks if ".attn." in name}
    assert attention == {
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    }  # fmt: skip
    missed = {name.split(".", 2)[2] for name in blocks if ".attn." not in name and "_mod." not in name}
    assert missed == {"img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"}


def test_c17_counting_steps_by_hand_steps_at_once_and_then_mixes_batches():
    stepped = [step for step in range(20) if step % 8 == 0]
    assert stepped == [0, 8, 16]  # the first update follows one batch, not eight
    assert [step for step in range(20) if (step + 1) % 8 == 0] == [7, 15]


def test_c16_bfloat16_keeps_gradients_that_float16_loses():
    gradients = torch.tensor([1e-9, 1e-20, 1e-38])
    assert (gradients.half() == 0).all()  # what a gradient scaler is for
    assert (gradients.bfloat16() > 0).all()


def test_c18_there_is_no_unet_and_a_pipeline_cannot_be_prepared(pipeline):
    from accelerate import Accelerator

    from qwenlab.lora.layers import inject_lora
    from qwenlab.lora.targets import target_modules

    assert not hasattr(pipeline, "unet")
    assert Accelerator(cpu=True).prepare(pipeline) is pipeline  # it comes back as it was: it is no module
    everything = parameters(pipeline.transformer)
    lora = inject_lora(pipeline.transformer, target_modules("attention+mlp"), rank=1, alpha=1)
    assert sum(factor.numel() for factor in lora.values()) < 0.1 * everything


def test_c26_averaging_factors_mixes_unrelated_loras():
    torch.manual_seed(0)
    (a1, b1), (a2, b2) = ((torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK)) for _ in range(2))
    wanted = (b1 @ a1 + b2 @ a2) / 2
    averaged = ((b1 + b2) / 2) @ ((a1 + a2) / 2)
    error = (averaged - wanted).norm() / wanted.norm()
    assert error == pytest.approx(0.5**0.5, abs=0.02)  # half of B2 A1 + B1 A2, which belong to no LoRA
    joined = torch.cat([b1, b2], dim=1) / 2 @ torch.cat([a1, a2])  # rank 128: the exact sum
    assert torch.allclose(joined, wanted, atol=1e-3)
