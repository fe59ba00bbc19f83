"""Exercises of the lessons, with a check for each: `check.e11_2(answer)` says in one line what is wrong with it.

    from qwenlab.course.exercises import check

A lesson's exercises stand in a module of this package named after it, `e11.py`; `checking.py` says how to write one.
"""

from qwenlab.course.exercises.checking import Checks

check = Checks(__name__)
