"""The page without a browser: what the buttons do, what is shown, and the figure where no widget runs."""

import base64
import io
import threading

import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbconvert import HTMLExporter
from PIL import Image

from qwenlab.editing import EditSession, SessionPage, history_figure
from qwenlab.editing.page import parts
from qwenlab.errors import QwenlabError
from tests.tiny import SIZE, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def session(tmp_path, pipeline):
    session = EditSession.create(tmp_path / "session", pipeline)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    session.start(Image.fromarray(pixels), "1女孩, 红色短发")
    return session


@pytest.fixture
def page(session):
    page = SessionPage(session)
    page.steps.value = 2
    return page


def draw(page, method=None):
    if method:
        page.method.value = method
    page.guidance.value = 1.0
    page.run.click()
    page.wait()


def stroke(page, rows=9):
    """As the browser sends it: a memoryview of bits."""
    white = np.zeros((SIZE, SIZE), bool)
    white[:rows] = True
    page.brush.set_state({"mask": memoryview(np.packbits(white).tobytes())})
    return white


def test_a_stroke_reaches_the_session(page, session):
    white = stroke(page)
    assert np.array_equal(page.brush.white(), white)
    page.seed.value = 7
    draw(page, "redraw")
    assert "Turn 2 is drawn" in page.status.value
    turn = session.current
    assert (turn.method, turn.seed, turn.steps, turn.guidance) == ("redraw", 7, 2, 1.0)
    assert np.array_equal(session.mask(2), white) and session.reproduce(2) == 0
    assert not page.brush.white().any(), "the next mask begins empty"


@pytest.mark.parametrize("method", ["generate", "extend", "refine"])
def test_every_method_draws_as_the_fields_say(page, session, method):
    page.method.value = method
    page.sides["right"].value, page.strength.value, page.prompt.value = 16, 0.75, "红色长发"
    draw(page)
    turn = session.current
    arguments = {"generate": {}, "refine": {"strength": 0.75}}
    assert turn.method == method and turn.prompt == ("1女孩, 红色短发" if method == "extend" else "红色长发")
    assert turn.arguments == arguments.get(method, {"left": 0, "right": 16, "top": 0, "bottom": 0})
    assert page.brush.size == list(turn.size) and opened(page.brush.picture).size == turn.size


def opened(data):
    return Image.open(io.BytesIO(data))


def test_mistakes_are_one_line_on_the_page(page, session):
    for method, said in (("redraw", "nothing in it is white"), ("edit", "no edit LoRA"), ("extend", "nothing to ext")):
        draw(page, method)
        assert said in page.status.value and "d32f2f" in page.status.value, page.status.value
        assert not page.run.disabled and not page.busy
    page.brush.mask = b"123"
    draw(page, "redraw")
    assert "another size" in page.status.value and len(session.history.turns) == 1
    (session.folder / "001-start.png").unlink()
    draw(page, "refine")
    assert "001-start.png" in page.status.value


def test_a_click_while_drawing_is_answered_and_draws_nothing(page, session, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    real = session.refine

    def slow(**settings):
        entered.set()
        go_on.wait(30)
        return real(**settings)

    monkeypatch.setattr(session, "refine", slow)
    page.method.value = "refine"
    page.run.click()
    assert entered.wait(30) and page.busy
    assert page.run.disabled and page.undo.disabled and not page.brush.enabled and not page.strip.enabled
    page.run.click()
    assert "Still drawing" in page.status.value
    page.strip._handle_custom_msg({"goto": 1}, [])
    assert "Still drawing" in page.status.value
    go_on.set()
    page.wait()
    assert len(session.history.turns) == 2 and not page.run.disabled and page.brush.enabled


def test_progress_is_shown_while_drawing(page, session):
    seen = []
    page.progress.observe(lambda change: seen.append((change["new"], page.progress.max)), "value")
    page.steps.value = 4
    draw(page, "generate")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert page.progress.layout.visibility == "hidden"


def test_undo_and_the_strip_go_back(page, session):
    draw(page, "refine")
    page.undo.click()
    assert session.current.number == 1 and page.undo.disabled
    draw(page, "refine")
    tiles = {tile["number"]: tile for tile in page.strip.tiles}
    assert [(tiles[n]["row"], tiles[n]["column"], tiles[n]["here"]) for n in (1, 2, 3)] == [
        (0, 0, False), (0, 1, False), (1, 1, True)
    ]  # fmt: skip
    assert tiles[3]["label"] == "3 refine of 1" and "red short hair" in tiles[3]["words"]
    page.strip._handle_custom_msg({"goto": 2}, [])
    assert session.current.number == 2 and "turn 2" in page.status.value
    assert np.array_equal(opened(page.brush.picture), session.picture(2))


def test_before_and_after_lie_on_one_another(page):
    assert page.compare.before == b"", "a beginning has no before"
    page.method.value = "extend"
    page.sides["left"].value, page.sides["top"].value = 32, 16
    draw(page)
    assert page.compare.box == [0.5, pytest.approx(1 / 3), 0.5, pytest.approx(2 / 3)]
    assert (page.compare.before_label, page.compare.after_label) == ("before: 1 start", "after: 2 extend of 1")
    before, after = (np.asarray(opened(data)) for data in (page.compare.before, page.compare.after))
    assert np.array_equal(after[16:, 32:], before)


def test_chinese_has_its_english_and_rows_fit_the_method(page):
    assert "1 girl, red short hair" in page.gloss.value
    page.method.value = "edit"
    page.instruction.value = "背景:花园"
    assert "background: garden" in page.gloss.value
    shown = {name for names, row in page._rows.items() if row.layout.display != "none" for name in names}
    assert shown == {"edit"}


def test_a_new_session_says_that_nothing_is_drawn(tmp_path, pipeline):
    page = SessionPage(EditSession.create(tmp_path / "s", pipeline))
    assert "nothing is drawn yet" in page.title.value and page.undo.disabled
    page.steps.value = 2
    draw(page, "refine")
    assert "begin with generate" in page.status.value
    page.prompt.value = "1女孩"
    draw(page, "generate")
    assert page.session.current.number == 1


# Where no widget runs


def test_the_figure_holds_every_turn_in_words_and_pictures(session):
    session.refine(strength=0.5, steps=2, guidance=1.0)
    session.goto(1)
    session.extend(right=16, steps=2, guidance=1.0)
    (session.folder / "002-refine.png").unlink()
    figure = history_figure(session)
    assert len(figure.captions) == 3 and "3 turns" in figure.alt and "turn 3" in figure.alt
    assert "extend of 1: 1女孩, 红色短发 = 1 girl, red short hair (right 16" in figure.captions[2]
    frame = (np.asarray(figure.sheet) == (25, 118, 210)).all(-1)
    rows, columns = np.nonzero(frame)
    assert rows.min() > figure.sheet.height / 2 and columns.min() > figure.sheet.width / 2, "row 2, column 2"


def test_a_figure_of_nothing_is_one_line(tmp_path, pipeline):
    with pytest.raises(QwenlabError, match="nothing is drawn yet"):
        history_figure(EditSession.create(tmp_path / "s", pipeline))


def test_a_page_without_a_front_end_shows_the_figure(page):
    InteractiveShell.instance()
    with capture_output() as captured:
        page._ipython_display_()
    outputs = []
    for output in captured.outputs:
        data = {
            kind: base64.b64encode(data).decode() if isinstance(data, bytes) else data
            for kind, data in output.data.items()
        }
        outputs.append(nbformat.v4.new_output("display_data", data=data, metadata=output.metadata))
    assert any("application/vnd.jupyter.widget-view+json" in output.data for output in outputs)
    cell = nbformat.v4.new_code_cell("page", outputs=outputs)
    body, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert "The history of 1 turns" in body and "1 girl, red short hair" in body and "data:image/" in body
    InteractiveShell.clear_instance()


def test_the_figure_makes_room_when_the_widgets_are_there(page):
    updates = []

    class Handle:
        def update(self, data, raw):
            updates.append(data)

    page._stand_in._handles = [Handle(), Handle()]
    page.brush._handle_custom_msg({"shown": True}, [])
    page.brush._handle_custom_msg({"shown": True}, [])
    assert len(updates) == 2 and all(set(data.values()) == {""} for data in updates)


def test_scripts_fetch_nothing_and_are_shipped():
    for kind in (parts.Brush, parts.Compare, parts.Strip):
        script = str(kind._esm)
        assert "export default" in script and not any(word in script for word in ("http:", "https:", "import "))
