"""The arithmetic of a training step: counted on the step itself, and by formula.

A product of (m, k) and (k, n) is 2 m k n floating-point operations; everything else is left out. Frozen weights cost as
much backwards (the gradient of the input) as forwards, and nothing for themselves; checkpointing adds the forward pass
once more.
"""

from __future__ import annotations

import dataclasses

from qwenlab.lora.targets import target_modules
from qwenlab.memory.settings import StepSettings


@dataclasses.dataclass(frozen=True)
class Operations:
    """Floating-point operations of one optimizer step, all of its batches."""

    forward: float
    backward: float
    recomputed: float

    @property
    def total(self) -> float:
        """Everything the card computes."""
        return self.forward + self.backward + self.recomputed


def predict_operations(settings: StepSettings) -> Operations:
    """By formula, to be compared with `count_operations`."""
    model, d = settings.model, settings.model.width
    image, text = settings.batch * settings.stream_tokens, settings.batch * settings.text_tokens
    linear = 2 * 12 * d * d * (image + text)  # a stream's layers: four of d x d, two of d x 4 d
    modulation = 0 if settings.modulation_table else 2 * 2 * 6 * d * d * settings.batch
    pairs = settings.batch * (settings.stream_tokens + settings.text_tokens) ** 2
    attention = 2 * 2 * pairs * d  # queries with keys, weights with values
    lora = sum(
        2 * settings.rank * (k + out) * (text if name.startswith(("add_", "to_add", "txt")) else image)
        for name, (k, out) in _lora_shapes(settings).items()
    )
    ends = 2 * d * (image * (model.in_channels + 4 * model.out_channels) + text * model.joint_attention_dim)
    layers, n = model.num_layers, settings.control_blocks
    # The fused kernel computes queries with keys again in the backward pass: five products instead of four.
    backward_attention = attention * (2 if settings.attention == "math" else 2.5)
    # The text of the last block is thrown away: its output layer and its MLP have no backward pass. Nobody asks for the
    # gradient of what the first block reads: its queries, keys and values need none.
    unused = 2 * 9 * d * d * text + 2 * 3 * d * d * (image + text)
    forward = layers * (linear + modulation + attention + lora) + ends
    backward = layers * (linear + backward_attention + 2 * lora) - unused + 2 * d * 4 * model.out_channels * image
    blocks = layers
    if n:  # its weights have gradients, too; the base's first block needs none, for it reads nothing of the net
        text_of_last = 2 * 9 * d * d * text
        into = 2 * d * (2 * image * model.in_channels + text * model.joint_attention_dim) + n * 2 * d * d * image
        forward += n * (linear + modulation + attention) + into
        backward = (layers - 1) * (linear + backward_attention) - text_of_last
        backward += 2 * d * 4 * model.out_channels * image
        backward += n * (2 * linear + 2 * modulation + backward_attention) + 2 * into - 2 * text_of_last
        blocks = layers - 1 + n
    recomputed = 0.0
    if settings.checkpointing != "none":
        kept = attention if settings.checkpointing == "selective" and settings.attention != "math" else 0
        recomputed = blocks * (linear + modulation + attention + lora - kept)
    count = settings.accumulation
    return Operations(count * forward, count * backward, count * recomputed)


def _lora_shapes(settings: StepSettings) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the layers of a block that see every token and carry a LoRA."""
    d = settings.model.width
    shapes = {}
    for name in [] if settings.control_blocks else target_modules(settings.apply_to):
        if "_mod." not in name:  # sees the timestep alone: nothing beside the rest
            shapes[name] = (d, 4 * d) if name.endswith("0.proj") else (4 * d, d) if name.endswith("net.2") else (d, d)
    return shapes


def count_operations(settings: StepSettings) -> float:
    """By executing the step on fake tensors under PyTorch's counter. Attention is then written out, which it can count.

    Raises QwenlabError as the settings do.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from qwenlab.memory.step import build_step

    with FakeTensorMode():
        step = build_step(dataclasses.replace(settings, attention="math"), fake=True)
        with FlopCounterMode(display=False) as counter:
            step.run()
    return float(counter.get_total_flops())
