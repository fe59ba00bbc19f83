"""Which settings go with a control picture, and which do not."""

from __future__ import annotations

import dataclasses
from typing import Any

from qwenlab.errors import QwenlabError

# Setting -> why a ControlNet is not trained with it. Left as they are by default, they say nothing.
_NOT_WITH_A_NET = {
    **dict.fromkeys(
        ("rank", "alpha", "dropout", "apply_to", "rank_schedule", "rank_by_energy", "dylora", "text_encoder_rank"),
        "is a LoRA's, and a ControlNet is trained without one",
    ),
    "init_lora": "is a LoRA's, and a ControlNet is trained without one; name a ControlNet in control_net",
    "modulation_timesteps": "takes layers away that a ControlNet copies",
    "prior_dataset": "keeps a base from forgetting, and a ControlNet leaves it as it is",
}
_NOT_WITH_CONTROLS = {
    "random_flip": "would mirror the control pictures, too, where left and right have colours of their own",
    "augment_hands": "cuts close-ups, which have no control pictures",
    "preview_references": "are not drawn together with preview_controls",
}


def check_control(config: Any) -> None:
    """Raise QwenlabError, one line, for settings of a TrainConfig that make no sense with, or without, controls."""
    kind = config.control_kind
    net, controls = ("control_net", "control_blocks", "control_start"), ("preview_controls",)
    for name in (*(net if kind != "controlnet" else ()), *(controls if not kind else ())):
        if _is_set(config, name):
            needed = "controlnet" if name in net else "controlnet or in_context"
            raise QwenlabError(f"{name}: needs control_kind: {needed}; set that as well, or leave it out")
    if not kind:
        return
    for name, why in (_NOT_WITH_CONTROLS | (_NOT_WITH_A_NET if kind == "controlnet" else {})).items():
        if _is_set(config, name):
            raise QwenlabError(f"{name}: {why}; leave it out with control_kind: {kind}")
    for name in ("control_blocks", "control_start"):
        if config.control_net and _is_set(config, name):
            raise QwenlabError(f"{name}: is that of a new ControlNet, control_net has its own; leave one out")
    drawn = config.preview_every_n_steps > 0
    if (drawn or config.preview_controls) and len(config.preview_controls) != len(config.preview_prompts):
        raise QwenlabError(
            f"preview_controls: {len(config.preview_controls)} for {len(config.preview_prompts)} preview_prompts; "
            "give a control picture for each prompt"
        )


def _is_set(config: Any, name: str) -> bool:
    """Whether a setting has another value than its default."""
    (field,) = (field for field in dataclasses.fields(config) if field.name == name)
    missing = field.default is dataclasses.MISSING
    return getattr(config, name) != (field.default_factory() if missing else field.default)
