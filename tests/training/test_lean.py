"""Less memory in the step, the same numbers: selective checkpointing and norms that keep their input alone."""

import pytest
import torch

from qwenlab.config import config_from_mapping
from qwenlab.errors import QwenlabError
from qwenlab.lora.layers import inject_lora
from qwenlab.lora.targets import target_modules
from qwenlab.memory.settings import MID, StepSettings
from qwenlab.memory.simulate import simulate_step
from qwenlab.training.batches import flow_loss, make_batch
from qwenlab.training.gradient_checkpointing import enable_checkpointing
from qwenlab.training.lean import LeanRMSNorm, lean_forward


def gradients(pipeline, factors):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, 16, 4, 4, generator=generator) for _ in range(2))
    texts = [torch.randn(5, 32, generator=generator), torch.randn(3, 32, generator=generator)]
    batch = make_batch(pipeline, x0, noise, torch.tensor([0.3, 0.8]), texts)
    for factor in factors.values():
        factor.grad = None
    flow_loss(pipeline.transformer, batch).backward()
    return {name: factor.grad.clone() for name, factor in factors.items() if factor.grad is not None}


@pytest.mark.parametrize("selective", [False, True])
def test_checkpointing_changes_no_gradient(pipeline, selective):
    factors = inject_lora(pipeline.transformer, target_modules("attention+mlp"), rank=4, alpha=4)
    for factor in factors.values():
        torch.nn.init.normal_(factor, std=0.1)
    plain = gradients(pipeline, factors)
    pipeline.transformer.train()
    enable_checkpointing(pipeline.transformer, selective=selective)
    again = gradients(pipeline, factors)
    assert plain.keys() == again.keys() and all(torch.equal(plain[name], again[name]) for name in plain)


def test_selective_checkpointing_keeps_the_attention_and_nothing_else():
    settings = StepSettings(model=MID, height=512, width=512, text_tokens=64, rank=4)
    counts = {}
    for way in ("none", "blocks", "selective"):
        record = simulate_step(StepSettings(**{**vars(settings), "checkpointing": way}))
        counts[way] = sum("_scaled_dot_product" in s.origin and "backward" not in s.origin for s in record.storages)
        counts[way, "peak"] = record.peak
    assert counts["blocks"] == 2 * counts["none"], "computed twice"
    assert counts["selective"] == counts["none"]
    assert counts["blocks", "peak"] < counts["selective", "peak"] < counts["none", "peak"]


def test_selective_needs_checkpointing():
    with pytest.raises(QwenlabError, match="gradient_checkpointing"):
        config_from_mapping({"selective_checkpointing": True})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_norm_is_the_stock_one(dtype):
    from diffusers.models.normalization import RMSNorm

    norm = RMSNorm(64, eps=1e-6).to(dtype).requires_grad_(False)
    norm.weight.copy_(torch.linspace(0.5, 1.5, 64))
    x = torch.randn(2, 7, 3, 64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (stock,) = torch.autograd.grad(norm(x), x, dy)
    y = LeanRMSNorm.apply(x, norm.weight, norm.eps)
    assert torch.equal(y, norm(x))
    (lean,) = torch.autograd.grad(y, x, dy)
    torch.testing.assert_close(lean, stock, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_only_frozen_norms_of_low_precision_are_swapped_and_put_back(pipeline):
    transformer = pipeline.transformer
    with lean_forward(transformer):
        assert "forward" not in vars(transformer.transformer_blocks[0].attn.norm_q), "float32 has a path of its own"
    transformer.to(torch.bfloat16).requires_grad_(False)
    attn = transformer.transformer_blocks[0].attn
    attn.norm_k.weight.requires_grad_()
    with lean_forward(transformer):
        assert "forward" in vars(attn.norm_q) and "forward" in vars(attn.norm_added_k)
        assert "forward" not in vars(attn.norm_k)
    assert "forward" not in vars(attn.norm_q)
