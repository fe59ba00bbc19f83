"""What a run draws and measures between its steps: previews, and the loss on held-out pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from qwenlab.config import TrainConfig
from qwenlab.data.images import open_image
from qwenlab.model.controlled import generate_controlled
from qwenlab.model.encoding import encode_text
from qwenlab.model.generation import NEGATIVE_PROMPT, generate
from qwenlab.model.references import generate_beside, is_edit
from qwenlab.training.held_out import held_out_loss
from qwenlab.training.observers import Observer
from qwenlab.training.referring import control_view, preview_files
from qwenlab.training.run import Run
from qwenlab.training.training_set import RunData, TrainingSet

if TYPE_CHECKING:
    from diffusers import QwenImageControlNetModel, QwenImagePipeline
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
            folder, net = run.folder / "previews", run.trained.net
            drawn = save_previews(run.pipeline, run.config, folder, step, self.data.prompts, net)
        for observer in self.observers:
            observer.on_preview(step, drawn)
        return drawn

    def validate(self, step: int) -> None:
        """Measure the held-out loss of `step`, kept in `run.validation`; the best LoRA so far is written."""
        run = self.run
        with run.averaged():
            held_out = _as_encoded_now(run.pipeline, run.config, self.data.validation)
            run.validation[step] = held_out_loss(run.pipeline, held_out, net=run.trained.net)
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
    net: QwenImageControlNetModel | None = None,
) -> list[Path]:
    """Draw `preview_prompts` as inference does, guidance included, with seeds 0, 1, ..., as PNG files.

    embeddings: `qwenlab.training.referring.preview_embeddings`, for a pipeline without text encoder. net: the
    ControlNet that reads `preview_controls`.
    """
    transformer = pipeline.transformer
    training = transformer.training
    transformer.eval()  # LoRA dropout off
    vae_device = pipeline.vae.device
    pipeline.vae.to(transformer.device)
    try:
        images = _draw_previews(pipeline, config, embeddings, net)
    finally:
        transformer.train(training)
        pipeline.vae.to(vae_device)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{step:06d}-{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths


def _draw_previews(
    pipeline: QwenImagePipeline,
    config: TrainConfig,
    embeddings: Mapping[str | tuple[str, str], Tensor] | None,
    net: QwenImageControlNetModel | None,
) -> list[Image.Image]:
    how = {"steps": config.preview_steps, "guidance": config.guidance}
    names = preview_files(config)
    plain = [number for number, name in enumerate(names) if not name]
    images: dict[int, Image.Image] = {}
    if plain:
        prompts = [config.preview_prompts[number] for number in plain]
        drawn = generate(pipeline, prompts, plain, size=config.resolution, embeddings=embeddings, **how)
        images = dict(zip(plain, drawn, strict=True))
    for number, name in enumerate(names):
        if not name:
            continue
        prompt, size = config.preview_prompts[number], None
        if config.preview_controls:
            picture = control_view(Path(name), config).image()
            size = picture.size
        else:
            picture = open_image(name)
        if net is not None:
            (images[number],) = generate_controlled(
                pipeline, net, [picture], prompt, number, embeddings=embeddings, **how
            )
            continue
        mine = embeddings
        if embeddings and is_edit(pipeline):
            mine = {text: embeddings[text, name] for text in (prompt, NEGATIVE_PROMPT)}
        images[number] = generate_beside(pipeline, [picture], prompt, number, size=size, embeddings=mine, **how)
    return [images[number] for number in range(len(names))]
