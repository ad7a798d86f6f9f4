"""Long lists in messages are cut."""

import pytest

from actlib.wording import list_first


@pytest.mark.parametrize(("limit", "told"), [(1, "a; and 2 more"), (2, "a; b; and 1 more")])
def test_a_list_of_differences_is_cut_and_counted(limit, told):
    assert list_first(["a", "b", "c"], limit) == told
    assert list_first(["a", "b", "c"], 3) == "a; b; c"
    assert list_first(list("abcdef")) == "a; b; c; d; e; and 1 more"
