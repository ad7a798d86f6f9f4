"""Where the texts of a figure lie: what is cut off, what overlaps, and what is not 8 pt."""

from itertools import combinations

import numpy as np
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox

from actlib.analysis.style import settle


def shown_texts(fig):
    """Every text that is drawn: labels, titles, ticks within the limits, legends, annotations.

    The figure is settled, so that the layout does not move any more.
    """
    settle(fig)
    unseen = {id(text) for ax in fig.axes for text in _ticks_outside(ax)}
    found = []
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and id(text) not in unseen:
            found.append(text)
    return [text for text in found if _is_attached(text, fig)]


def _ticks_outside(ax):
    """Labels that matplotlib does not draw, because their tick lies outside the view."""
    for axis in (ax.xaxis, ax.yaxis):
        drawn = {id(tick) for tick in axis._update_ticks()}
        for tick in [*axis.majorTicks, *axis.minorTicks]:
            if id(tick) not in drawn:
                yield from (tick.label1, tick.label2)


def _is_attached(text, fig):
    """Whether axes of the figure still hold it (an invisible axis draws no text)."""
    return text.figure is fig or text.get_figure(root=True) is fig


def corners(text):
    """The four corners in pixels, turned with the text."""
    angle, anchored = text.get_rotation(), text.get_rotation_mode() == "anchor"
    if not angle or not anchored:
        return text.get_window_extent().corners()
    text.set_rotation(0)
    box = text.get_window_extent()
    text.set_rotation(angle)
    x, y = text.get_transform().transform(text.get_unitless_position())
    return Affine2D().rotate_deg_around(x, y, angle).transform(box.corners())


def intersect(one, other, margin=0.5):
    """Whether two turned boxes share more than `margin` pixels (separating axes)."""
    for box in (one, other):
        for edge in (box[1] - box[0], box[2] - box[0]):
            axis = edge / (np.linalg.norm(edge) or 1)
            a, b = one @ axis, other @ axis
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= margin:
                return False
    return True


def faults(fig, points=8):
    """What a reader would stumble over: texts that overlap, are cut off, or of another size."""
    texts = shown_texts(fig)
    boxes = [(text.get_text(), corners(text)) for text in texts]
    page = Bbox.from_extents(*(fig.bbox.extents + np.array([-1, -1, 1, 1])))
    over = [("overlap", a, b) for (a, p), (b, q) in combinations(boxes, 2) if intersect(p, q)]
    cut = [("cut off", a) for a, box in boxes if not all(page.contains(*p) for p in box)]
    sizes = [("size", text.get_text()) for text in texts if text.get_fontsize() != points]
    return over + cut + sizes
