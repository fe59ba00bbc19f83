"""Captions in the template of the series: read, write and check them.

    1女孩, 黑色短发, 红色毛衣, 挥手, 手持气球, 背景:花园, 风格:水彩画, 细节:全身正面, 五指张开

`parse` and `build` know the template, `lint` checks one caption, `lint_set` all captions of a data set, `lint_file` a
file of them or a data set; `fix`, `fix_set` and `fix_file` apply the rewrites that cannot change what a caption means,
and the last two add the number of the character where then all captions have it.
"""

from qwenlab.captions.files import FileReport, fix_file, lint_file
from qwenlab.captions.finding import Edit, Finding, apply_edits
from qwenlab.captions.length import MAX_TOKENS, count_tokens, estimate_tokens
from qwenlab.captions.lines import read_captions
from qwenlab.captions.linter import RULES, fix, lint
from qwenlab.captions.sets import SET_RULES, SetReport, fix_set, lint_set
from qwenlab.captions.template import Caption, Character, Part, build, kind_of, parse

__all__ = [
    "MAX_TOKENS", "RULES", "SET_RULES", "Caption", "Character", "Edit", "FileReport", "Finding", "Part", "SetReport",
    "apply_edits", "build", "count_tokens", "estimate_tokens", "fix", "fix_file", "fix_set", "kind_of", "lint",
    "lint_file", "lint_set", "parse", "read_captions",
]  # fmt: skip
