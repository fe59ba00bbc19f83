"""What a run draws and measures between its steps: previews, and the loss on held-out pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.images import open_image
from qwenlab.model.encoding import encode_text
from qwenlab.model.generation import NEGATIVE_PROMPT, generate
from qwenlab.model.references import generate_beside, is_edit
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.observers import Observer
from qwenlab.training.run import Run
from qwenlab.training.training_set import RunData, TrainingSet

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline
    from PIL import Image


@dataclass(frozen=True)
class Watch:
    """Previews and held-out losses of a run, with the averaged weights where it keeps an average; observers are told.

    data: the captions of the previews and the pictures that are held out.
    """

    run: Run
    data: RunData
    observers: Sequence[Observer]

    def preview(self, step: int) -> list[Path]:
        """Draw the previews of `step`; returns their files."""
        run = self.run
        with run.averaged():
            drawn = save_previews(run.pipeline, run.config, run.folder / "previews", step, self.data.prompts)
        for observer in self.observers:
            observer.on_preview(step, drawn)
        return drawn

    def validate(self, step: int) -> None:
        """Measure the held-out loss of `step`, kept in `run.validation`; the best LoRA so far is written."""
        run = self.run
        with run.averaged():
            held_out = _as_encoded_now(run.pipeline, run.config, self.data.validation)
            run.validation[step] = held_out_loss(run.pipeline, held_out)
        run.save_if_best(step)
        for observer in self.observers:
            observer.on_validation(step, run.validation[step])


def _as_encoded_now(pipeline: QwenImagePipeline, config: TrainConfig, held_out: TrainingSet) -> TrainingSet:
    """The held-out set with its captions encoded by the text encoder as it is, where that is trained."""
    if not config.text_encoder_rank:
        return held_out
    return replace(held_out, texts=[encode_text(pipeline, text) for text in held_out.captions])


def save_previews(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    folder: Path,
    step: int,
    embeddings: Mapping[str | tuple[str, str], Tensor] | None = None,
) -> list[Path]:
    """Draw `preview_prompts` as inference does, guidance included, with seeds 0, 1, ..., as PNG files.

    embeddings: `qwenlab.training.referring.preview_embeddings`, for a pipeline without text encoder.
    """
    transformer = pipeline.transformer
    training = transformer.training
    transformer.eval()  # LoRA dropout off
    vae_device = pipeline.vae.device
    pipeline.vae.to(transformer.device)
    try:
        images = _draw_previews(pipeline, config, embeddings)
    finally:
        transformer.train(training)
        pipeline.vae.to(vae_device)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{step:06d}-{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def _draw_previews(
    pipeline: QwenImagePipeline, config: TrainConfig, embeddings: Mapping[str | tuple[str, str], Tensor] | None
) -> list[Image.Image]:
    how = {"steps": config.preview_steps, "guidance": config.guidance}
    names = config.preview_references or [""] * len(config.preview_prompts)
    plain = [number for number, name in enumerate(names) if not name]
    images: dict[int, Image.Image] = {}
    if plain:
        prompts = [config.preview_prompts[number] for number in plain]
        drawn = generate(pipeline, prompts, plain, size=config.resolution, embeddings=embeddings, **how)
        images = dict(zip(plain, drawn, strict=True))
    for number, name in enumerate(names):
        if name:
            prompt = config.preview_prompts[number]
            mine = embeddings
            if embeddings and is_edit(pipeline):
                mine = {text: embeddings[text, name] for text in (prompt, NEGATIVE_PROMPT)}
            images[number] = generate_beside(pipeline, [open_image(name)], prompt, number, embeddings=mine, **how)
    return [images[number] for number in range(len(names))]
