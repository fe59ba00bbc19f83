"""How an exercise is written and checked.

    @exercise(
        task="What is the highest rank of the change?",
        stub="rank = ...",
        hint="Ranks of a sum add up.",
        solution="rank = 16",
    )
    def e02_3(answer):
        number(answer, 16, mistakes={8: "both layers carry a LoRA"})

The function raises `Problem` with what is wrong, in one line to the learner, and returns when the answer is right. It
may take the answer for what it hopes for: whatever else goes wrong inside, the learner gets a line and no traceback.
A notebook holds the three cells that `Exercise.cells` gives, unsolved; a test compares them, executes stub and
solution, and feeds the check mistakes and nonsense.
"""

from __future__ import annotations

import ast
import copy
import importlib
import numbers
import pkgutil
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LONGEST = 300  # characters of a line


class Problem(Exception):
    """What is wrong with an answer, in one line to the learner."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """Of an answer: true when it is right. A notebook shows its line."""

    right: bool
    line: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return self.line


@dataclass(frozen=True)
class Exercise:
    """One exercise; calling it with an answer gives a `Verdict` and raises nothing, whatever the answer.

    judge: raises Problem for a wrong answer. stub and solution: code that gives the answer its name, or defines it.
    """

    name: str
    judge: Callable[[Any], None]
    task: str
    stub: str
    hint: str
    solution: str

    def __call__(self, *answers: Any) -> Verdict:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if len(answers) != 1:
                    raise Problem(f"give the check one answer, as in check.{self.name}({self.variable})")
                if answers[0] is ... or answers[0] is None:
                    raise Problem("not answered yet: replace the ...")
                self.judge(answers[0])
        except Problem as problem:
            return Verdict(False, _line(f"{self.name}: {problem}"))
        except KeyboardInterrupt:  # the learner's own
            raise
        except BaseException as error:  # whatever an answer does when it is looked at, SystemExit included
            return Verdict(False, _line(f"{self.name}: this cannot be checked, the check met {_said(error)}"))
        return Verdict(True, f"{self.name}: right.")

    @property
    def variable(self) -> str:
        """The name that the stub gives the answer: the last one it assigns or defines."""
        last = ast.parse(self.stub).body[-1]
        return last.name if isinstance(last, ast.FunctionDef) else last.targets[0].id

    def cells(self) -> list[tuple[str, str]]:
        """The cells of a notebook, unsolved: (cell_type, source) of the task, the stub with its check, and the rest."""
        number = self.name.partition("_")[2]
        folded = [("Hint", self.hint), ("Solution", f"```python\n{self.solution}\n```")]
        help_ = "\n\n".join(f"<details><summary>{head}</summary>\n\n{text}\n\n</details>" for head, text in folded)
        defines = isinstance(ast.parse(self.stub).body[-1], ast.FunctionDef)
        code = self.stub + ("\n\n\n" if defines else "\n\n") + f"check.{self.name}({self.variable})"
        return [("markdown", f"**Exercise {number}.** {self.task}"), ("code", code), ("markdown", help_)]


def exercise(*, task: str, stub: str, hint: str, solution: str) -> Callable[[Callable[[Any], None]], Exercise]:
    """Make an `Exercise` of a function eNN_k(answer) that raises Problem for a wrong answer."""

    def made(judge: Callable[[Any], None]) -> Exercise:
        return Exercise(judge.__name__, judge, task, stub, hint, solution)

    return made


class Checks:
    """The exercises of a package's modules e00, e01, ...: `checks.e11_2` is exercise 2 of module e11."""

    def __init__(self, package: str):
        self._package = package

    def __getattr__(self, name: str) -> Exercise:
        lesson = name.partition("_")[0]
        if not re.fullmatch(r"e\d\d_\d+", name) or lesson not in self._lessons():
            raise AttributeError(f"there is no exercise {name}: {', '.join(self) or 'there are none yet'}")
        found = getattr(importlib.import_module(f"{self._package}.{lesson}"), name, None)
        if found is None:
            raise AttributeError(f"there is no exercise {name}: {', '.join(self)}")
        return found

    def __iter__(self):
        """The names of all exercises."""
        for lesson in self._lessons():
            module = importlib.import_module(f"{self._package}.{lesson}")
            yield from sorted(name for name, value in vars(module).items() if isinstance(value, Exercise))

    def _lessons(self) -> list[str]:
        folders = importlib.import_module(self._package).__path__
        return sorted(module.name for module in pkgutil.iter_modules(folders) if re.fullmatch(r"e\d\d", module.name))


def number(answer: Any, right: float, *, within: float = 1e-6, mistakes: Mapping[float, str] | None = None) -> None:
    """Raise Problem unless `answer` is a real number within `within` (relative) of `right`.

    mistakes: typical wrong numbers and what to say of them.
    """
    value = answer.item() if getattr(answer, "shape", None) == () and hasattr(answer, "item") else answer
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise Problem(f"a number is wanted, not {described(answer)}")
    value = float(value)
    if not np.isfinite(value):
        raise Problem(f"a finite number is wanted, not {value}")
    for wrong, text in (mistakes or {}).items():
        if np.isclose(value, wrong, rtol=within, atol=within) and not np.isclose(
            value, right, rtol=within, atol=within
        ):
            raise Problem(f"{value:g} is not it: {text}")
    if not np.isclose(value, right, rtol=within, atol=within):
        raise Problem(f"{value:g} is too {'large' if value > right else 'small'}")


def array(
    answer: Any, right: Any, *, within: float = 1e-4, what: str = "the answer", mistakes: Sequence[tuple[Any, str]] = ()
) -> None:
    """Raise Problem unless `answer` is a tensor, array or picture with the shape, kind and values of `right`.

    Kind: True and False where `right` holds these, else numbers. within: largest absolute difference. what: its name in
    the message. mistakes: (typical wrong values, what to say of them).
    """
    found, wanted = as_array(answer, what), as_array(right, what)
    if found.shape != wanted.shape:
        raise Problem(f"{what} has the shape {found.shape}, and {wanted.shape} is wanted")
    if (found.dtype == bool) != (wanted.dtype == bool):
        kind = "True and False" if wanted.dtype == bool else "numbers"
        raise Problem(f"{what} should hold {kind}, not {found.dtype}")
    found, wanted = found.astype(float), wanted.astype(float)
    if not np.isfinite(found).all():
        raise Problem(f"{what} holds {'NaN' if np.isnan(found).any() else 'infinite'} values")
    off = np.abs(found - wanted)
    if not (off > within).any():
        return
    for wrong, text in mistakes:
        if (np.abs(found - as_array(wrong, what).astype(float)) <= within).all():
            raise Problem(f"{what} is not it: {text}")
    raise Problem(f"{what} differs in {(off > within).sum()} of {off.size} places, by up to {off.max():.3g}")


def as_array(answer: Any, what: str = "the answer") -> np.ndarray:
    """A tensor, array, picture or nested list of numbers as an array. Raises Problem for anything else."""
    if answer is None or answer is ...:
        raise Problem(f"{what} is {described(answer)}: replace the ...")
    if callable(answer) or isinstance(answer, (str, bytes, dict, set)):
        raise Problem(f"{what} should be a tensor or an array, not {described(answer)}")
    if hasattr(answer, "detach"):  # a tensor: NumPy knows no bfloat16
        answer = answer.detach().cpu()
        answer = answer.double() if answer.is_floating_point() else answer
    try:
        found = np.asarray(answer)
    except Exception as error:
        raise Problem(f"{what} should be a tensor or an array, not {described(answer)}") from error
    if found.dtype.kind not in "biuf":
        raise Problem(f"{what} should hold real numbers, not {described(answer)}")
    return found


def call(function: Any, *arguments: Any) -> Any:
    """What the learner's function returns for copies of the arguments.

    Raises Problem for what is no function, a function that raises, and one that returns nothing.
    """
    if isinstance(function, type) or not callable(function):
        raise Problem(f"a function is wanted, not {described(function)}")
    name = getattr(function, "__name__", "your function")
    try:
        found = function(*copy.deepcopy(arguments))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Problem(f"{name} raised {_said(error)}") from error
    if found is None or found is ...:
        raise Problem(f"{name} returned {described(found)}: replace the ..., and return the result")
    return found


def described(answer: Any) -> str:
    """An answer in a few words, whatever it is."""
    kind = type(answer).__name__
    if answer is None or answer is ... or isinstance(answer, (bool, int, float)):
        return "..." if answer is ... else repr(answer)[:40]
    if isinstance(answer, type):
        return f"the class {answer.__name__}"
    if callable(answer):
        return f"a function ({kind})"
    shape = getattr(answer, "shape", None)
    return f"{kind} of shape {tuple(shape)}" if isinstance(shape, (tuple, list)) else f"a value of type {kind}"


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:  # an exception of the learner's own that cannot even be printed
        return type(error).__name__


def _line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
