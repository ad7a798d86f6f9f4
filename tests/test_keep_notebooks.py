"""Keeping a run leaves its results, and nothing of widgets and finished progress bars."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "keep_notebooks.py"
spec = importlib.util.spec_from_file_location("keep_notebooks", SCRIPT)
keep_notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keep_notebooks)

WIDGET = keep_notebooks.WIDGET


def test_widgets_and_progress_bars_leave_nothing():
    bar = {"output_type": "display_data", "data": {WIDGET: {}, "text/plain": "0%"}}
    assert keep_notebooks.still(bar) is None


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
