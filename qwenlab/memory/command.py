"""What `qwenlab memory` prints and writes."""

from __future__ import annotations

import math
from pathlib import Path

from qwenlab.data.findings import plural
from qwenlab.errors import QwenlabError
from qwenlab.memory.cards import Card
from qwenlab.memory.flops import predict_operations
from qwenlab.memory.formula import GIB, Prediction
from qwenlab.memory.plan import (
    MARGIN,
    MEASURED_UTILISATION,
    TRAINED_PIXELS,
    UTILISATION,
    Option,
    all_options,
    best_of_each_precision,
    least,
    smaller,
)
from qwenlab.memory.settings import StepSettings

GRID = 1000  # timesteps of a modulation table: 4.4 GB of CPU memory
_PARTS = {
    "weights": "weights",
    "lora": "LoRA or ControlNet (float32)",
    "optimizer": "optimizer states",
    "gradients": "gradients",
    "inputs": "batch and rotary embedding",
    "activations": "activations kept",
    "transient": "the block being worked on",
    "workspace": "kernels' workspace",
    "context": "CUDA context",
}


def report(question: StepSettings, card: Card) -> tuple[list[str], Option | None]:
    """The lines of the answer, and the best option; None when nothing fits."""
    options = all_options(question, card)
    best = options[0] if options[0].fits else None
    lines = [
        f"{_trained(question)} Qwen-Image (20.4B), {question.width} x {question.height} pixels, "
        f"batch {question.batch}, accumulation {question.accumulation}, {question.text_tokens} text tokens"
        f"{_beside(question)}.",
        f"Card: {card.name}, {card.gib:g} GiB of which {card.usable_gib:.1f} usable and {card.usable_gib / MARGIN:.1f} "
        f"planned with, {card.tflops:g} TFLOP/s. All numbers are predicted.",
        "",
        f"{'':5}{'weights':9}{'modulation':12}{'checkpointing':15}{'optimizer':12}{'GiB':>6}{'s/step':>8}",
    ]
    for option in best_of_each_precision(options):
        lines.append(_row(option))
    lines.append("")
    if best:
        lines += _answer(best)
    else:
        lines += _alternatives(question, card, options[0])
    lines += _warnings(question, card, best)
    return lines, best


def _trained(question: StepSettings) -> str:
    if question.control_blocks:
        return f"ControlNet of {plural(question.control_blocks, 'block')} for"
    return f"LoRA of rank {question.rank} on {', '.join(question.apply_to)} of"


def _rank(settings: StepSettings) -> str:
    return "" if settings.control_blocks else f", rank {settings.rank}"


def _beside(question: StepSettings) -> str:
    if not question.references:
        return ""
    tokens = question.references * question.image_tokens
    return f", {tokens} tokens of {plural(question.references, 'reference')} of that size"


def _row(option: Option) -> str:
    settings = option.settings
    mark = "fits" if option.fits else "no"
    modulation = "table" if settings.modulation_table else "layers"
    return (
        f"{mark:5}{settings.weights:9}{modulation:12}{settings.checkpointing:15}{settings.optimizer:12}"
        f"{option.gib:6.1f}{option.seconds:8.1f}"
    )


def _answer(best: Option) -> list[str]:
    operations = predict_operations(best.settings).total
    utilisation = UTILISATION[best.settings.weights]
    return [
        f"Best that fits: {best.settings.weights}. Its parts at the peak of a step:",
        *(f"  {line}" for line in parts(best.prediction)),
        f"While captions and pictures are encoded, before training: {best.encoding_gib:.1f} GiB.",
        f"Time: {operations / 1e12:.0f} TFLOP a step at {utilisation:.0%} of the card's peak (assumed): "
        f"{best.seconds:.1f} s, {1000 * best.seconds / 60:.0f} minutes for 1000 steps; never under "
        f"{1000 * best.seconds * utilisation / 60:.0f}, at 100%. The one step measured so far, on an H100, reached "
        f"{MEASURED_UTILISATION:.0%}: at that, {1000 * best.seconds * utilisation / MEASURED_UTILISATION / 60:.0f}.",
    ]


def parts(prediction: Prediction) -> list[str]:
    """The parts of a prediction, one a line, in GiB."""
    lines = [f"{getattr(prediction, name) / GIB:6.2f} GiB  {label}" for name, label in _PARTS.items()]
    return [*lines, f"{prediction.total / GIB:6.2f} GiB  together"]


def _alternatives(question: StepSettings, card: Card, closest: Option) -> list[str]:
    lines = [f"Nothing fits. The smallest way needs {max(closest.gib, closest.encoding_gib):.1f} GiB. What would fit:"]
    for option in smaller(question, card):
        settings = option.settings
        lines.append(
            f"  {settings.width} x {settings.height}{_rank(settings)}: {option.gib:.1f} GiB "
            f"({settings.weights}, {settings.checkpointing}, {option.seconds:.1f} s/step)"
        )
    if len(lines) == 1:
        tiny = least(question, card)
        lines = [
            f"Nothing fits, and no resolution or rank makes it: even {tiny.settings.width} x {tiny.settings.height} "
            f"pixels{_rank(tiny.settings)} need {max(tiny.gib, tiny.encoding_gib):.1f} GiB, nearly all of it "
            "the weights. Trainers that keep part of the weights in CPU memory go lower, and slower: musubi-tuner's "
            "blocks_to_swap (12 GB documented at 1024 x 1024), OneTrainer's layer offloading.",
            f"Rent a card of {math.ceil(closest.needed_gib)} GiB or more, or train the micro model, which runs on any "
            "computer: qwenlab train configs/micro_lora.yaml",
        ]
    return lines


def _warnings(question: StepSettings, card: Card, best: Option | None) -> list[str]:
    lines = []
    if question.width * question.height > TRAINED_PIXELS:
        lines.append(
            f"Note: {question.width} x {question.height} is more than Qwen-Image was trained for (1328 x 1328 "
            "pixels in all): models usually repeat and deform there. Train at 1024 or 1328 and enlarge."
        )
    if not card.bf16:
        lines.append(
            f"Note: a {card.name} has no bfloat16 units; it emulates them in float32, which is what the time counts. "
            "float16 is no way out: users report black pictures (ComfyUI issue 10751)."
        )
    if best and best.settings.modulation_table:
        lines.append(
            f"Note: the modulation table draws timesteps from a grid of {GRID}; it is made in CPU memory, which must "
            "hold the 38 GiB of weights in bfloat16 (mapped from the files) and 4.1 GiB of table."
        )
    return lines


def check_simulation(option: Option) -> str:
    """Execute the step of `option` on fake tensors and compare; one line."""
    from qwenlab.memory.simulate import simulate_step

    peak, predicted = simulate_step(option.settings).peak / GIB, option.prediction.tensors / GIB
    return f"Simulated: {peak:.2f} GiB in tensors; the formula says {predicted:.2f} ({predicted / peak - 1:+.1%})."


def write_config(option: Option, path: Path) -> None:
    """Write the training configuration of `option`. Raises QwenlabError when `path` is no YAML name."""
    from qwenlab.files import atomic_write_text

    if path.suffix not in (".yaml", ".yml"):
        raise QwenlabError(f"--out {path}: unknown format {path.suffix!r}; end the name in .yaml")
    atomic_write_text(path, config_text(option))


def config_text(option: Option) -> str:
    """A configuration for `qwenlab train` with the predicted memory and time in its head."""
    settings, card = option.settings, option.card
    what = "A ControlNet" if settings.control_blocks else "A LoRA"
    apply_to = settings.apply_to[0] if len(settings.apply_to) == 1 else f"[{', '.join(settings.apply_to)}]"
    table = (
        f"{GRID}       # a table in place of a third of the weights" if settings.modulation_table
        else "0          # no table in place of the modulation"
    )  # fmt: skip
    return f"""\
# {what} for Qwen-Image (20.4B) on a card of {card.gib:g} GiB, such as {card.name}, by `qwenlab memory`.
# Predicted, not measured: {option.gib:.1f} GiB at the peak of a step, {option.encoding_gib:.1f} GiB while encoding, \
{option.seconds:.1f} s a step
# on {card.name} at {UTILISATION[settings.weights]:.0%} of its peak.
model:
  base: {"Qwen/Qwen-Image-Edit-2509" if settings.references else "Qwen/Qwen-Image"}
  base_precision: {settings.weights}
  resolution: {settings.width}

data:
  dataset: {_data_set(settings)}
  output_dir: runs/qwen_image_{card.gib:g}gb
  caption_dropout: 0.1             # guidance needs a prediction for the empty caption
  free_text_encoder: true          # captions are encoded first, then it goes

training:
  batch_size_per_gpu: {settings.batch}
  gradient_accumulation_steps: {settings.accumulation}
  max_train_steps: 2000            # look at the previews and stop earlier
  learning_rate: 1.0e-4
  lr_scheduler: cosine
  warmup_steps: 100
  optimizer: {settings.optimizer}
  timestep_sampling: shifted       # as at inference
  modulation_timesteps: {table}
  mixed_precision: bf16
  gradient_checkpointing: {str(settings.checkpointing != "none").lower()}
  selective_checkpointing: {str(settings.checkpointing == "selective").lower()}
  save_every_n_steps: 250
  seed: 0

{_section(settings, apply_to)}

preview:
  preview_every_n_steps: {_previews(settings)}
  preview_steps: 30
  preview_prompts:
    - 1女孩, 挥手, 背景:花园
    - 1女孩, 看书, 背景:教室
"""


def _data_set(settings: StepSettings) -> str:
    if settings.control_blocks:
        return "my_poses               # each line with a control"
    return "my_edits               # each line with a reference" if settings.references else "data_sample"


def _section(settings: StepSettings, apply_to: str) -> str:
    if not settings.control_blocks:
        return f"lora:\n  rank: {settings.rank}\n  alpha: {settings.rank}\n  apply_to: {apply_to}"
    if settings.weights in ("int8", "nf4"):  # a new one would be copied from weights that are not there
        known = "InstantX/Qwen-Image-ControlNet-Union" if settings.control_blocks == 5 else "my_controlnet"
        return f"control:\n  kind: controlnet\n  net: {known}  # of {settings.control_blocks} blocks, made before"
    return f"control:\n  kind: controlnet\n  blocks: {settings.control_blocks}"


def _previews(settings: StepSettings) -> str:
    if settings.control_blocks:
        return "0         # give preview_controls"
    return "0         # give preview_references" if settings.references else "250"
