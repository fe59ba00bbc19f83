"""What `qwenlab check-dataset` does: check, print, write the page and the repaired copy, check that again."""

from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from qwenlab.data.check.folder import Report, Summarise, check_dataset
from qwenlab.data.check.pictures import Limits
from qwenlab.data.check.repair import repair_dataset
from qwenlab.data.check.report import summary, to_html, to_text
from qwenlab.data.findings import plural
from qwenlab.errors import QwenlabError
from qwenlab.files import atomic_write_text

_CHANGES = 20  # lines of changes that are printed


def run(folder: Path, html: Path | None, fix: Path | None, min_side: int, encoding: str, summarise: Summarise) -> int:
    """Returns the exit status: 0 when no error is left (in the copy, if one was made), else 1.

    A copy that holds less than half of the captioned pictures counts as a failure, too.

    summarise: what the rooms above say of the captions, for the report.
    """
    if html is not None and (html.suffix.lower() not in (".html", ".htm") or html.is_dir()):
        raise QwenlabError(f"--html {html}: end the name of the page in .html")
    limits = Limits(min_side=min_side)
    report = _check(folder, limits, encoding=encoding, thumbnails=html is not None, summarise=summarise)
    typer.echo(to_text(report))
    if html is not None:
        atomic_write_text(html, to_html(report))
        typer.echo(f"\n{html}: open it in a browser")
    if fix is None:
        if not report.ok:
            typer.echo(f"\nNext: qwenlab check-dataset {folder} --fix {folder.resolve().name}_repaired")
        return 0 if report.ok else 1
    repaired = repair_dataset(report, fix)
    counts = f"{plural(repaired.samples, 'sample')}, {plural(len(repaired.changes), 'change')}"
    typer.echo(f"\n{fix}: {counts}; {folder} is as it was")
    for change in repaired.changes[:_CHANGES]:
        typer.echo(f"  - {change}")
    if len(repaired.changes) > _CHANGES:
        typer.echo(f"  - and {len(repaired.changes) - _CHANGES} more")
    again = _check(fix, limits)
    typer.echo(f"{fix} checked again: {summary(again)}")
    if 2 * repaired.samples < repaired.captions:
        kept = f"{plural(repaired.samples, 'sample')} of {repaired.captions}"
        typer.echo(f"Only {kept} came through: mend the rest by hand")
        return 1
    return 0 if again.ok else 1


def _check(folder: Path, limits: Limits, **options: Any) -> Report:
    bar = tqdm(desc="Pictures", unit="picture", leave=False, disable=None)  # off when no terminal shows it

    def on_item(total: int) -> None:
        bar.total = total
        bar.update()

    with bar:
        return check_dataset(folder, limits, on_item=on_item, **options)
