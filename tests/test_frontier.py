"""Frontiers by hand, and what is read off curves."""

import numpy as np
import pandas as pd
import pytest

from actlib.analysis import frontier
from actlib.analysis.frontier import undominated


def test_points_are_undominated_unless_another_is_nowhere_worse():
    points = np.array([[0.5, 0.9], [0.8, 0.4], [0.7, 0.3], [0.8, 0.3], [0.5, 0.9]])
    assert undominated(points).tolist() == [True, True, False, False, True]


def curves():
    rows = [("act", 0, p, p / 100) for p in (20, 50, 80)]
    rows += [("act", 1, 20, 0.0), ("act", 1, 50, 1.0), ("act", 1, 80, 0.0), ("act", 1, 5, 9.0)]
    rows += [("random", 0, p, value) for p in (20, 50, 80) for value in (0.1, 0.3)]
    return pd.DataFrame(rows, columns=["method", "seed", "percent", "recovery"])


def test_the_area_is_the_mean_height_between_two_sizes():
    found = frontier.area_over(curves(), ["method", "seed"], "percent", "recovery", 20, 80)
    assert found["recovery"].tolist() == pytest.approx([0.5, 0.5, 0.2])
    holes = curves().query("not (method == 'act' and seed == 0 and percent == 50)")
    holes = holes.replace({"recovery": {0.3: np.nan}})  # one draw of two
    found = frontier.area_over(holes, ["method", "seed"], "percent", "recovery", 20, 80)
    assert found["recovery"].tolist() == pytest.approx([np.nan, 0.5, np.nan], nan_ok=True)
    at_one = frontier.area_over(curves(), ["method", "seed"], "percent", "recovery", 50, 50)
    assert at_one["recovery"].tolist() == pytest.approx([0.5, 1.0, 0.2])
    with pytest.raises(ValueError, match="no row has percent 20 and 90"):
        frontier.area_over(holes, ["method", "seed"], "percent", "recovery", 20, 90)


def test_methods_are_read_at_an_equal_distance_and_not_beyond_their_points():
    found = frontier.value_at(curves(), ["method", "seed"], "percent", "recovery", 35)
    assert found["recovery"].tolist() == pytest.approx([0.35, 0.5, 0.2])
    found = frontier.value_at(curves(), ["method", "seed"], "percent", "recovery", 10)
    assert np.isnan(found["recovery"][0]) and found["recovery"][1] == pytest.approx(6.0)
