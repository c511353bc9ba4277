"""The README and the pages of docs/ as tests read them: sections, fenced blocks, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests/benchmarks/RESULTS.md")

_FENCE = re.compile(r"^[ ]*```(?P<language>\w*)[ ]*\n(?P<text>.*?)^[ ]*```[ ]*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_SPAN = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z0-9-]+(?:\.\w+|/)|runs/[A-Z]+\b")
"""A file or run that the user names: a name in capitals with an ending, or a slash."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    section: str
    language: str
    text: str

    @property
    def has_placeholders(self) -> bool:
        """Whether it names files that a user has to replace by their own."""
        return bool(_PLACEHOLDER.search(self.text))

    def commands(self) -> Iterator[list[str]]:
        """The words of every command; comments are left out, continued lines joined, lists of commands taken apart."""
        for line in self.text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            command: list[str] = []
            for word in lexer:
                if set(word) <= set(";&|"):
                    yield command
                    command = []
                else:
                    command.append(word)
            if command:
                yield command


def is_placeholder(word: str) -> bool:
    """Whether a word names a file or run that a user has to replace by their own."""
    return bool(_PLACEHOLDER.match(word))


def blocks(page: Path, language: str, section: str | None = None) -> list[Block]:
    """The blocks of a page in a language, of one section or of all."""
    text = page.read_text(encoding="utf-8")
    # Lines of a block that begin with "#" are no headings.
    titles = [(m.start(), m["title"]) for m in _HEADING.finditer(_without_blocks(text))]
    found = []
    for match in _FENCE.finditer(text):
        title = next((title for start, title in reversed(titles) if start < match.start()), "")
        if match["language"] == language and section in (None, title):
            found.append(Block(page, title, language, _dedent(match["text"])))
    return found


def links(page: Path) -> list[str]:
    """The targets of all links and pictures."""
    return [match["target"] for match in _LINK.finditer(_without_blocks(page.read_text(encoding="utf-8")))]


def code_spans(page: Path) -> list[str]:
    """What stands between single backticks."""
    return [match["text"] for match in _SPAN.finditer(_without_blocks(page.read_text(encoding="utf-8")))]


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links the page's headings."""
    titles = (match["title"] for match in _HEADING.finditer(_without_blocks(page.read_text(encoding="utf-8"))))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _without_blocks(text: str) -> str:
    """The text with every fenced block blanked, so that places in it stay the same."""
    return _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _dedent(text: str) -> str:
    lines = text.splitlines(keepends=True)
    margin = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip()), default=0)
    return "".join(line[margin:] if line.strip() else line for line in lines)
