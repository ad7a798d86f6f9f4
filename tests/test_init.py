import subprocess
import sys

import pytest

import actlib


def test_every_exported_name_loads():
    for name in actlib.__all__:
        assert getattr(actlib, name).__name__ == name
    assert set(actlib.__all__) <= set(dir(actlib))


def test_unknown_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        actlib.nonsense  # noqa: B018


def test_importing_the_package_does_not_import_torch():
    code = "import sys, actlib; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
