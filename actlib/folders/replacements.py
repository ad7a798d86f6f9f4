"""Elements of a parameter, and the values that a patch exchanges there for each other.

    replacement = Replacement(slab, old, new)
    olds, news = replacement.words(width=8)     # both as integers

Apart from the exchange itself, so that who only reads a patch loads no compiler.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from actlib.folders.slabs import Slab, as_words


@dataclass(frozen=True, eq=False)
class Replacement:
    """Elements of a parameter and two values for each, on the CPU.

    Attributes:
        slab: which elements.
        old: the values that they should have [rows of the slab, its columns].
        new: the values that they get.
    """

    slab: Slab
    old: Tensor
    new: Tensor

    def words(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Both values as integers of so many bytes, of the same memory where it is in one piece."""
        if width not in self._words:
            self._words[width] = as_words(self.old, width), as_words(self.new, width)
        return self._words[width]

    @cached_property
    def _words(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def some(self, start: int, stop: int) -> "Replacement":
        """The same of some of the slab's rows."""
        slab = self.slab
        part = Slab(slab.piece, slab.start + start, slab.rows[start:stop], slab.columns)
        return Replacement(part, self.old[start:stop], self.new[start:stop])
