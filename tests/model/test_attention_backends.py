"""An attention backend is trusted only after it was seen to leave padding out."""

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from qwenlab.config import TrainConfig
from qwenlab.errors import QwenlabError
from qwenlab.model.attention_backends import attention_backend, check_attention_backend, padding_leak
from qwenlab.training.runtime import make_accelerator, training_mode


@pytest.mark.parametrize("backend", ["native", "_native_math"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_backends_pass(backend, dtype):
    check_attention_backend(backend, "cpu", dtype)
    assert padding_leak(backend, "cpu", dtype) < (1e-5 if dtype == torch.float32 else 0.03)


@pytest.fixture
def leaky(monkeypatch):
    """A backend that adds the bool mask to the scores as 0 and 1, as xFormers does with it."""

    def attend(
        query,
        key,
        value,
        attn_mask=None,
        dropout_p=0.0,
        is_causal=False,
        scale=None,
        enable_gqa=False,
        _parallel_config=None,
    ):
        bias = None if attn_mask is None else attn_mask.to(query.dtype)
        q, k, v = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias).permute(0, 2, 1, 3)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName._NATIVE_MATH, attend)
    return "_native_math"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_leak_of_padding_is_found_and_refused(leaky, dtype):
    assert padding_leak(leaky, "cpu", dtype) > 0.3
    with pytest.raises(QwenlabError, match="lets padding into attention .*; use native"):
        check_attention_backend(leaky, "cpu", dtype)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("natve", "attention_backend: 'natve' is unknown; did you mean 'native'?"),
        ("flash", "'flash' cannot train with a padding mask|Flash Attention backend 'flash' is not usable"),
        ("xformers", "xformers is not installed or does not fit"),
        ("_native_flash", "'_native_flash' cannot train with a padding mask here"),
    ],
)
def test_what_cannot_be_used_is_one_line(pipeline, backend, message):
    with pytest.raises(QwenlabError, match=message) as caught, attention_backend(pipeline.transformer, backend):
        pass
    assert "\n" not in str(caught.value)


def test_the_transformer_attends_with_it_inside_the_block_only(pipeline, tmp_path):
    transformer, config = pipeline.transformer, TrainConfig(attention_backend="_native_math", output_dir=str(tmp_path))

    def backends():
        return {processor._attention_backend for processor in transformer.attn_processors.values()}

    before = backends(), _AttentionBackendRegistry.get_active_backend()
    with training_mode(pipeline, make_accelerator(pipeline, config, "fp32"), config):
        assert backends() == {AttentionBackendName._NATIVE_MATH}
    assert (backends(), _AttentionBackendRegistry.get_active_backend()) == before
