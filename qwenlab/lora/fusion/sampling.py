"""Several LoRAs merged while a picture is drawn: one after the other, or all at once on the velocity.

Source: Zhong et al., Multi-LoRA Composition for Image Generation (arXiv 2402.16843): LoRA Switch and LoRA Composite.
Both leave the weights alone, so that no LoRA disturbs another's update; what they cost is said below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline


@contextmanager
def switching(pipeline: QwenImagePipeline, adapters: Mapping[str, float], every: int = 1) -> Iterator[None]:
    """While this is open, each `every` steps of the sampler belong to the next of the adapters, round and round.

    adapters: names that `load_lora_weights` gave, and weights. Costs nothing. The first step of every picture belongs
    to the first adapter. Raises ValueError without adapters.
    """
    names = _names(adapters)
    seen: dict[str, Any] = {"timestep": None, "step": -1}

    def before(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        timestep = float(kwargs["timestep"].flatten()[0])
        if timestep == seen["timestep"]:  # the other half of guidance: same step
            return
        begins = seen["timestep"] is None or timestep > seen["timestep"]
        seen["timestep"], seen["step"] = timestep, 0 if begins else seen["step"] + 1
        name = names[seen["step"] // every % len(names)]
        pipeline.set_adapters([name], [adapters[name]])

    handle = pipeline.transformer.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        pipeline.set_adapters(names, list(adapters.values()))


@contextmanager
def composing(pipeline: QwenImagePipeline, adapters: Mapping[str, float]) -> Iterator[None]:
    """While this is open, the velocity is the mean of those that each adapter alone predicts.

    adapters: names that `load_lora_weights` gave, and weights. Each step costs one forward pass an adapter. Raises
    ValueError without adapters.
    """
    names, stock = _names(adapters), pipeline.transformer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs["return_dict"] = False
        total = 0.0
        for name in names:
            pipeline.set_adapters([name], [adapters[name]])
            total = total + stock(*args, **kwargs)[0]
        return (total / len(names),)

    pipeline.transformer.forward = forward
    try:
        yield
    finally:
        del pipeline.transformer.forward
        pipeline.set_adapters(names, list(adapters.values()))


def _names(adapters: Mapping[str, float]) -> list[str]:
    if not adapters:
        raise ValueError("adapters: give at least one name and weight")
    return list(adapters)
