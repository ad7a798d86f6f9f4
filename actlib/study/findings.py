"""Put a measurement against its null in words, the same rule everywhere.

A verdict is read off an interval and a null, never typed, so that a notebook run on other models
says what those models show.
"""

import math


def against(estimate: float, low: float, high: float, null: float) -> str:
    """Where an estimate lies against its null: its interval must exclude the null to differ."""
    if any(map(math.isnan, (estimate, low, high))):
        return "undefined"
    if low > null:
        return "above"
    return "below" if high < null else "not distinguishable from"


def interval(estimate: float, low: float, high: float, digits: int = 2, unit: str = "") -> str:
    """An estimate with its 95 % interval, such as ``0.42 [0.30, 0.55]``."""
    if math.isnan(estimate):
        return "undefined (no clear gap)"
    return f"{estimate:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def tally(verdicts: list[str]) -> str:
    """Counts of the verdicts, such as ``above in 3 of 4, below in 1 of 4``."""
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    return ", ".join(f"{word} in {count} of {len(verdicts)}" for word, count in counts.items())


def overall(verdicts: list[str], wanted: str = "above") -> str:
    """Whether a claim holds over several comparisons with their nulls.

    "holds" if every one went the wanted way; "holds in part" if some did and none the other way;
    "mixed" if more went the wanted way than the other; otherwise "not seen here". The verdicts are
    not corrected for their number.
    """
    other = {"above": "below", "below": "above"}[wanted]
    hits, misses = verdicts.count(wanted), verdicts.count(other)
    if verdicts and hits == len(verdicts):
        return "holds"
    if hits <= misses:
        return "not seen here"
    return "mixed" if misses else "holds in part"
