"""A stock pipeline that loads files, and transformers to write files for."""

from pathlib import Path

import pytest
from diffusers import QwenImage21Transformer2DModel, QwenImageTransformer2DModel

from qwenlab.lab.micro.transformer import TRANSFORMER_CONFIG
from tests.lora.lora_layouts import applied
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def stock():
    """Loads a file into a tiny stock pipeline; returns what was applied to each layer."""
    pipeline = tiny_pipeline()
    config = pipeline.transformer.config

    def load(path: Path, transformer=None):
        transformer = transformer or QwenImageTransformer2DModel.from_config(config)
        pipeline.register_modules(transformer=transformer)
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
        return applied(pipeline.transformer)

    load.config = config
    return load


@pytest.fixture(scope="module")
def tiny(stock):
    return QwenImageTransformer2DModel.from_config(stock.config)


@pytest.fixture(scope="module")
def tiny_21():
    """Two blocks of Qwen-Image-2.1, 32 wide."""
    return QwenImage21Transformer2DModel(
        num_layers=2, num_attention_heads=2, attention_head_dim=16, axes_dims_rope=(4, 6, 6), in_channels=16,
        out_channels=16, context_in_dim=32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def micro():
    """Two blocks of the micro model's own size."""
    return QwenImageTransformer2DModel(**TRANSFORMER_CONFIG | {"num_layers": 2}, joint_attention_dim=64)
