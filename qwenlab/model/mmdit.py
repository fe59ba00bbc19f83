"""The MMDiT of Qwen-Image from the ground up: the network that turns noise and words into a picture.

Picture and caption are two streams of tokens. A block keeps separate weights for each stream, and joins them in one
attention over all tokens: image reads text, text reads image, in the same softmax. The noise level enters every block
as shift, scale and gate of both streams (modulation); positions enter as rotations of queries and keys. There is no
cross-attention and no causal mask. Parameter names are those of diffusers' `QwenImageTransformer2DModel`, whose
weights load with `strict=True`.

Sources: Esser et al., Stable Diffusion 3 (arXiv 2403.03206), for the joint attention; Peebles and Xie, DiT
(arXiv 2212.09748), for modulation; Su et al., RoFormer (arXiv 2104.09864), for rotary positions; Qwen-Image Technical
Report (arXiv 2508.02324).

                                            Qwen-Image  micro
    B  pictures of a batch
    S  image tokens, each 16 x 16 pixels          4096     64   (pictures of 1024 and 128 pixels)
    L  text tokens; joint tokens N = L + S, text first
    C  channels of an image token                   64     64   (16 latent channels x 2 x 2 cells)
    J  features of a text token                   3584    192
    D  width of both streams, H x E               3072    192
    H  attention heads                              24      3
    E  channels of a head                          128     64
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6  # of every normalisation
TIMESTEP_CHANNELS = 256  # sines and cosines that describe a noise level
LONGEST_PERIOD = 10_000  # of those, and of the rotary positions

Blind = Literal["image", "text"] | None  # an experiment: the stream whose queries do not read the other stream
Maps = list[Tensor] | None  # where attention weights are written, if anybody wants them


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes of the network, under the names of diffusers; the defaults are Qwen-Image's 20 billion parameters."""

    patch_size: int = 2  # latent cells a token, each way
    in_channels: int = 64  # C
    out_channels: int = 16  # latent channels
    num_layers: int = 60
    num_attention_heads: int = 24  # H
    attention_head_dim: int = 128  # E
    joint_attention_dim: int = 3584  # J
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)  # channels of a head that encode frame, row, column

    @property
    def width(self) -> int:  # D
        return self.num_attention_heads * self.attention_head_dim


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C/4, h, w) to tokens (B, S, C): each token holds 2 x 2 neighbouring cells, row by row."""
    return rearrange(latents, "b c (y p) (x q) -> b (y x) (c p q)", p=2, q=2)


def unpack(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, S, C) of `grid` = (rows, columns) back to latents (B, C/4, h, w)."""
    return rearrange(tokens, "b (y x) (c p q) -> b c (y p) (x q)", y=grid[0], x=grid[1], p=2, q=2)


def describe_timestep(sigma: Tensor) -> Tensor:
    """Noise levels (B,) in [0, 1] to (B, 256): cosines and sines of 128 angles that grow up to 1000, ..., 0.1."""
    half = TIMESTEP_CHANNELS // 2
    exponent = -math.log(LONGEST_PERIOD) * torch.arange(half, device=sigma.device) / half
    angle = 1000 * (sigma[:, None].float() * exponent.exp())  # (B, 128); float32 in every model
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """The described noise level as one vector of width D, which every block reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIMESTEP_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sigma: Tensor) -> Tensor:  # (B,)
        return self.linear_2(F.silu(self.linear_1(describe_timestep(sigma).to(sigma.dtype))))  # (B, D)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise every token of (B, n, D), then scale and shift all of them alike by (B, 1, D)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift


def token_positions(grid: tuple[int, int], text_length: int, device: torch.device | None = None) -> Tensor:
    """(N, 3) frame, row and column of every token: the image is centred on 0, the text continues its diagonal.

    The three coordinates of a word are equal and lie beyond the picture's edge: no word shares a place with a patch.
    """
    rows, columns = grid
    axis = lambda n: torch.arange(n, device=device) - (n - n // 2)  # noqa: E731
    image = torch.cartesian_prod(torch.arange(1, device=device), axis(rows), axis(columns))  # (S, 3)
    text = max(rows, columns) // 2 + torch.arange(text_length, device=device)  # (L,)
    return torch.cat([text[:, None].expand(-1, 3), image])  # (N, 3)


def rotary_angles(positions: Tensor, axes_dims: tuple[int, int, int]) -> Tensor:
    """Places (N, 3) to angles (N, E/2): some channel pairs turn with the frame, some with row, some with column."""
    angles = []
    for place, dim in zip(positions.unbind(-1), axes_dims, strict=True):
        frequency = 1 / LONGEST_PERIOD ** (torch.arange(0, dim, 2, device=place.device) / dim)  # (dim / 2,)
        angles.append(torch.outer(place, frequency))  # (N, dim / 2)
    return torch.cat(angles, dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels of (B, H, N, E) by its angle (N, E/2).

    The product of a rotated query and a rotated key then depends on the difference of their places alone.
    """
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, N, E/2) each
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last axis, then multiply each channel by a learnt weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)
        return x.to(self.weight.dtype) * self.weight


def attention_mask(
    text_mask: Tensor | None, text_length: int, image_length: int, blind: Blind, device: torch.device
) -> Tensor | None:
    """Which query (first N) may read which key (second N), to broadcast to (B, H, N, N). Nobody reads padding."""
    allowed = None
    if text_mask is not None:
        allowed = F.pad(text_mask.bool(), (0, image_length), value=True)[:, None, None]  # (B, 1, 1, N)
    if blind is not None:
        is_text = torch.arange(text_length + image_length, device=device) < text_length  # (N,)
        is_blind = is_text if blind == "text" else ~is_text
        reads = (is_text[:, None] == is_text) | ~is_blind[:, None]  # (N, N)
        allowed = reads if allowed is None else reads & allowed  # (N, N) or (B, 1, N, N)
    return allowed


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, maps: Maps) -> Tensor:
    """softmax(q k / sqrt(E)) v for (B, H, N, E). With `maps` the weights (B, H, N, N) are written out and appended."""
    if maps is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)  # the same, without N x N in memory
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, N, N)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    weights = scores.softmax(dim=-1)
    maps.append(weights)
    return weights @ v


class JointAttention(nn.Module):
    """Each stream has its own projections; the softmax is over both. `add_` marks the text's, in the stock names."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        width, self.head_dim = config.width, config.attention_head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.norm_added_q, self.norm_added_k = RMSNorm(self.head_dim), RMSNorm(self.head_dim)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)

    def heads(self, x: Tensor) -> Tensor:  # (B, n, D) -> (B, H, n, E)
        return rearrange(x, "b n (h e) -> b h n e", e=self.head_dim)

    def forward(
        self, image: Tensor, text: Tensor, angles: Tensor, allowed: Tensor | None, maps: Maps
    ) -> tuple[Tensor, Tensor]:  # (B, S, D), (B, L, D)
        text_q, image_q = self.heads(self.add_q_proj(text)), self.heads(self.to_q(image))
        text_k, image_k = self.heads(self.add_k_proj(text)), self.heads(self.to_k(image))
        text_v, image_v = self.heads(self.add_v_proj(text)), self.heads(self.to_v(image))

        q = torch.cat([self.norm_added_q(text_q), self.norm_q(image_q)], dim=2)  # (B, H, N, E)
        k = torch.cat([self.norm_added_k(text_k), self.norm_k(image_k)], dim=2)
        v = torch.cat([text_v, image_v], dim=2)

        out = attend(rotate(q, angles), rotate(k, angles), v, allowed, maps)  # (B, H, N, E)
        out = rearrange(out, "b h n e -> b n (h e)")
        text, image = out.split([text.shape[1], image.shape[1]], dim=1)  # (B, L, D), (B, S, D)
        return self.to_out[0](image), self.to_add_out(text)


class MLP(nn.Module):
    """Two linear layers, four times as wide inside. The second entry of the stock list is an idle dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = nn.ModuleDict({"proj": nn.Linear(width, 4 * width)})
        self.net = nn.ModuleList([wide, nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:  # (B, n, D)
        return self.net[2](F.gelu(self.net[0]["proj"](x), approximate="tanh"))


class Block(nn.Module):
    """Attention over both streams, then an MLP for each. A gate decides how much of each result its stream takes."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        width = config.width
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.attn = JointAttention(config)
        self.img_mlp, self.txt_mlp = MLP(width), MLP(width)

    def forward(
        self, image: Tensor, text: Tensor, temb: Tensor, angles: Tensor, allowed: Tensor | None, maps: Maps
    ) -> tuple[Tensor, Tensor]:  # (B, S, D), (B, L, D)
        i_shift1, i_scale1, i_gate1, i_shift2, i_scale2, i_gate2 = self.img_mod(temb)[:, None].chunk(6, dim=-1)
        t_shift1, t_scale1, t_gate1, t_shift2, t_scale2, t_gate2 = self.txt_mod(temb)[:, None].chunk(6, dim=-1)

        seen_image, seen_text = modulate(image, i_shift1, i_scale1), modulate(text, t_shift1, t_scale1)
        new_image, new_text = self.attn(seen_image, seen_text, angles, allowed, maps)
        image = image + i_gate1 * new_image  # (B, S, D)
        text = text + t_gate1 * new_text  # (B, L, D)
        image = image + i_gate2 * self.img_mlp(modulate(image, i_shift2, i_scale2))
        text = text + t_gate2 * self.txt_mlp(modulate(text, t_shift2, t_scale2))
        return image, text


class MMDiT(nn.Module):
    """Noisy image tokens, text tokens and a noise level to the velocity `noise - data` of the image tokens."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.img_in = nn.Linear(config.in_channels, width)
        self.txt_norm = RMSNorm(config.joint_attention_dim)
        self.txt_in = nn.Linear(config.joint_attention_dim, width)
        self.time_text_embed = nn.ModuleDict({"timestep_embedder": TimestepEmbedding(width)})
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_out = nn.ModuleDict({"linear": nn.Linear(width, 2 * width)})
        self.proj_out = nn.Linear(width, config.patch_size**2 * config.out_channels)

    @classmethod
    def from_stock(cls, stock: nn.Module) -> MMDiT:
        """The same network as a `QwenImageTransformer2DModel`, on the same weights: nothing is copied.

        Raises ValueError for variants with other mathematics, RuntimeError for quantised or LoRA-wrapped weights.
        """
        variants = ("zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
        if named := [name for name in variants if stock.config.get(name)]:
            raise ValueError(f"this is the MMDiT of Qwen-Image, not of a variant with {', '.join(named)}")
        config = MMDiTConfig(**{field.name: stock.config[field.name] for field in dataclasses.fields(MMDiTConfig)})
        with torch.device("meta"):  # no memory for weights that are replaced at once
            model = cls(config)
        model.load_state_dict(stock.state_dict(), strict=True, assign=True)
        return model.train(stock.training)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        grid: tuple[int, int],
        encoder_hidden_states_mask: Tensor | None = None,
        *,
        blind: Blind = None,
        maps: Maps = None,
    ) -> Tensor:
        """Velocity (B, S, C) of the packed latents.

        Args:
            hidden_states: packed noisy latents (B, S, C) of `grid` = (rows, columns) tokens.
            encoder_hidden_states: last hidden states of the text encoder (B, L, J).
            timestep: sigma (B,), 0 = data, 1 = noise.
            encoder_hidden_states_mask: (B, L), true or 1 for tokens, false or 0 for padding; None: no padding.
            blind: "image" hides the text from the image's queries, "text" the image from the text's (experiments).
            maps: a list; each block appends its attention weights (B, H, N, N), rows are queries and sum to 1.
        """
        image = self.img_in(hidden_states)  # (B, S, D)
        text = self.txt_in(self.txt_norm(encoder_hidden_states))  # (B, L, D)
        temb = self.time_text_embed["timestep_embedder"](timestep.to(image.dtype))  # (B, D)
        lengths = text.shape[1], image.shape[1]
        angles = rotary_angles(token_positions(grid, lengths[0], image.device), self.config.axes_dims_rope)
        allowed = attention_mask(encoder_hidden_states_mask, *lengths, blind, image.device)

        for block in self.transformer_blocks:
            image, text = block(image, text, temb, angles, allowed, maps)  # (B, S, D), (B, L, D)

        scale, shift = self.norm_out["linear"](F.silu(temb))[:, None].chunk(2, dim=-1)  # (B, 1, D) each
        return self.proj_out(modulate(image, shift, scale))  # (B, S, C); the text is dropped
