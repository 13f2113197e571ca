"""Layouts on open land: farmland, an airport, a tank farm."""

from __future__ import annotations

import math

import numpy as np

from resam.synthetic.buildings import flat_building, pitched_building
from resam.synthetic.canvas import Frame, Polygon
from resam.synthetic.chance import Chance
from resam.synthetic.layouts_town import PAINT, dashes, traffic
from resam.synthetic.layouts_water import patches, scatter_trees
from resam.synthetic.objects import aircraft, lorry, rgb, tank, vehicle
from resam.synthetic.stage import Stage, sunlight
from resam.synthetic.textures import forest, fractal, grass, grey, paved, row, soil, stripes

CROPS = (
    (96, 112, 60), (126, 130, 74), (164, 148, 100), (140, 116, 88), (84, 100, 64), (178, 164, 120), (112, 96, 76),
    (108, 128, 78),
)  # fmt: skip


def split(polygon: Polygon, chance: Chance, smallest: float) -> list[Polygon]:
    """Cut a convex polygon across its long side again and again until the pieces are near `smallest` px wide."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    spans = [math.sqrt(float(dx * dx + dy * dy)) for dx, dy in edges]
    longest = max(range(len(spans)), key=lambda i: spans[i])
    if spans[longest] < smallest * chance.uniform(1.2, 2.4):
        return [polygon]
    along = edges[longest] / spans[longest]
    turn = chance.uniform(-0.12, 0.12)
    normal = np.array([along[0] - turn * along[1], along[1] + turn * along[0]])
    point = polygon[longest] + edges[longest] * chance.uniform(0.36, 0.64)
    pieces = []
    for sign in (1.0, -1.0):
        corners: list[tuple[float, float]] = []
        for here, there in zip(polygon, np.roll(polygon, -1, axis=0)):
            # Written out: a library dot product may sum in another order elsewhere.
            a = sign * float((here[0] - point[0]) * normal[0] + (here[1] - point[1]) * normal[1])
            b = sign * float((there[0] - point[0]) * normal[0] + (there[1] - point[1]) * normal[1])
            if a >= 0:
                corners.append((float(here[0]), float(here[1])))
            if (a > 0 > b) or (a < 0 < b):
                t = a / (a - b)
                corners.append((float(here[0] + (there[0] - here[0]) * t), float(here[1] + (there[1] - here[1]) * t)))
        if len(corners) >= 3:
            pieces += split(np.array(corners), chance, smallest)
    return pieces


def rural(chance: Chance, size: int, limit: int) -> Stage:
    """Fields with furrows and hedges, woods, a road with cars, farmsteads of a few buildings."""
    light = sunlight(chance)
    stage = Stage(chance, grass(chance, size, size), limit, light)
    warp = fractal(chance, size, size, 128, 32)
    fine = fractal(chance, size, size, 16, 1, 0.75)
    wood = forest(chance, size, size, (light.dx, light.dy), chance.pick((8, 16)))
    land = Frame(size / 2, size / 2, chance.uniform(0, math.pi))
    far = size * 0.75
    hedge = chance.colour((62, 76, 48), (98, 100, 66), (146, 134, 106))
    canvas = stage.canvas
    for plot in split(land.box(-far, -far, far, far), chance, size * chance.uniform(0.2, 0.34)):
        x0, y0, x1, y1 = canvas.window([plot])
        if x1 <= x0 or y1 <= y0:
            continue
        if chance.flip(0.14):
            canvas.lay(plot, wood[y0:y1, x0:x1])
            stage.reserve([plot])
            continue
        edge = plot[1] - plot[0]
        angle = math.atan2(edge[1], edge[0]) + chance.pick((0.0, math.pi / 2))
        crop = chance.colour(*CROPS, jitter=14)
        rows = stripes((y1 - y0, x1 - x0), angle, chance.uniform(3.5, 14), warp[y0:y1, x0:x1])
        tone = rows * np.float32(chance.uniform(0.5, 6)) + warp[y0:y1, x0:x1] * np.float32(chance.uniform(4, 14))
        tone += fine[y0:y1, x0:x1] * np.float32(chance.uniform(4, 9))
        canvas.lay(plot, grey(tone) + row(crop, x1 - x0))
        middle = plot.mean(axis=0)
        shrunk = middle + (plot - middle) * 0.99
        for a, b in zip(shrunk, np.roll(shrunk, -1, axis=0)):
            canvas.paint([_strip(a, b, chance.uniform(0.5, 1.8))], hedge, 0.8, grain=9)
    road = chance.uniform(13, 18)
    street = land.at(0, chance.uniform(-0.25, 0.25) * size)
    canvas.paint([street.box(-far, -road / 2 - 3, far, road / 2 + 3)], rgb(136, 126, 98), 0.7, grain=9)
    canvas.paint([street.box(-far, -road / 2, far, road / 2)], paved(chance, size, size, concrete=False))
    dashes(stage, street, -far, far, 0, 7, 10, 0.8)
    traffic(stage, street, far, road, 0.2)
    for _ in range(chance.integer(2, 4)):
        side = chance.pick((-1, 1))
        _farm(stage, street.at(chance.uniform(-0.42, 0.42) * size, side * (road / 2 + 58), 0.0))
    stage.reserve([street.box(-far, -road / 2 - 2, far, road / 2 + 2)])
    scatter_trees(stage, 50, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size)), 3.0, 9.0)
    return stage


def _strip(a: np.ndarray, b: np.ndarray, half: float) -> Polygon:
    dx, dy = float(b[0] - a[0]), float(b[1] - a[1])
    span = max(math.sqrt(dx * dx + dy * dy), 1e-6)
    side = np.array([-dy / span * half, dx / span * half])
    return np.stack([a - side, b - side, b + side, a + side])


def _farm(stage: Stage, yard: Frame) -> None:
    chance = stage.chance
    half = chance.uniform(38, 52)
    tone = chance.colour((164, 150, 122), (150, 146, 138), (140, 124, 100))
    for shrink, opacity in ((1.15, 0.35), (1.0, 0.5), (0.85, 0.6)):
        corners = [(t, half * shrink * chance.uniform(0.8, 1.15)) for t in np.arange(0, 6.2, 0.5).tolist()]
        outline = yard.apply([(1.1 * r * math.cos(t), 0.8 * r * math.sin(t)) for t, r in corners])
        stage.canvas.paint([outline], tone, opacity, grain=10)
    drive = yard.box(-3, -half * 1.6, 3, half * 1.6)
    stage.canvas.paint([drive], tone, 0.6, grain=10)
    patches(stage, 8, lambda: yard.at(chance.uniform(-0.9, 0.9) * half, chance.uniform(-0.7, 0.7) * half))
    for _ in range(chance.integer(4, 7)):
        place = yard.at(
            chance.uniform(-0.7, 0.7) * half, chance.uniform(-0.5, 0.5) * half, chance.pick((0.0, math.pi / 2))
        )
        long, wide = chance.uniform(20, 62), chance.uniform(14, 24)
        stage.add(pitched_building(chance, place, long, wide, wide * 0.35, stage.light, wing=chance.flip(0.2)), 3)
    for _ in range(3):
        place = yard.at(chance.uniform(-0.8, 0.8) * half, chance.uniform(-0.6, 0.6) * half, chance.uniform(0, 6))
        stage.add(vehicle(chance, place, 12, 5.4, 140), 2)


def airport(chance: Chance, size: int, limit: int) -> Stage:
    """An apron with aircraft parked in rows, a taxiway, a runway with its markings, a terminal, service cars."""
    stage = Stage(chance, grass(chance, size, size), limit)
    field = Frame(size / 2, size / 2, chance.uniform(0, 2 * math.pi))
    far = size * 0.8
    apron = paved(chance, size, size, concrete=True)
    asphalt = paved(chance, size, size, concrete=False)
    depth = chance.uniform(0.2, 0.3) * size
    canvas = stage.canvas
    canvas.paint([field.box(-far, -depth, far, depth)], apron)
    joint = chance.uniform(14, 24)
    joints = [field.box(i * joint - 0.3, -depth, i * joint + 0.3, depth) for i in _steps(far, joint)]
    joints += [field.box(-far, i * joint - 0.3, far, i * joint + 0.3) for i in _steps(depth, joint)]
    canvas.paint(joints, rgb(96, 96, 92), 0.35)
    patches(stage, 26, lambda: field.at(chance.uniform(-0.6, 0.6) * size, chance.uniform(-1, 0.9) * depth), 6, 40)
    runway = field.at(0, depth + chance.uniform(0.13, 0.18) * size)
    wide = chance.uniform(30, 44)
    links = [field.box(u - 9, depth - 1, u + 9, depth + 0.2 * size) for u in (-0.3 * size, 0.25 * size)]
    canvas.paint([runway.box(-far, -wide / 2, far, wide / 2), *links], asphalt)
    dashes(stage, runway, -far, far, 0, 20, 14, 2.0)
    canvas.paint([runway.box(-far, v - 0.6, far, v + 0.6) for v in (2 - wide / 2, wide / 2 - 2)], PAINT, 0.8)
    threshold = chance.uniform(-0.3, 0.3) * size
    for i in range(-5, 5):
        bar = runway.box(threshold, (i + 0.25) * wide / 12, threshold + 22, (i + 0.75) * wide / 12)
        canvas.paint([bar], PAINT, 0.85)
    lane = chance.uniform(0.25, 0.55) * depth
    canvas.paint([field.box(-far, lane - 0.7, far, lane + 0.7)], rgb(196, 168, 62), 0.8)
    for u in np.arange(-far, far, chance.uniform(120, 240)).tolist():
        stain = field.box(u, lane - chance.uniform(6, 20), u + chance.uniform(8, 50), lane)
        canvas.paint([stain], rgb(110, 108, 104), 0.3)
    terminal = field.at(chance.uniform(-0.2, 0.2) * size, -depth - chance.uniform(18, 30))
    long = min(150, 0.29 * size)
    stage.add(flat_building(chance, terminal, long, 34, 11, chance.pick(("box", "T"))), 2)
    for u in (-long * 1.02, long * 1.02):
        hangar = terminal.at(u, -4)
        stage.add(pitched_building(chance, hangar, chance.uniform(40, 70), chance.uniform(36, 48), 10, stage.light), 2)
    _stands(stage, field, depth, lane, size)
    for _ in range(26):
        place = field.at(chance.uniform(-0.6, 0.6) * size, chance.uniform(-1, 0.9) * depth, chance.pick((0.0, 1.571)))
        maker = lorry if chance.flip(0.4) else vehicle
        stage.add(maker(chance, place, chance.uniform(9, 15), chance.uniform(4.2, 5.6)), 3)
    scatter_trees(stage, 30, lambda: field.at(chance.uniform(-0.8, 0.8) * size, -depth - chance.uniform(40, 200)), 3, 7)
    return stage


def _steps(reach: float, step: float) -> range:
    return range(-int(reach / step), int(reach / step) + 1)


def _stands(stage: Stage, field: Frame, depth: float, lane: float, size: int) -> None:
    """Rows of aircraft, wing to wing; large ones at the terminal, small ones across the lane; some on the move."""
    chance = stage.chance
    length = chance.uniform(50, min(120, 0.26 * size))
    u = -0.6 * size + chance.uniform(0, 30)
    while u < 0.6 * size:
        own = length * chance.uniform(0.75, 1.05)
        place = field.at(u + own / 2, -depth + 8 + own / 2, -math.pi / 2 + chance.uniform(-0.03, 0.03))
        if chance.flip(0.85):
            stage.add(aircraft(chance, place, own), 1)
        u += own * 1.05 + chance.uniform(2, 16)
    small = chance.uniform(24, 40)
    u = -0.6 * size
    while u < 0.6 * size:
        place = field.at(u, (lane + depth) / 2 + 4, math.pi / 2 + chance.uniform(-0.1, 0.1))
        if chance.flip(0.6):
            stage.add(aircraft(chance, place, small * chance.uniform(0.85, 1.1)), 1)
        u += small * 1.1 + chance.uniform(1.5, 10)
    for _ in range(3):
        place = field.at(chance.uniform(-0.4, 0.4) * size, lane + chance.uniform(-2, 2), chance.pick((0.0, math.pi)))
        stage.add(aircraft(chance, place, chance.uniform(45, 80)), 2)


def tanks(chance: Chance, size: int, limit: int) -> Stage:
    """A tank farm: grids of tanks, some almost touching, inside bunds; pipes, roads, sheds."""
    stage = Stage(chance, soil(chance, size, size), limit)
    plant = Frame(size / 2, size / 2, chance.uniform(0, math.pi))
    far = 0.8 * size
    canvas = stage.canvas
    turf = grass(chance, size, size)
    asphalt = paved(chance, size, size, concrete=chance.flip(0.4))
    road, pace = chance.uniform(14, 18), chance.uniform(150, 210)
    count = int(far / pace) + 1
    middles = [(i + 0.5) * pace for i in range(-count, count)]
    lines = [plant.box(u - road / 2, -far, u + road / 2, far) for u in middles]
    lines += [plant.box(-far, v - road / 2, far, v + road / 2) for v in middles]
    cells = [(i, j) for i in range(-count, count + 1) for j in range(-count, count + 1)]
    if chance.flip(0.6):
        half = pace / 2 - road / 2 - 2
        for i, j in cells:
            if chance.flip(0.4):
                canvas.paint([plant.at(i * pace, j * pace).box(-half, -half, half, half)], turf)
    canvas.paint(lines, asphalt)
    patches(stage, 50, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size), plant.angle))
    for i, j in chance.shuffled(cells):
        cell = plant.at(i * pace, j * pace)
        if -60 < cell.x < size + 60 and -60 < cell.y < size + 60:
            _cell(stage, cell, pace / 2 - road / 2 - 5)
    for v in middles:
        traffic(stage, plant.at(0, v), far, road, 0.12)
    stage.reserve(lines)
    scatter_trees(stage, 30, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size)), 3, 6)
    return stage


def _cell(stage: Stage, cell: Frame, half: float) -> None:
    chance = stage.chance
    if chance.flip(0.15):
        for side in (-0.5, 0.5):
            place = cell.at(side * half, chance.uniform(-0.3, 0.3) * half, chance.pick((0.0, math.pi / 2)))
            stage.add(flat_building(chance, place, half * 0.8, half * 0.55, 6, "box"), 3)
        return
    bund = chance.colour((176, 168, 150), (150, 144, 130), (128, 120, 98))
    outer, inner = cell.box(-half, -half, half, half), cell.box(-half + 2.5, -half + 2.5, half - 2.5, half - 2.5)
    for a, b in zip(outer, np.roll(outer, -1, axis=0)):
        stage.canvas.paint([_strip(a, b, 1.6)], bund, 0.9)
    stage.canvas.shade([inner], rgb(0.93, 0.93, 0.95))
    across = chance.pick((1, 2, 2, 3, 4))
    gap = chance.uniform(1.4, 3.0) if chance.flip(0.5) else chance.uniform(5, 12)
    radius = ((2 * half - 14) / across - gap) / 2 * (0.9 if across == 1 else 1.0)
    rows = across if chance.flip(0.7) else max(1, across - 1)
    pipe = chance.colour((186, 182, 172), (120, 118, 114), (160, 120, 90))
    for i in range(rows):
        v = (i - (rows - 1) / 2) * (2 * radius + gap)
        stage.canvas.paint([cell.box(-half, v - 0.9, half, v + 0.9)], pipe, 0.9)
        stage.canvas.paint([cell.box(-half, v + 1.6, half, v + 2.6)], pipe, 0.8)
        for j in range(across):
            u = (j - (across - 1) / 2) * (2 * radius + gap)
            stage.add(tank(chance, cell.at(u, v), min(radius, 72.0), stage.light))
