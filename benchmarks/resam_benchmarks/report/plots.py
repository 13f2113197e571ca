"""Plots as inline SVG: lines and points with error bars, horizontal bars. Colours come from the page's stylesheet
(`--s0` ... `--s7`), so a plot follows the page from light to dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

COLOURS = 8
_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 16, 14, 46


@dataclass(frozen=True)
class Dot:
    """One value at (x, y); low and high: its error bar along y; name: shown beside it; hint: shown on hover."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    name: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Series:
    """Dots of one colour, joined by lines where `joined`; colour: number of one of the page's colours."""

    name: str
    dots: Sequence[Dot]
    colour: int = 0
    joined: bool = True


@dataclass(frozen=True)
class Axis:
    """What an axis shows: label, how to write a value, whether it is logarithmic, whether it starts at zero; ticks: in
    place of round numbers; shows: values that it must reach, such as those of the plot beside it."""

    label: str
    write: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    log: bool = False
    zero: bool = False
    ticks: Sequence[float] | None = None
    shows: Sequence[float] = ()


def plot(
    series: Sequence[Series], x: Axis, y: Axis, width: int = _WIDTH, height: int = _HEIGHT, apart: float = 0
) -> str:
    """An <svg> of lines and dots. Values that are not finite (or not positive on a log axis) are left out.

    apart: pixels between series at the same x, so that their error bars do not hide each other.
    """
    kept = [
        Series(s.name, [dot for dot in s.dots if _shown(dot.x, x) and _shown(dot.y, y)], s.colour, s.joined)
        for s in series
    ]
    dots = [dot for s in kept for dot in s.dots]
    if not dots:
        return _nothing(width, height)
    to_x = _Scale([dot.x for dot in dots], x, _LEFT, width - _RIGHT, pad=0.05)
    ends = [value for dot in dots for value in (dot.y, dot.low, dot.high) if _shown(value, y)] + list(y.shows)
    to_y = _Scale(ends, y, height - _BOTTOM, _TOP, pad=0.08)
    parts = [_grid(to_x, to_y, x, y, width, height)]
    for number, s in enumerate(kept):
        shift = apart * (number - (len(kept) - 1) / 2)
        moved = f' transform="translate({shift:.1f} 0)"' if shift else ""
        parts.append(f'<g class="c{s.colour % COLOURS}"{moved}>')
        if s.joined and len(s.dots) > 1:
            path = "L".join(f"{to_x(dot.x):.1f} {to_y(dot.y):.1f}" for dot in s.dots)
            parts.append(f'<path class="line" d="M{path}"/>')
        # names of neighbours above and below, so that those of near dots do not cover each other
        parts += [_dot(dot, s, to_x, to_y, y, width, (-7, 16)[place % 2]) for place, dot in enumerate(s.dots)]
        parts.append("</g>")
    return _svg(width, height, "".join(parts), f"{y.label} against {x.label}")


def bars(
    rows: Sequence[tuple[str, float | None, int]],
    write: Callable[[float], str],
    label: str,
    width: int = _WIDTH,
) -> str:
    """An <svg> of horizontal bars from zero. rows: name, value (None: not measured), colour number."""
    most = max((value for _, value, _ in rows if value is not None), default=0.0)
    if most <= 0:
        return _nothing(width, 80)
    step, left = 44, 4
    height, span = step * len(rows) + 8, width - 110
    parts = []
    for i, (name, value, colour) in enumerate(rows):
        y = 4 + step * i
        length = 0.0 if value is None else span * value / most
        text = "not measured" if value is None else write(value)
        parts.append(
            f'<text class="name" x="{left}" y="{y + 13}">{html.escape(name)}</text>'
            f'<g class="c{colour % COLOURS}"><rect class="bar" x="{left}" y="{y + 19}" width="{max(length, 1):.1f}" '
            f'height="14" rx="3"/></g>'
            f'<text class="value" x="{left + length + 8:.1f}" y="{y + 30}">{html.escape(text)}</text>'
        )
    return _svg(width, height, "".join(parts), label)


def legend(series: Sequence[tuple[str, int]]) -> str:
    """An HTML list of names beside their colours."""
    items = "".join(
        f'<li><span class="swatch c{colour % COLOURS}"></span>{html.escape(name)}</li>' for name, colour in series
    )
    return f'<ul class="legend">{items}</ul>'


STYLE = files(__package__).joinpath("plots.css").read_text(encoding="utf-8") + "".join(
    f".c{i}{{--own:var(--s{i})}}" for i in range(COLOURS)
)


class _Scale:
    """From values to pixels, and the ticks between."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float, pad: float) -> None:
        self.log = axis.log
        places = [self._place(value) for value in (*values, *(axis.ticks or ()))]
        low, high = min(places), max(places)
        if axis.zero and not axis.log:
            low = min(0.0, low)
        spread = (high - low) or abs(high) * 0.2 or 1.0
        self.high = high + pad * spread
        self.low = low if axis.zero and low == 0 else low - pad * spread
        self.start, self.end = start, end
        self.ticks = list(axis.ticks) if axis.ticks else self._log_ticks() if axis.log else self._ticks()

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (self._place(value) - self.low) / (self.high - self.low)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _ticks(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + i) * step, 12) for i in range(count)]

    def _log_ticks(self) -> list[float]:
        wide = self.high - self.low
        factors: tuple[float, ...] = (1,) if wide > 3 else (1, 2, 5) if wide > 0.6 else (1, 1.5, 2, 3, 5, 7)
        powers = range(math.floor(self.low) - 1, math.ceil(self.high) + 1)
        return [f * 10.0**p for p in powers for f in factors if self.low <= math.log10(f * 10.0**p) <= self.high]


def _shown(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _grid(to_x: _Scale, to_y: _Scale, x: Axis, y: Axis, width: int, height: int) -> str:
    base = height - _BOTTOM
    parts = []
    for tick in to_y.ticks:
        place = to_y(tick)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {place:.1f}H{width - _RIGHT}"/>'
            f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{html.escape(y.write(tick))}</text>'
        )
    for tick in to_x.ticks:
        place = to_x(tick)
        parts.append(
            f'<path class="axis" d="M{place:.1f} {base}v5"/>'
            f'<text x="{place:.1f}" y="{base + 18}" text-anchor="middle">{html.escape(x.write(tick))}</text>'
        )
    middle = (_TOP + base) / 2
    parts.append(
        f'<path class="axis" d="M{_LEFT} {base}H{width - _RIGHT}"/>'
        f'<text x="{(_LEFT + width - _RIGHT) / 2}" y="{height - 8}" text-anchor="middle">{html.escape(x.label)}</text>'
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y.label)}</text>'
    )
    return "".join(parts)


def _dot(dot: Dot, series: Series, to_x: _Scale, to_y: _Scale, y: Axis, width: int, below: int) -> str:
    px, py = to_x(dot.x), to_y(dot.y)
    parts = []
    if _shown(dot.low, y) and _shown(dot.high, y):
        parts.append(f'<path class="error" d="M{px:.1f} {to_y(dot.low):.1f}V{to_y(dot.high):.1f}"/>')
    hint = html.escape(dot.hint or f"{series.name}: {y.write(dot.y)}")
    parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4.5"><title>{hint}</title></circle>')
    if dot.name:
        anchor, offset = ("end", -9) if px > width * 0.7 else ("start", 9)
        parts.append(
            f'<text class="name" x="{px + offset:.1f}" y="{py + below:.1f}" text-anchor="{anchor}">'
            f"{html.escape(dot.name)}</text>"
        )
    return "".join(parts)


def _svg(width: int, height: int, inside: str, label: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">{inside}</svg>'
    )


def _nothing(width: int, height: int) -> str:
    return _svg(width, height, f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">not measured</text>', "")
