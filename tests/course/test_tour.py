"""The tour runs notebooks in order, names the cell that fails, and makes one page of all of them."""

import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from qwenlab.course.tour import find_notebooks, run_tour
from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY


def write(folder, name, *cells):
    nbformat.write(new_notebook(cells=list(cells)), folder / name)


def test_tour_executes_in_order_and_makes_one_page(tmp_path):
    source, out = tmp_path / "notebooks", tmp_path / "build"
    source.mkdir()
    first = "from pathlib import Path\nPath('trace').write_text('here')\nimport sys; print(sys.executable)"
    title = new_markdown_cell("# First\nThen [the second](01_second.ipynb).")
    write(source, "00_first.ipynb", title, new_code_cell(first))
    second = "print(Path('trace').read_text()) if 'Path' in dir() else print('a fresh kernel')"
    write(source, "01_second.ipynb", new_markdown_cell("# Second"), new_code_cell(second))
    before = (source / "00_first.ipynb").read_bytes()

    page = run_tour(out, source).read_text(encoding="utf-8")

    first = nbformat.read(out / "notebooks" / "00_first.ipynb", as_version=4)
    assert first.cells[1].outputs[0].text.strip() == sys.executable
    assert (source / "trace").exists()  # notebooks run in their own folder
    assert (source / "00_first.ipynb").read_bytes() == before
    assert "a fresh kernel" in page
    assert page.index('<h1 id="First"') < page.index('<h1 id="Second"')
    assert 'href="#01_second"' in page and 'id="01_second"' in page


def test_tour_names_notebook_and_cell_of_a_failure_and_keeps_the_copy(tmp_path):
    source, out = tmp_path / "notebooks", tmp_path / "build"
    source.mkdir()
    write(source, "00_first.ipynb", new_markdown_cell("# First"), new_code_cell("print('ran')"),
          new_code_cell("1 / 0", id="boom"), new_code_cell("print('never')"))  # fmt: skip
    with pytest.raises(QwenlabError, match=r"00_first.ipynb, cell 3 \(id boom\) failed: ZeroDivisionError"):
        run_tour(out, source)
    copy = nbformat.read(out / "notebooks" / "00_first.ipynb", as_version=4)
    assert copy.cells[1].outputs and not copy.cells[3].outputs
    assert not (out / "qwenlab.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_stops_the_tour_and_keeps_the_copy(tmp_path):
    source, out = tmp_path / "notebooks", tmp_path / "build"
    source.mkdir()
    interrupt = "import os, signal, time\nos.kill(os.getppid(), signal.SIGINT)\ntime.sleep(600)"
    write(source, "00_first.ipynb", new_code_cell("print('ran')"), new_code_cell(interrupt))
    program = (
        "import sys\nfrom qwenlab.course.tour import run_tour\n"
        "try: run_tour(*sys.argv[1:])\nexcept KeyboardInterrupt: print('stopped')"
    )
    command = [sys.executable, "-c", program, str(out), str(source)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400)
    assert result.stdout.strip().endswith("stopped"), result.stderr
    assert nbformat.read(out / "notebooks" / "00_first.ipynb", as_version=4).cells[0].outputs


def test_no_notebooks(tmp_path):
    with pytest.raises(QwenlabError, match="clone of the repository"):
        find_notebooks(tmp_path)
