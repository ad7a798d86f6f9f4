"""Moving channels between folders takes memory by the largest tensor, not by the checkpoint."""

import json
import shutil
import subprocess
import sys

import measure_memory
import pytest

pytestmark = pytest.mark.slow

MEGABYTE = 1 << 20


def measured(folder, layers):
    """Size of a new checkpoint, bytes of its largest tensor, and peaks in a process of its own."""
    sizes = measure_memory.write_model(folder / "model", layers)
    command = [sys.executable, measure_memory.__file__, str(folder / "model"), str(folder / "out")]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    shutil.rmtree(folder)
    return *sizes, json.loads(found.stdout.splitlines()[-1])


def test_memory_is_bounded_by_the_largest_tensor_and_does_not_grow_with_the_checkpoint(tmp_path):
    total, _, small = measured(tmp_path / "small", 2)
    doubled, largest, large = measured(tmp_path / "large", 5)
    assert doubled > 190 * MEGABYTE and doubled > 1.9 * total
    for step in ("transfer", "merge"):
        assert large[step] < 3 * largest + 500 * MEGABYTE
        # Allocators keep a little more or less from run to run, and threads meet at other points.
        own = [each[step] - each["imports"] for each in (small, large)]
        assert own[1] < own[0] + 50 * MEGABYTE, (small, large)
