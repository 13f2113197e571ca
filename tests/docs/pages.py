"""The project's pages as tests see them: commands in fenced blocks, examples by name."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


@dataclass(frozen=True)
class Line:
    """One command of a page, comments taken off, and the page it stands on."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """As the shell splits it."""
        return shlex.split(self.text)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    text = (ROOT / page).read_text("utf-8")
    return [match[1] for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def commands(page: str) -> list[Line]:
    """All commands in a page's `sh` blocks, in order; `a && b` are two."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            bare = re.sub(r"(^|\s)#.*$", "", line).strip()
            found += [Line(page, part.strip()) for part in bare.split(" && ") if part.strip()]
    return found


def example(page: str, name: str) -> str:
    """The block that follows `<!-- example: NAME -->`."""
    text = (ROOT / page).read_text("utf-8")
    match = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"{page} has no example {name}"
    return match[1]
