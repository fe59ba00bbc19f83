"""An idea of lesson 02: ranks add up."""

from qwenlab.course.exercises.checking import exercise, number


@exercise(
    task="A LoRA of rank 8 lies on `to_q` and on `to_k`. What is the highest rank of the change in their product?",
    stub="rank = ...",
    hint="Write the change as a sum of two products.",
    solution="rank = 8 + 8",
)
def e02_1(answer):
    number(answer, 16, mistakes={8: "both layers have changed", 64: "the ranks of a sum add up, they do not multiply"})
