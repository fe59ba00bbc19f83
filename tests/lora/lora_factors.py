"""LoRA factors and files of several sorts, and the updates that they mean."""

import torch
from safetensors.torch import save_file

from qwenlab.lora.files.reading import open_tensors, read_factors, read_lora

SHAPES = {
    "transformer_blocks.0.attn.to_q": (192, 192),
    "transformer_blocks.0.img_mlp.net.0.proj": (768, 192),
    "transformer_blocks.0.img_mlp.net.2": (192, 768),
    "transformer_blocks.1.attn.to_q": (192, 192),
}
KINDS = ("random", "decaying", "deficient", "duplicated")


def factors(kind, d, k, rank, seed):
    """Two LoRAs (A, B): random, with a falling spectrum as training leaves, rank-deficient, or twice the same."""
    rng = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(rank, k, generator=rng), torch.randn(d, rank, generator=rng)) for _ in range(2)]
    if kind == "decaying":
        pairs = [(a * 0.6 ** torch.arange(rank)[:, None], b) for a, b in pairs]
    if kind == "deficient":
        pairs = [(a.index_fill(0, torch.tensor([rank - 1]), 0.0), b) for a, b in pairs]
    return [pairs[0], pairs[0]] if kind == "duplicated" else pairs


def dense(pairs):
    return sum(b.double() @ a.double() for a, b in pairs)


def product(pair):
    return pair[1].double() @ pair[0].double()


def write_lora(path, rank=4, seed=0, dtype=torch.float32, alpha=None, layers=SHAPES, kind="random", which=0):
    """A LoRA file: in the diffusers layout, or with alpha in the kohya layout."""
    state = {}
    for number, name in enumerate(layers):
        a, b = factors(kind, *SHAPES[name], rank, seed * 100 + number)[which]
        if alpha is None:
            state[f"transformer.{name}.lora_A.weight"], state[f"transformer.{name}.lora_B.weight"] = a, b
        else:
            stem = "lora_unet_" + name.replace(".", "_")
            state |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(alpha)}
    save_file({key: value.to(dtype).contiguous() for key, value in state.items()}, path)
    return path


def updates(path):
    """layer -> update as the file means it, float64."""
    lora = read_lora(path)
    with open_tensors(lora.path) as file:
        return {name: layer.scaling * product(read_factors(file, layer)) for name, layer in lora.layers.items()}


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())
