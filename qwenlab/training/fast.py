"""The same training step in less time on a CPU: fewer and larger operations instead of many small ones.

A micro model spends most of a step outside its large matrix products: in small products of the factors, in additions
and multiplications that each read and write all activations, and in Python. `fast_forward` swaps, while training, the
forward passes of LoRA layers and blocks for equivalents (equal up to rounding):

- In float32, W + scaling B A is formed once a step, d r k operations on a weight, instead of two small products and a
  sum over all tokens. In bfloat16, where W would swallow a small update, both products stay, but W is cast only once.
- Queries, keys and values of a stream share their input: one product instead of three, forwards and backwards.
- Normalisation and rotary embedding of queries and keys of both streams are done in one go, backwards too.
- `x (1 + scale) + shift` and `x + gate y` are one operation each.
- Of the last block only the picture is used: what it does to the text is left out.

B batch, S tokens, H heads, D features of a head; N = B S rows, k inputs, d outputs, R the sum of the ranks of a group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from qwenlab.lora.layers import LoRALinear, lora_layers

# Up to so many tokens attention is written out in bfloat16: the CPU's own kernel takes three times as long, most of it
# in the backward pass. Memory grows with the square.
MATH_TOKENS = 512


class MergedLoRA(torch.autograd.Function):
    """y = x W^T + b of several LoRA layers with one input, side by side, with W = base + scaling B A."""

    @staticmethod
    def forward(ctx, x: Tensor, scalings: tuple[float, ...], bias: Tensor | None, *tensors: Tensor) -> Tensor:
        """x (N, k); bias (sum of d_i); base (d_i, k), A (r_i, k), B (d_i, r_i) of each layer -> (N, sum of d_i)."""
        layers = [tensors[i : i + 3] for i in range(0, len(tensors), 3)]
        weights = [torch.addmm(w, b, a, alpha=s) for (w, a, b), s in zip(layers, scalings, strict=True)]
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        ctx.scalings = scalings
        ctx.save_for_backward(x, weight, *(factor for _, a, b in layers for factor in (a, b)))
        return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight, *factors = ctx.saved_tensors
        downs, ups = factors[::2], factors[1::2]
        low = x @ _stack(downs).t()  # (N, R)
        pieces = dy.split([b.shape[0] for b in ups], dim=1)
        lows = low.split([a.shape[0] for a in downs], dim=1)
        # The product with few rows first: dy^T low takes four times as long as its transpose.
        up_grads = [(u.t() @ p).t() * s for u, p, s in zip(lows, pieces, ctx.scalings, strict=True)]
        back = [torch.mm(p, b).mul_(s) for p, b, s in zip(pieces, ups, ctx.scalings, strict=True)]  # (N, r_i)
        back = back[0] if len(back) == 1 else torch.cat(back, dim=1)  # (N, R)
        down_grads = (back.t() @ x).split([a.shape[0] for a in downs])
        grads = [grad for pair in zip(down_grads, up_grads, strict=True) for grad in (None, *pair)]
        return (dy @ weight if ctx.needs_input_grad[0] else None, None, None, *grads)


class AddedLoRA(torch.autograd.Function):
    """The same in a lower precision: y = x W^T + b + (x A^T) (scaling B)^T, all factors in one block matrix."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, scalings: tuple[float, ...], *factors: Tensor):
        """x (N, k); weight (sum of d_i, k); bias (sum of d_i); A (r_i, k), B (d_i, r_i) float32 -> (N, sum of d_i)."""
        downs, ups = factors[::2], factors[1::2]
        down = _stack(downs).to(weight.dtype)  # (R, k)
        up = torch.block_diag(*(b.t() * s for b, s in zip(ups, scalings, strict=True))).to(weight.dtype)
        low = x @ down.t()  # (N, R)
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        ctx.scalings, ctx.shapes = scalings, [b.shape for b in ups]
        ctx.save_for_backward(x, weight, down, up, low)
        return y.addmm_(low, up)

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight, down, up, low = ctx.saved_tensors
        back = dy @ up.t()  # (N, R)
        dx = (dy @ weight).addmm_(back, down) if ctx.needs_input_grad[0] else None
        down_grad, up_grad = (back.t() @ x).float(), (low.t() @ dy).float()  # (R, k), (R, sum of d_i)
        grads, row, column = [], 0, 0
        for (d, r), scaling in zip(ctx.shapes, ctx.scalings, strict=True):
            block = up_grad[row : row + r, column : column + d]
            grads += [down_grad[row : row + r], block.t() * scaling]
            row, column = row + r, column + d
        return (dx, None, None, None, *grads)


class NormAndRotate(torch.autograd.Function):
    """RMS norm and rotary embedding of queries and keys with frozen weights, computed in float32."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, rotation: Tensor, eps: float) -> Tensor:
        """x (B, S, 2, H, D), weight (S, 2, 1, D), rotation (S, 1, 1, D / 2) complex -> like x."""
        normed = x.to(torch.float32, memory_format=torch.contiguous_format)
        inverse = normed.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        normed = normed * inverse
        ctx.save_for_backward(normed, inverse, weight, rotation)
        return _rotate(normed * weight, rotation).to(x.dtype)

    @staticmethod
    def backward(ctx, dy: Tensor):
        normed, inverse, weight, rotation = ctx.saved_tensors
        d_normed = _rotate(dy.to(torch.float32, memory_format=torch.contiguous_format), rotation.conj()).mul_(weight)
        along = (d_normed * normed).mean(dim=-1, keepdim=True)
        return d_normed.addcmul_(normed, along, value=-1).mul_(inverse).to(dy.dtype), None, None, None


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotation).flatten(-2)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def is_plain(layer: nn.Module) -> bool:
    """A float32 LoRA on an ordinary linear layer, not merged, without dropout: what the functions above compute."""
    return (
        isinstance(layer, LoRALinear)
        and type(layer.base_layer) is nn.Linear
        and layer.base_layer.weight.dtype == layer.lora_A.weight.dtype == torch.float32
        and not layer.merged
        and layer.dropout.p == 0
    )


class Group:
    """Layers with one input, called as one: x (..., k) -> their outputs joined, (..., sum of d_i).

    Under autocast the products are in its dtype, and so is the answer.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers, self.plain = list(layers), all(map(is_plain, layers))
        self._cast: dict[torch.dtype, tuple[Tensor, Tensor | None]] = {}  # frozen weights in another dtype

    def __call__(self, x: Tensor) -> Tensor:
        if not self.plain:
            return torch.cat([layer(x) for layer in self.layers], dim=-1)
        rows = x.reshape(-1, x.shape[-1])  # (N, k)
        scalings = tuple(layer.scaling for layer in self.layers)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            weight, bias = self._frozen(dtype)
            factors = [factor for layer in self.layers for factor in layer.factors]
            with torch.autocast(device, enabled=False):
                y = AddedLoRA.apply(rows.to(dtype), weight, bias, scalings, *factors)
        else:
            tensors = [tensor for layer in self.layers for tensor in (layer.base_layer.weight, *layer.factors)]
            y = MergedLoRA.apply(rows, scalings, self._frozen(torch.float32)[1], *tensors)
        return y.view(*x.shape[:-1], -1)

    def _frozen(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The base layers' weights and biases, stacked, cast once."""
        if dtype not in self._cast:
            bases = [layer.base_layer for layer in self.layers]
            bias = None if bases[0].bias is None else _stack([base.bias.detach() for base in bases]).to(dtype)
            merged = dtype == torch.float32  # the weights are then needed one by one
            weight = bases[0].weight if merged else _stack([base.weight.detach() for base in bases]).to(dtype)
            self._cast[dtype] = weight, bias
        return self._cast[dtype]


@contextlib.contextmanager
def fast_forward(transformer: nn.Module) -> Iterator[None]:
    """Within the block a float32 QwenImageTransformer2DModel with a LoRA trains faster; then it is as it was.

    Under autocast the large products are in its dtype. Other models and dtypes, models with options that the stock
    pipeline does not use, or that train their norms, and a LoRA with dropout are left alone, and so are layers with a
    quantised base.
    """
    from diffusers import QwenImageTransformer2DModel

    plain = (
        isinstance(transformer, QwenImageTransformer2DModel)
        and transformer.dtype == torch.float32
        and not any(block.zero_cond_t for block in transformer.transformer_blocks)
        and not any(layer.dropout.p for layer in lora_layers(transformer).values())
        and not any(weight.requires_grad for name, weight in transformer.named_parameters() if ".attn.norm_" in name)
    )
    changed: list[nn.Module] = []
    if plain:
        for layer in lora_layers(transformer).values():
            if is_plain(layer):
                layer.forward = Group([layer])
                changed.append(layer)
        for block in transformer.transformer_blocks:
            attn = block.attn
            of_text = Group([attn.add_q_proj, attn.add_k_proj, attn.add_v_proj])
            groups = Group([attn.to_q, attn.to_k, attn.to_v]), of_text
            block.forward = partial(_block, block, groups, block is transformer.transformer_blocks[-1])
            changed.append(block)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _block(
    block: nn.Module,
    groups: tuple[Group, Group],
    last: bool,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    encoder_hidden_states_mask: Tensor | None,
    temb: Tensor,
    image_rotary_emb: tuple[Tensor, Tensor],
    joint_attention_kwargs: dict | None = None,
    modulate_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`QwenImageTransformerBlock.forward`; of the last block the text (B, T, C) comes back as it went in."""
    if joint_attention_kwargs or modulate_index is not None:
        return type(block).forward(
            block, hidden_states, encoder_hidden_states, encoder_hidden_states_mask, temb, image_rotary_emb,
            joint_attention_kwargs, modulate_index,
        )  # fmt: skip
    image, text = hidden_states.float(), encoder_hidden_states.float()  # the sums stay in float32
    image_mod = block.img_mod(temb)[:, None].float().chunk(6, dim=-1)  # shift, scale, gate, twice: each (B, 1, C)
    text_mod = block.txt_mod(temb)[:, None].float().chunk(6, dim=-1)
    from_image, from_text = _attention(
        block.attn,
        groups,
        _modulate(block.img_norm1(image), *image_mod[:2]),
        _modulate(block.txt_norm1(text), *text_mod[:2]),
        encoder_hidden_states_mask,
        image_rotary_emb,
        image_only=last,
    )
    image = torch.addcmul(image, image_mod[2], from_image.float())
    mlp = block.img_mlp(_modulate(block.img_norm2(image), *image_mod[3:5]))
    image = torch.addcmul(image, image_mod[5], mlp.float())
    if not last:
        text = torch.addcmul(text, text_mod[2], from_text.float())
        mlp = block.txt_mlp(_modulate(block.txt_norm2(text), *text_mod[3:5]))
        text = torch.addcmul(text, text_mod[5], mlp.float())
    return text, image


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def _attention(
    attn: nn.Module,
    groups: tuple[Group, Group],
    image: Tensor,
    text: Tensor,
    text_mask: Tensor | None,
    frequencies: tuple[Tensor, Tensor],
    *,
    image_only: bool,
) -> tuple[Tensor, Tensor | None]:
    """`QwenDoubleStreamAttnProcessor2_0`: image (B, S, C) and text (B, T, C) attend to both."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    batch, tokens = text.shape[:2]
    shape = (batch, -1, 3, attn.heads, attn.inner_dim // attn.heads)
    of_image, of_text = groups
    joint = torch.cat([of_text(text).view(shape), of_image(image).view(shape)], dim=1)  # (B, T + S, 3, H, D)
    weights = torch.cat([
        torch.stack([q.weight, k.weight])[None].expand(length, -1, -1)
        for q, k, length in ((attn.norm_added_q, attn.norm_added_k, tokens), (attn.norm_q, attn.norm_k, image.shape[1]))
    ])  # (T + S, 2, D)  # fmt: skip
    queries_keys, value = joint.split([2, 1], dim=2)  # not slices: their gradients are padded with zeros and added
    rotation = torch.cat([frequencies[1], frequencies[0]])[:, None, None]  # (T + S, 1, 1, D / 2) complex
    query, key = NormAndRotate.apply(queries_keys, weights[:, :, None], rotation, attn.norm_q.eps).unbind(2)
    mask = None
    if text_mask is not None:
        mask = torch.cat([text_mask, text_mask.new_ones(batch, image.shape[1])], dim=1)[:, None, None]
    query, value = query[:, tokens:] if image_only else query, value.squeeze(2)
    if query.dtype == torch.bfloat16 and key.shape[1] <= MATH_TOKENS and attn.processor._attention_backend is None:
        out = _math_attention(query, key, value, mask)
    else:
        backend = attn.processor._attention_backend
        out = dispatch_attention_fn(query, key, value, attn_mask=mask, backend=backend)
    out = out.flatten(2)
    if image_only:
        return attn.to_out[0](out), None
    to_text, to_image = out.split([tokens, image.shape[1]], dim=1)
    return attn.to_out[0](to_image), attn.to_add_out(to_text)


def _math_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention written out, (B, S, H, D) each; mask (B, 1, 1, S) bool."""
    query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))  # (B, H, S, D)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, S, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(dim=-1) @ value).permute(0, 2, 1, 3)
