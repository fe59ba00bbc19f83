"""The micro MMDiT: the real `QwenImageTransformer2DModel` with 6 blocks of 3 heads x 64 (8.2 million parameters)."""

from __future__ import annotations

import torch
from diffusers import QwenImageTransformer2DModel

TRANSFORMER_CONFIG = {
    "patch_size": 2,
    "in_channels": 64,  # 16 latent channels in patches of 2 x 2
    "out_channels": 16,
    "num_layers": 6,
    "num_attention_heads": 3,
    "attention_head_dim": 64,
    "axes_dims_rope": (16, 24, 24),  # frame, height, width; together one head
}


def build_transformer(joint_attention_dim: int, seed: int, **overrides: object) -> QwenImageTransformer2DModel:
    """An untrained micro transformer in float32 for text features of `joint_attention_dim`.

    As in DiT (Peebles and Xie, arXiv 2212.09748), modulations and the output start at zero: every block is the
    identity at first, which makes the early steps stable. The same `seed` gives the same bits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = TRANSFORMER_CONFIG | {"joint_attention_dim": joint_attention_dim} | overrides
        model = QwenImageTransformer2DModel(**config)
    zeroed = [model.proj_out, model.norm_out.linear]
    for block in model.transformer_blocks:
        zeroed += [block.img_mod[1], block.txt_mod[1]]
    for linear in zeroed:
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return model
