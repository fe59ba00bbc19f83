"""What is wrong with a text that is no configuration: the sign at fault in one of its lines, another program's file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# What can be wrong with a line, the likeliest first. {0} is what the pattern's group matched.
_CAUSES = (
    (re.compile(r"^[ \t]*(?:- +)?([\w-]+)[ \t]*："), "a full-width colon ： after {0!r}: write '{0}: '"),
    (re.compile(r"^ *(\t)"), "a tab at the start: indent with spaces"),
    (
        re.compile(r"^\s*(\[[\w. -]+\])\s*$"),
        "{0} is a section of TOML: write its name and a colon, and indent its settings",
    ),
    (re.compile(r"^\s*([\w-]+)\s*=[^=]"), "an equals sign after {0!r}: write '{0}: '"),
    (re.compile(r"^\s*([A-Za-z_]+):(?![\s/\\]|$)"), "no space after the colon of {0!r}: write '{0}: '"),
    (re.compile(r"([“”„‘’＂])"), "a curly or full-width quote {0}: write a straight one"),
    (
        re.compile(r"\"[A-Za-z]:\\([^\"]*)"),
        "a backslash in double quotes, which YAML takes for the start of a sign: write /",
    ),
    (re.compile(r"^[^'\"#\[{]*:\s[^'\"#\[{]*\S(:)\s"), "a second colon and space: put the text into quotes"),
    (re.compile(r"(\t)"), "a tab: write a space"),
    (re.compile(r"([−–—])"), "a dash {0}: write -"),
    (re.compile(r"^\s*\w*([^\W\d_a-zA-Z\uff00-\uffef])\w*\s*:"), "{0!r}, no letter of a setting: write it anew"),
    (re.compile(r":\s+([@`%])"), "a value that begins with {0}: put it into quotes"),
)
# Keys of other programs' files -> what those are.
_FOREIGN = {
    "file_name": "a captions file; write 'dataset: FOLDER' in a configuration file and give that",
    "peft_type": "the configuration of a PEFT adapter",
    "compute_environment": "a configuration of accelerate (give it to accelerate launch)",
    "job": "a configuration of ai-toolkit",
    "model_arguments": "a configuration of kohya's trainer",
    "pretrained_model_name_or_path": "a configuration of another trainer",
    "nbformat": "a notebook",
    "_class_name": "a configuration of diffusers",
    "architectures": "a configuration of transformers",
    "weight_map": "an index of weights",
}
#: Numbers that YAML reads otherwise than people do.
NOTATIONS = (
    (re.compile(r"[-+]?0[0-9_]+"), "0 in front makes it octal"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9_.]+)+"), "a colon makes it a number to base 60"),
)
_HEAD = 2000  # characters in which another program's keys are looked for


def foreign(text: str) -> str:
    """Which other program's file a text is, by a key at its beginning; "" for none."""
    keys = re.findall(
        r"^(?:\{?\s*|\[)[\"']?(\w+)[\"']?(?:\s*[:=]|\])|[\"'](nbformat)[\"']:", text[:_HEAD], re.MULTILINE
    )
    return next((_FOREIGN[key] for pair in keys for key in pair if key in _FOREIGN), "")


def cause_of(text: str, numbers: Iterable[int]) -> str:
    """The sign in one of the lines that explains an error, as "; ..."; "" when there is none."""
    lines = text.split("\n")
    for number in numbers:
        if not 1 <= number <= len(lines):
            continue
        line = re.sub(r"(?:^|\s)#.*", "", lines[number - 1].rstrip("\r"))
        for pattern, cause in _CAUSES:
            if match := pattern.search(line):
                return f"; line {number} has {cause.format(match.group(1))}"
        if odd := _odd_sign(line):
            return f"; line {number} has {odd}"
    return ""


def _odd_sign(line: str) -> str:
    """A sign that looks like another, or like nothing, and is none of YAML's."""
    for character in line:
        if character in " \t":
            continue
        kind, plain = unicodedata.category(character), unicodedata.normalize("NFKC", character)
        if kind in ("Zs", "Cf", "Cc", "Zl", "Zp"):
            return f"an invisible character, U+{ord(character):04X}: delete it or write a space"
        if plain != character and plain.isascii() and plain.strip():
            return f"a full-width {character}: write {plain}"
    return ""


def plain(text: str) -> str:
    """A text on one line, fit to print."""
    text = " ".join(text.split())
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:200]
