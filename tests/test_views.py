"""Views draw what their controls say, and carry the picture for readers without a kernel."""

import base64
import io

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from actlib.scores import ChannelScores
from actlib.views import View, channel_map, transfer_explorer

matplotlib.use("Agg")


@pytest.fixture
def scores():
    """Scores of two layers whose later one is far larger."""
    generator = torch.Generator().manual_seed(0)
    values = {
        f"model.layers.{layer}.{kind}": torch.rand(40, generator=generator) * (1 + 9 * layer)
        for layer in range(2)
        for kind in ("mlp.up_proj", "self_attn.q_proj")
    }
    return ChannelScores(values, {name: part + 1 for name, part in values.items()}, 7, {})


@pytest.fixture
def table():
    """Settings of two methods that tried different p and λ."""
    rows = [("act_global", p, s, p / 100, s) for p in (5.0, 20.0) for s in (0.5, 1.0)]
    rows += [("interpolation", 100.0, s, s, 1 - s) for s in (0.25, 0.5, 0.75)]
    columns = ["method", "top_percent", "scale", "recovered", "retained"]
    return pd.DataFrame(rows, columns=columns).assign(on_frontier=True, gap_clear=True)


def _pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.png)).convert("L"))


def test_the_slider_redraws_and_going_back_gives_the_same_picture(scores):
    view = channel_map(scores, percent=5)
    first = _pixels(view)
    view.controls["percent"].value = 50.0
    assert (_pixels(view).shape != first.shape) or (_pixels(view) != first).any()
    view.controls["percent"].value = 5.0
    assert (_pixels(view) == first).all()


def test_rankings_against_another_ability_are_offered_with_a_reference_only(scores):
    offered = [value for _, value in channel_map(scores).controls["ranking"].options]
    assert offered == ["global", "module", "scaled"]
    attached = scores.relative_to(scores)
    offered = [value for _, value in channel_map(attached).controls["ranking"].options]
    assert offered[-2:] == ["relative", "contrast"]


def test_a_percent_of_ones_own_is_a_stop_of_the_slider(scores):
    stops = [value for _, value in channel_map(scores, percent=3).controls["percent"].options]
    assert 3.0 in stops and stops == sorted(stops)


def test_an_impossible_percent_is_refused(scores):
    with pytest.raises(ValueError, match="percent"):
        channel_map(scores, percent=0)


def test_the_explorer_follows_the_method_to_the_settings_that_it_tried(table):
    view = transfer_explorer(table)
    assert view.controls["percent"].value == 20.0
    view.controls["method"].value = "interpolation"
    assert view.controls["percent"].value == 100.0
    assert [value for _, value in view.controls["scale"].options] == [0.25, 0.5, 0.75]
    assert view.controls["scale"].value in (0.25, 0.5, 0.75)


def test_the_explorer_marks_the_setting(table):
    view = transfer_explorer(table)
    first = _pixels(view)
    view.controls["scale"].value = 0.5
    assert (_pixels(view) != first).any()


def test_a_table_without_a_defined_setting_is_refused(table):
    with pytest.raises(ValueError, match="no setting"):
        transfer_explorer(table.assign(recovered=np.nan))


def test_front_ends_get_the_widget_and_readers_the_picture(scores):
    bundle = channel_map(scores)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_no_figure_is_left_open(scores):
    before = matplotlib.pyplot.get_fignums()
    view = channel_map(scores)
    view.controls["percent"].value = 1.0
    assert isinstance(view, View) and matplotlib.pyplot.get_fignums() == before
