"""Buildings seen from straight above: flat roofs with parapet and plant, and pitched roofs lit plane by plane."""

from __future__ import annotations

import math

import numpy as np

from resam.synthetic.canvas import Colour, Frame, Piece, Polygon, Thing
from resam.synthetic.chance import Chance
from resam.synthetic.objects import TALL, Light

FLAT_COLOURS = (
    (196, 194, 188), (164, 164, 162), (216, 214, 208), (148, 138, 128), (182, 168, 150), (126, 128, 130),
    (228, 228, 224), (140, 152, 166), (176, 132, 112),
)  # fmt: skip
TILE_COLOURS = (
    (166, 92, 70), (150, 82, 66), (180, 112, 84), (124, 100, 88), (104, 102, 104), (136, 118, 104), (84, 82, 86),
    (158, 148, 140),
)  # fmt: skip


def flat_building(chance: Chance, frame: Frame, length: float, width: float, height: float, form: str) -> Thing:
    """A flat roof. `form`: "box", "L", "U" or "T"; `length` x `width` px its bounding rectangle around the frame."""
    colour = chance.colour(*FLAT_COLOURS, jitter=12)
    outline = footprint(length, width, form, chance.uniform(0.36, 0.5))
    rim = max(0.6, min(length, width) * 0.035)
    parapet = np.minimum(colour * np.float32(chance.uniform(1.08, 1.25)), 250)
    parts = [Piece(frame.apply(edge), parapet, 0.8) for edge in _rims(outline, rim)]
    arm = 0.36 * width
    for _ in range(chance.integer(1, 5)):
        # Plant stands on the bar along v < 0, which every form has.
        size = chance.uniform(0.05, 0.16) * min(length, 3 * width)
        u = chance.uniform(-length / 2 + size + rim, length / 2 - size - rim)
        v = -width / 2 + chance.uniform(rim + size, max(rim + size, arm - rim))
        unit = frame.box(u - size / 2, v - size / 2, u + size / 2, v + size * chance.uniform(0.3, 0.7))
        parts.append(Piece(unit, colour * np.float32(chance.pick((0.62, 0.75, 1.2))), 0.85))
    if chance.flip(0.3):
        count = max(2, int(length / 12))
        for i in range(1, count):
            u = -length / 2 + i * length / count
            parts.append(Piece(frame.box(u - 0.4, -width / 2, u + 0.4, width / 2), colour * np.float32(0.86), 0.7))
    return Thing("building", [frame.apply(outline)], colour, parts, height=height, layer=TALL)


def footprint(length: float, width: float, form: str, arm: float) -> list[tuple[float, float]]:
    """Corners of a box, L, U or T within `length` x `width`; arms are `arm` of the width wide."""
    a, b = length / 2, width / 2
    bar = -b + 2 * b * arm
    thick = 2 * min(a, b) * arm
    if form == "L":
        return [(-a, -b), (a, -b), (a, bar), (-a + thick, bar), (-a + thick, b), (-a, b)]
    if form == "U":
        inner = [(a - thick, bar), (-a + thick, bar)]
        return [(-a, -b), (a, -b), (a, b), (a - thick, b), *inner, (-a + thick, b), (-a, b)]
    if form == "T":
        half = thick * 0.6
        return [(-a, -b), (a, -b), (a, bar), (half, bar), (half, b), (-half, b), (-half, bar), (-a, bar)]
    return [(-a, -b), (a, -b), (a, b), (-a, b)]


def _rims(outline: list[tuple[float, float]], rim: float) -> list[list[tuple[float, float]]]:
    """A band of `rim` px on both sides of every edge; the outline cuts the outer half off."""
    bands = []
    for (u0, v0), (u1, v1) in zip(outline, outline[1:] + outline[:1]):
        span = math.sqrt((u1 - u0) ** 2 + (v1 - v0) ** 2)
        du, dv = -(v1 - v0) / span * rim, (u1 - u0) / span * rim
        bands.append([(u0 - du, v0 - dv), (u1 - du, v1 - dv), (u1 + du, v1 + dv), (u0 + du, v0 + dv)])
    return bands


def pitched_building(
    chance: Chance,
    frame: Frame,
    length: float,
    width: float,
    height: float,
    light: Light,
    *,
    wing: bool = False,
    colour: Colour | None = None,
) -> Thing:
    """A gable or hip roof, ridge along u; `wing` adds a lower gable at right angles. `colour`: of the tiles."""
    base = chance.colour(*TILE_COLOURS, jitter=10) if colour is None else colour
    hip = width * chance.pick((0.0, 0.0, 0.32, 0.5))
    outline, parts = _gable(frame, length, width, min(hip, length * 0.4), base, light)
    polygons = [outline]
    if wing:
        short = width * chance.uniform(0.6, 0.8)
        side = frame.at(chance.uniform(-0.25, 0.25) * length, width * 0.62, math.pi / 2)
        extra, more = _gable(side, width * 0.9, short, 0.0, base, light)
        polygons.append(extra)
        parts = more + parts
    if chance.flip(0.5):
        u, v, size = chance.uniform(-0.3, 0.3) * length, chance.uniform(-0.2, 0.2) * width, max(1.2, width * 0.08)
        parts.append(Piece(frame.box(u, v, u + size, v + size), base * np.float32(0.5), 0.9))
    return Thing("building", polygons, base, parts, height=height, layer=TALL, grain=6)


def _gable(
    frame: Frame, length: float, width: float, hip: float, base: Colour, light: Light
) -> tuple[Polygon, list[Piece]]:
    """Outline and planes of one pitched roof; `hip` px of slope at either end (0: gables)."""
    a, b = length / 2, width / 2
    ridge = [(-a + hip, 0.0), (a - hip, 0.0)]
    planes = [
        ([(-a, b), (a, b), ridge[1], ridge[0]], math.pi / 2),
        ([(-a, -b), (a, -b), ridge[1], ridge[0]], -math.pi / 2),
    ]
    if hip > 0:
        planes += [([(a, -b), (a, b), ridge[1]], 0.0), ([(-a, -b), (-a, b), ridge[0]], math.pi)]
    parts = []
    for corners, facing in planes:
        slope = light.falling_on(frame.angle + facing)
        parts.append(Piece(frame.apply(corners), np.minimum(base * np.float32(1.0 + 0.28 * slope), 250)))
    crest = frame.box(ridge[0][0], -0.4, ridge[1][0], 0.4)
    parts.append(Piece(crest, np.minimum(base * np.float32(1.25), 250), 0.5))
    return frame.box(-a, -b, a, b), parts
