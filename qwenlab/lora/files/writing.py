"""The same update in another layout.

Alpha: the stock loader of diffusers takes the plain product B A, so alpha is folded into A; ComfyUI and the kohya
family read `<layer>.alpha`, so it is kept beside the factors. Folding a power of two is exact; anything else is
multiplied in float64 and rounded to float32. A 16-bit dtype is kept only where alpha / rank is exact in it, here or in
the reader (diffusers multiplies it into A in the file's own dtype). Fused layers become the model's own: rows of B, A
for each. What no layout can hold is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_bytes, sha256_file
from qwenlab.lora.files.architecture import QWEN_IMAGE_21
from qwenlab.lora.files.converting import convert
from qwenlab.lora.files.header import TensorFile, pack
from qwenlab.lora.files.layouts import FORMATS
from qwenlab.lora.files.reading import ADAPTER_METADATA, LoraFile, read_lora
from qwenlab.lora.files.text_encoder import read_text_factors, text_encoder_folder, write_folder


@dataclass(frozen=True)
class Rewritten:
    """What `fix` wrote: lora, a file, None when there was nothing for the transformer; text_encoder, peft's folder or a
    file with the tensors as they were. left: sentences on what is in neither. Iterating gives the paths."""

    lora: Path | None
    text_encoder: Path | None
    left: tuple[str, ...]

    def __iter__(self) -> Iterator[Path]:
        return iter([path for path in (self.lora, self.text_encoder) if path])


def check_format(layout: str) -> None:
    """Raise QwenlabError for what is not one of FORMATS."""
    if layout not in FORMATS:
        raise QwenlabError(f"--format {layout!r}: unknown layout; choose from {', '.join(FORMATS)}")


def check_readable(lora: LoraFile, layout: str) -> None:
    """Raise QwenlabError when no reader finds the layers of `lora` in a layout."""
    if (
        layout == "kohya"
        and lora.family is QWEN_IMAGE_21
        and any(".img_mlp." in name for name in (*lora.layers, *lora.adapters))
    ):
        raise QwenlabError(
            f"{lora.path}: neither diffusers nor ComfyUI reads Qwen-Image-2.1's MLP in the kohya layout; "
            "use --format diffusers or comfyui"
        )


def check_target(source: str | Path, out: str | Path, layout: str) -> None:
    """Raise QwenlabError unless `out` is a new .safetensors file and `layout` one of FORMATS. Costs nothing."""
    source, out = Path(source), Path(out)
    check_format(layout)
    if out.suffix != ".safetensors":
        raise QwenlabError(f"--fix {out}: end the name in .safetensors")
    for target in (out, text_encoder_path(out), text_encoder_folder(out)):
        if target.exists():
            what = "is the file itself" if source.exists() and target.samefile(source) else "exists already"
            raise QwenlabError(f"--fix {target}: {what} and is never overwritten; give a new name")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise QwenlabError(f"--fix {out}: {above} is no folder; give a path in one")


def fix(source: str | Path, out: str | Path, layout: str = "diffusers") -> Rewritten:
    """Write the LoRA in `source` to the new file `out` in another layout; return what was written and what was left.

    layout: "diffusers" (transformer.*, alpha folded), "comfyui" (diffusion_model.* with .alpha; bare names for
    Qwen-Image-2.1, whose gate ComfyUI finds under no other), "kohya" (lora_unet_* with .alpha).
    The update of each layer stays the same, exactly or (alpha that is no power of two times the rank) to float32's
    rounding. A text-encoder part goes to peft's folder `<out>-text-encoder`, which `text_encoder.load_adapter` reads:
    no Qwen-Image pipeline loads it from one file with the transformer's.

    Raises QwenlabError, before anything is written, for what holds no update that the layout can express, for
    magnitudes of DoRA that it cannot, for NaN, for an existing `out`, and for whatever `read_lora` refuses.
    """
    check_target(source, out, layout)
    out = Path(out)
    lora = read_lora(source)
    check_readable(lora, layout)
    file = TensorFile(lora.path)
    tensors, left = convert(lora, file, layout)
    texts = read_text_factors(file, lora.text_encoder)
    if not tensors and not texts:
        _refuse(lora, layout, left)
    check_target(source, out, layout)  # again: reading takes a while
    digest = sha256_file(lora.path)
    if tensors:
        kept = {
            key: value for key, value in lora.metadata.items()
            if key != ADAPTER_METADATA and not key.startswith("sshs_")
        }  # fmt: skip
        atomic_write_bytes(out, pack(tensors, kept | {"format": "pt", "qwenlab.rewritten_from": digest}))
    second = None
    if texts:
        second = write_folder(texts, text_encoder_folder(out))
    elif lora.text_encoder:
        unchanged = {key.text: file.stored(key.text) for key in lora.text_encoder}
        second = atomic_write_bytes(text_encoder_path(out), pack(unchanged, dict(lora.metadata) | {"format": "pt"}))
        left.append(f"{len(lora.text_encoder)} tensors of the text encoder, in a file of their own: no loader is known")
    return Rewritten(out if tensors else None, second, tuple(left))


def text_encoder_path(out: str | Path) -> Path:
    """Where `fix` puts a text encoder's part that no loader takes: a.text_encoder.safetensors beside a.safetensors."""
    out = Path(out)
    return out.with_name(f"{out.stem}.text_encoder{out.suffix}")


def _refuse(lora: LoraFile, layout: str, left: list[str]) -> None:
    if lora.text_encoder and not left:
        raise QwenlabError(
            f"{lora.path}: a LoRA of the text encoder alone, in names for which no loader is known; rename its layers "
            "to the language model's, such as text_encoder.model.language_model.layers.0.self_attn.q_proj"
        )
    kinds = ", ".join(lora.kinds)
    raise QwenlabError(f"{lora.path}: {kinds} is not rewritten for {layout}: {'; '.join(left)}")
