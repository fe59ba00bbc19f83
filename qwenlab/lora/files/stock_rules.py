"""What diffusers' `load_lora_weights` does with a plain LoRA, from rules: the answer takes no import of diffusers.

The rules hold for the series of versions below, where tests compare them with the loader itself, file by file. They
decide what they were compared on, one layout with nothing beside it; for anything else the loader must be executed
(`qwenlab.lora.files.readers.ask_diffusers`), which takes half a minute of imports.
"""

from __future__ import annotations

import json
import math

from qwenlab.lora.files.architecture import QWEN_IMAGE, block_of
from qwenlab.lora.files.header import TensorFile
from qwenlab.lora.files.layouts import FLAT_PREFIXES
from qwenlab.lora.files.reading import ADAPTER_METADATA, LoraFile
from qwenlab.lora.files.stock import reader_name, version
from qwenlab.lora.files.verdict import Verdict

VERSIONS = ("0.42.",)
_AB = (".lora_A.weight", ".lora_B.weight")
_DOWN = (".lora_down.weight", ".lora_up.weight")
_NESTED = (".lora.down.weight", ".lora.up.weight")
_DEFAULT = (".lora_A.default.weight", ".lora_B.default.weight")
# Entries of peft 0.21's LoraConfig: those that may say something, and those that must be empty.
_TELLING = {
    "r", "lora_alpha", "alpha_pattern", "target_modules", "use_rslora", "lora_dropout", "bias", "peft_type",
    "peft_version", "init_lora_weights", "megatron_core", "qalora_group_size",
}  # fmt: skip
_UNUSED = {
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "exclude_modules",
    "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "megatron_config",
    "trainable_token_indices", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "use_dora",
    "velora_config", "alora_invocation_tokens", "use_qalora", "monteclora_config", "layer_replication", "lora_bias",
    "target_parameters", "use_bdlora", "arrow_config", "kasa_config", "ensure_weight_tying",
}  # fmt: skip
_NEUTRAL = (None, False, {}, [], 0)


def predict_diffusers(lora: LoraFile) -> Verdict | None:
    """The verdict where the rules decide, else None."""
    if refusal := must_not_load(lora):
        return refusal
    if not version().startswith(VERSIONS) or lora.kinds != ["LoRA"] or lora.text_encoder:
        return None
    if any(layer.a.stem != layer.b.stem for layer in lora.layers.values()):
        return None
    layouts = {(layer.a.prefix, layer.a.style, layer.b.style) for layer in lora.layers.values()}
    with_alpha = {layer.alpha_from == "tensors" for layer in lora.layers.values()}
    if len(layouts) > 1 or len(with_alpha) > 1 or any(layer.rows for layer in lora.layers.values()):
        return None
    (prefix, *style), alpha = layouts.pop(), with_alpha.pop()
    outcome = _outcome(lora, prefix, tuple(style), alpha)
    return outcome and Verdict(reader_name(), *outcome, how="by rules, not executed")


def must_not_load(lora: LoraFile) -> Verdict | None:
    """The verdict on a file that the loader of 0.42 must not be given, because it would not come back, else None.

    Later versions are not tried either: nobody waits for an answer that may not come.
    """
    alphas = [key.text for key in (*lora.alphas, *lora.others, *lora.text_encoder) if key.role == "alpha"]
    pairs = {key.partition(".lora")[0] for key in lora.index if ".lora" in key}
    alphas = [key for key in alphas if key.removesuffix(".alpha") in pairs and math.prod(lora.index[key][1]) == 1]
    if not alphas:
        return None
    file = TensorFile(lora.path)
    below = [key for key in alphas if file.array(key).item() < 0]
    if not below:
        return None
    cause = f"its loader does not return from a negative alpha ({below[0]}); --fix moves the sign into B"
    if version().startswith(VERSIONS):
        return Verdict(reader_name(), "hangs", cause, how="by rules, not executed")
    return Verdict(reader_name(), "not known", f"not executed: in 0.42 {cause}")


def _outcome(lora: LoraFile, prefix: str, style: tuple[str, str], alpha: bool) -> tuple[str, str] | None:
    converts = alpha or style == _DEFAULT or prefix in ("diffusion_model.", "lora_unet_")
    dtypes = {lora.index[key.text][0] for layer in lora.layers.values() for key in (layer.a, layer.b)}
    if not dtypes <= {"F32", "F16", "BF16"} or len(lora.configuration) > 0 and (converts or prefix != "transformer."):
        return None
    if prefix == "transformer.":
        return ("works", "") if not converts and style in (_AB, _NESTED) and _plain_configuration(lora) else None
    if not converts:
        bare = prefix in ("", "base_model.model.", "model.diffusion_model.", *FLAT_PREFIXES) and style in (_AB, _DOWN)
        return ("loads nothing", "the pipeline goes on without the LoRA, after a warning at most") if bare else None
    if prefix not in ("", "diffusion_model.", "lora_unet_") or style not in (_AB, _DOWN, _DEFAULT):
        return None
    if prefix == "lora_unet_" and (
        lora.family is not QWEN_IMAGE or any(block_of(name) is None for name in lora.layers)
    ):
        return None
    if dtypes == {"F32"} or all(math.frexp(abs(layer.scaling))[0] == 0.5 for layer in lora.layers.values()):
        return "works", ""
    return None


def _plain_configuration(lora: LoraFile) -> bool:
    """Whether peft's configuration, if there is one, says nothing but the scaling, in diffusers' own spelling."""
    if not lora.configuration:
        return True
    entries = json.loads(lora.metadata.get(ADAPTER_METADATA, "{}"))
    told = {name.removeprefix("transformer.") for name, value in entries.items() if value not in _NEUTRAL}
    return (
        isinstance(entries.get("transformer.target_modules"), list)
        and all(name.startswith("transformer.") for name in entries)
        and told <= _TELLING
        and {name.removeprefix("transformer.") for name in entries} <= _TELLING | _UNUSED
        and {layer.rank for layer in lora.layers.values()} == {lora.configuration.get("r")}
    )
