"""Long lists and long values in messages are cut."""

import pytest

from actlib.wording import list_first, shorten_value


@pytest.mark.parametrize(("limit", "told"), [(1, "a; and 2 more"), (2, "a; b; and 1 more")])
def test_a_list_of_differences_is_cut_and_counted(limit, told):
    assert list_first(["a", "b", "c"], limit) == told
    assert list_first(["a", "b", "c"], 3) == "a; b; c"
    assert list_first(list("abcdef")) == "a; b; c; d; e; and 1 more"


def test_a_long_value_is_cut_and_a_short_one_is_not():
    assert shorten_value("ä") == r"'\xe4'"
    assert shorten_value("a" * 99) == f"'{'a' * 59}..."
