"""The half-normal null against draws."""

import numpy as np
import pytest

from actlib.analysis import nulls


def test_half_normal_null_describes_gaussian_differences():
    values = np.abs(np.random.default_rng(0).normal(0, 3, 400_000))
    for percent in (1, 5, 10, 50):
        share = values[values >= np.quantile(values, 1 - percent / 100)].sum() / values.sum()
        assert share == pytest.approx(nulls.half_normal_share(percent / 100), rel=0.01)
    for x in (0.1, 1.0, 3.0):
        above = (values > x * values.mean()).mean()
        assert nulls.half_normal_ccdf(np.array([x]))[0] == pytest.approx(above, rel=0.02)
