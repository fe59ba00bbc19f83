"""Ideas of lesson 01: modulation and padding."""

import torch

from qwenlab.course.exercises.checking import Problem, array, call, exercise


@exercise(
    task="Write `modulate`: scale and shift the features of every token, so that zeros change nothing.",
    stub="def modulate(x, shift, scale):\n    ...",
    hint="The network answers with the scale's distance from one.",
    solution="def modulate(x, shift, scale):\n    return x * (1 + scale[:, None]) + shift[:, None]",
)
def e01_1(answer):
    x, shift, scale = torch.arange(12.0).reshape(1, 3, 4), torch.full((1, 4), 2.0), torch.full((1, 4), 0.5)
    right = x * 1.5 + 2
    mistakes = [(x * 0.5 + 2, "with zeros nothing would be left of x: where is the 1?"),
                ((x + 2) * 1.5, "scale first, then shift")]  # fmt: skip
    array(call(answer, x, shift, scale), right, what="modulate(x, shift, scale)", mistakes=mistakes)


@exercise(
    task="Two captions of 3 and 5 tokens are padded to 6. Which tokens are words? `words` is a mask (2, 6).",
    stub="words = ...",
    hint="`torch.arange(6) < length` is the mask of one caption.",
    solution="import torch\n\nwords = torch.arange(6) < torch.tensor([[3], [5]])",
)
def e01_2(answer):
    right = torch.arange(6) < torch.tensor([[3], [5]])
    array(answer, right, what="the mask", mistakes=[(~right, "True stands for words, not for padding")])


@exercise(
    task="Return A (rank, inputs) and B (outputs, rank) of a LoRA that starts as the pretrained layer and learns.",
    stub="def new_factors(rank, inputs, outputs):\n    ...",
    hint="The product must be zero, but not both gradients.",
    solution=(
        "import torch\n\n\ndef new_factors(rank, inputs, outputs):\n"
        "    return torch.randn(rank, inputs) / rank, torch.zeros(outputs, rank)"
    ),
)
def e01_3(answer):
    a, b = call(answer, 2, 3, 4)
    array(torch.zeros_like(a), torch.zeros(2, 3), what="A")
    array(torch.zeros_like(b), torch.zeros(4, 2), what="B")
    if (b @ a).any():
        raise Problem("the layer no longer starts as the pretrained one: B A is not zero")
    if not a.any() and not b.any():
        raise Problem("with both factors at zero both gradients are zero for ever")
