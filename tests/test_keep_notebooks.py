"""Keeping a run leaves pictures of views, and nothing of finished progress bars."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "keep_notebooks.py"
spec = importlib.util.spec_from_file_location("keep_notebooks", SCRIPT)
keep_notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keep_notebooks)

WIDGET = keep_notebooks.WIDGET


def test_a_view_leaves_its_picture_and_a_progress_bar_nothing():
    bar = {"output_type": "display_data", "data": {WIDGET: {}, "text/plain": "0%"}}
    view = {"output_type": "execute_result", "data": {WIDGET: {}, "image/png": "abc"}}
    assert keep_notebooks.still(bar) is None
    assert keep_notebooks.still(view)["data"].keys() == {"image/png", "text/plain"}
    assert view["data"].keys() == {WIDGET, "image/png"}  # the run's own stays as it was


def test_other_outputs_stay_as_they_are():
    stream = {"output_type": "stream", "text": "words"}
    table = {"output_type": "execute_result", "data": {"text/html": "<table>"}}
    assert keep_notebooks.still(stream) is stream and keep_notebooks.still(table) is table


def test_words_about_waiting_for_another_process_are_not_kept():
    told = {"output_type": "stream", "name": "stderr"}
    waited = "waiting for another process, writing a file (lock /home/ada/x.lock)\n"
    assert keep_notebooks.unwaited({**told, "text": [waited]}) is None
    assert keep_notebooks.unwaited({**told, "text": [waited, "a\n"]}) == {**told, "text": ["a\n"]}
    printed = {**told, "name": "stdout", "text": [waited]}
    assert keep_notebooks.unwaited(printed) == printed
