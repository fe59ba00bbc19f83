"""What `make lab` opens: the repository as the root, the first lesson on top, and no question in front of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from qwenlab.files import REPOSITORY

CONFIG = "--config=docs/jupyterlab/config.py"


@pytest.fixture(scope="module")
def get(tmp_path_factory):
    """A function that asks a running JupyterLab for a path and returns the address that answered, and the text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", CONFIG, "--no-browser", "--allow-root", f"--port={port}"]
    folder = tmp_path_factory.mktemp("jupyter")
    env = os.environ | {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [*command, "--IdentityProvider.token=word"], cwd=REPOSITORY, env=env, stdout=log, stderr=log
        )

    def get(path):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": "token word"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.url, answer.read().decode()

    try:
        for _ in range(240):  # a busy machine needs a minute
            try:
                get("/api")
                break
            except urllib.error.URLError:
                assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")
                time.sleep(0.5)
        yield get
    finally:
        server.terminate()
        server.wait(60)


def test_it_opens_on_the_first_lesson(get):
    url, _ = get("/")
    assert url.endswith("/lab/tree/notebooks/00_start_here.ipynb")


@pytest.mark.parametrize("path", ["configs/micro_lora.yaml", "data_sample/captions.jsonl", "README.md"])
def test_what_lessons_speak_of_can_be_opened(get, path):
    _, text = get(f"/api/contents/{path}?content=0")
    assert json.loads(text)["path"] == path


def test_no_question_about_news(get):
    _, text = get("/lab/api/settings/@jupyterlab/apputils-extension:notification")
    assert json.loads(text)["schema"]["properties"]["fetchNews"]["default"] == "false"


@pytest.mark.parametrize("name", ["Makefile", "README.md"])
def test_everybody_opens_it_this_way(name):
    commands = [line for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines() if "jupyter lab " in line]
    assert commands and all(CONFIG in line for line in commands)
