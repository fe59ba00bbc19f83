"""Exact single-frame (2D) execution of the stock Qwen-Image VAE.

`AutoencoderKLQwenImage` is a video autoencoder: its convolutions are 3D and causal in time, so the only frame of a
still picture meets two frames of zero padding.  Only the *last* temporal slice of each kernel ever multiplies data,
and the temporal resampling layers are skipped for a first frame.  A still picture therefore needs one 2D convolution
in place of each 3D one.  `fold_causal_vae` makes the stock object do that; class, parameters, state dict and the
behaviour on videos stay as they were.

Dimensions: B batch, C channels, T frames, H W height and width (pixels or latent cells).
"""

from __future__ import annotations

import types
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from diffusers.models.autoencoders.vae import DecoderOutput


def _conv_forward(self: QwenImageCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
    """Causal convolution of (B, C, T, H, W); 2D when there is one frame and no earlier frame in the cache."""
    if x.shape[2] != 1 or cache_x is not None:
        return QwenImageCausalConv3d.forward(self, x, cache_x)
    # `_padding` is (W, W, H, H, T, 0); the temporal part only ever adds zeros.
    padding = (self._padding[2], self._padding[0])
    # conv3d accepts a bf16 model under autocast like any convolution; conv2d keeps that behaviour.
    y = F.conv2d(x.squeeze(2), self.weight[:, :, -1], self.bias, self.stride[1:], padding, self.dilation[1:])
    return y.unsqueeze(2)  # (B, C', 1, H', W')


def _encode(self: AutoencoderKLQwenImage, x: torch.Tensor) -> torch.Tensor:
    """(B, 3, T, H, W) in [-1, 1] -> moments (B, 2*z, T', H/8, W/8)."""
    tiled = self.use_tiling and (x.shape[4] > self.tile_sample_min_width or x.shape[3] > self.tile_sample_min_height)
    if x.shape[2] != 1 or tiled:
        return AutoencoderKLQwenImage._encode(self, x)
    # No feature cache: a still picture has no next frame. Channels last: the norms over channels read in order.
    x = x.contiguous(memory_format=torch.channels_last_3d)
    return self.quant_conv(self.encoder(x)).contiguous()


def _decode(self: AutoencoderKLQwenImage, z: torch.Tensor, return_dict: bool = True) -> Any:
    """Latents (B, z, T', h, w) -> picture (B, 3, T, 8h, 8w) in [-1, 1]."""
    ratio = self.spatial_compression_ratio
    tiled = self.use_tiling and (
        z.shape[4] > self.tile_sample_min_width // ratio or z.shape[3] > self.tile_sample_min_height // ratio
    )
    if z.shape[2] != 1 or tiled:
        return AutoencoderKLQwenImage._decode(self, z, return_dict=return_dict)
    z = z.contiguous(memory_format=torch.channels_last_3d)
    out = self.decoder(self.post_quant_conv(z)).clamp(-1.0, 1.0).contiguous()
    return DecoderOutput(sample=out) if return_dict else (out,)


def decode_still(vae: AutoencoderKLQwenImage, latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, z, h, w) in the VAE's own units -> pictures (B, 3, 8h, 8w), *not* clamped to [-1, 1].

    For losses: where the clamp of `vae.decode` acts, it has no gradient. Needs a folded VAE.
    """
    z = latents[:, :, None].contiguous(memory_format=torch.channels_last_3d)
    return vae.decoder(vae.post_quant_conv(z))[:, :, 0]


def fold_causal_vae(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Make `vae` run still pictures with 2D convolutions, in place; returns the same object.

    Exact up to float rounding for `encode`, `decode` and their gradients (the gradient of the unused temporal slices
    is zero either way).  Videos and the tiled modes keep the stock code.  Folding twice does nothing.

    Raises `TypeError` for another class: the rule "last slice only" is a property of this architecture.
    """
    if not isinstance(vae, AutoencoderKLQwenImage):
        raise TypeError(f"fold_causal_vae expects an AutoencoderKLQwenImage, not {type(vae).__name__}")
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.forward = types.MethodType(_conv_forward, module)
    vae._encode = types.MethodType(_encode, vae)
    vae._decode = types.MethodType(_decode, vae)
    return vae


def unfold_causal_vae(vae: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    """Take `fold_causal_vae` back, in place; returns the same object. A VAE that is not folded stays as it is."""
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            vars(module).pop("forward", None)
    for name in ("_encode", "_decode"):
        vars(vae).pop(name, None)
    return vae


def is_folded(vae: AutoencoderKLQwenImage) -> bool:
    """Whether `fold_causal_vae` was applied to this object."""
    return "_encode" in vars(vae)
