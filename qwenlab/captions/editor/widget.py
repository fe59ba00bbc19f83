"""The editor as Jupyter widgets. ipywidgets is imported when an editor is made, not before."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwenlab.captions import fix
from qwenlab.captions.editor.edits import CaptionEdits, Key
from qwenlab.captions.editor.table import findings_html, picture_html
from qwenlab.errors import QwenlabError

SIDE = 320  # pixels of a picture's longer side


class CaptionEditor:
    """The editor as widgets: `display(CaptionEditor(folder).widget)`, or an editor as the last line of a cell.

    text: the text area of the picture that is shown. buttons: Previous, Next, Safe fixes, Revert, Save, Reload. What
    goes wrong is said in `status`. Raises what `CaptionEdits` raises.
    """

    def __init__(self, folder: str | Path) -> None:
        import ipywidgets as widgets

        self.captions = CaptionEdits(folder)
        self.key: Key = next(iter(self.captions.entries))
        self.title, self.picture, self.findings, self.status = (widgets.HTML() for _ in range(4))
        self._areas: dict[Key, Any] = {}
        actions: dict[str, tuple[Callable[[], str], str, str]] = {
            "Previous": (lambda: self._step(-1), "arrow-left", "The picture before"),
            "Next": (lambda: self._step(1), "arrow-right", "The next picture"),
            "Safe fixes": (self._fix, "magic", "Rewrites that cannot change what the caption means"),
            "Revert": (self._revert, "undo", "This caption as it stands on disk"),
            "Save": (self._save, "save", "Write all edits to the captions file"),
            "Reload": (self._reload, "refresh", "Read the file again; edits are kept"),
        }
        self.buttons = {}
        for name, (action, icon, tooltip) in actions.items():
            self.buttons[name] = widgets.Button(description=name, icon=icon, tooltip=tooltip, layout={"width": "8em"})
            self.buttons[name].on_click(lambda _, action=action: self._act(action))
        self._place = widgets.VBox(layout=widgets.Layout(width="100%"))
        right = widgets.VBox([self._place, self.findings], layout=widgets.Layout(flex="1 1 24em", min_width="18em"))
        middle = widgets.HBox([self.picture, right], layout=widgets.Layout(flex_flow="row wrap"))
        bar = widgets.HBox(list(self.buttons.values()), layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([self.title, middle, bar, self.status])
        self._show()

    @property
    def text(self) -> Any:
        """The text area of the picture that is shown.

        Each picture has its own: a key pressed while the next picture is on its way still reaches the right caption.
        """
        if self.key not in self._areas:
            import ipywidgets as widgets

            area = widgets.Textarea(self.captions.text(self.key), layout=widgets.Layout(width="auto", height="7em"))
            area.observe(lambda change, key=self.key: self._typed(key, change["new"]), "value")
            self._areas[self.key] = area
        return self._areas[self.key]

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _act(self, action: Callable[[], str]) -> None:
        try:
            said, colour = action(), "inherit"
        except QwenlabError as error:
            said, colour = str(error), "#d32f2f"
        self.status.value = f'<span role="status" style="color: {colour}">{html.escape(said)}</span>'
        self._show()

    def _typed(self, key: Key, text: str) -> None:
        if key in self.captions.entries:
            self.captions.edit(key, text)
        self._show()

    def _step(self, by: int) -> str:
        keys = list(self.captions.entries)
        self.key = keys[(keys.index(self.key) + by) % len(keys)]
        return ""

    def _fix(self) -> str:
        self.text.value, mended = fix(self.text.value)
        return f"{mended} mended" if mended else "nothing that is safe to mend"

    def _revert(self) -> str:
        self.text.value = self.captions.entries[self.key].text
        return ""

    def _save(self) -> str:
        saved = self.captions.save()
        return f"{saved} saved in {self.captions.path}" if saved else "nothing to save"

    def _reload(self) -> str:
        clashes = self.captions.reload()
        if self.key not in self.captions.entries:
            self.key = next(iter(self.captions.entries))
        self._areas = {key: area for key, area in self._areas.items() if key in self.captions.entries}
        for key, area in self._areas.items():
            area.value = self.captions.text(key)
        if clashes:
            return f"read again; changed on disk as well, and your text would replace it: {', '.join(clashes)}"
        return "read again"

    def _show(self) -> None:
        entries, text = self.captions.entries, self.captions.text(self.key)
        number, unsaved = list(entries).index(self.key) + 1, len(self.captions.edits)
        state = f"{unsaved} not saved" if unsaved else "all saved"
        entry = entries[self.key]
        self.title.value = f"<b>{number} of {len(entries)}</b> · {html.escape(entry.place)} · {state}"
        if self._place.children != (self.text,):
            self._place.children = (self.text,)
            self.picture.value = picture_html(entry, SIDE)
        self.findings.value = findings_html(text)
