"""The look of every page that the benchmarks and the demo write: one stylesheet, light and dark, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resam_benchmarks.report.plots import STYLE as PLOT_STYLE
from resam_benchmarks.report.summary import size
from resam_runtime.common.files import atomic_write

if TYPE_CHECKING:
    from resam_benchmarks.report.tables import Table

_STYLE = files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def page(title: str, body: str, style: str = "", again: int | None = None) -> str:
    """A whole HTML document, self-contained; body and style are HTML and CSS, title is text. again: seconds after which
    the browser reads the file again, for a page that is still being filled."""
    reload = "" if again is None else f'<meta http-equiv="refresh" content="{again}">'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{reload}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{PLOT_STYLE}{style}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def save_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all; what UTF-8 does not have (a file name's stray bytes) becomes a question
    mark."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def table(head: list[str], rows: list[list[str]], words: frozenset[int] = frozenset()) -> str:
    """An HTML table of texts (escaped here); columns in `words` are set flush left."""

    def row(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(
            f'<{tag}{" class=words" if i in words else ""}>{html.escape(cell)}</{tag}>' for i, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    return (
        f'<div class="scroll"><table><thead>{row(head, "th")}</thead>'
        f"<tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table></div>"
    )


def section(made: Table) -> str:
    """A table under its title, with its note below."""
    note = f'<p class="small soft">{html.escape(made.note)}</p>' if made.note else ""
    return f"<h2>{html.escape(made.title)}</h2>{table(made.head, made.rows, made.words)}{note}"


def conditions(found: Mapping[str, Any], more: Iterable[tuple[str, str]] = ()) -> str:
    """The section about how figures came about: what a results document says of machine, versions, seeds, time and
    command, then what its page alone has to say."""
    machine = found["machine"]
    memory, power_mode = machine.get("memory_bytes"), (machine.get("power_mode") or "").split("\n")[0]
    pairs = [
        ("Machine", f"{machine['processor']}, {machine['cores']} cores" + (f", {size(memory)}" if memory else "")),
        ("Instructions", ", ".join(machine.get("instructions") or ())),
        ("Board", " · ".join(filter(None, [machine.get("board"), power_mode]))),
        ("Devices", ", ".join(machine.get("devices") or ()) or "none"),
        ("System", machine.get("system") or ""),
        ("Versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
        ("Commit", found.get("commit") or ""),
        ("Seeds", ", ".join(f"{name} {value}" for name, value in found.get("seeds", {}).items())),
        ("Measured", found["created"]),
        ("Command", found["command"]),
        *more,
    ]
    return f"<h2>Conditions</h2>{facts(pairs)}"


def facts(pairs: list[tuple[str, str]]) -> str:
    """An HTML list of names and values (escaped here); empty values are left out."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in pairs if value)
    return f'<dl class="facts">{items}</dl>'
