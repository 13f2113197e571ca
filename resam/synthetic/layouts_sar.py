"""Radar layouts: backscatter amplitude in grey, to be multiplied by speckle (see `sensors`)."""

from __future__ import annotations

import math

import numpy as np

from resam.synthetic.canvas import Frame, Thing
from resam.synthetic.chance import Chance
from resam.synthetic.objects import Light, rgb, sar_ship
from resam.synthetic.stage import Stage
from resam.synthetic.textures import Field, fractal, grey, waves

_NO_SUN = Light(1.0, 0.0, 0.0)


def _sea(chance: Chance, size: int) -> Field:
    level = chance.uniform(9, 34)
    slow = fractal(chance, size, size, 256, 16) * np.float32(0.25)
    bend = fractal(chance, size, size, 64, 8) * 1.5
    swell = waves(size, size, chance.uniform(0, math.pi), chance.uniform(9, 22), bend) * np.float32(
        chance.uniform(0.0, 0.16)
    )
    slick = np.clip(fractal(chance, size, size, 256, 4, 0.6) * 1.4 - 0.5, 0, 0.6)
    level_here = (1 + slow + swell) * (1 - slick) * np.float32(level)
    return grey(level_here)


def sar_sea(chance: Chance, size: int, limit: int) -> Stage:
    """Bright ships on dark speckled water, some in pairs side by side, some trailing a dark wake."""
    stage = Stage(chance, _sea(chance, size), limit, _NO_SUN)
    longest = min(110.0, size * 0.25)
    wanted = chance.integer(4, 16)
    for _ in range(8 * wanted):
        if stage.count >= wanted:
            break
        length = 9 + (longest - 9) * chance.uniform(0, 1) * chance.uniform(0.1, 1)
        beam = max(3.6, length * chance.uniform(0.16, 0.26))
        frame = Frame(chance.uniform(0, size), chance.uniform(0, size), chance.uniform(0, 2 * math.pi))
        if not stage.add(sar_ship(chance, frame, length, beam), margin=4):
            continue
        if chance.flip(0.4):
            depth, reach = chance.uniform(0.2, 0.5), length * chance.uniform(1, 2.5)
            for i in range(8):
                u0, u1 = (-length * 0.5 - reach * k / 8 for k in (i, i + 1))
                w0, w1 = (beam * (0.3 + 0.06 * k) for k in (i, i + 1))
                piece = frame.apply([(u0, -w0), (u0, w0), (u1, w1), (u1, -w1)])
                stage.canvas.shade([piece], rgb(*[1 - depth * (1 - i / 8)] * 3))
        if chance.flip(0.2):
            beside = frame.at(chance.uniform(-0.2, 0.2) * length, beam + chance.uniform(1.2, 3))
            stage.add(sar_ship(chance, beside, length * 0.9, beam * 0.9))
    return stage


def sar_harbour(chance: Chance, size: int, limit: int) -> Stage:
    """A coast with bright town and basins in radar: ships at piers, in tight rows, and at anchor."""
    stage = Stage(chance, _sea(chance, size), limit, _NO_SUN)
    coast = Frame(size / 2, size / 2, chance.uniform(0, 2 * math.pi)).at(0, chance.uniform(-0.25, 0.05) * size)
    far = 1.5 * size
    town = np.abs(fractal(chance, size, size, 32, 2, 0.7))
    echo = (0.45 + town * 0.9) * np.float32(chance.uniform(45, 80))
    stage.canvas.paint([coast.box(-far, -far, far, 0)], grey(echo))
    stage.reserve([coast.box(-far, -far, far, 1)])
    along = np.arange(-0.7 * size, 0.7 * size, chance.uniform(40, 80)).tolist()
    inland = np.arange(20, 0.7 * size, chance.uniform(40, 80)).tolist()
    streets = [coast.box(u, -far, u + 3, 0) for u in along] + [coast.box(-far, -v - 3, far, -v) for v in inland]
    stage.canvas.shade(streets, rgb(0.68, 0.68, 0.68))
    for _ in range(90):  # double bounces of walls: bright, and no ships
        frame = coast.at(chance.uniform(-0.7, 0.7) * size, -chance.uniform(4, 0.7 * size), chance.pick((0.0, 1.571)))
        bright = rgb(*[chance.uniform(90, 210)] * 3)
        stage.canvas.paint([frame.box(0, 0, chance.uniform(2, 18), chance.uniform(1.5, 4))], bright)
    stage.canvas.paint([coast.box(-far, -3, far, 0)], rgb(120, 120, 120))
    length = chance.uniform(18, 50)
    beam = max(4.0, length * chance.uniform(0.18, 0.26))
    piers = chance.integer(1, 3)
    for i in range(piers):
        u, reach = (i - 1) * (2 * length + 30) + chance.uniform(-10, 10), chance.uniform(0.15, 0.35) * size
        pier = coast.box(u - 2.5, 2, u + 2.5, reach)
        stage.add(Thing(None, [pier], rgb(92, 92, 92), grain=12))
        for side in (-1, 1):
            v = 10.0
            while v < reach - beam:
                long, wide = length * chance.uniform(0.7, 1.0), beam * chance.uniform(0.85, 1.1)
                frame = coast.at(u + side * (4.5 + long / 2), v + wide / 2, chance.pick((0.0, math.pi)))
                if chance.flip(0.75):
                    stage.add(sar_ship(chance, frame, long, wide))
                v += wide + chance.uniform(1.2, 3.0)
    for _ in range(chance.integer(5, 14)):
        long = chance.uniform(10, min(110, 0.2 * size))
        frame = coast.at(
            chance.uniform(-0.6, 0.6) * size, chance.uniform(0.05, 0.8) * size, chance.uniform(0, 2 * math.pi)
        )
        stage.add(sar_ship(chance, frame, long, max(3.8, long * 0.2)), margin=4)
    return stage
