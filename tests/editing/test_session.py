"""The editing session: turns, branches, folders that are opened again, and every picture drawn again to its pixels."""

import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from qwenlab.editing import EditSession
from qwenlab.errors import QwenlabError
from qwenlab.lora.io import carries_lora, save_lora
from qwenlab.lora.layers import inject_lora, lora_layers
from qwenlab.lora.targets import target_modules
from qwenlab.model.generation import generate
from tests.tiny import SIZE, tiny_pipeline
from tests.tiny_edit import tiny_edit_pipeline

PROMPT = "the color of the background"
FAST = {"steps": 2, "guidance": 1.0}


def corner(size=(SIZE, SIZE), side=9):
    mask = np.zeros(size[::-1], bool)
    mask[:side, :side] = True
    return mask


@pytest.fixture(scope="module")
def pipeline():
    """One for all: a session leaves it as it came."""
    return tiny_pipeline()


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA of the tiny model that changes pictures visibly."""
    pipeline = tiny_pipeline()
    inject_lora(pipeline.transformer, target_modules("attention-8"), rank=2, alpha=2)
    with torch.no_grad():
        for number, layer in enumerate(lora_layers(pipeline.transformer).values()):
            layer.lora_B.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(number))
    return save_lora(pipeline, tmp_path_factory.mktemp("lora") / "edit.safetensors")


@pytest.fixture
def session(tmp_path, pipeline, lora):
    return EditSession.create(tmp_path / "session", pipeline, edit_lora=lora)


def start(session, size=(SIZE, SIZE)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return session.start(Image.fromarray(pixels), PROMPT)


TURNS = {
    "generate": lambda session, **how: session.generate(PROMPT, size=(48, 32), **how),
    "edit": lambda session, **how: session.edit("the color", **how),
    "redraw": lambda session, **how: session.redraw(corner(), strength=0.8, exact=True, **how),
    "extend": lambda session, **how: session.extend("the background", right=20, top=3, **how),
    "refine": lambda session, **how: session.refine(strength=0.6, **how),
}


@pytest.mark.parametrize("method", TURNS)
def test_every_method_is_saved_and_drawn_again_to_the_same_pixels(session, pipeline, method):
    start(session)
    drawn = TURNS[method](session, seed=3, steps=3, guidance=2.0)
    reopened = EditSession.open(session.folder, pipeline)
    turn = reopened.current
    assert (turn.number, turn.method, turn.seed, turn.steps, turn.guidance) == (2, method, 3, 3, 2.0)
    assert turn.parent == (None if method == "generate" else 1)
    assert turn.size == drawn.size and np.array_equal(reopened.picture(), drawn)
    assert reopened.reproduce(2) == 0 and reopened.reproduce(1) == 0
    assert not carries_lora(pipeline), "LoRAs act on their turn alone"
    assert bool(turn.loras) == (method == "edit")


@pytest.mark.parametrize("method", TURNS)
def test_drawing_again_sees_what_differs(session, method):
    """The recorded seed is changed by hand: the picture is then another one."""
    start(session)
    TURNS[method](session, seed=3, **FAST)
    path = session.folder / "session.json"
    value = json.loads(path.read_text())
    value["turns"][1]["seed"] = 4
    path.write_text(json.dumps(value))
    assert EditSession.open(session.folder, session.pipeline).reproduce(2) > 0


def test_an_edit_model_starts_from_a_picture_and_is_reproduced(tmp_path, monkeypatch):
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock

    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", 56 * 56)
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", SIZE * SIZE)
    session = EditSession.create(tmp_path / "s", tiny_edit_pipeline())
    start(session)
    session.edit("the color", **FAST)
    assert session.reproduce(2) == 0 and session.current.loras == ()
    with pytest.raises(QwenlabError, match="refine: an Edit model draws by instruction alone"):
        session.refine(**FAST)


def test_loras_of_the_session_act_on_every_turn(tmp_path, pipeline, lora):
    session = EditSession.create(tmp_path / "s", pipeline, loras=[f"{lora}:0.5"])
    (plain,) = generate(pipeline, PROMPT, 1, **FAST)
    with_lora = session.generate(PROMPT, seed=1, **FAST)
    assert not np.array_equal(plain, with_lora) and session.current.loras[0].weight == 0.5
    assert np.array_equal(plain, generate(pipeline, PROMPT, 1, **FAST)[0])
    moved = lora.rename(lora.with_name("moved.safetensors"))
    try:
        with pytest.raises(QwenlabError, match="edit.safetensors: this LoRA of the session is gone"):
            EditSession.open(session.folder, pipeline).reproduce(1)
        reopened = EditSession.open(session.folder, pipeline, loras=[f"{moved}:0.9"])
        assert reopened.reproduce(1) == 0, "its own weight, the file's new place"
        moved.write_bytes(moved.read_bytes()[:-4] + bytes(4))
        with pytest.raises(QwenlabError, match="moved.safetensors: this LoRA was changed"):
            reopened.reproduce(1)
    finally:
        moved.rename(lora)


# The tree


def test_undo_goto_and_branches(session):
    start(session)
    first = session.refine(strength=0.5, **FAST)
    assert session.undo().number == 1
    second = session.refine(strength=0.9, **FAST)
    session.redraw(corner(), "the sky", seed=7, **FAST)
    session.goto(2)
    session.extend(left=16, **FAST)
    history = session.history
    assert [turn.parent for turn in history.turns] == [None, 1, 1, 3, 2]
    assert [turn.number for turn in history.children(1)] == [2, 3] and session.current.number == 5
    assert history.places() == {1: (0, 0), 2: (0, 1), 5: (0, 2), 3: (1, 1), 4: (1, 2)}
    assert np.array_equal(session.picture(2), first) and np.array_equal(session.picture(3), second)
    assert session.history.turn(4).prompt == "the sky" and session.history.turn(5).prompt == PROMPT
    assert np.array_equal(session.mask(4), corner()) and session.mask(5) is None


def test_the_listing_says_what_was_asked_and_where_one_stands(session):
    session.generate("1女孩, 红色短发", seed=5, **FAST)
    session.redraw(corner(), **FAST)
    session.undo()
    lines = str(session).splitlines()
    assert "2 turns" in lines[0] and len(lines) == 3
    assert lines[1].startswith("1 generate: 1女孩, 红色短发 = 1 girl, red short hair (seed 5, steps 2, guidance 1")
    assert lines[1].endswith("<- here") and lines[2].startswith("└─ 2 redraw") and "strength 1," in lines[2]


def test_a_prompt_is_kept_until_another_is_given(session):
    start(session)
    session.edit("the color", "the color of the sky", **FAST)
    session.refine(**FAST)
    assert (session.history.turn(2).words, session.current.prompt) == ("the color", "the color of the sky")


# One drawing at a time


def test_two_threads_draw_what_they_draw_one_after_the_other(tmp_path, pipeline):
    """Also from two sessions of one pipeline, whose scheduler they share."""
    wanted = {seed: generate(pipeline, PROMPT, seed, steps=6, guidance=1.0)[0] for seed in (1, 2, 3, 4)}
    sessions = [EditSession.create(tmp_path / name, pipeline) for name in "ab"]
    drawn, errors = {}, []

    def draw(seed):
        try:
            drawn[seed] = sessions[seed % 2].generate(PROMPT, seed=seed, steps=6, guidance=1.0)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(np.array_equal(drawn[seed], wanted[seed]) for seed in wanted)
    assert [len(EditSession.open(s.folder, pipeline).history.turns) for s in sessions] == [2, 2]


def test_a_second_call_waits_and_goes_on_from_the_first(session):
    start(session)
    entered, second = threading.Event(), []

    def while_drawing(done, total):
        if not entered.is_set():
            entered.set()
            second.append(threading.Thread(target=lambda: session.refine(seed=2, **FAST)))
            second[0].start()
            second[0].join(0.2)
            assert second[0].is_alive(), "it waits"

    session.on_step = while_drawing
    session.refine(seed=1, **FAST)
    second[0].join()
    assert [(turn.parent, turn.seed) for turn in session.history.turns[1:]] == [(1, 1), (2, 2)]
    assert session.reproduce(2) == session.reproduce(3) == 0


@pytest.mark.parametrize("method", TURNS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_progress_counts_to_its_end(session, method, guidance):
    start(session)
    seen = []
    session.on_step = lambda done, total: seen.append((done, total))
    TURNS[method](session, steps=3, guidance=guidance)
    total = seen[0][1]
    assert seen == [(done, total) for done in range(total + 1)] and total > 1
