"""Run the notebooks in order without a browser and lay them out on one HTML page."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from qwenlab.errors import QwenlabError
from qwenlab.files import REPOSITORY, atomic_write_text

try:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from nbformat import NotebookNode

    from qwenlab.course.page import PageExporter
except ImportError as error:
    raise QwenlabError(f'a tour needs Jupyter ({error}): pip install "qwenlab[notebooks]"') from error

NOTEBOOKS = REPOSITORY / "notebooks"


class CellFailed(QwenlabError):
    """A notebook stopped. number: place of the cell, from 1; cell_id: its id; what: the error, in one line."""

    def __init__(self, path: Path, number: int, cell_id: str, what: str):
        self.number, self.cell_id, self.what = number, cell_id, what
        super().__init__(
            f"{path.name}, cell {number} (id {cell_id}) failed: {what}; "
            "open the notebook in JupyterLab and run it up to that cell to see more"
        )


def run_tour(out: str | Path = "build", folder: str | Path = NOTEBOOKS) -> Path:
    """Execute every `NN_name.ipynb` of `folder` in order; return the path of the page with all of them.

    Leaves `out/notebooks/NN_name.ipynb` (executed copies) and `out/qwenlab.html`. The committed notebooks are not
    touched. Raises QwenlabError naming notebook and cell when one fails; its copy, run so far, is kept.
    """
    out, folder = Path(out), Path(folder)
    paths = find_notebooks(folder)
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        cells = sum(cell.cell_type == "code" for notebook in notebooks for cell in notebook.cells)
        task = progress.add_task("starting", total=cells)
        for path, notebook in zip(paths, notebooks, strict=True):
            progress.update(task, description=path.stem)
            copy = out / "notebooks" / path.name
            try:
                execute(notebook, path, on_cell=lambda: progress.advance(task))
            finally:
                atomic_write_text(copy, nbformat.writes(notebook))
        progress.update(task, description="all notebooks")
    return atomic_write_text(out / "qwenlab.html", one_page(paths, notebooks))


def find_notebooks(folder: str | Path) -> list[Path]:
    """The lessons in order of their number. Raises QwenlabError when there are none."""
    paths = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise QwenlabError(f"no lessons (NN_name.ipynb) in {folder}: run this in a clone of the repository")
    return paths


def execute(notebook: NotebookNode, path: Path, on_cell=lambda: None) -> None:
    """Run a notebook in place, in the folder it lives in, with this environment's Python.

    on_cell: called after each code cell. Raises CellFailed (a QwenlabError) naming the notebook and the cell.
    """
    running = [0]

    def started(cell, cell_index, **_) -> None:
        running[0] = cell_index

    client = NotebookClient(
        notebook,
        timeout=None,  # the tour waits; whoever watches the bar may stop it
        startup_timeout=120,  # a busy machine needs more than the usual 60 s to start a kernel
        kernel_name="python3",  # ipykernel's own, so this very interpreter, whatever the file names
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,  # time stamps would change with every run
        coalesce_streams=True,  # a progress bar leaves its last state, and not one line for each
        on_cell_start=started,
        on_cell_executed=lambda **_: on_cell(),
    )
    try:
        client.execute()  # without the state of widgets an Output that catches a print would end it with KeyError
    except CellExecutionError as error:
        what = f"{error.ename}: {error.evalue.strip().partition(chr(10))[0]}"
    except DeadKernelError:
        what = "the kernel died, probably for lack of memory"
    except AssertionError:  # no cell's: those are CellExecutionErrors. nbclient's own, once a signal made it stop
        raise KeyboardInterrupt from None
    else:
        return
    finally:
        notebook.metadata.pop("widgets", None)  # it breaks the display of notebooks on code-hosting sites
    raise CellFailed(path, running[0] + 1, notebook.cells[running[0]].get("id", "none"), what)


def one_page(paths: Sequence[Path], notebooks: Sequence[NotebookNode]) -> str:
    """One HTML page of several executed notebooks, with a list of contents and working links between them."""
    contents = "\n".join(f"1. [{_title(nb, path)}](#{path.stem})" for path, nb in zip(paths, notebooks, strict=True))
    cells = [nbformat.v4.new_markdown_cell(f"# qwenlab\n\n{contents}", id="contents")]
    for path, notebook in zip(paths, notebooks, strict=True):
        cells.append(nbformat.v4.new_markdown_cell(f'<a id="{path.stem}"></a>', id=f"start-{path.stem}"))
        for number, cell in enumerate(notebook.cells):
            cell = cell.copy()
            cell.id = f"{path.stem}-{number}"[-64:]  # ids are unique within one notebook only
            if cell.cell_type == "markdown":
                cell.source = re.sub(r"\]\((?:\./)?(\d\d_\w+)\.ipynb(#[^)]*)?\)", r"](#\1)", cell.source)
            cells.append(cell)
    page = nbformat.v4.new_notebook(cells=cells, metadata={"title": "qwenlab", **_language(notebooks)})
    resources = {"metadata": {"path": str(paths[0].parent), "name": "qwenlab"}}
    html, _ = PageExporter().from_notebook_node(page, resources)
    return html


def _title(notebook: NotebookNode, path: Path) -> str:
    for cell in notebook.cells:
        heading = re.search(r"^# (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if heading:
            return heading.group(1).strip()
    return path.stem


def _language(notebooks: Sequence[NotebookNode]) -> dict:
    info = notebooks[0].metadata.get("language_info")
    return {"language_info": info} if info else {}
