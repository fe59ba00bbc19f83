"""The one error type that is meant for people."""


class QwenlabError(Exception):
    """A mistake in what the user gave: one line that says what is wrong, where, and how to mend it.

    The command line prints the line and exits with status 2, without a traceback. Errors in the program itself
    stay ordinary Python exceptions with their traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows below a notebook cell: the line, as on the command line, and no traceback."""
        return [f"{type(self).__name__}: {self}"]


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise QwenlabError unless `value` is a number from `low` to `high`: NaN and infinity are in no range.

    name: as the user wrote it, such as "--steps" or "rank:".
    """
    if not low <= value <= high:
        raise QwenlabError(f"{name} {value}: must be a number from {low} to {high}")
