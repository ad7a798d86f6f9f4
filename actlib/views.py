"""Interactive views for JupyterLab, which are still pictures wherever no kernel answers.

    channel_map(scores)             # where the mask lies, p by slider
    transfer_explorer(frontier)     # what a setting recovers and keeps, p and λ by slider

A view is a widget that carries its present picture along as PNG. So an executed notebook shows the
picture on a web page, in a pager or in JupyterLab without its kernel, and papermill needs no
display.
"""

import base64
import io
from collections.abc import Callable, Sequence

import ipywidgets
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from actlib import plotting
from actlib.analysis.nulls import composition
from actlib.channels import kind_of, layer_of
from actlib.rankings import RANKINGS
from actlib.scores import ChannelScores
from actlib.topk import require_percent

PERCENTS = (0.5, 1, 2, 5, 10, 20, 50)
_DPI = 110


class View(ipywidgets.VBox):
    """Controls above the picture that they choose.

    Attributes:
        controls: by the name of the argument of the drawing function.
    """

    def __init__(self, draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> None:
        """Draw once, and again whenever a control changes.

        Args:
            draw: takes the controls' values by name and returns a new figure.
            controls: widgets with a `value`.
        """
        self.controls = controls
        self._draw = draw
        self._picture = ipywidgets.Image(
            format="png", layout={"max_width": "100%", "align_self": "flex-start"}
        )
        super().__init__([ipywidgets.HBox(list(controls.values())), self._picture])
        for control in controls.values():
            control.observe(lambda _: self.redraw(), names="value")
        self.redraw()

    def redraw(self) -> None:
        """Draw the picture of the controls' present values."""
        figure = self._draw(**{name: control.value for name, control in self.controls.items()})
        held = io.BytesIO()
        figure.savefig(held, format="png", dpi=_DPI)
        plt.close(figure)
        self._picture.value = held.getvalue()

    @property
    def png(self) -> bytes:
        """The present picture."""
        return self._picture.value

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        """What a front end may show: the widget, or else the picture."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "image/png": base64.b64encode(self.png).decode()}


def channel_map(
    scores: ChannelScores, percent: float = 5.0, percents: Sequence[float] = PERCENTS
) -> View:
    """Where the top channels lie: percent of channels masked, module kinds by layers.

    Args:
        scores: what to rank; rankings against another ability are offered where a reference is
            attached (`ChannelScores.relative_to`).
        percent: where the slider for p stands first.
        percents: where it can stand, above 0 and up to 100.

    Raises:
        ValueError: a percent is out of range.
    """
    stops = sorted({float(stop) for stop in (*percents, percent)})
    for stop in stops:
        require_percent(stop)
    offered = [name for name, rule in RANKINGS.items() if scores.off or not rule.off_needs]

    def draw(percent: float, ranking: str) -> Figure:
        fig, ax = plotting.figure("full", 0.5)
        mask = scores.top(percent, ranking).channels
        kinds = {name: kind_of(name) for name in mask}
        layers = {name: layer_of(name) for name in mask}
        plotting.makeup_heatmap(composition(mask, kinds, layers), ax)
        return fig

    return View(draw, percent=_slider("p (%)", stops, float(percent)), ranking=_menu(offered))


def transfer_explorer(table: pd.DataFrame, method: str = "act_global") -> View:
    """What each setting of p and λ recovers and keeps, among all settings of its method.

    Args:
        table: method, top_percent, scale, recovered, retained, on_frontier (see
            `actlib.analysis.frontier.frontier_table`).
        method: shown first; the first of the table if it is not there.

    Raises:
        ValueError: the table holds no setting with a defined recovered and retained share.
    """
    table = table.dropna(subset=["recovered", "retained"])
    if table.empty:
        raise ValueError("the table holds no setting with a defined recovered and retained share")
    methods = list(dict.fromkeys(table["method"]))
    chosen = _menu(methods, method if method in methods else methods[0])
    percent = _slider("p (%)", *_stops(table, chosen.value, "top_percent"))
    scale = _slider("λ", *_stops(table, chosen.value, "scale"))

    def follow(change: dict) -> None:
        """Methods differ in the settings that they tried."""
        for slider, column in ((percent, "top_percent"), (scale, "scale")):
            stops, first = _stops(table, change["new"], column)
            value = slider.value if slider.value in stops else first
            slider.options = _labelled(stops)
            slider.value = value

    chosen.observe(follow, names="value")

    def draw(method: str, percent: float, scale: float) -> Figure:
        return _explored(table[table["method"] == method], percent, scale)

    return View(draw, method=chosen, percent=percent, scale=scale)


def _explored(settings: pd.DataFrame, percent: float, scale: float) -> Figure:
    fig, ax = plotting.figure("full", 0.6)
    plotting.pareto(settings, ax)
    here = settings[(settings["top_percent"] == percent) & (settings["scale"] == scale)]
    told = f"p = {percent:g} %, λ = {scale:g}: not tried"
    if len(here):
        retained, recovered = here["retained"].iloc[0], here["recovered"].iloc[0]
        told = (
            f"p = {percent:g} %, λ = {scale:g}: recovered {recovered:.2f}, retained {retained:.2f}"
        )
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
        ax.plot(retained, recovered, **ring, markeredgecolor="black", zorder=5)
    ax.text(0.02, 0.02, told, transform=ax.transAxes, va="bottom")
    return fig


def _stops(table: pd.DataFrame, method: str, column: str) -> tuple[list[float], float]:
    """Values that a method tried, ascending, and the one to start with: the middle."""
    stops = sorted(table.loc[table["method"] == method, column].unique().tolist())
    return stops, stops[len(stops) // 2]


def _labelled(stops: Sequence[float]) -> list[tuple[str, float]]:
    return [(f"{stop:g}", stop) for stop in stops]


def _slider(label: str, stops: Sequence[float], value: float) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=_labelled(stops), value=value, description=label, continuous_update=False
    )


def _menu(names: Sequence[str], value: str | None = None) -> ipywidgets.Dropdown:
    options = [(plotting.label_of(name), name) for name in names]
    return ipywidgets.Dropdown(options=options, value=value or names[0])
