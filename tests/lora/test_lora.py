"""The LoRA layer against peft's, exact injection, merging."""

import copy

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from qwenlab.errors import QwenlabError
from qwenlab.lora.layers import LoRALinear, inject_lora, lora_layers, lora_state, merge_lora, unwrap_lora
from qwenlab.lora.targets import TARGETS, TEXT_ENCODER_TARGETS, target_modules
from tests.tiny import tiny_pipeline

K, D, RANK = 24, 40, 4


def layers(rslora=False, alpha=6.0):
    """Our layer and peft's around equal bases, with equal random factors."""
    torch.manual_seed(0)
    base = nn.Linear(K, D)
    ours = LoRALinear(copy.deepcopy(base), RANK, alpha, rslora=rslora)
    nn.init.normal_(ours.lora_B.weight)
    config = LoraConfig(r=RANK, lora_alpha=alpha, use_rslora=rslora)
    theirs = PeftLinear(copy.deepcopy(base), "default", config=config, r=RANK, lora_alpha=alpha)
    theirs.requires_grad_(True).base_layer.requires_grad_(False)
    theirs.lora_A["default"].weight.data.copy_(ours.lora_A.weight)
    theirs.lora_B["default"].weight.data.copy_(ours.lora_B.weight)
    return ours, theirs


@pytest.mark.parametrize("rslora", [False, True])
def test_layer_equals_pefts_in_outputs_and_gradients(rslora):
    ours, theirs = layers(rslora)
    x, weight = torch.randn(3, 5, K), torch.randn(3, 5, D)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    answers = [ours(inputs[0]), theirs(inputs[1])]
    assert ours.scaling == theirs.scaling["default"]
    for answer in answers:
        (answer * weight).sum().backward()
    for mine, peft in (
        answers,
        (inputs[0].grad, inputs[1].grad),
        (ours.lora_A.weight.grad, theirs.lora_A["default"].weight.grad),
        (ours.lora_B.weight.grad, theirs.lora_B["default"].weight.grad),
    ):
        assert (mine - peft).abs().max() <= 1e-6 * peft.abs().max()
    assert ours.base_layer.weight.grad is None and ours.base_layer.bias.grad is None


def test_merged_equals_unmerged_and_comes_back():
    ours, theirs = layers()
    x, weight = torch.randn(3, K), ours.base_layer.weight.clone()
    unmerged = ours(x)
    ours.merge()
    ours.merge()  # a second call must not add the update twice
    assert ours.merged and (ours(x) - unmerged).abs().max() <= 1e-5
    assert torch.allclose(ours.base_layer.weight, weight + theirs.get_delta_weight("default"), atol=1e-6)
    ours.unmerge()
    ours.unmerge()
    assert not ours.merged and (ours.base_layer.weight - weight).abs().max() <= 1e-6
    assert torch.equal(ours(x), unmerged) or (ours(x) - unmerged).abs().max() <= 1e-5


def test_a_quantised_weight_cannot_be_merged():
    ours, _ = layers()
    ours.base_layer.weight = nn.Parameter(torch.zeros(D, K, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(QwenlabError, match="cannot be merged into Linear"):
        ours.merge()


def test_factors_stay_float32_over_a_bfloat16_base():
    layer = LoRALinear(nn.Linear(K, D).bfloat16(), RANK, 4)
    assert {layer.lora_A.weight.dtype, layer.lora_B.weight.dtype} == {torch.float32}
    assert layer(torch.randn(2, K, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_first_step_moves_b_alone_then_both():
    layer = LoRALinear(nn.Linear(K, D), RANK, 4)
    x = torch.randn(8, K)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer(x).square().sum().backward()
    assert not layer.lora_A.weight.grad.any() and layer.lora_B.weight.grad.any()
    layer.lora_B.weight.data -= 0.1 * layer.lora_B.weight.grad
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert layer.lora_A.weight.grad.any() and layer.lora_B.weight.grad.any()


@pytest.mark.parametrize(
    "name, count", [("attention-4", 4), ("attention-8", 8), ("mlp", 4), ("attention+mlp", 12), ("modulation", 2)]
)
def test_targets_name_exactly_these_layers_of_every_block(pipeline, name, count):
    transformer = pipeline.transformer
    parameters = inject_lora(transformer, target_modules(name), rank=2, alpha=2)
    assert len(parameters) == 2 * count * transformer.config.num_layers
    assert all(key.startswith("transformer_blocks.") and ".lora_" in key for key in parameters)
    wrapped = {key.split(".", 2)[2].removeprefix("attn.") for key in lora_layers(transformer)}
    assert wrapped == set(TARGETS[name])


def test_text_encoder_targets_leave_the_vision_tower_alone(pipeline):
    encoder = pipeline.text_encoder
    inject_lora(encoder, TEXT_ENCODER_TARGETS, rank=2, alpha=2)
    wrapped = lora_layers(encoder)
    assert len(wrapped) == 4 * encoder.config.text_config.num_hidden_layers
    assert all(".language_model.layers." in name for name in wrapped)


@pytest.mark.parametrize(
    "names, millions",
    [("attention-4", 23.6), ("attention-8", 47.2), ("attention+mlp", 106.2), (["attention+mlp", "modulation"], 147.5)],
)
def test_parameters_at_the_real_size(real_transformer, names, millions):
    endings = tuple(f".{module}" for module in target_modules(names))
    layers = [module for key, module in real_transformer.named_modules() if key.endswith(endings)]
    assert sum(16 * (layer.in_features + layer.out_features) for layer in layers) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@pytest.fixture(scope="module")
def real_transformer():
    """Qwen-Image's 20 billion parameters without their memory."""
    with torch.device("meta"):
        return QwenImageTransformer2DModel()


def test_target_names_combine_without_repeats_and_unknown_ones_are_refused():
    assert target_modules(["attention-4", "attention-8", "mlp"]) == target_modules("attention+mlp")
    with pytest.raises(QwenlabError, match="'ff' names no layers"):
        target_modules(["attention-8", "ff"])


def test_a_target_that_the_model_lacks_a_second_lora_and_rank_0_are_refused(pipeline):
    with pytest.raises(QwenlabError, match="QwenImageTransformer2DModel has no layer 'self_attn.q_proj'"):
        inject_lora(pipeline.transformer, ["to_q", "self_attn.q_proj"], rank=2, alpha=2)
    with pytest.raises(QwenlabError, match="0 is no rank"):
        inject_lora(pipeline.transformer, ["to_q"], rank=0, alpha=2)
    assert not lora_layers(pipeline.transformer)
    inject_lora(pipeline.transformer, ["to_q"], rank=2, alpha=2)
    with pytest.raises(QwenlabError, match="carries a LoRA already"):
        inject_lora(pipeline.transformer, ["to_k"], rank=2, alpha=2)


def test_only_the_factors_train_and_the_base_comes_back(pipeline):
    transformer = pipeline.transformer
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    parameters = inject_lora(transformer, target_modules("attention+mlp"), rank=4, alpha=8, seed=1)
    for name, parameter in parameters.items():
        assert bool(parameter.any()) == ("lora_A" in name), "A is random, B is zero"
    assert {key.removesuffix(".weight") for key in lora_state(transformer)} == {
        name.removesuffix(".weight") for name in parameters
    }
    unwrap_lora(transformer)
    after = transformer.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_merge_lora_leaves_a_plain_model(pipeline):
    transformer = pipeline.transformer
    names = list(transformer.state_dict())
    parameters = inject_lora(transformer, target_modules("attention-8"), rank=4, alpha=8)
    nn.init.normal_(parameters["transformer_blocks.0.attn.to_q.lora_B.weight"])
    layer = transformer.get_submodule("transformer_blocks.0.attn.to_q")
    expected = layer.base_layer.weight + layer.delta()
    merge_lora(transformer)
    assert list(transformer.state_dict()) == names
    assert torch.allclose(transformer.transformer_blocks[0].attn.to_q.weight, expected)


def test_injection_depends_on_its_seed_only():
    def draw(seed):
        parameters = inject_lora(tiny_pipeline().transformer, ["to_q"], rank=2, alpha=2, seed=seed)
        return torch.cat([p.flatten() for p in parameters.values()])

    state = torch.random.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.random.get_rng_state(), state)
