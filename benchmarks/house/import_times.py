"""What a command costs before it begins: `python -m benchmarks.house.import_times --rounds 3`.

Each task runs in a process of its own, task after task, round after round, and the median counts. Three states:
"compiled", as `make lab` leaves the environment; "not compiled", where Python finds no bytecode and may write none (a
container with PYTHONDONTWRITEBYTECODE=1 whose installer did not compile); "cold", compiled but with the environment's
files put out of memory first, as after a start of the computer. Processor time is what the task needs; the clock also
counts the disk and whatever else the machine was doing.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from qwenlab.files import REPOSITORY, atomic_write_json
from qwenlab.lab.results import stamp_result

FOX, POP = (f"lora_library/{name}.safetensors" for name in ("fox", "pop"))
_PYTHON, _QWENLAB = [sys.executable, "-c"], [sys.executable, "-m", "qwenlab"]
STATES = ("compiled", "not compiled", "cold")
KEPT = REPOSITORY / "runs" / "import_times.json"  # what is finished, to go on from after a stop
COLD = ("qwenlab doctor FILE", "qwenlab fuse, two files", "qwenlab generate, 2 steps")  # the disk is slow: these alone


def tasks(folder: Path) -> dict[str, list[str]]:
    """Name -> command line; what commands write goes to `folder`, under a new name each time."""
    stem = folder / str(time.monotonic_ns())
    return {
        "python": [*_PYTHON, "pass"],
        "qwenlab --help": [*_QWENLAB, "--help"],
        "qwenlab doctor FILE": [*_QWENLAB, "doctor", FOX],
        "import torch": [*_PYTHON, "import torch"],
        "qwenlab fuse, two files": [*_QWENLAB, "fuse", FOX, POP, "--out", f"{stem}-both.safetensors"],
        "qwenlab resize --rank 4": [*_QWENLAB, "resize", FOX, "--rank", "4", "--out", f"{stem}-4.safetensors"],
        "from diffusers import QwenImagePipeline": [*_PYTHON, "from diffusers import QwenImagePipeline"],
        'load_pipeline("micro")': [*_PYTHON, "import qwenlab; qwenlab.load_pipeline('micro')"],
        "qwenlab generate, 2 steps": [
            *_QWENLAB, "generate", "--lora", FOX, "--prompt", "1女孩", "--steps", "2", "--out", str(folder / "a.png"),
        ],
    }  # fmt: skip


def measure(command: Sequence[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds of one run on the processor and on the clock. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return {
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "clock_seconds": time.perf_counter() - started,
    }


def environment_of(state: str, empty: Path) -> dict[str, str]:
    """The environment variables of a state; `empty` is a folder without bytecode."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    kept |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | ({"PYTHONPYCACHEPREFIX": str(empty)} if state == "not compiled" else {})


def put_out_of_memory(folders: Sequence[str | Path]) -> None:
    """Ask Linux to forget what it keeps of all files below `folders`; files that a process has open stay."""
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compiled_share(folders: Sequence[str | Path]) -> float:
    """Share of the environment's modules that have bytecode beside them."""
    sources = [path for folder in folders for path in Path(folder).rglob("*.py")]
    tag = sys.implementation.cache_tag
    return sum((path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").is_file() for path in sources) / len(sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--states", nargs="+", choices=STATES, default=list(STATES))
    options = parser.parse_args()
    packages = site.getsitepackages()
    share = compiled_share(packages)
    if share < 0.9:
        parser.error(f"only {share:.0%} of the environment is compiled: python -m compileall -q {packages[0]}")
    runs = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        for done in range(options.rounds):
            for state in options.states:
                for task, command in tasks(folder).items():
                    many = runs.setdefault(task, {}).setdefault(state, [])
                    if len(many) > done or (state == "cold" and task not in COLD):
                        continue
                    if state == "cold":
                        put_out_of_memory([*packages, REPOSITORY / "qwenlab", REPOSITORY / "lora_library"])
                    figures = measure(command, environment_of(state, folder / "empty"))
                    many.append(figures)
                    atomic_write_json(KEPT, runs)
                    print(f"{task}, {state}: {figures['clock_seconds']:.1f} s", flush=True)
    result = {
        task: {
            state: {kind: round(median(run[kind] for run in many), 2) for kind in many[0]}
            for state, many in states.items()
            if many
        }
        for task, states in runs.items()
    }
    load = os.getloadavg()[2]
    out = REPOSITORY / "benchmarks/house/import_times.json"
    config = vars(options) | {"load_of_the_last_15_minutes": round(load, 1)}
    atomic_write_json(out, stamp_result({"medians": result}, config=config))
    KEPT.unlink()
    print(f"{out.relative_to(REPOSITORY)}: written")


if __name__ == "__main__":
    main()
