"""The pretraining recipe: every number that decides the shipped weights, as dataclasses read from YAML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qwenlab.errors import QwenlabError


@dataclass
class VaeRecipe:
    """Autoencoder stage: random crops of pictures that are drawn while training goes on."""

    steps: int = 2000
    size: int = 128  # side of a picture in pixels
    crop: int = 64  # side of a training crop in pixels
    batch: int = 12  # crops a step
    focus: float = 0.6  # share of crops centred on a hand, a foot or the face
    pool: int = 3000  # pictures held in memory (uint8)
    refresh_every: int = 250  # steps between two renewals of a part of the pool
    refresh: int = 250  # pictures renewed each time
    open_hands: float = 0.5  # share of pictures that show fingers: far more than the transformer will see
    wrong_anatomy: float = 0.15  # share of those with a wrong number of fingers or feet, so that judges can see them
    learning_rate: float = 2e-3
    warmup: int = 100
    square_weight: float = 2.0  # weight of the squared error of pixels
    edge_weight: float = 0.5  # weight of the L1 distance between picture gradients
    faint_edge_weight: float = 0.0  # weight of the same, each edge relative to its own strength
    kl_weight: float = 1e-4  # of the mean KL divergence per latent value: about 1% of the reconstruction loss
    decoder_only: bool = False  # train on the latents that a warm start's encoder gives: its transformer stays valid
    clip: float = 1.0
    statistics: int = 1024  # pictures over which latents_mean and latents_std are measured
    checkpoint_every: int = 250
    preview_every: int = 250
    log_every: int = 20


@dataclass
class TransformerRecipe:
    """Transformer stage: flow matching on cached latents, text encoder trained along."""

    steps: int = 1500
    size: int = 128
    pictures: int = 8000  # training pictures, drawn once and kept as latents
    held_out: int = 256  # pictures behind the held-out flow loss
    open_hands: float = 0.10  # share of pictures that show fingers: the cause of bad hands
    batch: int = 32
    learning_rate: float = 1e-3  # of AdamW: embeddings, modulations, input and output layers, norms, biases
    muon_rate: float = 2e-3  # of Muon: the matrices of attention and MLP
    warmup: int = 100
    decay: float = 0.4  # the last part of the steps, over which the learning rate falls to zero
    weight_decay: float = 0.01
    caption_dropout: float = 0.1
    ema: float = 0.999
    clip: float = 1.0
    checkpoint_every: int = 200
    preview_every: int = 400
    log_every: int = 20


@dataclass
class Recipe:
    """All stages. `seed` decides every random number together with the step it is drawn at."""

    seed: int = 20250804
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    transformer: TransformerRecipe = field(default_factory=TransformerRecipe)
    vae_config: dict[str, Any] = field(default_factory=dict)  # overrides of qwenlab.lab.micro.vae.VAE_CONFIG
    transformer_config: dict[str, Any] = field(default_factory=dict)
    text_config: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: str | Path | None) -> Recipe:
    """The default recipe, with the values of a YAML file in their places.

    Raises `QwenlabError` for an unreadable file and for keys that do not exist.
    """
    recipe = Recipe()
    if path is None:
        return recipe
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise QwenlabError(f"cannot read the recipe {path}: {error}") from error
    return _merge(recipe, values, str(path))


def _merge(target: Any, values: dict[str, Any], where: str) -> Any:
    known = {f.name: getattr(target, f.name) for f in dataclasses.fields(target)}
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise QwenlabError(f"{where}: unknown key {key!r}; known keys: {', '.join(known)}")
        nested = dataclasses.is_dataclass(known[key])
        changes[key] = _merge(known[key], value, f"{where}: {key}") if nested else value
    return dataclasses.replace(target, **changes)
