"""What a notebook of this series must look like. nbval runs the cells; these rules catch what it passes in silence.

`problems(notebook)` names every breach as "cell 3 (id abc): what"; the tests apply it to the shipped notebooks and
check on small broken ones that each rule bites.
"""

import ast
import json
import re

MAX_BYTES = 600 * 1024
MARKERS = {"# NBVAL_CHECK_OUTPUT", "# NBVAL_IGNORE_OUTPUT", "# NBVAL_RAISES_EXCEPTION"}
TAGS = {"nbval-check-output", "nbval-ignore-output", "raises-exception", "set-up"}
SETUP_TAG = "set-up"
SETUP_LINES = 10
PICTURES = ("image/png", "image/jpeg", "image/svg+xml", "image/webp")


def problems(notebook: dict) -> list[str]:
    """Every breach of the rules in a notebook (the parsed JSON)."""
    found = [f"notebook: {text}" for text in _whole_notebook(notebook)]
    for number, cell in enumerate(notebook["cells"], 1):
        check = _code_cell if cell["cell_type"] == "code" else _markdown_cell
        found += [f"cell {number} (id {cell.get('id')}): {text}" for text in check(cell)]
    return found


def source(cell: dict) -> str:
    return "".join(cell["source"])


def setup_cell(notebook: dict) -> dict | None:
    tagged = [cell for cell in notebook["cells"] if SETUP_TAG in cell["metadata"].get("tags", [])]
    return tagged[0] if len(tagged) == 1 else None


def _whole_notebook(notebook):
    cells = notebook["cells"]
    if "widgets" in notebook["metadata"]:
        yield "metadata.widgets breaks the display on code-hosting sites: clear it"
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "the kernel must be python3, the environment's own"
    first = source(cells[0]) if cells else ""
    if not first.startswith("# "):
        yield "the first cell must hold the title"
    ids = [cell.get("id") for cell in cells]
    if None in ids or len(set(ids)) != len(ids):
        yield "every cell needs an id of its own"
    setup = setup_cell(notebook)
    if setup is None:
        yield f'exactly one cell must carry the tag "{SETUP_TAG}"'
    elif len(source(setup).splitlines()) > SETUP_LINES:
        yield f"the set-up cell has more than {SETUP_LINES} lines"
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code" and source(cell).strip()]
    if None not in counts and counts != list(range(1, len(counts) + 1)):
        yield "the cells were not executed in order: restart the kernel and run all"
    size = len(json.dumps(notebook, ensure_ascii=False, indent=1).encode())
    if size > MAX_BYTES:
        yield f"{size / 1024:.0f} KiB, more than {MAX_BYTES // 1024}"


def _code_cell(cell):
    text, outputs, tags = source(cell), cell["outputs"], set(cell["metadata"].get("tags", []))
    if not text.strip():
        yield "empty code cell"
    elif cell["execution_count"] is None:
        yield "not executed: nbval compares nothing in such a cell"
    for line in text.splitlines():
        stripped = line.strip()
        if re.match(r"#\s*(nbval|pytest)", stripped, re.IGNORECASE) and stripped not in MARKERS:
            yield f"{stripped!r} is not a marker that nbval knows, and it says nothing about that"
        if stripped.startswith(("!", "%pip", "%conda", "%%bash", "%%sh")) and SETUP_TAG not in tags:
            yield f"{stripped!r}: a failing shell command passes unseen; only the set-up cell may install"
    for line in _bare_asserts(text):
        yield f"line {line}: an assert without a message tells a learner nothing"
    if re.search(r"nbval[_-](skip|test_name)", text + " ".join(tags), re.IGNORECASE):
        yield "cells are never skipped"
    if "execution" in cell["metadata"]:
        yield "time stamps of the execution change with every run: leave them out"
    if tags - TAGS:
        yield f"unknown tags {sorted(tags - TAGS)}"
    raises = "raises-exception" in tags or "# NBVAL_RAISES_EXCEPTION" in text
    errors = [output["ename"] for output in outputs if output["output_type"] == "error"]
    if errors and not raises:
        yield f"stored output is an error ({errors[0]})"
    if raises and not errors:
        yield "marked as raising, but nothing was raised"
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stderr" and "# NBVAL_CHECK_OUTPUT" in text:
            yield "stderr would be compared, too: silence it or do not check the output"
        yield from _pictures(output.get("data", {}), output.get("metadata", {}))


def _bare_asserts(text):
    """Lines of the asserts without a message; shell commands and magics are no Python and count as nothing."""
    python = re.sub(r"^(\s*)[!%].*", r"\1pass", text, flags=re.MULTILINE)
    try:
        nodes = list(ast.walk(ast.parse(python)))
    except SyntaxError:
        return []
    empty = (node.lineno for node in nodes if isinstance(node, ast.Assert) and not _says_something(node.msg))
    return sorted(empty)


def _says_something(message):
    return message is not None and not (isinstance(message, ast.Constant) and not str(message.value or "").strip())


def _pictures(data, metadata):
    for kind in PICTURES:
        if kind in data and not metadata.get(kind, {}).get("alt") and not metadata.get("alt"):
            plain = "".join(data.get("text/plain", ""))
            if not plain or re.match(r"<(Figure|PIL|IPython)", plain):
                yield f"{kind} output without alternative text: show it with qwenlab.show.image_table"
    yield from _tags_without_alt("".join(data.get("text/html", "")))


def _markdown_cell(cell):
    text = source(cell)
    yield from _tags_without_alt(text)
    for alt in re.findall(r"!\[([^\]]*)\]\(", text):
        if not alt.strip():
            yield "picture without alternative text"
    if "attachments" in cell:
        yield "pictures belong in docs/, not in cell attachments"


def _tags_without_alt(text):
    for tag in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r"""\balt=(["'])\s*\S""", tag):
            yield "<img> without alternative text"
