"""Words for a measurement against its null follow from the interval alone."""

import math

import pytest

from actlib.study import findings

NAN = math.nan


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.5, 0.3, 0.7, 0.1), "above"),
        ((0.5, 0.3, 0.7, 0.9), "below"),
        ((0.5, 0.3, 0.7, 0.4), "not distinguishable from"),
        ((0.5, 0.3, 0.7, 0.3), "not distinguishable from"),
        ((0.5, 0.3, 0.7, 0.7), "not distinguishable from"),
        ((NAN, NAN, NAN, 0.0), "undefined"),
        ((0.5, NAN, 0.7, 0.0), "undefined"),
    ],
)
def test_a_difference_needs_an_interval_that_excludes_the_null(numbers, word):
    assert findings.against(*numbers) == word


def test_turning_the_sign_turns_the_verdict():
    for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2)):
        word = findings.against((low + high) / 2, low, high, 0)
        turned = findings.against(-(low + high) / 2, -high, -low, 0)
        swapped = {"above": "below", "below": "above"}
        assert turned == swapped.get(word, word)


def test_an_interval_is_written_with_its_ends():
    assert findings.interval(0.416, 0.3, 0.555) == "0.42 [0.30, 0.56]"
    assert findings.interval(41.6, 30, 55.5, digits=0, unit=" %") == "42 % [30, 56]"
    assert "undefined" in findings.interval(NAN, NAN, NAN)


def test_a_tally_counts_every_verdict_once():
    told = findings.tally(["above", "below", "above", "undefined"])
    assert told == "above in 2 of 4, below in 1 of 4, undefined in 1 of 4"


def test_a_claim_holds_only_where_every_verdict_is_the_wanted_one():
    assert findings.overall(["above", "above"]) == "holds"
    assert findings.overall(["above", "undefined"]) == "holds in part"
    assert findings.overall(["below", "undefined"]) == "not seen here"
    assert findings.overall([]) == "not seen here"
    assert findings.overall(["above", "above", "below"]) == "mixed"
    assert findings.overall(["above", "below", "undefined"]) == "not seen here"
    assert findings.overall(["below"], wanted="below") == "holds"
