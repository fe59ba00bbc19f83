"""LoRA files of every layout, built by hand: no trainer and no converter has a part in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

RANK, ALPHA = 4, 2.0
BLOCK_LAYERS = (
    *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
    *(f"{stream}_mlp.{name}" for stream in ("img", "txt") for name in ("net.0.proj", "net.2")),
    "img_mod.1",
    "txt_mod.1",
)


@dataclass(frozen=True)
class Layout:
    """How a trainer names and stores a LoRA, and what becomes of the file.

    alpha: stored as tensors; adapter: peft's configuration in the metadata (`beside`: in adapter_config.json);
    diffusers: outcome executed with 0.42.1; comfyui: outcome by its source.
    """

    prefix: str
    a: str
    b: str
    diffusers: str
    comfyui: str
    alpha: float | None = None
    adapter: Mapping = field(default_factory=dict)
    beside: bool = False
    dtype: torch.dtype = torch.float32
    mixed: bool = False

    @property
    def scaling(self) -> float:
        if self.alpha is not None:
            return self.alpha / RANK
        if self.adapter:
            return self.adapter["lora_alpha"] / (RANK**0.5 if self.adapter.get("use_rslora") else RANK)
        return 1.0

    def name(self, layer: str) -> str:
        return self.prefix + (layer.replace(".", "_") if self.prefix.endswith("_") else layer)

    def write(self, path: Path, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Path:
        state = {}
        for layer, (a, b) in factors.items():
            state |= {self.name(layer) + self.a: a, self.name(layer) + self.b: b}
            if self.alpha is not None:
                state[self.name(layer) + ".alpha"] = torch.tensor(self.alpha)
        metadata = None
        if self.adapter:
            entries = {"r": RANK, "target_modules": sorted({layer.split(".", 2)[-1] for layer in factors})}
            if self.beside:
                path = path.with_name("adapter_model.safetensors")
                path.with_name("adapter_config.json").write_text(json.dumps(entries | dict(self.adapter)))
            else:
                entries = {f"transformer.{key}": value for key, value in (entries | dict(self.adapter)).items()}
                metadata = {"lora_adapter_metadata": json.dumps(entries)}
        save_file(state, path, metadata=metadata)
        return path


AB = (".lora_A.weight", ".lora_B.weight")
DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")
HERO = (".lora_A.hero.weight", ".lora_B.hero.weight")
DOWN = (".lora_down.weight", ".lora_up.weight")
HALF, ROOT = {"lora_alpha": ALPHA}, {"lora_alpha": 3, "use_rslora": True}

LAYOUTS = {
    # diffusers, Unsloth
    "transformer": Layout("transformer.", *AB, "works", "works"),
    "transformer mixed ranks": Layout("transformer.", *AB, "works", "works", mixed=True),
    "transformer metadata": Layout("transformer.", *AB, "works", "ignores alpha", adapter=HALF),
    "transformer rslora": Layout("transformer.", *AB, "works", "ignores alpha", adapter=ROOT),
    "transformer alpha": Layout("transformer.", *AB, "error", "works", ALPHA),
    "transformer down": Layout("transformer.", *DOWN, "error", "works"),
    "transformer down alpha": Layout("transformer.", *DOWN, "error", "works", ALPHA),
    "transformer lora.down": Layout("transformer.", ".lora.down.weight", ".lora.up.weight", "works", "works"),
    "transformer default": Layout("transformer.", *DEFAULT, "error", "works"),
    "transformer hero": Layout("transformer.", *HERO, "leaves weights empty", "loads nothing"),
    "transformer hero alpha": Layout("transformer.", *HERO, "error", "loads nothing", ALPHA),
    # ai-toolkit, diffusion-pipe
    "diffusion_model": Layout("diffusion_model.", *AB, "works", "works"),
    "diffusion_model alpha": Layout("diffusion_model.", *AB, "works", "works", ALPHA),
    "diffusion_model down alpha": Layout("diffusion_model.", *DOWN, "works", "works", ALPHA),
    "diffusion_model twice": Layout("diffusion_model.", *AB, "wrong scale", "works", ALPHA, HALF),
    "diffusion_model bf16": Layout("diffusion_model.", *AB, "works", "works", ALPHA, dtype=torch.bfloat16),
    "diffusion_model bf16 odd": Layout("diffusion_model.", *AB, "rounds", "works", 1.3, dtype=torch.bfloat16),
    "diffusion_model fp16 odd": Layout("diffusion_model.", *AB, "rounds", "works", 1.3, dtype=torch.float16),
    "diffusion_model fp8": Layout("diffusion_model.", *AB, "error", "works", ALPHA, dtype=torch.float8_e4m3fn),
    # kohya, musubi-tuner
    "lora_unet": Layout("lora_unet_", *DOWN, "works", "works"),
    "lora_unet alpha": Layout("lora_unet_", *DOWN, "works", "works", ALPHA),
    "lora_unet AB alpha": Layout("lora_unet_", *AB, "works", "works", ALPHA),
    # DiffSynth-Studio and others
    "bare": Layout("", *AB, "loads nothing", "works"),
    "bare alpha": Layout("", *AB, "works", "works", ALPHA),
    "bare down": Layout("", *DOWN, "loads nothing", "works"),
    "bare down alpha": Layout("", *DOWN, "works", "works", ALPHA),
    "bare default": Layout("", *DEFAULT, "works", "works"),
    # peft's own save_pretrained, SimpleTuner's LyCORIS, OneTrainer, a merged checkpoint's prefix
    "peft": Layout("base_model.model.", *AB, "loads nothing", "loads nothing"),
    "peft folder": Layout("base_model.model.", *AB, "loads nothing", "loads nothing", adapter=HALF, beside=True),
    "peft alpha": Layout("base_model.model.", *AB, "error", "loads nothing", ALPHA),
    "lycoris": Layout("lycoris_", *DOWN, "loads nothing", "works"),
    "lycoris alpha": Layout("lycoris_", *DOWN, "error", "works", ALPHA),
    "lora_transformer": Layout("lora_transformer_", *DOWN, "loads nothing", "loads nothing"),
    "lora_transformer alpha": Layout("lora_transformer_", *DOWN, "error", "loads nothing", ALPHA),
    "checkpoint": Layout("model.diffusion_model.", *AB, "loads nothing", "loads nothing"),
}  # fmt: skip


def factors(transformer: nn.Module, layout: Layout, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Random A (r, k) and B (d, r) for each linear layer of each block."""
    generator = torch.Generator().manual_seed(seed)
    linear = dict(transformer.named_modules())
    result = {}
    for block in range(len(transformer.transformer_blocks)):
        for name in BLOCK_LAYERS:
            layer = linear[f"transformer_blocks.{block}.{name}"]
            rank = RANK + 2 * (block % 2) if layout.mixed else RANK
            a = torch.randn(rank, layer.in_features, generator=generator)
            b = torch.randn(layer.out_features, rank, generator=generator)
            result[f"transformer_blocks.{block}.{name}"] = (a.to(layout.dtype), b.to(layout.dtype))
    return result


def applied(transformer: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """What the loaded LoRA adds to each layer: scaled A and B, in float64."""
    found = {}
    for name, module in transformer.named_modules():
        for adapter, a in getattr(module, "lora_A", {}).items():
            scaled = module.scaling[adapter] * a.weight.detach().double()
            found[name] = (scaled, module.lora_B[adapter].weight.detach().double())
    return found


def distance(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """||B A - B' A'|| / ||B' A'|| (Frobenius) in float64, from the factors: no (d, k) matrix is made."""
    (a, b), (a2, b2) = ours, theirs
    difference = torch.cat([b, -b2], 1), torch.cat([a, a2], 0)

    def norm(left, right):  # ||left right||, by QR, without cancellation
        return (torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T).norm()

    return (norm(*difference) / norm(b2, a2)).item()


def written(path, transformer, prefix="transformer.", ends=AB, alpha=None, change=None) -> dict[str, Tensor]:
    """Write a file of every layer, changed by `change(state)`; return the updates that it means, in float64."""
    layout = Layout(prefix, *ends, "", "", alpha)
    source = factors(transformer, layout)
    layout.write(path, source)
    if change:
        state = load_file(path)
        change(state)
        save_file(state, path)
    return {name: layout.scaling * (b.double() @ a.double()) for name, (a, b) in source.items()}


def accounted(lora) -> list[str]:
    """The keys of a file by what was read of it; a key in two places comes twice, one in none is missing."""
    factors = {key.text for layer in lora.layers.values() for key in (layer.a, layer.b, layer.magnitude) if key}
    grouped = [key.text for group in lora.groups for key in group.keys]
    return sorted([*factors, *grouped, *(key.text for key in (*lora.alphas, *lora.text_encoder))])
