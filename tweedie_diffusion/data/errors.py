"""The errors that a person mends, not a programmer."""

from collections.abc import Sequence


class InputError(ValueError):
    """What was given cannot be used. One line: what is wrong, and the mend. Programs print it and exit with code 2."""


class BadFiles(InputError):  # noqa: N818
    """Some files cannot be used: one line for all of them, then one for each, in `lines`."""

    def __init__(self, summary: str, lines: Sequence[str]):
        """`lines` name each file once."""
        super().__init__(summary)
        self.lines = tuple(lines)
