"""Where the texts of a figure lie: what is cut off, what overlaps, and what is not 8 pt."""

from itertools import combinations

from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D

from actlib.analysis.style import settle

RING = [0, 1, 3, 2, 0]  # of the corners of a box


def shown_texts(fig):
    """Every text that is drawn: labels, titles, ticks within the limits, legends, annotations.

    The figure is settled, so that the layout does not move any more.
    """
    settle(fig)
    unseen = {id(text) for ax in fig.axes for text in _ticks_outside(ax)}
    seen = [text for text in fig.findobj(Text) if text.get_visible() and id(text) not in unseen]
    return [text for text in seen if text.get_text().strip()]


def _ticks_outside(ax):
    """Labels that matplotlib does not draw, because their tick lies outside the view."""
    for axis in (ax.xaxis, ax.yaxis):
        drawn = {id(tick) for tick in axis._update_ticks()}
        for tick in [*axis.majorTicks, *axis.minorTicks]:
            if id(tick) not in drawn:
                yield from (tick.label1, tick.label2)


def outline(text):
    """The box in pixels, turned with the text and a quarter of a pixel smaller all around."""
    angle = text.get_rotation()
    if text.get_rotation_mode() != "anchor":
        return Path(text.get_window_extent().padded(-0.25).corners()[RING])
    text.set_rotation(0)
    box = text.get_window_extent().padded(-0.25)
    text.set_rotation(angle)
    x, y = text.get_transform().transform(text.get_unitless_position())
    return Path(Affine2D().rotate_deg_around(x, y, angle).transform(box.corners()[RING]))


def faults(fig, points=8):
    """What a reader would stumble over: texts that overlap, are cut off, or of another size."""
    shown = shown_texts(fig)
    texts = [(text.get_text(), outline(text)) for text in shown]
    page = fig.bbox.padded(1)
    pairs = combinations(texts, 2)
    over = [("overlap", a, b) for (a, one), (b, other) in pairs if one.intersects_path(other)]
    cut = [("cut off", a) for a, box in texts if not all(page.contains(*p) for p in box.vertices)]
    sizes = {text.get_text() for text in shown if text.get_fontsize() != points}
    return over + cut + [("size", text) for text in sizes]
