"""In a real JupyterLab, in a real browser: a slider draws its view anew."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from headless import browser_, pytestmark  # noqa: F401  (skips where there is none)
from jupyter_server.serverapp import list_running_servers
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 60  # seconds, for a busy machine
VIEW = """
import ipywidgets
import pandas as pd
from matplotlib import pyplot as plt
from actlib.analysis import plots, style
def show(percent):
    rows = [("mlp.up_proj", layer, percent * layer, 33) for layer in range(3)]
    columns = ["kind", "layer", "masked_percent", "of_mask_percent"]
    plots.composition(pd.DataFrame(rows, columns=columns), style.figure("full", 2)[1])
    plt.show()
ipywidgets.interact(show, percent=ipywidgets.SelectionSlider(options=[1, 5, 20]));
"""


@pytest.fixture
def address(tmp_path):
    """Address of a notebook in a JupyterLab of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(VIEW.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "view.ipynb")
    own = {f"JUPYTER_{name.upper()}_DIR": str(tmp_path / name) for name in ("config", "runtime")}
    words = ["lab", "--no-browser", "--allow-root", "--port=0"]
    words += ["--LabApp.expose_app_in_browser=True"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", *words, f"--ServerApp.root_dir={tmp_path}"],
        env=os.environ | own,
        start_new_session=True,
    )
    try:
        found, ends = [], time.monotonic() + PATIENCE
        while not found and time.monotonic() < ends:
            time.sleep(0.3)
            found = [*list_running_servers(tmp_path / "runtime")]
        yield f"{found[0]['url']}lab/tree/view.ipynb?token={found[0]['token']}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(browser, what):
    return WebDriverWait(browser, PATIENCE, 0.3).until(what)


def test_a_slider_in_jupyterlab_draws_the_view_anew(address, browser):
    browser.get(address)
    _wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-Notebook .jp-CodeCell"))
    ready = """
        const app = window.jupyterapp, panel = app?.shell.currentWidget;
        return panel?.sessionContext?.session?.kernel?.status ?? 'none';
    """
    _wait(browser, lambda b: b.execute_script(ready) == "idle")
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    picture = "return document.querySelector('.jp-OutputArea-output img')?.src"
    _wait(browser, lambda b: b.execute_script(picture))
    before = browser.execute_script(picture)
    handle = browser.find_element(By.CSS_SELECTOR, ".noUi-handle")
    handle.send_keys(Keys.ARROW_RIGHT)
    _wait(browser, lambda b: b.execute_script(picture) not in (None, before))
    assert "Error displaying widget" not in browser.page_source
