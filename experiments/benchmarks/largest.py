"""The largest batch within a budget of memory."""

from collections.abc import Callable


def largest_batch(
    bytes_of: Callable[[int], int], *, budget: float, first: int, tries: int = 5, unit: int = 8
) -> dict[int, int]:
    """Along the line through two batches, which memory nearly follows, until the next guess is known: few compilations.

    Args:
        bytes_of: a batch, which grows with its size.
        budget: bytes that may be used.
        first: batch that is tried first, and then twice as many.
        tries: at most, after these.
        unit: of which batches are multiples.

    Returns:
        {batch: bytes} of all tried, in order; the largest that fits is the answer, if one does.
    """
    known = {batch: bytes_of(batch) for batch in (first, 2 * first)}
    for _ in range(tries):
        fits = [batch for batch in known if known[batch] <= budget]
        over = [batch for batch in known if known[batch] > budget]
        low, high = sorted((fits[-1:] + over[:1]) if fits and over else (fits[-2:] or over[:2]))
        slope = (known[high] - known[low]) / (high - low)
        guess = int(low + (budget - known[low]) / slope) // unit * unit
        if guess in known or guess <= 0:
            break
        known = dict(sorted((known | {guess: bytes_of(guess)}).items()))
    return known
