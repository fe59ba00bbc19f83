"""The training step executed on fake tensors: the real model at its real size, without its bytes."""

from __future__ import annotations

import dataclasses
import gc

from torch._subclasses.fake_tensor import FakeTensorMode

from qwenlab.memory.live_bytes import LiveBytes, Record
from qwenlab.memory.settings import StepSettings
from qwenlab.memory.step import Step, build_step


def watch_step(step: Step, device: str = "cpu") -> Record:
    """Run one step under `LiveBytes`, which knows weights, LoRA, optimizer states and batch from the beginning."""
    gc.collect()
    transformer, batch = step.transformer, step.batch
    # The rotary embedding is computed once for a shape, and cached.
    rotary = transformer.pos_embed(batch.image_shapes, max_txt_seq_len=batch.text.shape[1], device=batch.text.device)
    embedding = transformer.pos_embed
    watch = LiveBytes(device)
    trained = {id(parameter) for parameter in step.parameters}
    watch.add([p for p in transformer.parameters() if id(p) not in trained], "weights")
    watch.add(list(transformer.buffers()), "weights")
    watch.add(_quantisation_states(transformer), "weights")
    watch.add([p for p in transformer.parameters() if id(p) in trained], "LoRA")
    watch.add([list(state.values()) for state in step.optimizer.state.values()], "optimizer states")
    watch.add([*vars(batch).values(), rotary, embedding.pos_freqs, embedding.neg_freqs], "batch")
    with watch:
        step.run(watch)
    return watch.record


def _quantisation_states(transformer) -> list:
    """The scales of bitsandbytes' layers, which are no parameters."""
    states = [getattr(p, "quant_state", None) for p in transformer.parameters()]
    return [
        tensor
        for state in states
        if state is not None
        for tensor in (state.absmax, state.state2 and state.state2.absmax)
    ]


def simulate_step(settings: StepSettings) -> Record:
    """What one step of `settings` would hold in memory, by executing it on fake tensors: no GPU, no weights, no values.

    Qwen-Image's 60 blocks take about a minute on two CPU cores. More than two accumulated batches are
    simulated as two: the peak is the same.
    """
    settings = dataclasses.replace(settings, accumulation=min(settings.accumulation, 2))
    with FakeTensorMode():
        return watch_step(build_step(settings, fake=True))
