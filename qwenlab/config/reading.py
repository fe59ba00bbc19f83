"""A training configuration from a YAML file: strict about keys, plain about what is wrong.

YAML forgives much, and what it forgives is lost: of two equal keys the last one counts, and rank：4 with a full-width
colon is a text. Here both are errors, and a message names the sign at fault.
"""

from __future__ import annotations

import difflib
import errno
import re
import reprlib
import stat
import types
import typing
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenlab.config.causes import NOTATIONS, cause_of, foreign, plain
from qwenlab.config.settings import ELSEWHERE, SECTIONS, TrainConfig, nearest
from qwenlab.errors import QwenlabError
from qwenlab.sniffing import decode, kind_of

_MAX_BYTES = 1024 * 1024  # a configuration has a few KiB
_LARGEST = 2**63 - 1  # of a whole number; PyTorch's seeds end there
_SEE = "see configs/ for examples"
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")

_QUOTES = {"“": "”", "‘": "’", "「": "」", "＂": "＂", "”": "”"}
_KEY = re.compile(r"[^:]+")


def read_config(path: str | Path) -> TrainConfig:
    """Read a YAML file into a TrainConfig. Keys may stand at the top or in the sections of `SECTIONS`.

    In the section `control` a key may be written without its beginning `control_`.

    Raises QwenlabError (one line, with the file) for a missing or broken file, one of another kind or encoding, a
    folder, an unknown key with the nearest valid name, a key or section that stands twice, a value of the wrong type,
    an impossible value.
    """
    path = Path(path)
    text = _read_text(path)
    if other := foreign(text):
        raise QwenlabError(f"{path}: is {other}; {_SEE}")
    content, lines = _parse(text, path)
    try:
        return config_from_mapping(content)
    except QwenlabError as error:
        name = _KEY.match(str(error)).group()
        number = lines.get(name) or lines.get(name.removeprefix("control_"))
        cause = cause_of(text, (number, number + 1) if number else range(1, text.count("\n") + 2))
        place = f", line {number}" if number else ""
        raise QwenlabError(f"{path}{place}: {error}{cause}") from error


def _read_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise QwenlabError(f"{plain(str(path))}: too long for the name of a file; {_SEE}") from error
        if path.is_symlink():
            raise QwenlabError(f"{path}: a link that leads to no file; {_SEE}") from error
        raise QwenlabError(f"{path}: {_absent(path)}") from error
    except ValueError as error:
        raise QwenlabError(f"{plain(str(path))}: a name that no file can have; {_SEE}") from error
    if stat.S_ISDIR(mode):
        raise QwenlabError(f"{path}: {_folder(path)}")
    if not stat.S_ISREG(mode):
        raise QwenlabError(f"{path}: is a pipe or a device, no configuration file; {_SEE}")
    if kind := kind_of(path):
        raise QwenlabError(f"{path}: is {kind}, no YAML configuration; {_SEE}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise QwenlabError(f"{path}: more than {_MAX_BYTES >> 10} KiB, no configuration; {_SEE}")
        data = path.read_bytes()
    except OSError as error:
        raise QwenlabError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    decoded = decode(data)
    if decoded.encoding == "UTF-8":
        return decoded.text
    cause = f"reads as {decoded.encoding}" if decoded.text is not None else decoded.doubt()
    raise QwenlabError(f"{path}: not UTF-8, {cause}; save it as UTF-8 (in Notepad: Save as, Encoding)")


def _folder(path: Path) -> str:
    """What a folder in place of a configuration is, and where its name belongs."""
    names = sorted(entry.name for entry in path.iterdir())
    configs = [name for name in names if name.endswith((".yaml", ".yml"))]
    if "model_index.json" in names:
        return f"is a folder with a model; write 'base: {path}' in a configuration file and give that; {_SEE}"
    if any(name.endswith((".safetensors", ".bin", ".gguf")) for name in names) or "config.json" in names:
        return f"is a folder with weights or part of a model, no configuration file; {_SEE}"
    pictures = [name for name in names if name.lower().endswith(_PICTURES)]
    if pictures or "images" in names or {"captions.jsonl", "metadata.jsonl"} & set(names):
        return f"is a folder of pictures; write 'dataset: {path}' in a configuration file and give that; {_SEE}"
    if configs:
        return f"is a folder; give one of its files, such as {path / configs[0]}"
    return f"is a folder, no configuration file; {_SEE}"


def _absent(path: Path) -> str:
    if (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(path))
        and not path.suffix
        and not path.parent.is_dir()
    ):
        return f"no such configuration file; for a model of the Hub write 'base: {path}' in one; {_SEE}"
    others = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, [n for n in others if n.endswith((".yaml", ".yml"))], n=1, cutoff=0.7)
    return f"no such configuration file; {f'did you mean {path.parent / close[0]}?' if close else _SEE}"


def _parse(text: str, path: Path) -> tuple[Any, dict[str, int]]:
    """The content of a YAML text, and the line of each key. Raises QwenlabError."""
    import yaml

    lines: dict[str, int] = {}

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen: dict[Any, int] = {}
            for key_node, value in node.value:
                key, number = getattr(key_node, "value", None), key_node.start_mark.line + 1
                if not isinstance(key, str) or key_node.tag.endswith(":merge"):
                    continue
                if key in seen:
                    section = isinstance(value, yaml.MappingNode)
                    what = "the section stands" if section else "is set"
                    mend = "join them" if section else "delete one"
                    place = f"lines {seen[key]} and {number}" if seen[key] != number else f"line {number}"
                    raise QwenlabError(f"{plain(key)}: {what} twice, on {place}; {mend}")
                seen[key] = number
                lines.setdefault(plain(key), number)
            return super().construct_mapping(node, deep)

        def construct_plain_number(self, node: yaml.ScalarNode) -> int | float:
            for notation, why in NOTATIONS:
                if notation.fullmatch(node.value):
                    number = node.start_mark.line + 1
                    raise QwenlabError(f"line {number}: {plain(node.value)}: {why} in YAML; write it without")
            kind = node.tag.rpartition(":")[2]
            return super().construct_yaml_int(node) if kind == "int" else super().construct_yaml_float(node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_plain_number)

    try:
        return yaml.load(text, Loader), lines
    except QwenlabError as error:
        raise QwenlabError(f"{path}: {error}") from error
    except Exception as error:  # PyYAML's constructors raise almost anything for odd values
        mark = getattr(error, "problem_mark", None)
        number = mark.line + 1 if mark else 0
        near = [number, number - 1, *range(1, text.count("\n") + 2)] if number else range(1, text.count("\n") + 2)
        where = f", line {number}" if number else ""
        raise QwenlabError(f"{path}{where}: not YAML ({_problem(error)}){cause_of(text, near)}") from error


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "Exceeds the limit" in str(error):
        return "a number of too many digits"
    if problem := getattr(error, "problem", None):
        return plain(problem)
    described = isinstance(error, ValueError) or type(error).__module__.startswith("yaml")
    return plain(str(error)) if described else "a value that does not fit its tag !!..."


def config_from_mapping(content: Any) -> TrainConfig:
    """A TrainConfig from nested or flat settings; raises as `read_config` does, without a file name."""
    if not isinstance(content, Mapping):
        raise QwenlabError("holds no settings; write lines such as 'max_train_steps: 600'")
    types_of = typing.get_type_hints(TrainConfig)
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if key in SECTIONS and not isinstance(value, Mapping):
            raise QwenlabError(f"{key}: is a section; indent its settings below it")
        for name, item in value.items() if key in SECTIONS else [(key, value)]:
            name = f"control_{name}" if key == "control" and name not in types_of else name
            if name in flat:
                raise QwenlabError(f"{plain(str(name))}: is set twice; delete one")
            flat[name] = item
    for name in flat:
        if name in ELSEWHERE:
            raise QwenlabError(f"{name}: is written {ELSEWHERE[name]}")
        if name not in types_of:
            raise QwenlabError(f"{plain(str(name))}: unknown key{nearest(str(name), [*types_of, *SECTIONS])}")
    return TrainConfig(**{name: _convert(name, value, types_of[name]) for name, value in flat.items()})


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """Check a YAML value against a field's type, allowing what YAML writers mean."""
    if typing.get_origin(wanted) is dict:
        if isinstance(value, Mapping) and all(_is_whole(n) for pair in value.items() for n in pair):
            return dict(value)
        raise QwenlabError(f"{name}: {_SHORT.repr(value)} must be steps and ranks, such as {{267: 12, 533: 8}}")
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, str) and not _is_encodable(item) for item in items):
        raise QwenlabError(f"{name}: {_SHORT.repr(value)} holds half a character; write it again")
    if isinstance(wanted, types.GenericAlias):  # list[str]: a single name will do
        if all(isinstance(item, str) for item in items):
            return items
    elif wanted is float:
        try:  # YAML 1.1 reads 8e-6, without a dot, as a text
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            number = None
        if number is not None and abs(number) < float("inf"):
            return number
    elif wanted is str and isinstance(value, str):
        _refuse_slips(name, value)
        return value
    elif wanted is int and _is_whole(value) or wanted is bool and isinstance(value, bool):
        return value
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    hint = ""
    if any(isinstance(item, Mapping) for item in items):
        hint = "; a colon and a space make a key of a text: put the text into quotes"
    elif type(value) is int and wanted is int:
        hint = f" up to {_LARGEST}"
    elif wanted is str and value is not None and not isinstance(value, list):
        hint = "; YAML takes it for something else: put it into quotes"
    elif isinstance(value, str) and re.fullmatch(r"0[0-9]+", value):
        hint = "; write it without the 0 in front"
    elif isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+|true|false|yes|no|on|off", value, re.IGNORECASE):
        hint = "; it is a text: leave out the quotes"
    raise QwenlabError(f"{name}: {_SHORT.repr(value)} must be {expected.get(wanted, 'a list of texts')}{hint}")


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_slips(name: str, text: str) -> None:
    """Raise QwenlabError for a text with signs around it that YAML takes for a part of it."""
    if text and text[-1] == _QUOTES.get(text[0]) and len(text) > 1:
        raise QwenlabError(
            f"{name}: {_SHORT.repr(text)} stands in curly quotes, which YAML takes for text; write '...'"
        )
    if text != text.strip() or any(unicodedata.category(end) == "Cf" for end in text[:1] + text[-1:]):
        raise QwenlabError(f"{name}: {_SHORT.repr(text)} begins or ends with a space or an invisible sign; delete it")
    if not text.isprintable() and any(unicodedata.category(character) == "Cc" for character in text):
        raise QwenlabError(
            f"{name}: {_SHORT.repr(text)} holds a control character; in double quotes YAML reads \\n and "
            "\\t as such: write / or single quotes"
        )
    if re.search(r"\s＃", text):
        raise QwenlabError(f"{name}: {_SHORT.repr(text)}: a full-width ＃ begins no comment; write #")


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) <= _LARGEST
