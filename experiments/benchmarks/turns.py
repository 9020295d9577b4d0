"""Kinds of one work, timed in turns, so that what else the machine does meets all of them."""

import statistics
from collections.abc import Callable


def in_turns(kinds: dict[str, Callable[[], float]], *, turns: int) -> dict[str, list[float]]:
    """Seconds of each kind, `turns` times, the kinds one after the other; a turn before the first warms up.

    Args:
        kinds: each does its work once and returns the seconds it took.
        turns: that count.
    """
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):
        for name, run in kinds.items():
            seconds = run()
            if turn:
                found[name].append(seconds)
    return found


def ratio(seconds: list[float], others: list[float]) -> float:
    """The median over the turns of seconds / others."""
    return statistics.median(a / b for a, b in zip(seconds, others, strict=True))


def spread(seconds: list[float]) -> str:
    """Two cells: the median, and from the least to the greatest."""
    return f"{statistics.median(seconds):.4g} | {min(seconds):.4g} to {max(seconds):.4g}"
