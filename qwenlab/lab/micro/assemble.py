"""Put the parts together: a whole, stock `QwenImagePipeline`, saved as the folder that `load_pipeline` reads."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from qwenlab.files import atomic_write_json
from qwenlab.lab.micro.tokenizer import PROMPT_TEMPLATE, TEMPLATE_TOKENS, check_template
from qwenlab.model.pipeline import SIZE_FILE

# Qwen/Qwen-Image, scheduler/scheduler_config.json.
SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}


def assemble(
    vae: AutoencoderKLQwenImage,
    transformer: QwenImageTransformer2DModel,
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
) -> QwenImagePipeline:
    """The stock pipeline around the given parts, with Qwen-Image's own scheduler settings.

    Raises `ValueError` when the parts do not fit the pipeline's fixed prompt template.
    """
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )
    fixed = (pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx)
    if fixed != (PROMPT_TEMPLATE, TEMPLATE_TOKENS):
        raise ValueError("this version of diffusers has another prompt template: see qwenlab/lab/micro/tokenizer.py")
    check_template(tokenizer)
    return pipeline


def save_pipeline(pipeline: QwenImagePipeline, folder: Path, size: int) -> Path:
    """Save `pipeline` with bf16 weights; the folder appears whole or not at all. The pipeline itself is not changed.

    The weights are cast on disk only: half the size, and float32 training keeps its precision. `size` is the side in
    pixels of the training pictures, which `load_pipeline` makes the default.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    for name, kind in (
        ("vae", AutoencoderKLQwenImage),
        ("transformer", QwenImageTransformer2DModel),
        ("text_encoder", Qwen2_5_VLForConditionalGeneration),
    ):
        part = kind.from_pretrained(temporary / name, dtype=torch.bfloat16)
        shutil.rmtree(temporary / name)
        part.save_pretrained(temporary / name)
        _forget_folder(temporary / name / "config.json")
    atomic_write_json(temporary / SIZE_FILE, {"pixels": size})
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # safetensors files are created private; an installed package is read by everybody
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return folder


def _forget_folder(config: Path) -> None:
    """Take the folder that the weights were last read from out of a config.json."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    atomic_write_json(config, values)
