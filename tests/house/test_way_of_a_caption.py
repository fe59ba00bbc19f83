"""The way of one caption in docs/map.md: a caption is sent through the package, and every call is watched."""

import json
import re
import shutil
import sys

import pytest
import yaml
from typer.testing import CliRunner

from qwenlab.cli import app
from qwenlab.files import REPOSITORY
from tests.house.test_map import MAP, PACKAGE, defined, floor_of, section

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
