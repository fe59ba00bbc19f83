"""The tour runs notebooks in order, names the cell that fails, and makes one page of all of them."""

import re
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qwenlab.course.tour import NOTEBOOKS, execute, find_notebooks, one_page, run_tour
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


def test_of_a_progress_bar_the_last_state_stays(tmp_path):
    bar = "import time\nfor k in range(3):\n    print(f'\\r{k} of 2', end='', flush=True)\n    time.sleep(0.3)\nprint()"
    write(tmp_path, "00_first.ipynb", new_markdown_cell("# First"), new_code_cell(bar))
    run_tour(tmp_path / "build", tmp_path)
    (output,) = nbformat.read(tmp_path / "build/notebooks/00_first.ipynb", as_version=4).cells[1].outputs
    assert output.text.strip() == "2 of 2"


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


# The page


def rendered(*cells):
    paths = [NOTEBOOKS / "00_first.ipynb"]
    return BeautifulSoup(one_page(paths, [new_notebook(cells=list(cells))]), "html.parser")


def requests(page):
    """What a browser would ask of a host when it opens the page: all but links that a reader follows."""
    tags = [(tag.name, tag.get("src") or tag.get("href")) for tag in page.find_all(["script", "link", "img", "iframe"])]
    styles = " ".join(tag.get_text() for tag in page.find_all("style"))
    found = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]*)", styles)
    code = [tag.get_text() for tag in page.find_all("script") if "://" in tag.get_text()]
    return found + code + [address for _, address in tags if address and re.match(r"(https?:)?//", address)]


def picture(kind, alt='A red & a "blue" line.', **settings):
    data = {kind: "AAAA", "text/plain": "plain"}
    return new_output("display_data", data, metadata={kind: {"alt": alt, **settings}})


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg"])
def test_a_picture_carries_its_description_and_width(kind):
    page = rendered(new_code_cell("show()", outputs=[picture(kind, width=320)]))
    (image,) = page.find_all("img")
    assert image["alt"] == 'A red & a "blue" line.' and image["width"] == "320"
    assert image["src"] == f"data:{kind};base64,AAAA"
    page = rendered(new_code_cell("show()", outputs=[picture(kind, alt="")]))
    assert page.img["alt"] == "plain"


def test_formulas_are_shown_without_a_script():
    text = (
        "Inline $x < \\frac{\\alpha}{r}$ and\n\n$$\\sum_i y_i^2$$\n\n"
        "\\begin{align} a &= b \\\\ c &= d \\end{align}\n\n<details>\n\nFolded $\\sigma$\n\n</details>"
    )
    formulas = rendered(new_markdown_cell(text)).find_all("math")
    assert [formula["display"] for formula in formulas] == ["inline", "block", "block", "inline"]
    assert formulas[0].find("mfrac").get_text() == "αr" and formulas[1].find("mo").get_text() == "∑"
    assert not [formula for formula in formulas if "\\" in formula.get_text()]


def test_a_picture_on_a_host_becomes_its_description():
    page = rendered(new_markdown_cell("# T\n\n[![badge](https://example.org/b.svg)](https://example.org/)"))
    assert not page.find_all("img") and page.find("a", string="badge")["href"] == "https://example.org/"
    assert requests(page) == []


def test_requests_are_seen():
    """The check above can fail: nbconvert's own page has them."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(
        new_notebook(cells=[new_markdown_cell("![x](https://example.org/x.png)")])
    )
    found = requests(BeautifulSoup(page, "html.parser"))
    assert any("mathjax" in address for address in found) and "https://example.org/x.png" in found


def test_the_page_of_the_lessons_describes_every_picture_and_asks_no_host():
    paths = find_notebooks(NOTEBOOKS)
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    page = BeautifulSoup(one_page(paths, notebooks), "html.parser")
    outputs = [output for notebook in notebooks for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if {"image/png", "image/jpeg"} & set(output.get("data", {}))]
    descriptions = [image.get("alt", "") for image in page.find_all("img")]
    assert len(descriptions) >= len(pictures) > 50
    assert not [alt for alt in descriptions if not alt.strip() or alt.startswith(("No description", "<Figure"))]
    assert requests(page) == []
    formulas = page.find_all("math")
    assert len(formulas) > 100 and not [str(formula) for formula in formulas if "\\" in formula.get_text()]
    for tag in page.find_all(["code", "pre", "math"]):
        tag.decompose()
    prose = " ".join(tag.get_text() for tag in page.select(".jp-RenderedMarkdown"))
    assert "$" not in prose and "\\" not in prose, "a formula was not recognised"


def test_a_widget_that_catches_a_print_leaves_no_state(tmp_path):
    cell = "import ipywidgets\nshown = ipywidgets.Output()\nwith shown:\n    print('caught')\nshown"
    notebook = new_notebook(cells=[new_markdown_cell("# Widget"), new_code_cell(cell)])
    execute(notebook, tmp_path / "00_widget.ipynb")
    assert "widgets" not in notebook.metadata and notebook.cells[1].execution_count == 1
