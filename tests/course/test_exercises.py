"""Exercises: each check knows the right answer and typical wrong ones, and takes any nonsense without a traceback."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.course import exercises
from qwenlab.course.exercises.checking import Checks, Problem, array, described, exercise, number
from qwenlab.files import REPOSITORY

EXAMPLES = Checks("tests.course.example_lessons")
SHIPPED = exercises.check

#: For every exercise typical wrong answers, as code, and words of what their learner is told.
MISTAKES = {
    "e01_1": [
        ("modulate = lambda x, shift, scale: x * scale[:, None] + shift[:, None]", "where is the 1?"),
        ("modulate = lambda x, shift, scale: (x + shift[:, None]) * (1 + scale[:, None])", "scale first"),
        ("modulate = lambda x, shift, scale: (x * (1 + scale[:, None]) + shift[:, None])[0]", "(3, 4), and (1, 3, 4)"),
        ("modulate = lambda x, shift, scale: x @ shift", "raised RuntimeError"),
        ("modulate = lambda x: x", "raised TypeError"),
        ("modulate = lambda x, shift, scale: x", "differs in 12 of 12 places"),
        ("modulate = 3", "a function is wanted, not 3"),
    ],
    "e01_2": [
        ("import torch; words = torch.arange(6) >= torch.tensor([[3], [5]])", "not for padding"),
        ("import torch; words = torch.arange(6) < 3", "(6,), and (2, 6)"),
        ("import torch; words = (torch.arange(6) < torch.tensor([[3], [5]])).float()", "True and False"),
        ("words = [3, 5]", "the shape (2,)"),
    ],
    "e01_3": [
        ("import torch; new_factors = lambda r, i, o: (torch.zeros(r, i), torch.zeros(o, r))", "zero for ever"),
        ("import torch; new_factors = lambda r, i, o: (torch.randn(r, i), torch.randn(o, r))", "no longer starts"),
        ("import torch; new_factors = lambda r, i, o: (torch.randn(i, r), torch.zeros(r, o))", "shape (3, 2), and"),
        ("new_factors = lambda r, i, o: (r, i, o)", "cannot be checked"),
    ],
    "e02_1": [
        ("rank = 8", "both layers"), ("rank = 64", "do not multiply"), ("rank = 17", "too large"),
        ("rank = -1.5", "too small"), ("rank = '16'", "a number is wanted"), ("rank = True", "not True"),
    ],
    "e11_1": [
        ("grow = lambda mask: mask", "the mask as it was"),
        ("grow = lambda m: m.reshape(6, 8, 8, 8).any(axis=(1, 3)).repeat(8, 0).repeat(8, 1)", "latent cells"),
        ("grow = lambda m: m.reshape(3, 16, 4, 16).all(axis=(1, 3)).repeat(16, 0).repeat(16, 1)", "any, not all"),
        ("import numpy as np; grow = lambda m: np.tile(m.reshape(3, 16, 4, 16).any(axis=(1, 3)), (16, 16))", "np.tile"),
        ("grow = lambda m: m.reshape(3, 16, 4, 16).any(axis=(1, 3))", "(3, 4), and (48, 64)"),
        ("grow = lambda m: m.astype(float)", "True and False"),
    ],
    "e11_2": [
        ("hold = lambda x, source, noise, sigma, mask: mask * x + (1 - mask) * source", "came in clean"),
        ("hold = lambda x, s, n, sigma, m: (1 - m) * x + m * ((1 - sigma) * s + sigma * n)", "1 in the mask"),
        ("hold = lambda x, s, n, sigma, m: m * x + (1 - m) * (sigma * s + (1 - sigma) * n)", "share of noise"),
        ("hold = lambda x, s, n, sigma, m: m * x + (1 - m) * (s + sigma * n)", "shrinks"),
        ("hold = lambda x, s, n, sigma, m: (1 - sigma) * s + sigma * n", "drawn again is missing"),
        ("hold = lambda x: x", "raised TypeError"),
    ],
    "e11_3": [
        ("tokens = lambda size, refs: size[0] // 16 * (size[1] // 16)", "references are read"),
        ("tokens = lambda size, refs: sum(w // 8 * (h // 8) for w, h in [size, *refs])", "latent cells"),
        ("tokens = lambda size, refs: sum(w * h for w, h in [size, *refs])", "pixels"),
        ("tokens = lambda size, refs: 128", "and 64 is wanted"),
        ("tokens = 64", "a function is wanted"),
        ("tokens = lambda size, refs: 'many'", "a number"),
    ],
}  # fmt: skip


class Hostile:
    """Raises whenever it is looked at."""

    def _refuse(self, *_, **__):
        raise RuntimeError("leave\nme\nalone")

    __eq__ = __bool__ = __len__ = __iter__ = __float__ = __array__ = __repr__ = __str__ = __getitem__ = _refuse
    __hash__ = None


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no words")


def raising(error):
    def answer(*_):
        raise error

    return answer  # fmt: skip


def warning(*_):
    warnings.warn("look here", stacklevel=1)


NONSENSE = {
    "none": None,
    "dots": ...,
    "nan": float("nan"),
    "infinite": float("-inf"),
    "complex": 2j,
    "text": "right",
    "bytes": b"\0",
    "empty": [],
    "ragged": [[1], [1, 2]],
    "mapping": {"a": 1},
    "numbers": {1, 2},
    "class": Hostile,
    "hostile": Hostile(),
    "numbers of none": np.array([None, 1]),
    "huge": 10**400,
    "module": sys,
    "tensor": torch.zeros(0),
    "half": torch.ones(2, 6, dtype=torch.bfloat16),
    "nan tensor": torch.full((2, 6), torch.nan),
    "meta": torch.zeros(2, 6, device="meta"),
    "sparse": torch.eye(6).to_sparse(),
    "integers": torch.arange(12).view(2, 6),
    "scalar": torch.tensor(3 + 0j),
    "grad": torch.ones(2, 6, requires_grad=True),
    "picture": Image.new("RGB", (6, 2)),
    "words": np.array(["a", "b"]),
    "raises": raising(ValueError("one\ntwo")),
    "exits": raising(SystemExit(3)),
    "unprintable": raising(Unprintable()),
    "stops": raising(StopIteration()),
    "returns none": lambda *_: None,
    "returns dots": lambda *_: ...,
    "returns itself": lambda *a: a,
    "returns text": lambda *_: "x",
    "returns nan": lambda *_: float("nan"),
    "returns hostile": lambda *_: Hostile(),
    "warns": warning,
    "built in": print,
    "endless": (lambda f: f(f))(lambda f: lambda *_: f(f)(*_)),
    "generator": (k for k in range(3)),
    "object": object(),
}


def executed(code, name):
    space = {}
    exec(code, space)
    return space[name]


def everything():
    return [(checks, name) for checks in (EXAMPLES, SHIPPED) for name in checks]


@pytest.mark.parametrize(("checks", "name"), everything(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_check_knows_right_wrong_and_unanswered(checks, name):
    check = getattr(checks, name)
    right = check(executed(check.solution, check.variable))
    assert right and repr(right) == f"{name}: right.", right
    unsolved = check(executed(check.stub, check.variable))
    assert not unsolved and "replace the ..." in repr(unsolved)
    assert len(MISTAKES[name]) >= 3, f"{name}: list typical wrong answers"
    for code, words in MISTAKES[name]:
        verdict = check(executed(code, check.variable))
        assert not verdict and words in repr(verdict) and "\n" not in repr(verdict), f"{code}: {verdict}"
    assert check.hint and check.task and check.solution not in check.hint


@pytest.mark.parametrize(("checks", "name"), everything(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_nonsense_raises(checks, name, recwarn):
    check = getattr(checks, name)
    for what, answer in NONSENSE.items():
        line = repr(check(answer))
        assert line.startswith(f"{name}: ") and "right." not in line, f"{what}: {line}"
        assert "\n" not in line and len(line) <= 300, f"{what}: {line}"
    for answers in ((), (1, 2)):
        assert f"check.{name}({check.variable})" in repr(check(*answers))
    assert not recwarn.list


def test_the_learner_may_stop_an_endless_answer():
    with pytest.raises(KeyboardInterrupt):
        EXAMPLES.e01_1(raising(KeyboardInterrupt()))


def test_a_check_leaves_the_answers_arguments_and_random_numbers_alone():
    before = torch.get_rng_state()

    def spoils(x, shift, scale):
        return x.mul_(1 + scale[:, None]).add_(shift[:, None])

    assert EXAMPLES.e01_1(spoils) and EXAMPLES.e01_1(spoils)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_exercise_is_named_and_the_known_ones_too():
    for name in ("e01_9", "e77_1", "first", "e1_1"):
        with pytest.raises(AttributeError, match=f"no exercise {name}: e01_1, e01_2, e01_3, e02_1"):
            getattr(EXAMPLES, name)
    assert list(EXAMPLES) == ["e01_1", "e01_2", "e01_3", "e02_1"]


def test_numbers_of_any_kind():
    for right in (16, 16.0, np.int64(16), np.float32(16), torch.tensor(16), np.array(16.0), 16 + 1e-9):
        number(right, 16)
    for wrong, words in ((torch.ones(2), "Tensor of shape"), (np.nan, "finite"), (torch.tensor(True), "not Tensor")):
        with pytest.raises(Problem, match=words):
            number(wrong, 16)


def test_arrays_of_any_kind():
    right = np.array([[0.5, 1.0]])
    for answer in (torch.tensor(right), torch.tensor(right, dtype=torch.bfloat16), right.tolist(), right.astype("f4")):
        array(answer, right)
    array(Image.new("L", (3, 2), 7), np.full((2, 3), 7))
    with pytest.raises(Problem, match="infinite values"):
        array(right * np.inf, right)
    assert described(torch.ones(2, 3)) == "Tensor of shape (2, 3)" and described(dict) == "the class dict"


def assert_unsolved(notebook, checks):
    """The cells of each exercise stand in the notebook as the exercise gives them."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    for k, (kind, text) in enumerate(cells):
        if kind == "code" and "check.e" in text:
            name = text.rpartition("check.")[2].partition("(")[0]
            assert cells[k - 1 : k + 2] == getattr(checks, name).cells(), f"{name}: not the cells of the exercise"
    return [text for _, text in cells]


def test_lessons_ship_their_exercises_unsolved():
    for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        texts = assert_unsolved(json.loads(path.read_text(encoding="utf-8")), SHIPPED)
        for name in SHIPPED:
            if name[1:3] == path.name[:2]:
                assert any(f"check.{name}(" in text for text in texts), f"{path.name} does not ask {name}"


def test_a_solved_notebook_is_noticed():
    check = EXAMPLES.e02_1
    cells = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in check.cells()]
    assert_unsolved({"cells": cells}, EXAMPLES)
    task, code, folded = ("".join(cell["source"]) for cell in cells)
    assert task.startswith("**Exercise 1.** ") and code == "rank = ...\n\ncheck.e02_1(rank)"
    assert folded.count("<details><summary>") == 2 and "```python\nrank = 8 + 8\n```" in folded
    cells[1]["source"] = ["rank = 16\n", "\n", "check.e02_1(rank)"]
    with pytest.raises(AssertionError, match="not the cells"):
        assert_unsolved({"cells": cells}, EXAMPLES)


def test_the_check_of_a_check_that_fails_says_so():
    @exercise(task="t", stub="x = ...", hint="h", solution="x = 1")
    def e99_1(answer):
        raise ZeroDivisionError("in the check")

    assert "cannot be checked, the check met ZeroDivisionError" in repr(e99_1(1))
