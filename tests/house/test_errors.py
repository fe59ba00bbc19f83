"""What a user's mistake looks like in a notebook."""

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from qwenlab.errors import QwenlabError


def shown(source, capsys, **names):
    """What IPython prints for a cell that fails."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}), user_ns=names)
    assert not shell.run_cell(source).success
    return capsys.readouterr().out


def test_a_mistake_is_one_line_in_a_notebook_and_a_bug_keeps_its_traceback(capsys):
    line = "data_sample: no such folder; give another"
    source = f"def read():\n    raise QwenlabError({line!r})\n\nread()"
    assert shown(source, capsys, QwenlabError=QwenlabError).strip() == f"QwenlabError: {line}"
    assert "Traceback" in shown("1 / 0", capsys)


def test_a_subclass_says_its_own_name(capsys):
    class NotFinite(QwenlabError):
        """A mistake with a name of its own."""

    assert shown("raise NotFinite('loss nan')", capsys, NotFinite=NotFinite).strip() == "NotFinite: loss nan"
