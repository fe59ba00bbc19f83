"""What is wrong with a caption's characters: signs that nobody sees, and texts that are no captions."""

from __future__ import annotations

import json
import re
import unicodedata

_JOINERS = frozenset("\u200c\u200d")  # hold emoji together, and words of Persian and of India's languages
_ESCAPES = frozenset("\b\f\n\r\t")  # what JSON makes of a backslash and a letter
_NUMBERS = re.compile(r"[-+\d.eE,\s]*\d[-+\d.eE,\s]*")
_GENERATION = re.compile(r"\bSteps: \d+, Sampler: |^Negative prompt: ", re.MULTILINE)
_PLACEHOLDER = re.compile(r"nan|none|null|n/?a|undefined|todo|tbd|\.{3}|xxx+", re.IGNORECASE)


def without_invisible(text: str) -> tuple[str, tuple[str, ...]]:
    """A text without control and format characters, and which those were (U+FEFF). Spaces and line breaks stay."""
    found = [character for character in text if _is_invisible(character)]
    if not found:
        return text, ()
    plain = "".join(character for character in text if not _is_invisible(character)).strip()
    return plain, tuple(f"U+{ord(character):04X}" for character in dict.fromkeys(found))


def unseen_in_name(name: str) -> str:
    """What nobody sees in a file name that leads to no file, and where it comes from; "" for a name of plain signs."""
    unseen = [character for character in dict.fromkeys(name) if not character.isprintable()]
    if not unseen:
        return ""
    if _ESCAPES.intersection(unseen):  # "img\table.png" became img, a tab, able.png
        return "a backslash is written \\\\ in JSON"
    signs = ", ".join(f"U+{ord(character):04X}" for character in unseen[:4])
    return f"the name has {signs}, which nobody sees: write it anew"


def _is_invisible(character: str) -> bool:
    return not character.isprintable() and (
        unicodedata.category(character) in ("Cc", "Cf") and not character.isspace() and character not in _JOINERS
    )


def is_empty(text: str) -> bool:
    """Whether a text holds no letter, digit or symbol: spaces, marks and invisible signs only."""
    return not any(unicodedata.category(character)[0] in "LNS" for character in text)


def no_caption(text: str) -> str:
    """What a text is that stands where a caption should be, "" for a caption."""
    if text.startswith("{") and text.endswith("}") and _is_json(text):
        return "a JSON object"
    if _GENERATION.search(text):
        return "the settings with which a picture was generated"
    if _NUMBERS.fullmatch(text) and len(text.split()) > 3:
        return "numbers, as in labels for a detector"
    return "a word that stands for nothing" if _PLACEHOLDER.fullmatch(text) else ""


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
