"""The one error that a person mends, not a programmer."""


class InputError(ValueError):
    """What was given cannot be used. One line: what is wrong, and the mend. Programs print it and exit with code 2."""
