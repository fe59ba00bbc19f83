"""The editing session as a page of widgets. What it does is in `session`; here are the buttons."""

from __future__ import annotations

import base64
import html
import threading
from typing import Any

import ipywidgets as widgets

from qwenlab.captions.vocabulary import english
from qwenlab.editing.history import Turn
from qwenlab.editing.instructing import usual_guidance
from qwenlab.editing.page.figure import describe, history_figure, label, thumbnail
from qwenlab.editing.page.parts import Brush, Compare, Strip
from qwenlab.editing.session import EditSession
from qwenlab.editing.turns import EXTEND_GUIDANCE, GUIDANCE, STEPS, STRENGTH
from qwenlab.errors import QwenlabError
from qwenlab.model.limits import MAX_SIDE, MAX_STEPS, SIDE_STEP
from qwenlab.show import StandIn, encode_image

SMALL = 96  # pixels of a picture in the strip
METHODS = {
    "generate": ("New picture", "Draw a picture from the prompt alone: a tree of its own."),
    "edit": ("Edit by words", "Change the picture as the instruction says, with the edit LoRA."),
    "redraw": ("Redraw mask", "Draw the painted tokens again; outside them no pixel changes."),
    "extend": ("Extend", "Draw beyond the edges; the old picture lies unchanged in the new one."),
    "refine": ("Refine", "Draw the whole picture again from a little noise."),
}
_WIDE = {"width": "auto"}


class SessionPage:
    """The page of a session: the last line of a cell, or `display(page.widget)`.

    Without a front end that runs widgets, a notebook shows `history_figure` in its place. A picture is drawn in a
    thread of its own, so that the page can say how far it is; until it is there, the buttons are switched off. Errors
    are one line, in `status`.

    Attributes, all widgets: method, prompt, instruction, strength, exact, sides (a dictionary), seed, steps, guidance,
    run, undo, progress, status; brush, compare and strip are those of `parts`.
    """

    def __init__(self, session: EditSession) -> None:
        self.session = session
        self._thread: threading.Thread | None = None
        self._stand_in = StandIn()
        self.brush, self.compare, self.strip = Brush(), Compare(), Strip()
        self.title, self.hint, self.gloss, self.status = (widgets.HTML() for _ in range(4))
        self.method = widgets.ToggleButtons(
            options=[(words, name) for name, (words, _) in METHODS.items()], style={"button_width": "auto"}
        )
        self.prompt = widgets.Textarea(placeholder="1女孩, 红色短发, 挥手, 背景:花园", layout=_WIDE | {"height": "5em"})
        self.instruction = widgets.Text(placeholder="红色短发", layout=_WIDE)
        self.strength = widgets.FloatSlider(value=1.0, min=0.05, max=1.0, step=0.05, layout=_WIDE)
        self.exact = widgets.Checkbox(description="Change no pixel outside the paint itself", indent=False)
        self.sides = {
            name: widgets.BoundedIntText(0, min=0, max=MAX_SIDE, step=SIDE_STEP, layout={"width": "5.5em"})
            for name in ("left", "right", "top", "bottom")
        }
        self.seed = widgets.BoundedIntText(0, min=0, max=2**31, layout={"width": "7em"})
        self.steps = widgets.BoundedIntText(STEPS, min=2, max=MAX_STEPS, layout={"width": "5em"})
        self.guidance = widgets.BoundedFloatText(GUIDANCE, min=0, max=100, step=0.5, layout={"width": "5em"})
        self.run = widgets.Button(description="Draw", button_style="primary", icon="paint-brush")
        self.undo = widgets.Button(
            description="Undo", icon="undo", tooltip="Back to the picture before; nothing is lost"
        )
        self.progress = widgets.IntProgress(layout={"width": "100%", "visibility": "hidden"})
        self.widget = self._layout()
        self.method.observe(lambda _: self._show_method(), "value")
        for field in (self.prompt, self.instruction):
            field.observe(lambda _: self._show_gloss(), "value")
        self.run.on_click(lambda _: self.draw())
        self.undo.on_click(lambda _: self._act(self.session.undo))
        self.strip.on_msg(self._on_strip)
        self.brush.on_msg(lambda *_: self._stand_in.remove())
        self._show_method()
        self._show_turn()

    # What the buttons do

    def draw(self) -> None:
        """Draw a turn as the fields say. While one is drawn, nothing but a word in `status`."""
        if self.busy:
            self._say("Still drawing: wait for the picture.")
            return
        self._enable(False)
        self._thread = threading.Thread(target=self._draw, args=(self.method.value, self._settings()), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the picture that is being drawn is there."""
        if self._thread:
            self._thread.join()

    @property
    def busy(self) -> bool:
        """Whether a picture is being drawn."""
        return self._thread is not None and self._thread.is_alive()

    def _settings(self) -> dict[str, Any]:
        settings = {"seed": self.seed.value, "steps": self.steps.value, "guidance": self.guidance.value}
        method = self.method.value
        if method == "edit":
            return settings | {"instruction": self.instruction.value}
        if method == "extend":
            return settings | {name: field.value for name, field in self.sides.items()}
        settings["prompt"] = self.prompt.value
        if method in ("redraw", "refine"):
            settings["strength"] = self.strength.value
        if method == "redraw":
            settings["exact"] = self.exact.value
        return settings

    def _draw(self, method: str, settings: dict[str, Any]) -> None:
        self.session.on_step = self._on_step
        self._say("Drawing ...")
        try:
            if method == "redraw":
                settings["mask"] = self.brush.white()
            getattr(self.session, method)(**settings)
            turn = self.session.current
            self._show_turn()
            self._say(f"Turn {turn.number} is drawn and saved.")
        except QwenlabError as error:
            self._say(str(error), wrong=True)
        except Exception as error:  # a graphics card without memory, for example: the page must not wait for ever
            self._say(f"{type(error).__name__}: {error}", wrong=True)
        finally:
            self.session.on_step = None
            self.progress.layout.visibility = "hidden"
            self._enable(True)

    def _act(self, action: Any) -> None:
        if self.busy:
            self._say("Still drawing: wait for the picture.")
            return
        try:
            turn = action()
        except QwenlabError as error:
            self._say(str(error), wrong=True)
            return
        self._show_turn()
        self._say(f"Back at turn {turn.number}. The next picture is drawn from it.")

    def _on_strip(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        if "goto" in content:
            self._act(lambda: self.session.goto(content["goto"]))

    def _on_step(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done
        self.progress.layout.visibility = "visible"
        self._say(f"Drawing: {done} of {total} calls of the network.")

    # What is shown

    def _say(self, text: str, wrong: bool = False) -> None:
        colour = "#d32f2f" if wrong else "inherit"
        self.status.value = f'<div role="status" style="color: {colour}; line-height: 1.4">{html.escape(text)}</div>'

    def _enable(self, enabled: bool) -> None:
        for part in (self.run, self.method):
            part.disabled = not enabled
        self.undo.disabled = not (enabled and self.session.history.turns and self.session.current.parent)
        self.brush.enabled = self.strip.enabled = enabled

    def _show_method(self) -> None:
        method = self.method.value
        self.hint.value = f'<div style="line-height: 1.4">{html.escape(METHODS[method][1])}</div>'
        special = {"edit": usual_guidance(self.session.pipeline), "extend": EXTEND_GUIDANCE}
        self.guidance.value = special.get(method, GUIDANCE)
        self.strength.value = STRENGTH if method == "refine" else 1.0
        for name, row in self._rows.items():
            row.layout.display = "flex" if method in name else "none"
        self._show_gloss()

    def _show_gloss(self) -> None:
        text = {"edit": self.instruction.value, "extend": ""}.get(self.method.value, self.prompt.value)
        gloss = english(text)
        self.gloss.value = (
            f'<div style="line-height: 1.4; font-style: italic">In English: {html.escape(gloss)}</div>'
            if gloss != text.strip()
            else ""
        )

    def _show_turn(self) -> None:
        history = self.session.history
        where = f"turn {history.current} of {len(history.turns)}" if history.turns else "nothing is drawn yet"
        self.title.value = f"<b>Editing session</b> · {html.escape(self.session.folder.name)} · {where}"
        self._enable(not self.busy)
        if not history.turns:
            return
        turn = self.session.current
        try:
            picture = self.session.picture()
        except QwenlabError as error:
            self._say(str(error), wrong=True)
            return
        with self.brush.hold_sync():
            self.brush.picture, self.brush.size = encode_image(picture, ".png"), list(picture.size)
            self.brush.mask = b""
        self.prompt.value = turn.prompt
        self._show_change(turn)
        self.strip.tiles = [
            self._tile(history.turn(number), place) for number, place in history.places().items()
        ]  # fmt: skip

    def _show_change(self, turn: Turn) -> None:
        if turn.parent is None:
            self.compare.before = b""
            return
        parent = self.session.history.turn(turn.parent)
        with self.compare.hold_sync():
            self.compare.before = encode_image(self.session.picture(turn.parent), ".png")
            self.compare.after, self.compare.size = self.brush.picture, list(turn.size)
            self.compare.before_label, self.compare.after_label = f"before: {label(parent)}", f"after: {label(turn)}"
            left, top = (turn.arguments.get(side, 0) for side in ("left", "top"))
            (width, height), (wide, high) = parent.size, turn.size
            self.compare.box = [left / wide, top / high, width / wide, height / high]

    def _tile(self, turn: Turn, place: tuple[int, int]) -> dict[str, Any]:
        small = encode_image(thumbnail(self.session, turn, SMALL), ".jpg")
        return {
            "number": turn.number, "row": place[0], "column": place[1], "label": label(turn), "words": describe(turn),
            "picture": f"data:image/jpeg;base64,{base64.b64encode(small).decode()}",
            "here": turn.number == self.session.history.current,
        }  # fmt: skip

    def _layout(self) -> widgets.VBox:
        def row(words: str, *fields: Any) -> widgets.VBox:
            return widgets.VBox(
                [widgets.HTML(f'<div style="line-height: 1.4; font-weight: bold">{words}</div>'), *fields]
            )

        def side_by_side(fields: dict[str, Any]) -> widgets.HBox:
            cells = [widgets.VBox([widgets.HTML(words), field]) for words, field in fields.items()]
            return widgets.HBox(cells, layout=widgets.Layout(flex_flow="row wrap"))

        self._rows = {
            ("generate", "redraw", "refine"): row("Prompt: what the whole picture shows", self.prompt),
            ("edit",): row("Instruction: what is to change", self.instruction),
            ("redraw", "refine"): row("Strength: how much of the old picture is forgotten", self.strength),
            ("extend",): row("Pixels to draw on each side", side_by_side(self.sides)),
            ("redraw", "exact"): self.exact,
        }
        numbers = side_by_side({"Seed": self.seed, "Steps": self.steps, "Guidance": self.guidance})
        prompt, instruction, *others = self._rows.values()
        buttons = widgets.HBox([self.run, self.undo])
        controls = [self.method, self.hint, prompt, instruction, self.gloss, *others, numbers, buttons]
        controls += [self.progress, self.status]
        pictures = widgets.Tab([self.brush, self.compare])
        for number, words in enumerate(("Picture and mask", "Before and after")):
            pictures.set_title(number, words)
        left = widgets.VBox([pictures], layout=widgets.Layout(flex="0 1 470px"))
        right = widgets.VBox(controls, layout=widgets.Layout(flex="1 1 22em", min_width="20em", padding="0 0 0 12px"))
        middle = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap"))
        history = widgets.HTML("<b>History</b>: a click goes back to a picture; the next is drawn from it")
        return widgets.VBox([self.title, middle, history, self.strip])

    # In a notebook

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.session.history.turns:
            self._stand_in.show(history_figure(self.session).outputs())
        display(self.widget)
