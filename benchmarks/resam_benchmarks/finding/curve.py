"""How what is found grows with the images that were clicked: a plot of engines taught on more and more of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resam_benchmarks.report.plots import STYLE, Axis, Dot, Series, plot
from resam_runtime.common.files import atomic_write

LINES = (
    ("recall at 100", "recall50_free"),
    ("AP50 without classes", "ap50_free"),
    ("AP", "ap"),
)
# a picture of its own has no page to take its colours from
_COLOURS = (
    "svg{{--soft:#57606a;--ink:#1f2328;--rule:#d8dee4;--paper:#fff;background:#fff;font-family:system-ui,sans-serif}}"
    "{own}"
)
_INKS = ("#1f6feb", "#d1242f", "#1a7f37")


def clicked_images(training: Mapping[str, Any] | None) -> int | None:
    """How many images an engine's training had, as its manifest says; None where it does not."""
    found = (training or {}).get("data")
    count = found.get("scenes") if isinstance(found, Mapping) else None
    return count if isinstance(count, int) and count > 0 else None


def curve(found: Mapping[str, Any]) -> str | None:
    """An <svg> of the rows of prompters that were taught on different numbers of images, all measured on the same
    scenes; None with fewer than two."""
    rows = [row for row in found["rows"] if row.get("clicked_images")]
    most = max((row["scenes"] for row in rows), default=0)
    rows = sorted((row for row in rows if row["scenes"] == most), key=lambda row: row["clicked_images"])
    counts = [row["clicked_images"] for row in rows]
    if len(set(counts)) < 2 or len(set(counts)) < len(counts):
        return None
    lines = []
    for number, (name, key) in enumerate(LINES):
        dots = [Dot(row["clicked_images"], row[key]) for row in rows if row[key] is not None]
        named = [*dots[:-1], Dot(dots[-1].x, dots[-1].y, name=name)] if dots else []
        lines.append(Series(name, named, colour=number))
    return plot(lines, Axis("clicked images", log=True, ticks=counts), Axis("share", zero=True))


def write_curve(path: Path, found: Mapping[str, Any]) -> bool:
    """Write `curve` as a picture of its own, if there is one; whether there is."""
    svg = curve(found)
    if svg is None:
        return False
    own = "".join(f"svg .c{number}{{--own:{ink}}}" for number, ink in enumerate(_INKS))
    style = f"<style>{_COLOURS.format(own=own)}{STYLE}</style>"
    begin = svg.index(">") + 1
    with atomic_write(path) as temporary:
        temporary.write_text(
            svg[:begin].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + style + svg[begin:]
        )
    return True
