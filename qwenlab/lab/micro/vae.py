"""The micro VAE: the real `AutoencoderKLQwenImage` with a sixth of its width.

Pictures (B, 3, 1, H, W) in [-1, 1] become latents (B, 16, 1, H/8, W/8), as in Qwen-Image; 2.6 million parameters.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d

from qwenlab.model.vae2d import fold_causal_vae

# The stock class stores the statistics of the real VAE by default; a new VAE starts from "not measured yet".
VAE_CONFIG = {
    "base_dim": 16,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}


def build_vae(seed: int, **overrides: object) -> AutoencoderKLQwenImage:
    """A folded, untrained micro VAE in float32; the same `seed` gives the same bits.

    Only still pictures are learnt, so the temporal slices that never meet data (see `qwenlab.model.vae2d`) are set to
    zero: they compress to nothing on disk. The last slice is scaled to the fan-in that remains.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLQwenImage(**(VAE_CONFIG | overrides))
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, QwenImageCausalConv3d) and module.kernel_size[0] > 1:
                module.weight[:, :, :-1] = 0
                module.weight[:, :, -1] *= module.kernel_size[0] ** 0.5
    return fold_causal_vae(vae)
