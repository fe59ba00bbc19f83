"""What can go wrong with a session is one line, and loses nothing: bad input, full disks, kills, changed files."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qwenlab.editing import EditSession
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY
from qwenlab.lora.io import save_lora
from qwenlab.lora.layers import inject_lora, unwrap_lora
from qwenlab.lora.targets import target_modules
from qwenlab.model.micro_weights import MICRO_WEIGHTS
from tests.tiny import SIZE, tiny_pipeline

FAST = {"steps": 2, "guidance": 1.0}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def session(tmp_path, pipeline):
    """Two turns: a start and a redraw."""
    session = EditSession.create(tmp_path / "session", pipeline)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    session.start(Image.fromarray(pixels), "the color")
    session.redraw(half(), **FAST)
    return session


def half(side=SIZE):
    mask = np.zeros((SIZE, side), bool)
    mask[:9] = True
    return mask


def refused(call, *parts):
    with pytest.raises(QwenlabError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and all(part in text for part in parts), text


def files(session):
    return {path.name: path.read_bytes() for path in session.folder.iterdir()}


# What cannot be drawn

MISTAKES = {
    "mask of another size": (lambda s: s.redraw(half(40), **FAST), "40 x 32", "32 x 32"),
    "empty mask": (lambda s: s.redraw(np.zeros((SIZE, SIZE), bool), **FAST), "nothing in it is white"),
    "white mask": (lambda s: s.redraw(np.ones((SIZE, SIZE), bool), **FAST), "white everywhere"),
    "no mask file": (lambda s: s.redraw("none.png", **FAST), "none.png"),
    "strength": (lambda s: s.refine(strength=float("nan"), **FAST), "strength"),
    "steps": (lambda s: s.refine(steps=1), "steps 1"),
    "half a step": (lambda s: s.refine(steps=2.5), "steps 2.5", "whole number"),
    "seed": (lambda s: s.generate("the color", seed=-1), "seed -1"),
    "seed in words": (lambda s: s.generate("the color", seed="lucky"), "seed 'lucky'"),
    "guidance": (lambda s: s.refine(guidance=float("inf")), "guidance"),
    "size": (lambda s: s.generate("the color", size=(40, 32), **FAST), "40", "32 or 48"),
    "half a character": (lambda s: s.refine("\ud800", **FAST), "prompt", "half a character"),
    "nothing to extend by": (lambda s: s.extend(**FAST), "nothing to extend by"),
    "no edit LoRA": (lambda s: s.edit("the color"), "edit_lora", "references"),
    "unknown turn": (lambda s: s.goto(9), "turn 9", "1 to 2"),
    "no turn": (lambda s: s.reproduce("2"), "turn 2"),
    "undo at the root": (lambda s: (s.goto(1), s.undo()), "turn 1 is a beginning"),
    "picture": (lambda s: s.start("none.png"), "none.png"),
    "small picture": (lambda s: s.start(Image.new("RGB", (8, 40))), "8 x 40"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_and_change_nothing(session, mistake):
    call, *said = MISTAKES[mistake]
    before = session.history
    refused(lambda: call(session), *said)
    assert session.history.turns == before.turns
    assert EditSession.open(session.folder, session.pipeline).history == session.history


def test_before_the_first_turn_there_is_nothing_to_change(tmp_path, pipeline):
    session = EditSession.create(tmp_path / "s", pipeline)
    for call in (session.refine, session.undo, session.picture, lambda: session.goto(1)):
        refused(call, "nothing is drawn yet")
    assert EditSession.open(session.folder, pipeline).history.turns == ()


def test_words_that_micro_was_never_taught(session, tmp_path, monkeypatch):
    lora = tmp_path / "edit.safetensors"
    pipeline = tiny_pipeline()
    inject_lora(pipeline.transformer, target_modules("attention-4"), rank=1, alpha=1)
    save_lora(pipeline, lora, {"qwenlab.trigger": "戴眼镜"})
    unwrap_lora(pipeline.transformer)
    pipeline.register_to_config(_name_or_path=str(MICRO_WEIGHTS))
    micro = EditSession.create(tmp_path / "micro", pipeline, edit_lora=lora)
    micro.start(session.picture())
    refused(lambda: micro.edit("make it red", **FAST), "'make it red'", "红色短发 (red short hair)")
    micro.edit("红色短发, 戴眼镜", **FAST)
    assert micro.current.number == 2


def test_a_pipeline_with_a_lora_of_its_own_is_refused(tmp_path):
    pipeline = tiny_pipeline()
    inject_lora(pipeline.transformer, target_modules("attention-4"), rank=1, alpha=1)
    session = EditSession.create(tmp_path / "s", pipeline)
    refused(lambda: session.generate("the color", **FAST), "carries a LoRA", "loras=")


# The folder


def test_folders_that_are_no_session(tmp_path, session, pipeline):
    refused(lambda: EditSession.open(tmp_path / "none", pipeline), "none", "no such folder")
    refused(lambda: EditSession.open(tmp_path, pipeline), str(tmp_path), "holds no session")
    refused(lambda: EditSession.create(session.folder, pipeline), "holds a session already")
    (tmp_path / "file").write_text("")
    refused(lambda: EditSession.create(tmp_path / "file", pipeline), "cannot be written")
    refused(lambda: EditSession.create(tmp_path / "new", pipeline, loras=["none.safetensors"]), "none.safetensors")
    assert not (tmp_path / "new").exists()


def changed(value, change):
    change(value)
    return json.dumps(value)


BROKEN = {
    "half of it": (lambda text: text[: len(text) // 2], "not readable as JSON"),
    "other JSON": (lambda text: "[1]", "no editing session"),
    "other format": (lambda text: text.replace("qwenlab editing session", "x"), "no editing session"),
    "newer": (lambda text: text.replace('"version": 1', '"version": 2'), "version 2", "install a newer one"),
    "a turn without a seed": (lambda text: changed(json.loads(text), lambda v: v["turns"][1].pop("seed")), "turn 2"),
    "words for steps": (
        lambda text: changed(json.loads(text), lambda v: v["turns"][1].update(steps="many")), "turn 2", "is 'many'",
    ),
    "its own parent": (
        lambda text: changed(json.loads(text), lambda v: v["turns"][1].update(parent=2)), "turn 2", "its parent is 2",
    ),
    "another method": (
        lambda text: changed(json.loads(text), lambda v: v["turns"][1].update(method="paint")), "turn 2", "'paint'",
    ),
    "a way out of the folder": (lambda text: text.replace('"002-redraw.png"', '"../x.png"'), "turn 2", "'../x.png'"),
    "no such current": (lambda text: text.replace('"current": 2', '"current": 7'), "current", "turn 7"),
    "a key too many": (lambda text: changed(json.loads(text), lambda v: v.update(colour="red")), "the head", "colour"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_session_file_is_one_line(session, damage):
    change, *said = BROKEN[damage]
    path = session.folder / "session.json"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    refused(lambda: EditSession.open(session.folder, session.pipeline), "session.json", *said)


def test_a_session_of_another_model(session):
    refused(lambda: EditSession.open(session.folder, tiny_pipeline(seed=1)), "another model", "weights")
    larger = tiny_pipeline()
    larger.default_sample_size *= 2
    refused(lambda: EditSession.open(session.folder, larger), "another model", "side in pixels 32", "64")


@pytest.mark.parametrize("name", ["002-redraw.png", "002-mask.png"])
def test_files_that_are_gone_or_changed(session, name):
    path = session.folder / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    refused(lambda: session.reproduce(2), name, "was changed since")
    path.unlink()
    refused(lambda: session.reproduce(2), name, "cannot be read")
    if name == "002-redraw.png":
        refused(lambda: session.refine(**FAST), name, "goto")
    session.goto(1)
    session.refine(**FAST)
    path.write_bytes(data)
    assert session.reproduce(2) == session.reproduce(3) == 0


def test_another_process_is_not_overwritten(session, pipeline):
    other = EditSession.open(session.folder, pipeline)
    other.refine(seed=5, **FAST)
    before = files(session)
    for call in (lambda: session.refine(**FAST), lambda: session.goto(1), lambda: session.start(session.picture())):
        refused(call, "changed on disk", "open the session again")
    assert files(session) == before and EditSession.open(session.folder, pipeline).reproduce(3) == 0


# Writing


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_loses_no_picture(session, monkeypatch, at):
    """Of the three files of a redraw, the one that is written `at` first finds the disk full."""
    import qwenlab.editing.history as module

    real, count = module.atomic_write_bytes, []

    def full(path, data):
        count.append(path)
        if len(count) >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(module, "atomic_write_bytes", full)
    refused(lambda: session.redraw(half(), seed=4, **FAST), "No space left", "session.save()")
    assert len(session.history.turns) == 2
    assert EditSession.open(session.folder, session.pipeline).reproduce(2) == 0
    refused(lambda: session.refine(**FAST), "No space left")  # before it draws: the last picture waits
    monkeypatch.undo()
    session.save()
    assert session.current.number == 3 and session.reproduce(3) == 0
    assert EditSession.open(session.folder, session.pipeline).current.seed == 4


KILL = """
import os, sys
import numpy as np
from PIL import Image
from qwenlab.editing.history import SessionFolder, StoredFile, Turn

store = SessionFolder(sys.argv[1])
history = store.read()
turn = Turn(3, 2, "redraw", "p", StoredFile("none", ""), (1, 1), seed=0, steps=2, guidance=1.0)

def die_at(moment):
    passed = 0
    def tick():
        nonlocal passed
        passed += 1
        if passed == moment:
            os._exit(9)
    def deadly(function):
        def call(*args):
            tick()
            done = function(*args)
            tick()
            return done
        return call
    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)

for moment in range(1, 100):
    child = os.fork()
    if not child:
        die_at(moment)
        store.add(history, turn, Image.new("RGB", (32, 32), "red"), np.eye(32, dtype=bool))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = SessionFolder(sys.argv[1])
    turns = found.read().turns
    for each in turns:  # raises where a file is not what the tree says
        found.picture(each), found.mask(each)
    assert turns[:2] == history.turns
    print(code, len(turns))
    if code == 0:
        break
    found.write(history)
"""


def test_a_kill_at_any_moment_leaves_an_intact_tree(session):
    """Before and after each call that forces a file to disk or gives it its name: three files, three calls each."""
    done = subprocess.run([sys.executable, "-c", KILL, session.folder], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = done.stdout.splitlines()
    assert results == ["9 2"] * 15 + ["9 3"] * 3 + ["0 3"], "the tree has the turn from its own new name on"
