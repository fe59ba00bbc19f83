"""A report as text for the terminal, and as one HTML page that carries its thumbnails."""

import base64
import html
from collections import defaultdict

from qwenlab.data.check.folder import Report
from qwenlab.data.findings import LEVELS, RULES, Finding, plural, shown

TEXT_LIMIT, HTML_LIMIT = 8, 100  # findings of one rule
SHEET_LIMIT = 200  # pictures shown at the end of the page
_THUMBNAILS = 6  # of one finding


def to_text(report: Report, limit: int = TEXT_LIMIT) -> str:
    """The report for a terminal: a summary, then each kind of finding with reason, remedy and the first places."""
    lines = [f"{shown(str(report.layout.folder), 200)}: {summary(report)}", f"read as: {report.reading.understood}"]
    for rule, findings in _by_rule(report):
        kind = RULES[rule]
        lines += ["", f"{kind.level.upper()}  {kind.title} ({len(findings)})"]
        lines += [f"    why: {kind.why}", f"    do:  {kind.remedy}"]
        if kind.mend:
            lines.append(f"    fix: {kind.mend}")
        lines += [f"  - {shown(finding.where)}: {shown(finding.detail, 200)}" for finding in findings[:limit]]
        if len(findings) > limit:
            lines.append(f"  - and {len(findings) - limit} more; --html lists them")
    lines += ["", "Captions that name"]
    for group, counts in report.coverage.items():
        lines.append(f"  {group}: {_counts(counts) or '-'}")
    if report.captions_summary:
        lines += ["", shown(report.captions_summary, 500)]
    return "\n".join(lines)


def summary(report: Report) -> str:
    """One line: how much was looked at, and how many findings of each level there are."""
    counts = ", ".join(plural(report.count(level), level) for level in LEVELS)
    return f"{plural(report.files, 'picture')}, {plural(len(report.records), 'caption')}: {counts}"


def to_html(report: Report) -> str:
    """The report as one page without scripts or outside files. Check with `thumbnails=True` to see pictures."""
    title = f"Data set check: {shown(report.layout.folder.resolve().name)}"
    texts = {record.name: record.text for record in report.records}
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_escape(title)}</h1><p>{summary(report)}.<br>Read as: {_escape(report.reading.understood)}.</p>",
    ]
    level = None
    for rule, findings in _by_rule(report):
        kind = RULES[rule]
        if kind.level != level:
            level = kind.level
            parts.append(f'<h2 class="{level}">{level.capitalize()}s</h2>')
        parts.append(f"<section><h3>{kind.title} ({len(findings)})</h3>")
        parts.append(f"<p><b>Why:</b> {_escape(kind.why)}<br><b>What to do:</b> {_escape(kind.remedy)}")
        parts.append(f"<br><b>A repaired copy:</b> {_escape(kind.mend)}.</p><ul>" if kind.mend else "</p><ul>")
        parts += [_item(report, finding, texts) for finding in findings[:HTML_LIMIT]]
        parts.append(f"<li>and {len(findings) - HTML_LIMIT} more</li>" if len(findings) > HTML_LIMIT else "")
        parts.append("</ul></section>")
    parts.append("<h2>What the captions name</h2><table><tr><th>Thing</th><th>Captions</th></tr>")
    for group, counts in report.coverage.items():
        parts.append(f"<tr><td>{group}</td><td>{_escape(_counts(counts) or '-')}</td></tr>")
    parts.append(f"</table><p>{_escape(shown(report.captions_summary, 500))}</p>")
    names = [name for name, picture in report.pictures.items() if picture.thumbnail][:SHEET_LIMIT]
    if names:
        parts.append(f"<h2>Pictures ({len(names)} of {report.files})</h2><div>")
        parts += [_thumbnail(report, name, texts) for name in names] + ["</div>"]
    parts.append("</body></html>")
    return "\n".join(part for part in parts if part) + "\n"


def _item(report: Report, finding: Finding, texts: dict[str, str]) -> str:
    images = "".join(_thumbnail(report, name, texts) for name in finding.pictures[:_THUMBNAILS])
    text = f"<code>{_escape(shown(finding.where))}</code>: {_escape(shown(finding.detail, 300))}"
    return f"<li>{text}{f'<div>{images}</div>' if images else ''}</li>"


def _thumbnail(report: Report, name: str, texts: dict[str, str]) -> str:
    picture = report.pictures.get(name)
    if picture is None or picture.thumbnail is None:
        return ""
    about = f"{shown(name)}, {picture.width} x {picture.height} {picture.format}"
    alt = f"{about}: {shown(texts.get(name, 'no caption'), 120)}"
    data = base64.b64encode(picture.thumbnail).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_escape(alt)}" title="{_escape(about)}">'


def _by_rule(report: Report) -> list[tuple[str, list[Finding]]]:
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.rule].append(finding)
    return list(groups.items())


def _counts(counts: dict[str, int], limit: int = 12) -> str:
    text = ", ".join(f"{shown(value, 20)} {count}" for value, count in list(counts.items())[:limit])
    return text + (f" and {len(counts) - limit} more" if len(counts) > limit else "")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { border-bottom: 3px solid #888; } h2.error { border-color: #b00020; } h2.warning { border-color: #b26a00; }
h2.note { border-color: #1a5fb4; } code { background: #f2f2f2; padding: 0 .2em; overflow-wrap: anywhere; }
img { max-height: 128px; margin: .3rem .5rem .3rem 0; border: 1px solid #ccc; vertical-align: top; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #eee; } code { background: #333; } }
"""
