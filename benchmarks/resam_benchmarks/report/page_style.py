"""The look of every page that the benchmarks and the demo write: one stylesheet, light and dark, nothing fetched."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resam_benchmarks.report.plots import STYLE as PLOT_STYLE
from resam_benchmarks.report.summary import size
from resam_runtime.common.files import atomic_write

if TYPE_CHECKING:
    from resam_benchmarks.report.tables import Table

_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1d2329;--soft:#66707a;--rule:#e3e1da;--accent:#0b6e74;
--good:#1f7a45;--bad:#b03a2e;--s0:#0b7a80;--s1:#d2691e;--s2:#5b5bd6;--s3:#b8326a;--s4:#6b8e23;--s5:#8a6d3b;--s6:#3a86c8;--s7:#777}
@media (prefers-color-scheme:dark){:root{--paper:#12171b;--card:#1a2127;--ink:#e8e9e6;--soft:#98a3ad;--rule:#2d363d;
--accent:#5cc4c9;--good:#6fcf97;--bad:#f0877b;--s0:#4fc3c8;--s1:#f0975a;--s2:#9d9dff;--s3:#f27eae;--s4:#a8cf5b;--s5:#cfae78;--s6:#7cb8ee;--s7:#a5a5a5}}
*{box-sizing:border-box} html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:76rem;margin:0 auto;padding:2.6rem 1.4rem 4rem}
h1{font-size:2.1rem;line-height:1.15;margin:0 0 .5rem;letter-spacing:-.02em;font-weight:650}
h2{font-size:1.22rem;margin:2.8rem 0 .3rem;letter-spacing:-.01em;font-weight:650} h3{font-size:1rem;margin:0 0 .6rem;font-weight:600}
p{margin:.4rem 0 .9rem;max-width:46rem} .lead{font-size:1.08rem;color:var(--soft);max-width:48rem} .soft{color:var(--soft)}
.small{font-size:.86rem} a{color:var(--accent)} code{font:.88em/1.4 ui-monospace,Menlo,Consolas,monospace}
.scroll{overflow-x:auto} table{border-collapse:collapse;font-size:.92rem;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.42rem .95rem .42rem 0;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.84rem;white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:11rem}
td.words,th.words{text-align:left} td.good{color:var(--good)} td.bad{color:var(--bad)} td.best{font-weight:650}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.1rem;margin:1rem 0}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:1.1rem 1.2rem;min-width:0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.1rem;font-size:.9rem;margin:.6rem 0}
.facts dt{color:var(--soft)} .facts dd{margin:0;overflow-wrap:anywhere} footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media print{body{background:#fff}}
"""


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML document, self-contained; body and style are HTML and CSS, title is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{PLOT_STYLE}{style}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def save_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all; what UTF-8 does not have (a file name's stray bytes) becomes a question mark."""
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
