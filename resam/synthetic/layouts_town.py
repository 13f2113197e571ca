"""Layouts on built-up land: city blocks, a suburb of row houses, a car park."""

from __future__ import annotations

import math

import numpy as np

from resam.synthetic.buildings import TILE_COLOURS, flat_building, pitched_building
from resam.synthetic.canvas import Colour, Frame, Polygon
from resam.synthetic.chance import Chance
from resam.synthetic.layouts_water import patches, scatter_trees
from resam.synthetic.objects import lorry, rgb, vehicle
from resam.synthetic.stage import Stage, sunlight
from resam.synthetic.textures import blend, forest, fractal, grass, paved, soil

PAINT = rgb(206, 206, 198)


def dashes(stage: Stage, frame: Frame, u0: float, u1: float, v: float, dash: float, gap: float, width: float) -> None:
    """A broken line along u at `v`: lane marking."""
    starts = [u for u in np.arange(u0, u1, dash + gap).tolist() if stage.near(frame.at(u, v), dash)]
    for i in range(0, len(starts), 5):  # a few at once: one raster each is slow, one for all is mostly empty
        marks = [frame.box(u, v - width / 2, u + dash, v + width / 2) for u in starts[i : i + 5]]
        stage.canvas.paint(marks, PAINT, 0.7)


def traffic(stage: Stage, frame: Frame, reach: float, road: float, share: float) -> None:
    """Cars along a road (u axis), on both lanes, now and then a lorry."""
    chance = stage.chance
    car = road * 0.34
    for side in (-1, 1):
        u = -reach + chance.uniform(0, 40)
        while u < reach:
            length = car * chance.uniform(2.0, 2.5)
            place = frame.at(u, side * road * 0.25, 0.0 if side > 0 else math.pi)
            if stage.near(place) and chance.flip(share):
                if chance.flip(0.12):
                    stage.add(lorry(chance, place, length * 1.9, car * 1.15), margin=1)
                else:
                    stage.add(vehicle(chance, place, length, car, 90), margin=1)
            u += length * chance.uniform(1.4, 5)


def urban(chance: Chance, size: int, limit: int) -> Stage:
    """City blocks between streets: flat roofs of several forms, some pitched; courts, trees, traffic."""
    base = chance.pick((grass, soil))(chance, size, size)
    court = paved(chance, size, size, concrete=chance.flip(0.6))
    share = np.clip(fractal(chance, size, size, 64, 8) * 4 + 0.6, 0, 1)
    stage = Stage(chance, blend(base, court, share), limit)
    city = Frame(size / 2 + chance.uniform(-40, 40), size / 2 + chance.uniform(-40, 40), chance.uniform(0, math.pi))
    road = chance.uniform(16, 24)
    pace = chance.uniform(125, 185)
    asphalt = paved(chance, size, size, concrete=False)
    count = int(size / pace) + 2
    far = size * 0.8
    columns = [i * pace for i in range(-count, count + 1)]
    rows = [i * pace * 0.86 for i in range(-count, count + 1)]
    walk = road / 2 + 3.5
    pavement = chance.colour((158, 154, 148), (142, 140, 136), (172, 166, 154))
    lines = [city.box(u - walk, -far, u + walk, far) for u in columns]
    lines += [city.box(-far, v - walk, far, v + walk) for v in rows]
    near = [line for line in lines if _touches(stage, line)]
    stage.canvas.paint(near, pavement)
    lines = [city.box(u - road / 2, -far, u + road / 2, far) for u in columns]
    lines += [city.box(-far, v - road / 2, far, v + road / 2) for v in rows]
    stage.canvas.paint([line for line in lines if _touches(stage, line)], asphalt)
    patches(stage, 55, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size), city.angle), 4, 44)
    blocks = [(u, v) for u in columns[:-1] for v in rows[:-1]]
    for u, v in chance.shuffled(blocks):
        corner = city.at(u + pace / 2, v + pace * 0.43)
        if -70 < corner.x < size + 70 and -70 < corner.y < size + 70:
            _block(stage, corner, pace - road - 14, pace * 0.86 - road - 14)
    for u in columns:
        street = city.at(u, 0, math.pi / 2)
        if _touches(stage, street.box(-far, -2, far, 2)):
            dashes(stage, street, -far, far, 0, 6, 8, 0.8)
            traffic(stage, street, far, road, 0.35)
    for v in rows:
        if _touches(stage, city.box(-far, v - 2, far, v + 2)):
            traffic(stage, city.at(0, v), far, road, 0.25)
    scatter_trees(
        stage, 80, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size), chance.uniform(0, 3)), 3.0, 7.5
    )
    return stage


def _touches(stage: Stage, polygon: Polygon) -> bool:
    """Whether the edges' bounding disc comes near the picture: a cheap way to leave out far streets."""
    inner = stage.size / 2
    # Distance of the picture's middle from the long axis of a thin rectangle.
    (x0, y0), (x1, y1) = (polygon[0] + polygon[3]) / 2, (polygon[1] + polygon[2]) / 2
    (p0, q0), (p1, q1) = (polygon[0] + polygon[1]) / 2, (polygon[2] + polygon[3]) / 2
    if math.dist((p0, q0), (p1, q1)) > math.dist((x0, y0), (x1, y1)):
        x0, y0, x1, y1 = p0, q0, p1, q1
    span = math.dist((x0, y0), (x1, y1))
    off = abs((x1 - x0) * (y0 - inner) - (x0 - inner) * (y1 - y0)) / span
    return off < inner * 1.42


def _block(stage: Stage, block: Frame, length: float, width: float) -> None:
    chance = stage.chance
    plan = chance.pick(("one", "two", "two", "four", "houses", "houses", "park"))
    height = chance.uniform(7, 20)
    if plan == "park":
        scatter_trees(
            stage,
            22,
            lambda: block.at(chance.uniform(-0.5, 0.5) * length, chance.uniform(-0.5, 0.5) * width),
            3.5,
            9,
        )
    elif plan == "one":
        form = chance.pick(("L", "U", "T", "box"))
        place = block.at(0, 0, chance.pick((0.0, math.pi)))
        stage.add(flat_building(chance, place, length * 0.86, width * 0.8, height, form), margin=2)
    elif plan == "two":
        for side in (-1, 1):
            place = block.at(side * length * 0.26, 0, chance.pick((0.0, math.pi / 2)))
            long, wide = length * chance.uniform(0.36, 0.46), length * chance.uniform(0.3, 0.42)
            form = chance.pick(("box", "L", "box"))
            stage.add(flat_building(chance, place, long, wide, chance.uniform(6, 18), form), margin=2)
    else:
        for u in (-0.27, 0.27):
            for v in (-0.27, 0.27):
                place = block.at(u * length, v * width, chance.pick((0.0, math.pi)))
                long, wide = length * chance.uniform(0.3, 0.45), width * chance.uniform(0.26, 0.38)
                if plan == "four":
                    stage.add(flat_building(chance, place, long, wide, chance.uniform(5, 15), "box"), margin=1)
                else:
                    light = stage.light
                    stage.add(pitched_building(chance, place, long, wide, wide * 0.3, light, wing=chance.flip(0.4)), 1)


def suburb(chance: Chance, size: int, limit: int) -> Stage:
    """Streets of houses: terraces whose neighbours almost touch, or detached houses in gardens."""
    light = sunlight(chance)
    lawn = grass(chance, size, size)
    grove = forest(chance, size, size, (light.dx, light.dy), 8)
    share = np.clip(fractal(chance, size, size, 128, 8) * 4 - np.float32(chance.uniform(0.8, 2.2)), 0, 1)
    stage = Stage(chance, blend(lawn, grove, share), limit, light)
    town = Frame(size / 2, size / 2, chance.uniform(0, math.pi)).at(0, chance.uniform(-50, 50))
    road, deep = chance.uniform(15, 20), chance.uniform(34, 46)
    garden = chance.uniform(24, 44)
    pace = road + 2 * (deep + 9 + garden)
    asphalt = paved(chance, size, size, concrete=chance.flip(0.25))
    far = size * 0.75
    rows = [(i + 0.5) * pace for i in range(-int(far / pace) - 1, int(far / pace) + 1)]
    _gardens(stage, town, rows, pace, far)
    stage.canvas.paint([town.box(-far, v - road / 2 - 3, far, v + road / 2 + 3) for v in rows], rgb(158, 156, 148))
    stage.canvas.paint([town.box(-far, v - road / 2, far, v + road / 2) for v in rows], asphalt)
    terrace = chance.flip(0.6)
    tone = chance.colour(*TILE_COLOURS)
    # Every front gets its share of the houses, so that none stays bare.
    fronts = [(v, side) for v in rows for side in (-1, 1) if abs(v + side * (road + deep) / 2) < 0.62 * size]
    room = max(3, int(0.85 * limit / max(1, len(fronts))))
    for v, side in chance.shuffled(fronts):
        _front(stage, town.at(0, v), side, (road, deep, size * 0.62), room, tone if terrace else None)
    for v in rows:
        traffic(stage, town.at(0, v), far, road, 0.3)
    stage.reserve([town.box(-far, v - road / 2 - 1, far, v + road / 2 + 1) for v in rows])
    scatter_trees(stage, 90, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size)), 3.0, 9.5)
    return stage


def _gardens(stage: Stage, town: Frame, rows: list[float], pace: float, far: float) -> None:
    """Strips of garden behind the houses: lawns, beds and sheds' footings, with fences."""
    chance = stage.chance
    wide = chance.uniform(30, 60)
    for v in rows:
        for half in (-1, 1):
            u = -far
            while u < far:
                step = wide * chance.uniform(0.8, 1.3)
                near, back = v + half * 6, v + half * pace / 2
                plot = town.box(u, min(near, back), u + step - 1, max(near, back))
                if stage.near(town.at(u + step / 2, (near + back) / 2), pace / 2):
                    green = chance.colour((92, 108, 62), (112, 116, 76), (76, 94, 58), (134, 122, 90), jitter=10)
                    stage.canvas.paint([plot], green, chance.uniform(0.1, 0.55), grain=8)
                u += step
    patches(stage, 45, lambda: Frame(chance.uniform(0, stage.size), chance.uniform(0, stage.size), town.angle), 4, 18)


def _front(
    stage: Stage, street: Frame, side: int, sizes: tuple[float, float, float], room: int, tone: Colour | None
) -> None:
    """Houses on one side of a street: `room` of them; `tone` is the roof colour of a terrace, None for detached houses.

    `sizes`: width of the road, depth of the lots, how far the row may reach along the street.
    """
    chance = stage.chance
    road, deep, far = sizes
    row = room * (30 if tone is not None else 66)  # about its length; it starts where it fits
    placed, u = 0, chance.uniform(-far, max(40 - far, far - row))
    while u < far and placed < room:
        left = chance.integer(3, 7) if tone is not None else 1
        while left and u < far and placed < room:
            wide = chance.uniform(20, 30) if tone is not None else chance.uniform(30, 52)
            house = deep * (chance.uniform(0.92, 1.0) if tone is not None else chance.uniform(0.62, 0.95))
            lot = street.at(u + wide / 2, side * (road / 2 + 9 + deep / 2))
            across = tone is None and chance.flip(0.3)
            ridge = lot.at(0, 0, math.pi / 2) if across else lot
            long, short = (house, wide * 0.9) if across else (wide, house)
            wing = tone is None and chance.flip(0.4)
            own = None if tone is None else tone + np.float32(chance.uniform(-14, 14))
            roof = pitched_building(chance, ridge, long, short, 8, stage.light, wing=wing, colour=own)
            if stage.add(roof):
                placed += 1
                if chance.flip(0.6):
                    path = lot.box(-2.5, -deep / 2 - 6, 2.5, 0) if side > 0 else lot.box(-2.5, 0, 2.5, deep / 2 + 6)
                    stage.canvas.paint([path], rgb(150, 148, 142), 0.9)
            left -= 1
            u += wide + (chance.uniform(1.2, 3.0) if left else 0)
        u += chance.uniform(10, 50)


def parking(chance: Chance, size: int, limit: int) -> Stage:
    """A car park: rows of stalls with cars side by side, a shop beside it, a road, trees on the verge."""
    base = chance.pick((grass, soil))(chance, size, size)
    stage = Stage(chance, base, limit)
    dark = chance.flip(0.7)
    patches(stage, 40, lambda: Frame(chance.uniform(0, size), chance.uniform(0, size), chance.uniform(0, 3)), 10, 60)
    surface = paved(chance, size, size, concrete=not dark)
    lot = Frame(size / 2, size / 2, chance.uniform(0, 2 * math.pi))
    far = size * 0.8
    half_u, half_v = chance.uniform(0.2, 0.3) * size, chance.uniform(0.17, 0.25) * size
    lot = lot.at(chance.uniform(-0.1, 0.1) * size, chance.uniform(-0.05, 0.1) * size)
    stage.canvas.paint([lot.box(-half_u - 2, -half_v - 2, half_u + 2, half_v + 2)], rgb(172, 168, 160))
    stage.canvas.paint([lot.box(-half_u, -half_v, half_u, half_v)], surface)
    road = chance.uniform(18, 24)
    street = lot.at(0, half_v + road)
    stage.canvas.paint([street.box(-far, -road / 2, far, road / 2), street.box(-6, -road, 6, 0)], surface)
    dashes(stage, street, -far, far, 0, 7, 8, 0.9)
    traffic(stage, street, far, road, 0.3)
    shop = lot.at(chance.uniform(-0.1, 0.1) * size, -half_v - chance.uniform(42, 60))
    long, wide = min(150, size * 0.29) * chance.uniform(0.7, 1.0), chance.uniform(44, 70)
    stage.add(flat_building(chance, shop, long, wide, 10, chance.pick(("box", "L", "T"))), 2)
    for side in (-1, 1):
        place = lot.at(side * (half_u + chance.uniform(36, 60)), chance.uniform(-0.5, 0.5) * half_v)
        form = chance.pick(("box", "L", "U"))
        stage.add(flat_building(chance, place, chance.uniform(40, 64), chance.uniform(30, 60), 7, form), 4)
    patches(stage, 24, lambda: lot.at(chance.uniform(-1, 1) * half_u, chance.uniform(-1, 1) * half_v), 4, 30)
    _stalls(stage, lot, half_u, half_v, 92 if dark else 160)
    scatter_trees(
        stage, 60, lambda: lot.at(chance.uniform(-0.8, 0.8) * size, -half_v - chance.uniform(6, 0.4 * size)), 4, 10
    )
    scatter_trees(stage, 30, lambda: street.at(chance.uniform(-0.8, 0.8) * size, chance.uniform(16, 90)), 4, 9)
    return stage


def _stalls(stage: Stage, lot: Frame, half_u: float, half_v: float, ground: float) -> None:
    chance = stage.chance
    width = chance.uniform(6.5, 11)
    length = width * chance.uniform(2.1, 2.4)
    gap = chance.uniform(1.2, 3.0)
    stall = width + gap
    aisle = length * chance.uniform(1.1, 1.5)
    bays = []
    v = -half_v + 4
    while v + 2 * length + 3 < half_v:
        bays += [(v + length / 2, -1.0), (v + 1.5 * length + 3, 1.0)]
        v += 2 * length + aisle + 5
    spots = int((2 * half_u - 12) / stall)
    for middle, _ in bays:
        edges = [-half_u + 6 + (i - 0.5) * stall for i in range(spots + 1)]
        lines = [lot.box(u - 0.35, middle - length / 2, u + 0.35, middle + length / 2) for u in edges]
        stage.canvas.paint(lines, PAINT, 0.65)
        island = lot.box(-half_u + 1, middle - length / 2, -half_u + 4, middle + length / 2)
        stage.canvas.paint([island], rgb(120, 124, 92), 0.9)
    # Cars come in runs, so that neighbours almost touch; the limit is spread over the bays.
    share = max(3, int((stage.limit - stage.count) / max(1, len(bays))))
    for middle, side in chance.shuffled(bays):
        taken = 0
        i = chance.integer(0, max(0, spots - 2 * share))
        while i < spots and taken < share + 2:
            for _ in range(chance.integer(2, 8)):
                if i >= spots or taken >= share + 2:
                    break
                turn = side * math.pi / 2 + (math.pi if chance.flip(0.3) else 0.0) + chance.uniform(-0.02, 0.02)
                place = lot.at(-half_u + 6 + i * stall, middle + chance.uniform(-0.8, 0.8), turn)
                long, wide = length * chance.uniform(0.88, 0.98), width * chance.uniform(0.94, 1.0)
                taken += stage.add(vehicle(chance, place, long, wide, ground))
                i += 1
            i += chance.integer(1, 3)
