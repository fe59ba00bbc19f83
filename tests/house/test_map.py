"""docs/map.md says where things lie and what can be copied alone: all of it is tried."""

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

from qwenlab.files import REPOSITORY
from tests.house.map_uses import PRELUDE, USES
from tests.house.notebook_rules import source

PACKAGE = REPOSITORY / "qwenlab"
MAP = (REPOSITORY / "docs" / "map.md").read_text(encoding="utf-8")
GROUND = ("errors", "files", "sniffing", "config", "show")
LISTED = 6  # files and folders, at most, that a row asks to be copied besides


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
    """A row of the tables: `needs` names files and folders, or rooms where there are too many."""

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


def whole(file, needs):
    """The files to copy: of a folder that is needed, all of its code but __init__.py."""
    folders = [path for need in needs if need.endswith("/") for path in sorted((PACKAGE / need).glob("*.py"))]
    inside = [path.relative_to(PACKAGE).as_posix() for path in folders if path.name != "__init__.py"]
    return [file, *(need for need in needs if need.endswith(".py")), *(name for name in inside if name != file)]


def needed(file, names):
    """What a row has to say of the modules that its file imports, directly or not: (needs, whether by rooms)."""
    files = {name.replace(".", "/") + ".py" for name in names}
    folder = Path(file).parent
    if len(files) > LISTED:
        files = {f"{folder}/" if Path(name).parent == folder else name for name in files}
    flat = [Path(name).stem for name in whole(file, files)]
    clear = len(set(flat)) == len(flat) and not set(flat) & sys.stdlib_module_names
    if len(files) <= LISTED and clear and all((PACKAGE / name).exists() for name in files):
        return files, False
    rooms = {"weights" if name == "lab.weights" else name.split(".")[0] for name in names}
    return {"ground" if room in GROUND else room for room in rooms}, True


def test_needs_are_what_the_imports_say():
    graph, wrong = grimp.build_graph("qwenlab", exclude_type_checking_imports=True, cache_dir=None), []
    for row in ROWS:
        module = "qwenlab." + row.file.removesuffix(".py").replace("/", ".")
        needs, by_rooms = needed(row.file, {n.removeprefix("qwenlab.") for n in graph.find_upstream_modules(module)})
        if (set(row.needs), row.by_rooms) != (needs, by_rooms):
            wrong.append(f"{row.file} needs {'rooms: ' * by_rooms}{', '.join(sorted(needs)) or 'nothing'}")
    assert not wrong, "\n".join(wrong)


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
            for name in whole(file, needs):
                text = (PACKAGE / name).read_text(encoding="utf-8")
                text = re.sub(r"from (?:qwenlab(?:\.\w+)*)?\.(\w+) import", r"from \1 import", text)
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
