"""The things that stand in a scene, seen from straight above: ships, aircraft, vehicles, storage tanks, trees.

Each function takes a `Frame` (where, and which way u points) and sizes in pixels, and returns a `Thing`. Roofs are in
`buildings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resam.synthetic.canvas import Colour, Frame, Piece, Polygon, Thing
from resam.synthetic.chance import Chance

GROUND, TALL = 0, 1  # layers: what is low on the ground, and what casts its shadow over it


@dataclass(frozen=True)
class Light:
    """Where the sun shines to: unit vector (dx, dy); a thing h px high casts a shadow of h * reach px."""

    dx: float
    dy: float
    reach: float

    def falling_on(self, angle: float) -> float:
        """How much a slope that faces `angle` (radians) turns to the sun: 1 fully, -1 away."""
        return -(math.cos(angle) * self.dx + math.sin(angle) * self.dy)

    def shift(self, polygon: Polygon, distance: float) -> Polygon:
        """`polygon` moved `distance` px the way shadows fall."""
        return polygon + np.array([self.dx * distance, self.dy * distance])


def rgb(red: float, green: float, blue: float) -> Colour:
    """A colour, 0..255."""
    return np.array([red, green, blue], np.float32)


def circle(frame: Frame, radius: float, corners: int = 40, stretch: float = 1.0) -> Polygon:
    """A regular polygon of `corners` around the frame's origin; `stretch` along v."""
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return frame.apply([(radius * math.cos(t), radius * stretch * math.sin(t)) for t in turns])


def mirrored(upper: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An outline symmetric about the u axis, from its side with v >= 0."""
    return [*upper, *((u, -v) for u, v in reversed(upper))]


# ------------------------------------------------------------------------------------------------------------- ships
def hull(length: float, beam: float, bow: float, stern: float) -> list[tuple[float, float]]:
    """Local outline of a hull, bow at +u. `bow`: share of the length that tapers; `stern`: its width there, of beam."""
    a, b = length / 2, beam / 2
    taper = length * bow
    return mirrored(
        [
            (a, 0.0),
            (a - taper * 0.22, b * 0.42),
            (a - taper * 0.55, b * 0.78),
            (a - taper, b),
            (-a + length * 0.12, b),
            (-a, b * stern),
        ]
    )


def boat(chance: Chance, frame: Frame, length: float, beam: float) -> Thing:
    """A small boat: pale hull, darker cockpit, a cabin."""
    pale = chance.colour((226, 226, 222), (210, 214, 216), (236, 232, 220), (190, 196, 200), (196, 160, 120), jitter=10)
    outline = frame.apply(hull(length, beam, chance.uniform(0.35, 0.5), chance.uniform(0.7, 0.95)))
    parts = []
    if length > 9:
        a, b = length / 2, beam / 2
        cockpit = chance.colour((120, 116, 108), (96, 104, 112), (160, 140, 112))
        parts.append(Piece(frame.box(-a * 0.8, -b * 0.55, -a * 0.2, b * 0.55), cockpit, 0.8))
        cabin = chance.colour((244, 244, 242), (84, 100, 120), (60, 90, 140))
        parts.append(Piece(frame.box(-a * 0.15, -b * 0.5, a * 0.35, b * 0.5), cabin, 0.9))
    return Thing("ship", [outline], pale, parts, height=beam * 0.25)


def ship(chance: Chance, frame: Frame, length: float, beam: float) -> Thing:
    """A cargo ship, tanker, container ship or ferry: dark hull line, deck, its load, a bridge near the stern."""
    style = chance.pick(("bulk", "tanker", "container", "ferry"))
    a, b = length / 2, beam / 2
    outline = frame.apply(hull(length, beam, chance.uniform(0.14, 0.28), chance.uniform(0.55, 0.9)))
    side = chance.colour((66, 60, 60), (112, 52, 44), (60, 74, 96), (150, 150, 150), (176, 172, 164))
    deck = chance.colour((146, 84, 70), (122, 124, 122), (104, 124, 108), (164, 150, 128), (132, 112, 96))
    white = chance.colour((232, 232, 228), (216, 214, 206))
    if style == "ferry":
        side = deck = white
    rim = max(0.5, beam * 0.07)
    inner = frame.apply(hull(length - 2 * rim, beam - 2 * rim, 0.2, 0.7))
    parts = [Piece(inner, deck)]
    start, end = -a + length * 0.24, a - length * 0.16
    if style == "bulk":
        count = max(2, int(length / (beam * 1.1)))
        step = (end - start) / count
        hatch = deck + np.float32(chance.uniform(18, 50))
        parts += [
            Piece(frame.box(start + step * (i + 0.14), -b * 0.6, start + step * (i + 0.86), b * 0.6), hatch)
            for i in range(count)
        ]
    elif style == "tanker":
        pipe = rgb(196, 190, 178)
        parts.append(Piece(frame.box(start, -b * 0.09, end, b * 0.09), pipe, 0.8))
        for at in (0.3, 0.5, 0.7):
            middle = start + (end - start) * at
            parts.append(Piece(frame.box(middle - b * 0.08, -b * 0.7, middle + b * 0.08, b * 0.7), pipe, 0.6))
    elif style == "container":
        count = max(2, int(length / (beam * 0.75)))
        step = (end - start) / count
        for i in range(count):
            for lane in range(3):
                low = -b * 0.84 + lane * b * 0.56
                stack = chance.colour((164, 66, 52), (52, 92, 140), (190, 186, 178), (70, 122, 84), (208, 148, 62))
                box = frame.box(start + step * (i + 0.06), low, start + step * (i + 0.92), low + b * 0.52)
                parts.append(Piece(box, stack, 0.9))
    else:
        for i in range(3):
            parts.append(Piece(frame.box(-a * (0.7 - 0.5 * i), -b * 0.6, -a * (0.4 - 0.5 * i), b * 0.6), white * 0.8))
    bridge = -a + length * 0.1
    parts.append(Piece(frame.box(bridge, -b * 0.82, bridge + length * 0.1, b * 0.82), white))
    parts.append(Piece(frame.box(bridge + length * 0.1, -b * 0.8, bridge + length * 0.118, b * 0.8), white * 0.35))
    funnel = chance.colour((70, 70, 72), (176, 60, 48), (46, 70, 120))
    parts.append(Piece(frame.box(bridge + length * 0.015, -b * 0.18, bridge + length * 0.045, b * 0.18), funnel))
    return Thing("ship", [outline], side, parts, height=beam * 0.3)


def sar_ship(chance: Chance, frame: Frame, length: float, beam: float) -> Thing:
    """A ship in radar: a bright hull with a few strong scatterers along it."""
    level = chance.uniform(120, 205)
    a, b = length / 2, beam / 2
    outline = frame.apply(hull(length, beam, chance.uniform(0.2, 0.4), 0.7))
    parts = []
    for _ in range(chance.integer(2, 5)):
        u, size = chance.uniform(-a * 0.85, a * 0.6), chance.uniform(0.06, 0.16) * length
        bright = rgb(*[level * chance.uniform(0.65, 1.8)] * 3)
        parts.append(Piece(frame.box(u, -b * 0.8, u + size, b * 0.8), bright, 0.9))
    return Thing("ship", [outline], rgb(level, level, level), parts, grain=14)


# ----------------------------------------------------------------------------------------------------------- aircraft
def aircraft(chance: Chance, frame: Frame, length: float) -> Thing:
    """An airliner, a propeller plane or a delta-wing jet of `length` px, nose at +u."""
    style = chance.pick(("liner", "liner", "liner", "propeller", "delta"))
    a = length / 2
    body = chance.colour((228, 228, 226), (208, 210, 212), (190, 194, 198), (236, 234, 226), jitter=8)
    if style == "delta":
        body = chance.colour((142, 148, 150), (166, 168, 164), (120, 126, 128))
        fuselage = mirrored([(a, 0), (a * 0.55, a * 0.08), (-a * 0.9, a * 0.12), (-a * 0.95, a * 0.08)])
        wing = mirrored([(a * 0.35, 0.0), (-a * 0.5, a * 0.62), (-a * 0.72, a * 0.62), (-a * 0.68, 0.0)])
        tail = mirrored([(-a * 0.62, 0.0), (-a * 0.86, a * 0.34), (-a, a * 0.34), (-a * 0.94, 0.0)])
        pods: list[list[tuple[float, float]]] = []
    else:
        thick = a * chance.uniform(0.1, 0.135)
        fuselage = mirrored(
            [(a, 0), (a * 0.94, thick * 0.6), (a * 0.82, thick), (-a * 0.45, thick), (-a * 0.97, thick * 0.25)]
        )
        sweep = a * (chance.uniform(0.42, 0.62) if style == "liner" else 0.06)
        span = a * chance.uniform(0.86, 1.05)
        root, tip = a * chance.uniform(0.34, 0.46), a * 0.1
        front = a * (0.28 if style == "liner" else 0.34)
        wing = mirrored([(front, 0), (front - sweep, span), (front - sweep - tip, span), (front - root, thick)])
        fin = span * 0.38
        tail = mirrored(
            [(-a * 0.68, 0), (-a * 0.68 - sweep * 0.4, fin), (-a * 0.76 - sweep * 0.4, fin), (-a * 0.88, 0)]
        )
        pods = []
        for side in (-1, 1):
            for at in (0.36, 0.62) if length > 95 else (0.36,):
                u, v, wide = front - sweep * at + a * 0.09, side * span * at, a * 0.045
                pods.append([(u, v - wide), (u, v + wide), (u - a * 0.18, v + wide), (u - a * 0.18, v - wide)])
    outline = [frame.apply(p) for p in (fuselage, wing, tail, *pods)]
    shade = body * np.float32(0.86)
    parts = [Piece(frame.apply(wing), shade), Piece(frame.apply(tail), shade)]
    parts += [Piece(frame.apply(p), body * np.float32(0.62)) for p in pods]
    parts.append(Piece(frame.apply(fuselage), body))
    ridge = mirrored([(a * 0.9, a * 0.02), (-a * 0.9, a * 0.02)])
    parts.append(Piece(frame.apply(ridge), np.minimum(body * np.float32(1.12), 255), 0.8))
    accent = chance.colour((176, 50, 48), (40, 70, 140), (230, 230, 226), (40, 110, 90), (214, 150, 50))
    parts.append(Piece(frame.box(-a * 0.98, -a * 0.025, -a * 0.7, a * 0.025), accent))
    parts.append(Piece(frame.box(a * 0.86, -a * 0.05, a * 0.9, a * 0.05), rgb(40, 44, 52), 0.8))
    return Thing("aircraft", outline, body, parts, height=length * 0.09, grain=3)


# ----------------------------------------------------------------------------------------------------------- vehicles
CAR_COLOURS = (
    (226, 226, 224), (206, 208, 210), (176, 178, 182), (132, 136, 140), (44, 46, 50), (30, 32, 36),
    (156, 44, 40), (48, 72, 122), (190, 182, 164), (216, 216, 210), (70, 96, 84), (200, 170, 60),
)  # fmt: skip


def vehicle(chance: Chance, frame: Frame, length: float, width: float, contrast_with: float | None = None) -> Thing:
    """A car: rounded body, dark windows front and back. `contrast_with`: grey level of the ground to differ from."""
    colour = chance.colour(*CAR_COLOURS, jitter=8)
    for _ in range(8):
        if contrast_with is None or abs(float(colour[1]) - contrast_with) > 28:
            break
        colour = chance.colour(*CAR_COLOURS, jitter=8)
    a, b = length / 2, width / 2
    outline = frame.apply(mirrored([(a, b * 0.6), (a * 0.86, b), (-a * 0.9, b), (-a, b * 0.7)]))
    glass = rgb(38, 44, 52) if colour[1] > 70 else rgb(96, 104, 112)
    parts = [
        Piece(frame.box(a * 0.22, -b * 0.78, a * 0.48, b * 0.78), glass, 0.85),
        Piece(frame.box(-a * 0.78, -b * 0.72, -a * 0.56, b * 0.72), glass, 0.8),
        Piece(frame.box(-a * 0.5, -b * 0.7, a * 0.18, b * 0.7), np.minimum(colour * np.float32(1.08), 255), 0.7),
    ]
    return Thing("vehicle", [outline], colour, parts, height=width * 0.5, grain=2)


def lorry(chance: Chance, frame: Frame, length: float, width: float) -> Thing:
    """A lorry: long pale box, cab in front."""
    box = chance.colour((226, 226, 222), (196, 198, 200), (70, 100, 150), (170, 60, 50), (206, 190, 150))
    cab = chance.colour((220, 220, 220), (160, 50, 44), (50, 80, 130), (60, 62, 66))
    a, b = length / 2, width / 2
    parts = [
        Piece(frame.box(a * 0.62, -b, a, b), cab),
        Piece(frame.box(a * 0.57, -b, a * 0.64, b), rgb(50, 52, 54), 0.8),
        Piece(frame.box(a * 0.86, -b * 0.8, a * 0.94, b * 0.8), rgb(40, 46, 54), 0.8),
    ]
    return Thing("vehicle", [frame.box(-a, -b, a, b)], box, parts, height=width * 0.9, grain=3)


# -------------------------------------------------------------------------------------------------------------- tanks
def tank(chance: Chance, frame: Frame, radius: float, light: Light) -> Thing:
    """A storage tank: a shallow cone, or a floating roof sunk inside a rim that throws its shadow on it."""
    shell = chance.colour((222, 222, 216), (204, 206, 204), (232, 228, 214), (176, 180, 178), (172, 132, 108), jitter=8)
    outline = circle(frame, radius, 48)
    parts: list[Piece] = []
    if chance.flip(0.5):
        depth = radius * chance.uniform(0.1, 0.4)
        roof = shell * np.float32(chance.uniform(0.72, 0.95))
        parts.append(Piece(circle(frame, radius * 0.93, 48), shell * np.float32(0.42)))
        # The lit part of a sunken roof is its disc moved along the light, cut by the rim.
        lit = Frame(frame.x + light.dx * depth, frame.y + light.dy * depth, frame.angle)
        parts.append(Piece(circle(lit, radius * 0.93, 48), roof))
        rim = [*frame.apply(_arc(radius, 48)), *frame.apply(_arc(radius * 0.92, 48))[::-1]]
        parts.append(Piece(np.array(rim), np.minimum(shell * np.float32(1.05), 255)))
    else:
        sectors = 16 if radius > 24 else 10
        for i in range(sectors):
            t0, t1 = 2 * math.pi * i / sectors, 2 * math.pi * (i + 1) / sectors
            wedge = frame.apply(
                [(0, 0)] + [(radius * math.cos(t), radius * math.sin(t)) for t in (t0, (t0 + t1) / 2, t1)]
            )
            slope = light.falling_on(frame.angle + (t0 + t1) / 2)
            parts.append(Piece(wedge, np.minimum(shell * np.float32(1 + 0.1 * slope), 255)))
        parts.append(Piece(circle(frame, radius * 0.09, 12), shell * np.float32(0.7)))
    stair = frame.at(0, 0, chance.uniform(0, 2 * math.pi))
    parts.append(
        Piece(stair.box(radius * 0.35, -radius * 0.035, radius, radius * 0.035), shell * np.float32(0.55), 0.7)
    )
    return Thing("storage tank", [outline], shell, parts, height=radius * chance.uniform(0.35, 0.8), layer=TALL)


def _arc(radius: float, corners: int) -> list[tuple[float, float]]:
    turns = [2 * math.pi * i / corners for i in range(corners + 1)]
    return [(radius * math.cos(t), radius * math.sin(t)) for t in turns]


# -------------------------------------------------------------------------------------------------------- distractors
def tree(chance: Chance, frame: Frame, radius: float, light: Light) -> Thing:
    """A tree crown, lit on the sunny side: a distractor."""
    dark = chance.colour((38, 56, 36), (46, 66, 40), (34, 52, 42), (58, 70, 40), jitter=6)
    outline = []
    for _ in range(2 if radius < 5 else 3):  # a crown of a few bulges
        turn, off = chance.uniform(0, 2 * math.pi), radius * chance.uniform(0.1, 0.36)
        bulge = Frame(frame.x + off * math.cos(turn), frame.y + off * math.sin(turn), turn)
        outline.append(circle(bulge, radius * chance.uniform(0.62, 0.85), 7, chance.uniform(0.8, 1.0)))
    parts = []
    for step, gain in ((0.2, 1.2), (0.4, 1.4)):
        x, y = frame.x - light.dx * radius * step, frame.y - light.dy * radius * step
        crown = circle(Frame(x, y, chance.uniform(0, 3)), radius * (0.86 - step), 7)
        parts.append(Piece(crown, dark * np.float32(gain), 0.8))
    return Thing(None, outline, dark, parts, height=radius * 1.1, layer=TALL, grain=11)
