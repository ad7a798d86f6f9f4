"""Rankings: the values by which channels are ordered, each a small function with its formula.

    from actlib.rankings import ranking

    @ranking("squared", legend="ACT, squared")
    def square(scores):
        '''Squared differences.'''
        return {name: d**2 for name, d in scores.values.items()}

A ranking that is registered so is known at once in this Python process: to
`ChannelScores.top(5, "squared")`, and as the method ``act_squared`` to `choose` and the legends of
figures. For `actlib mask --ranking` and notebooks that `actlib run` runs, the formula belongs into
this file and its table below; recordings and cached rows, whose code it is, are then made again.
In the formulas d_i is the score of channel i (ACT, Eq. 2), and m is the channel's module.
Attributions have rankings of their own, whose names are also those of the methods; s_i is the
attribution of channel i, in nats.
No torch is imported, so that figures need none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

if TYPE_CHECKING:
    from torch import Tensor

    from actlib.scores import ChannelScores

    Values = dict[str, Float[Tensor, " channels"]]
    Formula = Callable[["ChannelScores"], Values]

STD_FLOOR = 0.01  # of the module's mean standard deviation; see `divide_by_std`
REMEDIES = {
    "magnitudes": "activations have them, so rank a recording",
    "means": "record with `moments=True` (--moments)",
    "stds": "record with `moments=True` (--moments)",
    "off": "attach a reference by `relative_to` (--reference)",
    "off.stds": "record the reference with `moments=True` (--moments)",
    "sizes": "record the scores again",
}


@dataclass(frozen=True)
class Ranking:
    """One way to order channels.

    Attributes:
        name: as given to `ChannelScores.top`.
        formula: scores to the values that order the channels, by module.
        legend: its name in figures, unless `actlib.analysis.style.METHODS` has one.
        needs: parts of the scores that the formula reads beside the values, such as "means", or
            "off", the reference, and then "off.stds".
        per_module: take the same percent in each module, not of all channels together.
        of: the kind of scores that it orders, "differences" or "attributions".
    """

    name: str
    formula: "Formula"
    legend: str = ""
    needs: tuple[str, ...] = ()
    per_module: bool = False
    of: str = "differences"

    @property
    def method(self) -> str:
        """Its name as a method of the study: `act_NAME`, of attributions NAME itself."""
        return self.name if self.of == "attributions" else f"act_{self.name}"

    def order(self, scores: "ChannelScores") -> "Values":
        """Apply the formula.

        Raises:
            ValueError: the scores are of another kind, or lack a part, or a reference with it.
        """
        if scores.kind != self.of:
            fitting = (name for name, rule in RANKINGS.items() if rule.of == scores.kind)
            raise ValueError(
                f'ranking "{self.name}" orders {self.of}, and these scores are {scores.kind}; rank '
                f"them by one of {', '.join(fitting)}"
            )
        for part in self.needs:
            if not attrgetter(part)(scores):
                remedy = REMEDIES.get(part, "record them again")
                raise ValueError(f'ranking "{self.name}" needs {part}, which is missing; {remedy}')
        return self.formula(scores)


def ranking_of(method: object) -> Ranking | None:
    """The ranking by which a method of the study chooses; None for another method."""
    return next((rule for rule in RANKINGS.values() if rule.method == str(method)), None)


def ranking(name: str, **settings: Any) -> "Callable[[Formula], Formula]":
    """Register a formula as a ranking; the settings are fields of `Ranking`.

    Raises:
        ValueError: another formula has the name. The same one, defined again, takes its place.
    """

    def register(formula: "Formula") -> "Formula":
        old = RANKINGS[name].formula if RANKINGS.get(name) else formula
        homes = [f"{each.__module__}.{each.__qualname__}" for each in (old, formula)]
        if homes[0] != homes[1]:
            raise ValueError(f'the ranking "{name}" is {homes[0]}; give {homes[1]} another name')
        RANKINGS[name] = Ranking(name=name, formula=formula, **settings)
        return formula

    return register


def rank_differences(scores: "ChannelScores") -> "Values":
    """d_i. Source: ACT, Eq. 2, as reported of all channels together; within modules it is ours.

    Together, modules with large activations, such as the LM head, can fill the mask; within modules
    each gives the same percent of its channels, rounded down.
    """
    return scores.values


def divide_by_magnitude(scores: "ChannelScores") -> "Values":
    """d_i / a_m, with a_m the mean magnitude of the module's channels. Ours.

    So a module's unit does not count.
    """
    return _divide(scores.values, _module_means(scores.magnitudes))


def divide_by_std(scores: "ChannelScores") -> "Values":
    """d_i / (s_i + e_m), with s_i the donor's std on the inputs without the ability. Ours.

    A difference counts in units of what the channel does anyway, so channels that swing widely on
    any input fall back. e_m, 1 % of the module's mean std, keeps channels that hardly move from
    winning by their small divisor; in a SmolLM2-135M specialist, fewer than 1 in 10,000 channels
    have a smaller std.
    """
    assert scores.off is not None
    means = _module_means(scores.off.stds)
    return _divide(
        scores.values, {name: s + STD_FLOOR * means[name] for name, s in scores.off.stds.items()}
    )


def subtract_reference(scores: "ChannelScores") -> "Values":
    """(d_i - d_i(off)) / a_m, with d_i(off) the score on the inputs without the ability. Ours.

    What differs as much on every input gets 0, what differs more elsewhere less than 0.
    """
    assert scores.off is not None
    gaps = {name: d - scores.off.values[name] for name, d in scores.values.items()}
    return _divide(gaps, _module_means(scores.magnitudes))


def rank_attributions(scores: "ChannelScores") -> "Values":
    """s_i, what the channel adds to the fall of the NLL when all move, in nats. Ours.

    Channels with many parameters add more, such as columns of an embedding.
    """
    return scores.values


def rank_magnitudes(scores: "ChannelScores") -> "Values":
    """|s_i|, as attribution patching ranks: channels that matter, for better or worse. Ours."""
    return {name: s.abs() for name, s in scores.values.items()}


def divide_by_root_of_size(scores: "ChannelScores") -> "Values":
    """s_i / sqrt(n_i), with n_i the number of the channel's parameters. Ours.

    Between s_i, which favors large channels, and s_i / n_i, which favors single entries of norms.
    """
    return {name: s / scores.sizes[name] ** 0.5 for name, s in scores.values.items()}


def divide_by_size(scores: "ChannelScores") -> "Values":
    """s_i / n_i, with n_i the number of the channel's parameters. Ours.

    Its best channels are those that add most for a given share of the parameters.
    """
    return {name: s / scores.sizes[name] for name, s in scores.values.items()}


def _module_means(part: "Values") -> "dict[str, Tensor]":
    """Mean over the channels of each module."""
    return {name: values.float().mean() for name, values in part.items()}


def _divide(values: "Values", units: "Mapping[str, Tensor]") -> "Values":
    """Values over their unit, a number or one for each channel; 0 where the unit is 0."""
    return {name: (d / units[name]).where(units[name] != 0, 0) for name, d in values.items()}


_OWN = (
    Ranking("global", rank_differences),
    Ranking("module", rank_differences, per_module=True),
    Ranking("scaled", divide_by_magnitude, needs=("magnitudes",)),
    Ranking("relative", divide_by_std, needs=("off", "off.stds")),
    Ranking("contrast", subtract_reference, needs=("magnitudes", "off")),
    Ranking("attribution", rank_attributions, of="attributions"),
    Ranking("attribution_absolute", rank_magnitudes, of="attributions"),
    Ranking("attribution_by_size", divide_by_root_of_size, needs=("sizes",), of="attributions"),
    Ranking("attribution_per_parameter", divide_by_size, needs=("sizes",), of="attributions"),
)
RANKINGS: dict[str, Ranking] = {rule.name: rule for rule in _OWN}
"""Every ranking by name, those that are registered behind ours."""
