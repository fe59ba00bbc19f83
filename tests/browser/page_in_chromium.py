"""The page of the editing session in JupyterLab, in a real browser: `make browser`. Not part of `make test`.

Pictures of what was seen lie in build/browser. Chromium is the one in PATH, or the one that CHROMIUM names.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

from qwenlab.files import REPOSITORY

SHOTS = REPOSITORY / "build" / "browser"
SLOW = 240_000  # milliseconds for what loads or draws

SETUP = """
from qwenlab.editing import EditSession, SessionPage
from qwenlab.model.pipeline import load_pipeline

session = EditSession.create("session", load_pipeline("micro"))
session.generate("1女孩, 红色短发, 白色连衣裙, 挥手, 背景:花园, 风格:日系插画, 细节:全身正面, 五指张开, 穿鞋", seed=3)
page = SessionPage(session)
page
"""
READ = """
import numpy as np

rows, columns = np.nonzero(page.brush.white())
print("MASK", len(rows), rows.min(), rows.max(), columns.min(), columns.max(), "TURNS", len(session.history.turns))
"""


def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert path, "no Chromium in PATH: install it (Debian: apt-get install chromium), or name it in CHROMIUM"
    return path


@pytest.fixture
def address(tmp_path):
    """A JupyterLab with the notebook page.ipynb."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text.strip()) for text in (SETUP, READ)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "page.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyter", "lab", "--allow-root", "--no-browser", f"--port={port}",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}",
        f"--LabApp.app_settings_dir={REPOSITORY / 'docs' / 'jupyterlab'}",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/page.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def tab():
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 1250})
        browser.close()


def shot(tab, name):
    tab.screenshot(path=SHOTS / f"{name}.png")


def mask_as_read(tab):
    """What the kernel has: number of pixels, first and last row, first and last column, number of turns."""
    tab.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    tab.keyboard.press("Control+Enter")
    output = tab.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
    expect(output).to_have_text(re.compile("MASK.*TURNS"), timeout=SLOW)
    return [int(number) for number in re.findall(r"\d+", output.inner_text())]


def test_a_stroke_of_the_mouse_is_a_mask_in_the_kernel(address, tab):
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    first = tab.locator(".jp-CodeCell").first.locator(".cm-content")
    expect(first).to_be_visible(timeout=SLOW)
    expect(tab.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(timeout=SLOW)
    first.click()
    tab.keyboard.press("Control+Enter")
    canvas = tab.locator("canvas.qwenlab-mask")
    expect(canvas).to_be_visible(timeout=SLOW)
    shot(tab, "1-page")
    expect(tab.get_by_text("The history of 1 turns")).to_have_count(0)  # the figure makes room for the widgets

    draw = tab.locator("button").filter(has_text=re.compile(r"^\s*Draw\s*$"))  # its icon is part of its name

    # The stroke: from (20, 40) to (60, 40) of 128 pixels, with a brush of 16.
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    scale = box["width"] / 128
    assert scale == pytest.approx(3, abs=0.01), "shown at three times its size"
    tab.mouse.move(box["x"] + 20 * scale, box["y"] + 40 * scale)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 60 * scale, box["y"] + 40 * scale, steps=8)
    tab.mouse.up()
    shot(tab, "2-stroke")
    count, top, bottom, left, right, turns = mask_as_read(tab)
    assert (top, bottom, left, right) == (32, 47, 12, 67) and 800 < count < 900 and turns == 1

    # Redraw it, by the buttons.
    tab.get_by_role("button", name="Redraw mask").click()
    draw.click()
    expect(tab.get_by_text("Turn 2 is drawn and saved.")).to_be_visible(timeout=SLOW)
    tab.get_by_role("tab", name="Before and after").click()
    tab.locator(".qwenlab-compare").wait_for()
    shot(tab, "3-before-and-after")

    # Back by a click on the first picture, then another branch.
    tab.locator(".qwenlab-tile").first.click()
    expect(tab.get_by_text("Back at turn 1.")).to_be_visible(timeout=SLOW)
    tab.get_by_role("button", name="Extend").click()
    shot(tab, "4-extend")
    tab.locator("input[type=number]:visible").nth(1).fill("32")
    tab.keyboard.press("Tab")
    draw.click()
    expect(tab.get_by_text(re.compile("Drawing: .* calls"))).to_be_visible(timeout=SLOW)
    expect(draw).to_be_disabled()
    shot(tab, "5-drawing")
    expect(tab.get_by_text("Turn 3 is drawn and saved.")).to_be_visible(timeout=SLOW)
    shot(tab, "6-two-branches")

    # Mistakes are a line on the page.
    tab.get_by_role("button", name="Edit by words").click()
    draw.click()
    expect(tab.get_by_text("edit: no edit LoRA is loaded")).to_be_visible(timeout=SLOW)
    shot(tab, "7-mistake")
    assert not errors
