"""The benchmark of import times measures what it says, and the stored result keeps what it promises."""

import json
import os
import sys

import pytest

from benchmarks.house.import_times import COLD, STATES, compiled_share, environment_of, measure, tasks
from qwenlab.files import REPOSITORY
from qwenlab.lab.results import check_stamp

STORED = json.loads((REPOSITORY / "benchmarks/house/import_times.json").read_text(encoding="utf-8"))
BUSY = "sum(range(20_000_000))"


def test_processor_time_is_the_childs_and_the_clock_counts_waiting():
    busy = measure([sys.executable, "-c", BUSY], dict(os.environ))
    idle = measure([sys.executable, "-c", "import time; time.sleep(0.5)"], dict(os.environ))
    assert busy["processor_seconds"] > 0.1 > 0.5 * idle["processor_seconds"] and idle["clock_seconds"] > 0.5
    assert busy["clock_seconds"] >= 0.9 * busy["processor_seconds"]
    with pytest.raises(RuntimeError, match="ended with 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ))


def test_bytecode_is_found_in_one_state_and_not_in_the_other(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("value = 1\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import package; "
    assert compiled_share([tmp_path]) == 0
    compiling = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    measure([sys.executable, "-c", code], compiling)
    assert compiled_share([tmp_path]) == 1
    for state, found in (("compiled", True), ("not compiled", False)):
        check = f"assert __import__('os').path.exists(package.__cached__) is {found}"
        measure([sys.executable, "-c", code + check], environment_of(state, tmp_path / "empty"))
    assert not (tmp_path / "empty").exists(), "nothing is written there"


def test_the_stored_result_names_every_task_and_state(tmp_path):
    assert check_stamp(STORED) == []
    assert list(STORED["medians"]) == list(tasks(tmp_path)) and set(COLD) < set(tasks(tmp_path))
    for task, states in STORED["medians"].items():
        assert list(states) == [state for state in STATES if state != "cold" or task in COLD]


def test_the_targets_are_met_and_bytecode_halves_the_wait():
    def seconds(task, state="compiled", kind="processor_seconds"):
        return STORED["medians"][task][state][kind]

    assert seconds("qwenlab doctor FILE") < 2 and seconds("qwenlab doctor FILE", "not compiled") < 2
    for task in ("qwenlab fuse, two files", "qwenlab resize --rank 4"):
        assert seconds(task) < 4
        assert seconds(task) < seconds("import torch") + 1.5, "torch is most of it"
    stock = "from diffusers import QwenImagePipeline"
    assert seconds(stock, "not compiled") > 1.6 * seconds(stock)
    assert seconds('load_pipeline("micro")') < seconds(stock), "without the compiler, loading included"
