"""The training step executed on fake tensors: the real model at its real size, without its bytes."""

from __future__ import annotations

import dataclasses
import gc

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_iter

from qwenlab.lora.layers import trainable_parameters
from qwenlab.memory.live_bytes import LiveBytes, Record
from qwenlab.memory.settings import StepSettings
from qwenlab.memory.step import Step, build_step


def simulate_step(settings: StepSettings) -> Record:
    """What one step of `settings` would hold in memory, by executing it on fake tensors: no GPU, no weights, no values.

    Qwen-Image's 60 blocks take about half a minute on one CPU core. More than two accumulated batches are
    simulated as two: the peak is the same. Fused attention is the CPU's kernel, whichever it will be.
    """
    attention = "math" if settings.attention == "math" else "sdpa"
    settings = dataclasses.replace(settings, accumulation=min(settings.accumulation, 2), attention=attention)
    with FakeTensorMode():
        return watch_step(build_step(settings, fake=True))


def watch_step(step: Step, device: str = "cpu") -> Record:
    """Run one step, fake or real, under `LiveBytes`, which knows what was there before."""
    watch = LiveBytes(device)
    for kind, tensors in lasting_tensors(step).items():
        watch.add(tensors, kind)
    gc.collect()
    with watch:
        step.run(watch)
    return watch.record


def lasting_tensors(step: Step) -> dict[str, list[Tensor]]:
    """The tensors that outlive a step, by kind: weights, LoRA or ControlNet, optimizer states, inputs."""
    transformer, batch = step.transformer, step.batch
    models = [transformer] if step.net is None else [transformer, step.net]
    factors = set(trainable_parameters(transformer))
    named = dict(transformer.named_parameters())
    # The rotary embedding is computed once for a shape, and cached.
    embeddings = [model.pos_embed for model in models]
    rotary = [
        embedding(batch.image_shapes, max_txt_seq_len=batch.text.shape[1], device=batch.text.device)
        for embedding in embeddings
    ]
    kinds: dict[str, object] = {
        "weights": [
            [parameter for name, parameter in named.items() if name not in factors],
            list(transformer.buffers()),
            _scales(transformer),
        ],
        "LoRA": [named[name] for name in factors],
        "ControlNet": [] if step.net is None else list(step.net.parameters()),
        "optimizer states": [list(state.values()) for state in step.optimizer.state.values()],
        "inputs": [list(vars(batch).values()), rotary, [(e.pos_freqs, e.neg_freqs) for e in embeddings]],
    }
    return {kind: [x for x in tree_iter(found) if isinstance(x, torch.Tensor)] for kind, found in kinds.items()}


def _scales(transformer: nn.Module) -> list[Tensor | None]:
    """The scales of bitsandbytes' layers, which are no parameters."""
    states = [getattr(parameter, "quant_state", None) for parameter in transformer.parameters()]
    return [tensor for state in states if state for tensor in (state.absmax, state.state2 and state.state2.absmax)]
