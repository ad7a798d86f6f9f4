"""Words of messages: a long list, or a long value, cut short.

list_first(["no module a", "no module b", "no module c"], limit=2)
shorten_value(row)
"""

from collections.abc import Sequence


def list_first(texts: Sequence[str], limit: int = 5) -> str:
    """Join texts into one clause, the first few as they are and the rest as a number.

    >>> list_first(["no module a", "no module b", "no module c"], limit=2)
    'no module a; no module b; and 1 more'
    """
    rest = len(texts) - limit
    return "; ".join(texts[:limit]) + (f"; and {rest} more" if rest > 0 else "")


def shorten_value(value: object) -> str:
    """A value as Python writes it in ASCII, its beginning if it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
