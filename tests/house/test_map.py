"""docs/map.md says where things lie, what can be copied alone, and which way a caption goes: all of it is tried."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import grimp
import pytest
import yaml
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.files import REPOSITORY
from tests.house.map_uses import PRELUDE, USES
from tests.house.notebook_rules import source

PACKAGE = REPOSITORY / "qwenlab"
MAP = (REPOSITORY / "docs" / "map.md").read_text(encoding="utf-8")
GROUND = ("errors", "files", "sniffing", "config", "show")
LISTED = 5  # files, at most, that a row asks to be copied besides


def section(title):
    return MAP.split(f"\n## {title}\n")[1].split("\n## ")[0]


def cells(text, columns):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert all(len(row) == columns for row in rows), [row for row in rows if len(row) != columns]
    return [row for row in rows if row[0] not in ("Floor", "Task") and set(row[0]) != {"-"}]


def code(text):
    return tuple(re.findall(r"`([^`]+)`", text))


@dataclass(frozen=True)
class Row:
    """A row of the tables: `needs` names files, or rooms where there are too many files."""

    functions: tuple[str, ...]
    file: str
    needs: tuple[str, ...]
    by_rooms: bool
    lesson: str

    @classmethod
    def of(cls, row):
        _, functions, file, needs, lesson = row
        by_rooms = needs.startswith("rooms: ")
        names = tuple(needs.removeprefix("rooms: ").split(", ")) if by_rooms else code(needs)
        assert code(functions) and (names or needs == "nothing"), row
        return cls(code(functions), *code(file), names, by_rooms, lesson)


ROWS = [Row.of(row) for row in cells(section("What to copy"), 5)]
COPIED = {row.file: row.needs for row in ROWS if not row.by_rooms}


# The rooms


def floors():
    """The names of the contract's floors, the lowest first."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [floor.split(" | ") for floor in reversed(layers)]


FLOOR = {name: number for number, names in enumerate(floors()) for name in names}


def floor_of(file):
    return FLOOR[file.split("/")[0].removesuffix(".py")]


def test_rooms_stand_in_the_order_of_the_contract():
    named = [code(row[0]) for row in cells(section("The rooms"), 3)]
    assert [[name.removesuffix("/").removesuffix(".py") for name in names] for names in named] == floors()
    assert all((PACKAGE / name).exists() for names in named for name in names)


def test_lessons_exist_and_name_what_they_teach():
    texts = {}
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        texts[path.name[:2]] = "\n".join(map(source, json.loads(path.read_text(encoding="utf-8"))["cells"]))
    for _, _, lessons in cells(section("The rooms"), 3):
        assert not lessons or set(lessons.split(", ")) <= texts.keys(), lessons
    for row in ROWS:
        for lesson in filter(None, row.lesson.split(", ")):
            named = [name for name in row.functions if re.search(rf"\b{name}\b", texts[lesson.strip("()")])]
            assert bool(named) != lesson.startswith("("), f"{row.file}: lesson {lesson} names {named}"


# The tables


def defined(file, name):
    """Whether a file of the package defines a function, a class or a method (Class.method)."""
    body = ast.parse((PACKAGE / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
        if not found:
            return False
        body = found[0].body
    return True


def test_every_function_is_in_its_file():
    for row in ROWS:
        for name in row.functions:
            assert defined(row.file, name), f"{row.file} has no {name}"
    assert not defined("errors.py", "nothing") and not defined("data/caches.py", "Caches.nothing")


def test_needs_are_what_the_imports_say():
    graph = grimp.build_graph("qwenlab", exclude_type_checking_imports=True, cache_dir=None)
    wrong = {}
    for row in ROWS:
        module = "qwenlab." + row.file.removesuffix(".py").replace("/", ".")
        names = {name.removeprefix("qwenlab.") for name in graph.find_upstream_modules(module)}
        files = {name.replace(".", "/") + ".py" for name in names}
        flat = [Path(file).name for file in (row.file, *files)]
        by_rooms = len(files) > LISTED or len(set(flat)) < len(flat) or not all((PACKAGE / f).is_file() for f in files)
        if by_rooms:
            rooms = {"weights" if name == "lab.weights" else name.split(".")[0] for name in names}
            files = {"ground" if room in GROUND else room for room in rooms}
        if row.by_rooms != by_rooms or set(row.needs) != files:
            wrong[row.file] = f"{'rooms: ' if by_rooms else ''}{', '.join(sorted(files)) or 'nothing'}"
    assert not wrong, "\n".join(f"{file} needs {what}" for file, what in wrong.items())


def test_everything_that_can_be_copied_has_a_use():
    assert USES.keys() == COPIED.keys(), f"one without the other: {sorted(USES.keys() ^ COPIED.keys())}"
    for row in ROWS:
        if not row.by_rooms:
            used = {node.id for node in ast.walk(ast.parse(USES[row.file])) if isinstance(node, ast.Name)}
            assert set(row.functions) <= used, f"{row.file}: nobody uses {set(row.functions) - used}"


# Copies in an empty folder

DRIVER = """
import json, os, sys, traceback
sys.modules["qwenlab"] = None  # as where it is not installed
jobs, result = json.load(sys.stdin), sys.argv[1]
failed, common = {}, {}
for code in jobs.pop("common"):
    exec(code, common)
for file, (folder, code) in jobs.items():
    os.chdir(folder)
    sys.path.insert(0, folder)
    try:
        exec(compile(code, file, "exec"), dict(common))
    except BaseException:
        failed[file] = traceback.format_exc()
    sys.path.remove(folder)
    own = [name for name, module in sys.modules.items() if (getattr(module, "__file__", 0) or "").startswith(folder)]
    for name in own:
        del sys.modules[name]
    if not own:
        failed.setdefault(file, "the copy was not imported")
with open(result, "w") as out:
    json.dump(failed, out)
"""


def failures(folder, copies, common=()):
    """Make each copy {file: what it needs} in an empty folder of its own, use it in a fresh Python: {file: error}."""
    folder = folder.resolve()
    jobs = {"common": list(common)}
    for number, (file, needs) in enumerate(copies.items()):
        place = folder / str(number) / "copy"
        place.mkdir(parents=True)
        if needs:
            for name in (file, *needs):
                text = (PACKAGE / name).read_text(encoding="utf-8")
                text = re.sub(r"from qwenlab(?:\.\w+)*\.(\w+) import", r"from \1 import", text)
                (place / Path(name).name).write_text(text, encoding="utf-8")
        else:
            shutil.copy(PACKAGE / file, place)
        jobs[file] = (str(place), USES[file])
    command = [sys.executable, "-I", "-X", "utf8", "-c", DRIVER, str(folder / "failed.json")]
    ran = subprocess.run(command, cwd=folder, input=json.dumps(jobs), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "failed.json").read_text())


def test_copies_work_where_the_package_is_not(tmp_path):
    tiny = (REPOSITORY / "tests" / "tiny.py").read_text(encoding="utf-8")
    failed = failures(tmp_path, COPIED, (tiny, PRELUDE))
    assert not failed, "\n".join(f"{file}: {error}" for file, error in failed.items())


def test_a_copy_without_what_it_needs_fails(tmp_path):
    failed = failures(tmp_path, {"lora/targets.py": (), "errors.py": ()})
    assert failed.keys() == {"lora/targets.py"} and "No module named 'qwenlab" in failed["lora/targets.py"]


# The way of one caption

LINE = re.search(r'^    (\{"file_name".*\})$', MAP, re.MULTILINE).group(1)


def journeys():
    """For each numbered list the steps, each a list of (function, file): the caller first, then what it calls."""
    steps = re.findall(r"^(\d+)\. (.+(?:\n {3,}.+)*)", section("The way of one caption"), re.MULTILINE)
    lists = []
    for number, text in steps:
        if number == "1":
            lists.append([])
        assert int(number) == len(lists[-1]) + 1, text
        assert len(re.findall(r"\.(?=\s|$)", text)) == 1, f"not one sentence: {text}"
        lists[-1].append(re.findall(r"`([\w.]+)`\s+\(`([\w/.]+)`\)", text))
    return lists


def called(steps):
    return {(step[0], callee) for step in steps for callee in step[1:]}


def climbing(pairs):
    """The pairs in which the function that is called lies on a higher floor than the one that calls it."""
    return {(caller, callee) for caller, callee in pairs if floor_of(callee[1]) > floor_of(caller[1])}


def test_the_way_of_a_caption_is_whole_and_never_climbs():
    captions = (REPOSITORY / "data_sample" / "captions.jsonl").read_text(encoding="utf-8")
    assert captions.splitlines()[0] == LINE
    first, second = journeys()
    for steps in (first, second):
        known = {steps[0][0]}
        for caller, *callees in steps:
            assert caller in known, f"how does the way come to {caller}?"
            assert callees, f"{caller} calls nothing"
            known.update(callees)
        assert all(defined(file, name) for name, file in known)
        assert not climbing(called(steps))
    assert {("save_lora", "lora/io.py"), ("atomic_write_bytes", "files.py")} <= {
        part for step in first for part in step
    }
    upwards = (("read_dataset", "data/dataset.py"), ("train_lora", "training/loop.py"))
    assert climbing({upwards}) == {upwards} and not climbing({upwards[::-1]})


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Train and draw with that one caption through the command; every call inside the package, with full names."""
    folder = tmp_path_factory.mktemp("way")
    record, root, calls = json.loads(LINE), f"{PACKAGE}/", set()
    (folder / "data" / "images").mkdir(parents=True)
    shutil.copy(REPOSITORY / "data_sample" / "images" / record["file_name"], folder / "data" / "images")
    (folder / "data" / "captions.jsonl").write_text(LINE + "\n", encoding="utf-8")
    settings = {
        "dataset": str(folder / "data"), "output_dir": str(folder / "run"), "resize_mode": "buckets",
        "caption_orders": 2, "max_train_steps": 1, "batch_size_per_gpu": 2,
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))

    def of_the_package(frame):  # and not of an import, which is the contract's matter
        return frame.f_code.co_filename.startswith(root) and frame.f_code.co_name != "<module>"

    def name(frame):
        return frame.f_code.co_qualname, frame.f_code.co_filename.removeprefix(root)

    def watch(frame, event, _):
        if event == "call" and of_the_package(frame):
            caller = frame.f_back  # what libraries do in between is theirs
            while caller is not None and not of_the_package(caller):
                caller = caller.f_back
            if caller is not None:
                calls.add((name(caller), name(frame)))

    lora, picture = folder / "run" / "lora.safetensors", folder / "a.png"
    draw = ["--prompt", record["text"], "--lora", str(lora), "--out", str(picture), "--steps", "2"]
    for command in (["train", str(folder / "run.yaml")], ["generate", *draw]):
        sys.setprofile(watch)
        try:
            result = CliRunner().invoke(app, command)
        finally:
            sys.setprofile(None)
        assert result.exit_code == 0, result.output
    assert lora.is_file() and picture.is_file()
    return calls


def test_the_way_is_the_one_that_a_caption_goes(watched):
    without_locals = {tuple((name.split(".<locals>")[0], file) for name, file in pair) for pair in watched}
    first, second = map(called, journeys())
    never = (first | second) - without_locals
    assert len(first) > 30 and not never, f"never called: {never}"
    # What is called from below is a function inside a function: it was handed down. Nothing else is.
    handed = climbing(watched)
    assert handed and all(".<locals>." in callee for _, (callee, _) in handed), handed
