"""Draw a turn of an editing session: with its LoRAs, alone on the pipeline, counted.

All pipelines that are made of one pipeline's parts share its scheduler, whose timesteps are the state of the drawing
that goes on. So one drawing at a time, whichever session or thread asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from qwenlab.editing.checks import check_extension, first_step
from qwenlab.editing.extending import STRENGTH as EXTEND_STRENGTH
from qwenlab.editing.extending import extend, windows
from qwenlab.editing.history import Turn
from qwenlab.editing.instructing import instruct
from qwenlab.editing.redrawing import redraw
from qwenlab.editing.strength import img2img
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import carries_lora, load_lora, remove_lora, weigh_loras
from qwenlab.model.generation import NEGATIVE_PROMPT, generate, native_size
from qwenlab.model.limits import check_drawing
from qwenlab.model.references import is_edit

if TYPE_CHECKING:
    from diffusers import QwenImagePipeline

STEPS, GUIDANCE = 20, 4.0
EXTEND_GUIDANCE = 1.0
STRENGTH = 0.3  # of `refine`

OnStep = Callable[[int, int], None]  # (calls of the transformer done, all of them)

_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()  # by scheduler
_LOCKS_LOCK = threading.Lock()


class Drawing(TypedDict, total=False):
    """What every drawing method of a session takes besides its own."""

    seed: int  # 0 if not given
    steps: int
    guidance: float  # 1 or less: off, twice as fast


def drawing_lock(pipeline: QwenImagePipeline) -> threading.RLock:
    """The lock that whoever draws with this pipeline's scheduler holds."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(pipeline.scheduler, threading.RLock())


def draw_turn(
    pipeline: QwenImagePipeline,
    turn: Turn,
    picture: Image.Image | None,
    mask: np.ndarray | None,
    loras: Sequence[tuple[Path, float]],
    on_step: OnStep | None = None,
) -> Image.Image:
    """The RGB picture of a turn, from its parent's `picture` and its `mask` (H, W) bool; waits for other drawings.

    loras: files and weights, which act on this drawing alone: the pipeline is left without a LoRA, as it came.
    Raises QwenlabError for all that the method cannot draw from, and for a pipeline that carries a LoRA.
    """
    if is_edit(pipeline) and turn.method != "edit":
        raise QwenlabError(f"{turn.method}: an Edit model draws by instruction alone; begin with start, then edit")
    how = {"seed": turn.seed, "steps": turn.steps, "guidance": turn.guidance}
    draw = {
        "generate": lambda: generate(
            pipeline, turn.prompt, turn.seed, steps=turn.steps, guidance=turn.guidance, size=turn.size
        )[0],
        "edit": lambda: instruct(pipeline, [picture], turn.instruction, **how),
        "redraw": lambda: redraw(pipeline, picture, mask, turn.prompt, **turn.arguments, **how),
        "extend": lambda: extend(pipeline, picture, turn.instruction or NEGATIVE_PROMPT, **turn.arguments, **how),
        "refine": lambda: img2img(pipeline, picture, turn.prompt, **turn.arguments, **how),
    }[turn.method]  # fmt: skip
    check_drawing(
        steps=turn.steps, guidance=turn.guidance, first_seed=turn.seed, last_seed=turn.seed, dashes=""
    )  # fmt: skip
    total = calls(turn, picture, native_size(pipeline))
    with drawing_lock(pipeline), _with_loras(pipeline, loras), _counted(pipeline.transformer, total, on_step):
        return draw()


def calls(turn: Turn, picture: Image.Image | None, native: int) -> int:
    """How often the transformer is called: once a step, under guidance twice, for each window."""
    strength = turn.arguments.get("strength", EXTEND_STRENGTH if turn.method == "extend" else 1.0)
    walked = turn.steps - first_step(strength, turn.steps)
    if turn.method == "extend":
        sides = tuple(turn.arguments[name] for name in ("left", "right", "top", "bottom"))
        check_extension(picture.size, *sides, dashes="")
        walked *= len(list(windows(picture.size, sides, native)))
    return walked * (2 if turn.guidance > 1 else 1)


@contextmanager
def _with_loras(pipeline: QwenImagePipeline, loras: Sequence[tuple[Path, float]]) -> Iterator[None]:
    if carries_lora(pipeline):
        raise QwenlabError(
            "the pipeline carries a LoRA that the session did not load: call remove_lora(pipeline), and give its file "
            "to the session (loras=)"
        )
    try:
        for number, (path, _) in enumerate(loras):
            load_lora(pipeline, path, f"turn_{number}")
        if loras:
            weigh_loras(pipeline, {f"turn_{number}": weight for number, (_, weight) in enumerate(loras)})
        yield
    finally:
        if loras:
            remove_lora(pipeline)


@contextmanager
def _counted(transformer: Any, total: int, on_step: OnStep | None) -> Iterator[None]:
    """Within the block `on_step` hears of each call of the transformer."""
    if on_step is None:
        yield
        return
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        on_step(done, total)

    handle = transformer.register_forward_hook(count)
    try:
        on_step(0, total)
        yield
    finally:
        handle.remove()
