"""The training step really run, on the CPU or on a CUDA card, and what it needed there."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from qwenlab.memory.settings import StepSettings
from qwenlab.memory.simulate import lasting_tensors, watch_step
from qwenlab.memory.step import Step, build_step


@dataclass(frozen=True)
class Measurement:
    """Bytes at the peak of one step, by several witnesses, and the median time of a step.

    live: tensors, as `LiveBytes` sees them. allocator: what PyTorch's allocator gave out, memory inside kernels
    included. process: CPU: the highest resident set of the whole Python process; CUDA: what the allocator reserved.
    device: CUDA only, all memory in use on the card, context included.
    """

    live: int
    allocator: int
    process: int
    device: int | None
    seconds: float
    loss: float


def measure_step(settings: StepSettings, device: str = "cpu", *, repeats: int = 3) -> Measurement:
    """Build the step of `settings`, run it once unwatched, then watched by each witness, then `repeats` times timed.

    Raises torch.cuda.OutOfMemoryError when a card is too small.
    """
    step = build_step(settings, device)
    step.run()
    if device.startswith("cuda"):
        return _on_cuda(step, repeats)
    record = watch_step(step, "cpu")
    allocator = _cpu_allocator_peak(step) + _resident(step)
    gc.collect()
    with _highest_resident_set() as samples:
        seconds, loss = _time(step, repeats)
    return Measurement(record.peak, allocator, max(samples), None, seconds, loss)


def _on_cuda(step: Step, repeats: int) -> Measurement:
    live = watch_step(step, "cuda").peak
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds, loss = _time(step, repeats)
    free, total = torch.cuda.mem_get_info()
    return Measurement(
        live, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free, seconds, loss
    )


def _time(step: Step, repeats: int) -> tuple[float, float]:
    """Median seconds of a step, and the last loss."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        loss = step.run().item()  # waits for the card
        times.append(time.perf_counter() - started)
    return statistics.median(times), loss


def _resident(step: Step) -> int:
    """Bytes of all tensors that outlive a step."""
    storages = {}
    for tensors in lasting_tensors(step).values():
        for tensor in tensors:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def _cpu_allocator_peak(step: Step) -> int:
    """Most bytes that PyTorch's CPU allocator has given out at once during a step, beyond those before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its own start and of missing GPUs
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step.run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@contextmanager
def _highest_resident_set() -> Iterator[list[int]]:
    """A list that fills with the process's resident bytes, every two milliseconds, while the block runs."""
    process, stop = psutil.Process(), threading.Event()
    samples = [process.memory_info().rss]

    def sample() -> None:
        while not stop.wait(0.002):
            samples.append(process.memory_info().rss)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
