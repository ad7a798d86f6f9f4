"""Walks a target through many transfers from one donor, writing only what changes between two.

    with moving(target, donor) as move:
        for mask, scale in settings:
            move(mask, scale)
            evaluate(target)

After each `move` the target is what `transfer_` makes of a fresh target, to the bit; after the
block it is what it was before. A sweep this way needs no copy of the model for each setting.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from actlib.masks import ChannelMask
from actlib.pairs import require_pair
from actlib.placement import require_in_memory
from actlib.transfer import Selection, moved, require_scale, selections

Move = Callable[[ChannelMask, float], int]


@contextmanager
def moving(target: nn.Module, donor: nn.Module) -> Iterator[Move]:
    """Give a function that sets the target to one transfer after another; restore it on exit.

    `move(mask, scale)` leaves the target as `transfer_(target, donor, mask, scale)` leaves one with
    its own parameters, bit for bit, and returns the number of elements that it wrote: at the scale
    of the move before, those in one of the two masks but not in both; at another scale, those in
    either. An element of a tied embedding and LM head counts as masked if its row or its column is.

    The target's own values are kept in its dtype, a whole tensor when a move first writes to it: a
    sweep cannot know which rows later masks need, and one index then serves target, donor and
    copy. At most this is one copy of the model, and only of the tensors that were touched.

    Do not change the parameters of either model in another way inside the block.

    Args:
        target: the model that is changed, and restored however the block ends.
        donor: the model that has the ability.

    Raises:
        ValueError: the models do not fit, or parameters of one are offloaded. From `move`: the mask
            is of another model, the scale is not finite, or the block has ended; nothing is changed
            then.
    """
    require_pair(donor, target)
    require_in_memory(donor, target)
    walk = _Walk(target, donor)
    try:
        yield walk.move
    finally:
        walk.end()


class _Walk:
    """The transfer that a target holds now, and its own values of all that was ever touched."""

    def __init__(self, target: nn.Module, donor: nn.Module) -> None:
        self.target = target
        self.parameters = dict(target.named_parameters())
        self.donated = dict(donor.named_parameters())
        self.originals: dict[str, Tensor] = {}
        self.held: dict[str, Selection] = {}
        self.scale = 0.0
        self.ended = False

    def move(self, mask: ChannelMask, scale: float = 0.4) -> int:
        """Hold the transfer of this mask at this scale instead; see `moving`."""
        if self.ended:
            raise ValueError("expected a move inside its moving block, but the block has ended")
        require_scale(scale)
        chosen = selections(self.target, mask)
        # By bits, since 0.0 == -0.0 though they can give zeros of different sign.
        same = float(scale).hex() == self.scale.hex()
        with torch.no_grad():
            written = sum(
                self._write(name, chosen.get(name), scale, same)
                for name in dict.fromkeys([*self.held, *chosen])
            )
        self.held, self.scale = chosen, float(scale)
        return written

    def end(self) -> None:
        """Restore the target; no move works afterwards."""
        self.ended = True
        with torch.no_grad():  # Whole tensors, which is right even if a move was cut off halfway.
            for name, original in self.originals.items():
                self.parameters[name].copy_(original)
        self.originals.clear()

    def _write(self, name: str, chosen: Selection | None, scale: float, same: bool) -> int:
        """Bring one tensor from the selection that it holds to another; elements written."""
        held = self.held.get(name)
        leaving = held.pieces(chosen) if held else []
        entering = chosen.pieces(held if same else None) if chosen else []
        if not leaving and not entering:
            return 0
        parameter = self.parameters[name]
        if name not in self.originals:
            self.originals[name] = parameter.detach().clone()
        original, donated, written = self.originals[name], self.donated[name], 0
        for index in leaving:
            values = original[index]
            parameter[index] = values
            written += values.numel()
        for index in entering:
            values = moved(original[index], donated[index], scale, name)
            parameter[index] = values
            written += values.numel()
        return written
