"""Names of LoRA tensors: which layer a key belongs to, in which layout. No tensor is touched here.

A key is `<prefix><layer>.<factor>`. Trainers disagree on all three:

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight      diffusers, Unsloth
    diffusion_model.transformer_blocks.0.attn.to_q.lora_A.weight  ai-toolkit, diffusion-pipe
    lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight     kohya, musubi-tuner (dots become underscores)
    transformer_blocks.0.attn.to_q.lora_A.default.weight          DiffSynth-Studio (peft's adapter name stays in)

Factors: A is (r, k), B is (d, r). d outputs, k inputs, r rank, w the model's width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from qwenlab.lora.files.architecture import QWEN_IMAGE_21, Family, Place, find_place

# What stands before the layer's name, and what the layout is called.
DOTTED_PREFIXES = {
    "transformer.base_model.model.": "peft inside diffusers",
    "model.diffusion_model.": "checkpoint",
    "base_model.model.": "peft",
    "diffusion_model.": "ComfyUI",
    "transformer.": "diffusers",
    "": "bare",
}
FLAT_PREFIXES = {"lora_unet_": "kohya", "lora_transformer_": "OneTrainer", "lycoris_": "LyCORIS"}
PREFIXES = DOTTED_PREFIXES | FLAT_PREFIXES
FORMATS = ("diffusers", "comfyui", "kohya")  # layouts that files are written in

# Wrappers that torch puts around modules anywhere in a name: compiling, FSDP, checkpointing, old attention processors.
_INSIDE = {
    "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "module", "processor",
    "base_layer",
}  # fmt: skip
# The same by other libraries, in words that may also be a layer's own, such as norm_out.linear: those are tried first.
_AROUND = _INSIDE | {
    "layer", "_layer", "linear", "_linear", "inner", "inner_module", "wrapped", "wrapped_module", "orig_layer",
    "original_layer", "orig_module", "original_module", "org_module",
}  # fmt: skip
# Where peft keeps the weights of a module that is trained whole.
_TRAINED_WHOLE = re.compile(r"\.(modules_to_save|original_module)(\.[^.]+)?$")
# Words in front of a layer's name that make it another module's: FLUX's single blocks, SD's, an encoder, a ControlNet.
_OTHER_MODULE = re.compile(
    r"\d+|single|double|joint|text|caption|image|img|txt|(\w*_)?(blocks?|layers?|attentions?|refiner|controlnet\w*)|"
    r"text_encoders?(_\d)?|te\d?|vae|clip(_\w)?|t5\w*|ip_adapter\w*|(image_)?encoder|decoder|visual|language_model|"
    r"cond_stage_model"
)
_TEXT_ENCODER = re.compile(
    r"([^.]+\.)*?(text_encoders?(_\d)?|te\d?|qwen\d\w*)\.|lora_(te\d?|text_encoder(_\d)?)_|"
    r"((base_model|model|language_model|text_model|llm|conditioner|pipe|module|_orig_mod)\.)*"
    r"layers\.\d+\.(self_attn|mlp)\.|"
    r"(base_model\.model\.)?(model\.)?visual\."
)
# The end of a key. In each pattern, `layer` is what precedes it (with the prefix).
_ENDINGS = (
    ("bias", r"(?P<layer>.+)\.(lora_B|lora_up)(\.[^.]+)?\.bias"),
    ("A", r"(?P<layer>.+?)(\.lora(_A|_down|\.down|_linear_layer\.down)|_lora\.down)(?P<rest>\.[^.]+)?(\.weight)?"),
    ("B", r"(?P<layer>.+?)(\.lora(_B|_up|\.up|_linear_layer\.up)|_lora\.up)(?P<rest>\.[^.]+)?(\.weight)?"),
    ("alpha", r"(?P<layer>.+)\.alpha"),
    ("DoRA", r"(?P<layer>.+)\.(dora_scale|(dora|lora|weight)_magnitude(_vector)?|magnitude(_vector)?|m)"
             r"(?P<rest>\.[^.]+)?(\.weight)?"),
    ("LoKr", r"(?P<layer>.+)\.lokr_(w1|w2|t1|t2)(_a|_b)?(?P<rest>\.[^.]+)?"),
    ("LoHa", r"(?P<layer>.+)\.hada_(w1|w2|t1|t2)(_a|_b)?(?P<rest>\.[^.]+)?"),
    ("OFT", r"(?P<layer>.+)\.(oft_\w+(?P<rest>\.[^.]+)?(\.weight)?|rescale)"),
    ("GLoRA", r"(?P<layer>.+)\.(a1|a2|b1|b2|bm)\.weight"),
    ("IA3", r"(?P<layer>.+)\.(on_input|ia3_l(?P<rest>\.[^.]+)?)"),
    ("full difference", r"(?P<layer>.+)\.(diff|diff_b|set_weight|w_norm|b_norm|reshape_weight)"),
    ("LoCon", r"(?P<layer>.+)\.lora_mid\.weight"),
)  # fmt: skip
_PATTERNS = tuple((role, re.compile(pattern)) for role, pattern in _ENDINGS)
_FACTORS = ("A", "B", "DoRA", "full difference")
# Tensors that no layer's name explains. The first pattern found anywhere in the key decides.
_BESIDES = tuple(
    (role, re.compile(pattern, re.IGNORECASE))
    for role, pattern in (
        ("optimizer state", r"(^|\.|_)(optim(izer)?|exp_avg(_\w+)?|max_exp_avg_sq|momentum_buffer|grad_scaler)(\.|$)"),
        (
            "embedding",
            r"^bundle_emb\.|(^|\.)(emb_params|string_to_param|clip_[lgh]|t5(xxl)?|qwen\d\w*)(\.|$)|embedding",
        ),
        ("moving average", r"(^|\.)(ema|shadow)(_\w+)?\."),
        ("bookkeeping", r"^_aux\.|(^|\.)((global_)?steps?|epochs?|iterations?|num_updates|version|seed)$"),
        ("text encoder's weight", r"^(text_encoders?(_\d)?|lora_te\d?|te\d?|cond_stage_model|text_model)[._]"),
        ("VAE's weight", r"^(vae|first_stage_model)\."),
    )
)


@dataclass(frozen=True)
class Key:
    """A key taken apart. role: A, B, alpha, bias, DoRA, LoKr, LoHa, OFT, GLoRA, IA3, LoCon, full difference, whole
    weight, embedding, optimizer state, moving average, bookkeeping, or "unknown".

    place: the module of a Qwen-Image that it belongs to; None when no Qwen-Image has it. prefix: what stands before the
    module's name, wrappers included; one of PREFIXES or, with `wrapped`, something that no reader takes off. stem:
    prefix and layer as written in the file. style: how the file names the factor. adapter: peft's name or "".
    """

    text: str
    role: str
    prefix: str
    place: Place | None
    stem: str
    style: str = ""
    adapter: str = ""
    text_encoder: bool = False

    @property
    def layer(self) -> str | None:
        """The module's own name, such as `transformer_blocks.0.attn.to_q`."""
        return self.place and self.place.name

    @property
    def wrapped(self) -> bool:
        """Whether the prefix is none that any layout has."""
        return self.prefix not in PREFIXES


def parse_key(text: str) -> Key:
    """Take the name of one tensor apart; never raises."""
    for role, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            groups = match.groupdict()
            stem = groups["layer"]
            rest = (groups.get("rest") or "").removeprefix(".")
            adapter = "" if rest == "weight" else rest
            # ".weight" or not is part of the style: readers look for the exact ending
            style = text[len(stem) :] if role in _FACTORS else ""
            prefix, place = locate(stem)
            text_encoder = place is None and bool(_TEXT_ENCODER.match(text))
            return Key(text, role, prefix, place, stem, style, adapter, text_encoder)
    return _besides(text)


def stem_in(layer: str, layout: str, family: Family) -> str:
    """A module's name in a layout of FORMATS. ComfyUI finds Qwen-Image-2.1's gate under its bare name only."""
    if layout == "kohya":
        return f"lora_unet_{layer.replace('.', '_')}"
    if layout == "diffusers":
        return f"transformer.{layer}"
    return layer if family is QWEN_IMAGE_21 else f"diffusion_model.{layer}"


def _besides(text: str) -> Key:
    """A key that ends in no factor's name: a whole weight of a module, something of the training, or unknown."""
    stem, _, leaf = text.rpartition(".")
    prefix, place = locate(_TRAINED_WHOLE.sub("", stem)) if leaf in ("weight", "bias") else ("", None)
    if place:
        return Key(text, "whole weight", prefix, place, stem, f".{leaf}")
    role = next((role for role, pattern in _BESIDES if pattern.search(text)), "unknown")
    prefix, place = locate(stem) if role == "unknown" and stem else ("", None)  # something odd at a known layer
    return Key(text, role, prefix, place, stem if place else text)


@lru_cache(maxsize=8192)
def locate(stem: str) -> tuple[str, Place | None]:
    """What stands before the module's name, and the module of a Qwen-Image that the rest of `stem` names, or None."""
    parts = stem.split(".")
    for around in (_INSIDE, _AROUND):
        kept = [part for part in parts if part not in around]
        for start in range(len(kept)):
            if place := find_place(".".join(kept[start:])):
                wrappers = kept[:start]
                if any(_OTHER_MODULE.fullmatch(part) for part in wrappers):
                    return _known_prefix(stem), None
                return _prefix(stem, ".".join(kept[start:])), place
    kept = [part for part in parts if part not in _INSIDE]
    words = kept[-1].split("_") if kept else []
    for start in range(len(words)):
        if place := find_place("_".join(words[start:]), flat=True):
            if any(_OTHER_MODULE.fullmatch(word) for word in [*kept[:-1], *words[:start]]):
                return _known_prefix(stem), None
            return _prefix(stem, "_".join(words[start:])), place
    return _known_prefix(stem), None


def _prefix(stem: str, rest: str) -> str:
    """What `stem` has besides `rest`; wrappers inside the name count as part of it."""
    if stem.endswith(rest):
        return stem[: -len(rest)]
    inside = [part for part in stem.split(".") if part in _AROUND and part not in rest.split(".")]
    first, _, _ = stem.partition(rest.split(".")[0])
    return f"{first}...{'.'.join(dict.fromkeys(inside))}."


def hidden_layer(stem: str) -> tuple[str, str] | None:
    """The layer that a dotted name would be without one to three unknown words inside it, and these words; or None."""
    match = re.search(r"(^|\.)(transformer_blocks\.\d+)\.(.+)$", stem)
    words = match[3].split(".") if match else []
    for count in range(1, min(4, len(words))):
        for dropped in combinations(range(len(words)), count):
            rest = ".".join(word for number, word in enumerate(words) if number not in dropped)
            place, unknown = find_place(f"{match[2]}.{rest}"), [words[number] for number in dropped]
            if place and place.kind == "linear" and not any(_OTHER_MODULE.fullmatch(word) for word in unknown):
                return place.name, ".".join(unknown)
    return None


def _known_prefix(stem: str) -> str:
    return next(prefix for prefix in sorted(PREFIXES, key=len, reverse=True) if stem.startswith(prefix))
