"""Layouts on water: open sea with ships under way, and a harbour with quay, piers and moored boats."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from resam.synthetic.buildings import flat_building
from resam.synthetic.canvas import Frame, Polygon, Thing
from resam.synthetic.chance import Chance
from resam.synthetic.objects import boat, rgb, ship, tank, tree, vehicle
from resam.synthetic.stage import Stage
from resam.synthetic.textures import blend, fractal, grass, grey, paved, soil, water


def sea(chance: Chance, size: int, limit: int) -> Stage:
    """Ships of all sizes on open water, most of them under way, some in convoy."""
    ground = water(chance, size, size, chance.uniform(1.0, 2.4))
    stage = Stage(chance, ground, limit)
    foam = fractal(chance, size, size, 8, 1, 0.9)
    crests = np.clip(foam - np.float32(chance.uniform(1.15, 1.6)), 0, 0.5) * 60
    stage.canvas.pixels += grey(crests)
    heading = chance.uniform(0, 2 * math.pi)
    longest = min(150.0, size * 0.3)
    wanted = chance.integer(5, 16)
    for _ in range(8 * wanted):
        if stage.count >= wanted:
            break
        length = 12 + (longest - 12) * chance.uniform(0, 1) * chance.uniform(0.1, 1)
        turn = heading + chance.pick((0.0, math.pi)) + chance.uniform(-0.5, 0.5)
        frame = Frame(chance.uniform(0, size), chance.uniform(0, size), turn)
        beam = max(4.5, length * chance.uniform(0.15, 0.22))
        vessel = ship(chance, frame, length, beam) if length > 34 else boat(chance, frame, length, beam)
        if stage.add(vessel, margin=4) and chance.flip(0.75):
            wake(stage, frame, length, beam)
    return stage


def wake(stage: Stage, frame: Frame, length: float, beam: float) -> None:
    """Foam behind the stern and the two arms of the bow wave: part of no mask."""
    chance, canvas = stage.chance, stage.canvas
    strength, reach = chance.uniform(0.3, 0.85), length * chance.uniform(1.0, 2.8)
    slope, spread = chance.uniform(0.16, 0.34), chance.uniform(0.06, 0.14)
    arms = chance.uniform(0.1, 0.5)
    wide = beam + (reach + length) * slope
    window = canvas.window([frame.box(-length * 0.5 - reach, -wide, length * 0.5, wide)])
    x0, y0, x1, y1 = window
    if x1 <= x0 or y1 <= y0:
        return
    cos, sin = np.float32(math.cos(frame.angle)), np.float32(math.sin(frame.angle))
    x = np.arange(x0, x1, dtype=np.float32)[None] - np.float32(frame.x)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(frame.y)
    u, off = x * cos + y * sin, np.abs(y * cos - x * sin)
    # Foam: from the stern back, wider and fainter.
    behind = (-length * 0.42 - u) / np.float32(reach)
    fade = np.clip(1 - behind, 0, 1) * np.clip(behind * 30, 0, 1)
    half = beam * 0.3 + np.clip(behind, 0, 1) * np.float32(reach * spread)
    foam = fade * fade * np.clip((1 - off / half) * 3, 0, 1)
    # Arms: from the bow back, along v = slope * distance.
    back = (length * 0.46 - u) / np.float32(reach * 0.6 + length)
    ridge = np.abs(off - beam * 0.2 - back * np.float32((reach * 0.6 + length) * slope))
    arm = np.clip(1 - ridge / (beam * 0.12 + np.clip(back, 0, 1) * np.float32(beam * 0.3)), 0, 1)
    share = foam + arm * np.clip(1 - back, 0, 1) * np.clip(back * 20, 0, 1) * np.float32(arms)
    share *= np.clip(canvas.grain[y0:y1, x0:x1] * np.float32(0.8) + np.float32(0.75), 0, 1.2)
    canvas.mix(window, np.clip(share * np.float32(strength), 0, 0.9), rgb(206, 216, 218))


def harbour(chance: Chance, size: int, limit: int) -> Stage:
    """A quay across the picture: boats moored in tight rows at piers, ships alongside, sheds and cars on land."""
    ground = water(chance, size, size, chance.uniform(1.6, 2.6))
    stage = Stage(chance, ground, limit)
    # u runs along the quay, v towards open water.
    offset = chance.uniform(-0.28, 0.05) * size
    coast = Frame(size / 2, size / 2, chance.uniform(0, 2 * math.pi)).at(0, offset)
    far = size * 1.5
    # The shore line: a quay with a mole that juts out on one side of the piers.
    side, broad, deep = chance.pick((-1, 1)), chance.uniform(28, 70), chance.uniform(30, 0.3 * size)
    m0, m1 = sorted((side * (0.34 * size), side * (0.34 * size + broad)))
    shore = [(far, 0.0), (m1, 0.0), (m1, deep), (m0, deep), (m0, 0.0), (-far, 0.0)]
    land = coast.apply([(-far, -far), (far, -far), *shore])
    texture = chance.pick((soil, grass))(chance, size, size)
    yard = paved(chance, size, size, concrete=chance.flip(0.5))
    share = np.clip(fractal(chance, size, size, 64, 8) * 3 + 0.8, 0, 1)
    stage.canvas.shade([stage.light.shift(land, 5)], rgb(0.72, 0.76, 0.8))
    stage.canvas.paint([land], blend(texture, yard, share))
    quay = chance.colour((182, 178, 168), (160, 158, 152), (196, 190, 176))
    width = chance.uniform(5, 12)
    stage.canvas.paint(_edges(coast, shore, width), quay)
    stage.canvas.paint(_edges(coast, shore, 1.6), quay * np.float32(0.6), 0.8)
    stage.reserve([coast.box(-far, -width - 2, far, 0.5), coast.box(m0 - 1, -2, m1 + 1, deep + 1)])
    _marina(stage, coast, size)
    _alongside(stage, coast, size)
    patches(stage, 40, lambda: coast.at(chance.uniform(-0.7, 0.7) * size, -chance.uniform(14, 0.6 * size)))
    _yard(stage, coast.at(0, -width - 4), size)
    for _ in range(6):
        length = chance.uniform(14, 40)
        frame = coast.at(chance.uniform(-0.6, 0.6) * size, chance.uniform(0.3, 0.9) * size, chance.uniform(0, 6.2))
        beam = max(4.5, length * 0.26)
        if stage.add(boat(chance, frame, length, beam), margin=6) and chance.flip(0.6):
            wake(stage, frame, length, beam)
    return stage


def _edges(coast: Frame, shore: list[tuple[float, float]], width: float) -> list[Polygon]:
    """A band of `width` px along the land side of the shore line, whose edges run along u or v."""
    bands = []
    for (u0, v0), (u1, v1) in pairwise(shore):
        if v0 == v1:
            bands.append(coast.box(min(u0, u1), v0 - width, max(u0, u1), v0))
        else:
            inner = -width if v1 > v0 else width
            bands.append(coast.box(u0, min(v0, v1) - width, u0 + inner, max(v0, v1)))
    return bands


def _marina(stage: Stage, coast: Frame, size: int) -> None:
    chance = stage.chance
    length = chance.uniform(13, 32)
    beam = max(4.6, length * chance.uniform(0.26, 0.34))
    planks = chance.colour((176, 168, 152), (150, 146, 138), (190, 186, 178))
    spacing = 2 * length + chance.uniform(14, 26)
    piers = chance.integer(1, 3)
    start = chance.uniform(-0.15, 0.15) * size
    room = int(0.75 * stage.limit / (2 * piers))
    for i in range(piers):
        u = start + (i - (piers - 1) / 2) * spacing
        reach = min(size * 0.5, room * (beam + 2.5) + 12)
        pier = coast.box(u - 2.2, -1, u + 2.2, reach)
        stage.canvas.shade([stage.light.shift(pier, 2)], stage.shadow)
        stage.canvas.paint([pier], planks)
        stage.reserve([pier])
        for side in (-1, 1):
            v = 10.0
            while v < reach - beam / 2:
                wide = beam * chance.uniform(0.85, 1.1)
                long = length * chance.uniform(0.8, 1.05)
                turn = (0.0 if side > 0 else math.pi) + (math.pi if chance.flip(0.25) else 0.0)
                frame = coast.at(u + side * (3.2 + long / 2), v + wide / 2, turn)
                if chance.flip(0.88):
                    stage.add(boat(chance, frame, long, wide))
                v += wide + chance.uniform(1.0, 3.0)


def _alongside(stage: Stage, coast: Frame, size: int) -> None:
    chance = stage.chance
    u = -0.7 * size
    while u < 0.7 * size:
        length = chance.uniform(45, min(140, size * 0.27))
        beam = length * chance.uniform(0.15, 0.2)
        frame = coast.at(u + length / 2, beam / 2 + 2, chance.pick((0.0, math.pi)))
        if chance.flip(0.6):
            stage.add(ship(chance, frame, length, beam), margin=2)
        u += length + chance.uniform(6, 40)


def _yard(stage: Stage, coast: Frame, size: int) -> None:
    chance = stage.chance
    if chance.flip(0.35):
        radius = chance.uniform(10, 22)
        for i in range(chance.integer(2, 4)):
            frame = coast.at((i - 1) * (2 * radius + chance.uniform(2, 6)), -radius - 6)
            stage.add(tank(chance, frame, radius, stage.light), margin=1)
    for _ in range(9):
        length, width = chance.uniform(30, 90), chance.uniform(16, 40)
        frame = coast.at(chance.uniform(-0.6, 0.6) * size, -width / 2 - chance.uniform(4, 0.5 * size))
        stage.add(flat_building(chance, frame, length, width, chance.uniform(5, 11), "box"), margin=5)
    for _ in range(14):
        frame = coast.at(chance.uniform(-0.6, 0.6) * size, -chance.uniform(3, 0.5 * size), chance.pick((0.0, 1.57)))
        stage.add(vehicle(chance, frame, 10.0, 4.8), margin=2)
    scatter_trees(stage, 30, lambda: coast.at(chance.uniform(-0.7, 0.7) * size, -chance.uniform(8, 0.6 * size)))
    containers(stage, coast.at(chance.uniform(-0.3, 0.3) * size, -chance.uniform(20, 60)))


def containers(stage: Stage, frame: Frame) -> None:
    """A stack of freight containers on the yard: distractors."""
    chance = stage.chance
    rows, columns = chance.integer(2, 4), chance.integer(3, 7)
    for i in range(columns):
        for j in range(rows):
            tone = chance.colour((150, 70, 56), (60, 92, 132), (176, 172, 164), (74, 112, 82), (190, 140, 70))
            box: Polygon = frame.box(i * 16, j * 5.2, i * 16 + 14.5, j * 5.2 + 4.8)
            stage.add(Thing(None, [box], tone, height=3))


def patches(stage: Stage, count: int, where: Callable[[], Frame], low: float = 5.0, high: float = 34.0) -> None:
    """Lay `count` worn, wet, mended or overgrown patches on the ground, at frames drawn from `where()`."""
    chance = stage.chance
    for _ in range(count):
        frame = where()
        a, b = chance.uniform(low, high) / 2, chance.uniform(low, high) / 3
        if not (-a < frame.x < stage.size + a and -a < frame.y < stage.size + a):
            continue
        tone = chance.colour((70, 72, 70), (176, 170, 156), (104, 110, 76), (140, 124, 100), (60, 70, 48), jitter=14)
        if chance.flip(0.6):
            shape = frame.box(-a, -b, a, b)
        else:
            shape = frame.apply(
                [(a * math.cos(t) * chance.uniform(0.6, 1), b * math.sin(t) * chance.uniform(0.6, 1)) for t in range(6)]
            )
        stage.canvas.paint([shape], tone, chance.uniform(0.1, 0.42), grain=9)


def scatter_trees(stage: Stage, count: int, where: Callable[[], Frame], low: float = 3.0, high: float = 8.0) -> None:
    """Try to plant `count` trees at frames drawn from `where()`, radius `low`..`high` px."""
    chance = stage.chance
    for _ in range(count):
        frame, radius = where(), chance.uniform(low, high)
        if stage.near(frame, radius) and stage.vacant(frame):
            stage.add(tree(chance, frame, radius, stage.light), margin=1)
