"""One line or row of a captions file: the picture it names and the caption, or why it cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from qwenlab.data.findings import Finding, shown
from qwenlab.data.reader.garbled import garbled, lost_characters
from qwenlab.data.reader.references import own_names
from qwenlab.data.reader.wording import is_empty, no_caption, without_invisible

#: The key under which a line names one or several pictures that its caption speaks of.
REFERENCE = "reference"
#: The key of the picture that says where things are.
CONTROL = "control"
#: Other keys under which people write captions.
_TEXT_KEYS = ("caption", "captions", "prompt", "description", "tags")
_NAME_KEYS = ("file_name", "file", "filename", "image", "image_path", "img", "path", "name")

# (what stands there, the cause), tried in this order
_CAUSES = (
    (re.compile(r"[“”„＂]\s*(?:file_name|text)|[:,{]\s*[“”＂]"), "quotes are curly or full-width: write straight ones"),
    (re.compile(r'"\s*：'), "a full-width colon ： after a key: write :"),
    (re.compile(r'["\d\]}]\s*，\s*"'), "a full-width comma ， between keys: write ,"),
    (re.compile(r"[｛｝]"), "full-width braces ｛｝: write { and }"),
    (
        re.compile(r"^[\x00-\x08\x0e-\x1f\s]+$"),
        "only control characters, which an old program or a damaged disk wrote: delete the line",
    ),
    (re.compile(r"^\s*\+AHs[A-Za-z0-9+/]*-?"), "text in UTF-7: save the file as UTF-8"),
    (re.compile(r"^\s*\{\s*'"), "single quotes, as Python prints them: write double ones"),
    (re.compile(r",\s*[}\]]"), "a comma after the last value: delete it"),
    (re.compile(r"\}\s*,\s*$"), "a comma after the object: one object a line, no comma between lines"),
    (re.compile(r"^\s*\[\s*$|^\s*\[\s*\{"), "a list of objects: write one object a line, without the list"),
    (re.compile(r"^\s*[{}\]],?\s*$"), "an object over several lines: write each on one line"),
    (re.compile(r"\}\s*\{"), "two objects on one line: write each on its own"),
    (re.compile(r"^\s*(?://|#)"), "a comment: JSON has none"),
    (re.compile(r'^\s*"[^"]*"\s*:'), "the braces { } are missing, or the object goes over several lines"),
    (
        re.compile(r"^\s*[^\s{\[].*\.(?:png|jpe?g|webp|bmp|gif|tiff?|avif)\s*[:：,，\t=|]", re.IGNORECASE),
        "a file name and a caption with a mark such as : or ： between them: write an object with keys",
    ),
    (re.compile(r":\s*(?:None|True|False|undefined)\b"), "None, True and False are Python's: write null, true, false"),
    (re.compile(r"^\s*[^\s{\[]"), "no JSON object, which begins with {"),
)
_MESSAGES = (
    ("Invalid control character", "a tab, line break or other control character in a text: write \\t or \\n"),
    ("Exceeds the limit", "a number of too many digits"),
    ("maximum recursion", "nested too deeply"),
    ("Invalid \\", "a backslash inside of a text: write \\\\, or / in a path"),
    ("Unterminated string", 'a quote " is missing at the end, or the line was cut'),
    ("Extra data", "something stands after the object: delete it"),
    ("Expecting ',' delimiter", 'a quote inside of a text: write \\", or the line was cut'),
    ("Expecting property name", "a key without quotes, or the line was cut"),
)


class Parsed(NamedTuple):
    """The file name as written and the caption, stripped. changes: how the caption differs from what is written.

    references: names of pictures that the caption speaks of, as written. control: of the one that says where things
    are.
    """

    name: str
    text: str
    changes: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    control: str = ""


def parse_json(text: str, where: str) -> tuple[Any, Finding | None]:
    """The value of a line, or why it is not JSON. A key that stands twice is a fault: one of them would be lost."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        twice.extend(name for name in names if names.count(name) > 1)
        return dict(items)

    try:
        value = json.loads(text.strip(), object_pairs_hook=pairs)  # a form feed or wide space around it is no fault
    except (ValueError, RecursionError) as error:
        return None, Finding("not-json", where, f"not JSON: {_cause(text, error)}")
    if twice:
        return None, Finding("bad-record", where, f'"{shown(twice[0], 20)}" stands twice: delete one')
    return value, None


def _cause(text: str, error: Exception) -> str:
    message = getattr(error, "msg", "") or str(error)
    for pattern, cause in _CAUSES:
        if pattern.search(text):
            return cause
    return next((cause for start, cause in _MESSAGES if message.startswith(start)), message)


def parse_record(value: Any, where: str) -> tuple[Parsed | None, list[Finding]]:
    """The picture and caption of a JSON object or table row, and what is wrong with it."""
    if isinstance(value, list):
        return None, [
            Finding("bad-record", where, 'needs "file_name" and "text" in an object {...}: this is a list [...]')
        ]
    if not isinstance(value, Mapping):
        return None, [Finding("bad-record", where, 'needs "file_name" and "text" in an object {...}')]
    value = own_names(value)
    name = value.get("file_name")
    if not isinstance(name, str) or not name.strip():
        others = [key for key in value if _plain_key(key) in _NAME_KEYS or str(key).endswith("_file_name")]
        hint = f': rename "{shown(str(others[0]), 30)}" to it' if others and name is None else " with a text"
        return None, [Finding("bad-record", where, f'needs "file_name"{hint}')]
    findings, changes, text = [], [], value.get("text")
    if "text" not in value:
        others = [key for key in value if _plain_key(key) in (*_TEXT_KEYS, "text") and isinstance(value[key], str)]
        if len(others) == 1:
            text, key = value[others[0]], shown(others[0], 30)
            findings.append(
                Finding("wrong-key", where, f'needs "text": the caption of {shown(name)} stands under "{key}"')
            )
            changes.append(f'caption taken from "{key}"')
        elif others:
            keys = " and ".join(f'"{shown(key, 30)}"' for key in others)
            return None, [Finding("bad-record", where, f'needs "text": {keys} are here, rename the right one')]
    if not isinstance(text, str):
        return None, [*findings, Finding("bad-record", where, f'needs "text" with a caption for {shown(name)}')]
    if not text.strip():
        return None, [
            *findings,
            Finding("empty-caption", where, f'needs "text": the caption of {shown(name)} is empty'),
        ]
    text, found, changed = check_text(text.strip(), where)
    findings += found
    if text is None:
        return None, findings
    references = parse_references(value.get(REFERENCE))
    if references is None:
        return None, [*findings, Finding("bad-record", where, f'"{REFERENCE}" must be a file name, or a list of them')]
    controls = parse_references(value.get(CONTROL))
    if controls is None or len(controls) > 1:
        return None, [*findings, Finding("bad-record", where, f'"{CONTROL}" must be the name of one file')]
    return Parsed(name, text, (*changes, *changed), references, "".join(controls)), findings


def parse_references(value: Any) -> tuple[str, ...] | None:
    """The names in a `reference`: one, a list, or a list as JSON in a table's cell; None for anything else."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    names = [value] if isinstance(value, str) else value
    if names is None or names == [""]:
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        return None
    return tuple(names)


def _plain_key(key: Any) -> str:
    """A key without what people change: case, spaces and invisible signs around it, and the mark between words."""
    return str(key).strip("\ufeff\u200b ").lower().replace(" ", "_").replace("-", "_")


def check_text(text: str, where: str) -> tuple[str | None, list[Finding], tuple[str, ...]]:
    """A caption as it was meant, None when it cannot be used; what is wrong with it; what was changed."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return None, [Finding("bad-record", where, 'needs "text" of whole characters: half of a surrogate pair')], ()
    if wrong := garbled(text):
        if wrong.text is None:
            return None, [Finding("garbled", where, f"'{shown(text, 24)}' is {wrong.how}")], ()
        detail = f"'{shown(text, 24)}' is {wrong.how}: '{shown(wrong.text, 24)}'"
        return wrong.text, [Finding("garbled", where, detail)], (f"garbled text undone ({wrong.how})",)
    if "\x1b" in text:
        detail = f"'{shown(text, 24)}' has escape signs, as text in ISO-2022-JP"
        return None, [Finding("lost-characters", where, detail)], ()
    if lost := lost_characters(text):
        return None, [Finding("lost-characters", where, f"'{shown(text, 24)}' has '{lost}' where characters were")], ()
    plain, signs = without_invisible(text)
    if is_empty(plain):
        return None, [Finding("empty-caption", where, f"'{shown(text, 24)}' holds no letter")], ()
    findings, changes = [], []
    if signs:
        findings.append(Finding("invisible", where, f"{', '.join(signs[:4])} in '{shown(text, 24)}'"))
        changes.append(f"invisible characters taken out ({', '.join(signs[:4])})")
    if what := no_caption(plain):
        findings.append(Finding("no-description", where, f"'{shown(plain, 24)}' is {what}"))
    return plain, findings, tuple(changes)
