"""The same update in another layout.

Alpha: the stock loader of diffusers takes the plain product B A, so alpha is folded into A; ComfyUI and the kohya
family read `<layer>.alpha`, so it is kept beside the factors. Folding is done in float32. A 16-bit dtype is kept only
where alpha / rank is exact in it, here or in the reader (diffusers multiplies it into A in the file's own dtype).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, sha256_file
from qwenlab.lora.files.layouts import QWEN_IMAGE_21
from qwenlab.lora.files.reading import ADAPTER_METADATA, LoraFile, open_tensors, read_factors, read_lora

FORMATS = ("diffusers", "comfyui", "kohya")


def check_target(source: str | Path, out: str | Path, layout: str) -> None:
    """Raise QwenlabError unless `out` is a new .safetensors file and `layout` one of FORMATS. Costs nothing."""
    source, out = Path(source), Path(out)
    if layout not in FORMATS:
        raise QwenlabError(f"--format {layout!r}: unknown layout; choose from {', '.join(FORMATS)}")
    if out.suffix != ".safetensors":
        raise QwenlabError(f"--fix {out}: end the name in .safetensors")
    for target in (out, text_encoder_path(out)):
        if target.exists():
            what = "is the file itself" if source.exists() and target.samefile(source) else "exists already"
            raise QwenlabError(f"--fix {target}: {what} and is never overwritten; give a new name")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise QwenlabError(f"--fix {out}: {above} is no folder; give a path in one")


def fix(source: str | Path, out: str | Path, layout: str = "diffusers") -> list[Path]:
    """Write the LoRA in `source` to the new file `out` in another layout; return the files written.

    layout: "diffusers" (transformer.*, alpha folded), "comfyui" (diffusion_model.* with .alpha; bare names for
    Qwen-Image-2.1, whose gate ComfyUI finds under no other), "kohya" (lora_unet_* with .alpha).
    The update of each layer stays the same to float32's rounding. A text-encoder part goes unchanged to a second file,
    `<out>.text_encoder.safetensors`: no Qwen-Image pipeline loads it from one file with the transformer's.

    Raises QwenlabError, before anything is written, for what cannot be rewritten without loss (DoRA, LoKr, LoHa,
    biases, unknown tensors), for an existing `out`, and for whatever `read_lora` refuses.
    """
    check_target(source, out, layout)
    out = Path(out)
    lora = read_lora(source)
    _check_plain(lora)
    if layout == "kohya" and lora.family is QWEN_IMAGE_21 and any(".img_mlp." in name for name in lora.layers):
        raise QwenlabError(
            f"{lora.path}: neither diffusers nor ComfyUI reads Qwen-Image-2.1's MLP in the kohya layout; "
            "use --format diffusers or comfyui"
        )
    metadata = {
        key: value for key, value in lora.metadata.items() if key != ADAPTER_METADATA and not key.startswith("sshs_")
    } | {"format": "pt", "qwenlab.rewritten_from": sha256_file(lora.path)}
    state: dict[str, Tensor] = {}
    with open_tensors(lora.path) as file:
        for name, layer in lora.layers.items():
            a, b = read_factors(file, layer)
            if not (a.float().isfinite().all() and b.float().isfinite().all()):
                raise QwenlabError(f"{lora.path}: {name!r} holds NaN or infinity; take an earlier checkpoint")
            state |= _entries(name, a, b, layer.scaling, layout, lora.family is QWEN_IMAGE_21)
        texts = {key.text: file.get_tensor(key.text) for key in lora.text_encoder}
    check_target(source, out, layout)  # again: reading takes a while
    written = [atomic_write_bytes(out, save(state, metadata=metadata))]
    if texts:
        entries = dict(lora.metadata) | {"format": "pt"}
        written.append(atomic_write_bytes(text_encoder_path(out), save(texts, metadata=entries)))
    return written


def text_encoder_path(out: str | Path) -> Path:
    """Where `fix` puts the text encoder's part: a.text_encoder.safetensors beside a.safetensors."""
    out = Path(out)
    return out.with_name(f"{out.stem}.text_encoder{out.suffix}")


def _check_plain(lora: LoraFile) -> None:
    kinds = [kind for kind in lora.kinds if kind != "LoRA"]
    if kinds:
        why = {
            "DoRA": "its magnitudes need the base model's weights",
            "LoKr": "a Kronecker product has no small A and B",
            "LoHa": "a Hadamard product has no small A and B",
        }.get(kinds[0], "it is no low-rank product")
        raise QwenlabError(f"{lora.path}: {kinds[0]} is not rewritten, {why}; use a reader that knows it")
    if not lora.layers:
        raise QwenlabError(
            f"{lora.path}: a LoRA of the text encoder alone; no layout of a Qwen-Image pipeline takes it, give its "
            "tensors to pipeline.text_encoder.load_adapter(adapter_state_dict=..., peft_config=...)"
        )


def _entries(name: str, a: Tensor, b: Tensor, scaling: float, layout: str, bare: bool) -> dict[str, Tensor]:
    """The tensors of one layer: a (r, k), b (d, r)."""
    dtype = _lossless(a.dtype, scaling)
    if layout == "diffusers":
        a = (a.float() * scaling).to(dtype)
        return {
            f"transformer.{name}.lora_A.weight": a.contiguous(),
            f"transformer.{name}.lora_B.weight": b.to(_lossless(b.dtype, 1.0)).contiguous(),
        }
    if layout == "kohya":
        stem, down, up = f"lora_unet_{name.replace('.', '_')}", "lora_down", "lora_up"
    else:
        stem, down, up = f"{'' if bare else 'diffusion_model.'}{name}", "lora_A", "lora_B"
    return {
        f"{stem}.{down}.weight": a.to(dtype).contiguous(),
        f"{stem}.{up}.weight": b.to(_lossless(b.dtype, scaling)).contiguous(),
        f"{stem}.alpha": torch.tensor(scaling * a.shape[0], dtype=torch.float32),
    }


def _lossless(dtype: torch.dtype, scaling: float) -> torch.dtype:
    """The smallest dtype that holds `tensor * scaling` for every tensor of `dtype`.

    bfloat16 has float32's exponents: powers of two cost nothing. float16 may underflow. 8-bit floats go to bfloat16,
    in which they are exact, because the stock loader cannot multiply them.
    """
    power_of_two = scaling != 0 and math.frexp(abs(scaling))[0] == 0.5
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        dtype = torch.bfloat16
    if dtype == torch.bfloat16 and power_of_two:
        return dtype
    return dtype if dtype == torch.float16 and scaling == 1 else torch.float32
