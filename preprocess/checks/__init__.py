"""Checks of the users' data against physics: units, frames, signs, charges, copies, outliers.

``gather`` keeps some 190 bytes per molecule, ``merge`` joins what chunks gave, ``conclude`` finds what is wrong.
"""

from preprocess.checks.conclude import conclude
from preprocess.checks.evidence import CheckedFile, CheckInput, Evidence, Finding, merge
from preprocess.checks.gather import gather
from preprocess.checks.report import report

__all__ = [
    "CheckInput",
    "CheckedFile",
    "Evidence",
    "Finding",
    "conclude",
    "gather",
    "merge",
    "report",
]
