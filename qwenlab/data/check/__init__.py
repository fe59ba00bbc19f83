"""Check a data set before anything is trained on it, report what is found, and write a repaired copy.

    report = check_dataset("my_dataset", thumbnails=True)
    print(to_text(report))
    repair_dataset(report, "my_dataset_repaired")

qwenlab.data.findings lists every rule, qwenlab.data.reader reads the folder; pictures.py looks at one picture,
duplicates.py, outliers.py and texts.py compare, folder.py puts it together; report.py and repair.py are what comes of
it.
"""

from qwenlab.data.check.duplicates import group_numbers, near_duplicate_groups
from qwenlab.data.check.folder import Report, check_dataset
from qwenlab.data.check.pictures import Limits
from qwenlab.data.check.repair import Repaired, repair_dataset
from qwenlab.data.check.report import to_html, to_text
from qwenlab.data.findings import RULES, Finding, Rule

__all__ = [
    "RULES", "Finding", "Limits", "Repaired", "Report", "Rule",
    "check_dataset", "group_numbers", "near_duplicate_groups", "repair_dataset", "to_html", "to_text",
]  # fmt: skip
