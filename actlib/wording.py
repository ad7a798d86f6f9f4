"""A long list cut short for a message, and the refusal of a value that is no choice.

The words of each other refusal stand where it is raised.
"""

import reprlib
from collections.abc import Collection, Iterable, Sequence


def list_first(texts: Sequence[str], limit: int = 5) -> str:
    """Join texts into one clause, the first few as they are and the rest as a number.

    >>> list_first(["no module a", "no module b", "no module c"], limit=2)
    'no module a; no module b; and 1 more'
    """
    rest = len(texts) - limit
    return "; ".join(texts[:limit]) + (f"; and {rest} more" if rest > 0 else "")


def require_known(name: str, values: Iterable[object], choices: Collection[str]) -> None:
    """Raise ValueError, naming the choices, for a value that is none of them."""
    for value in values:
        if value not in choices:
            raise ValueError(f"{name} {reprlib.repr(value)} is none of {', '.join(choices)}")
