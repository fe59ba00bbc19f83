"""The one error type that is meant for people."""


class QwenlabError(Exception):
    """A mistake in what the user gave: one line that says what is wrong, where, and how to mend it.

    The command line prints the line and exits with status 2, without a traceback. Errors in the program itself
    stay ordinary Python exceptions with their traceback.
    """
