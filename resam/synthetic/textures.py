"""Ground textures: fields over the whole scene, in integers and single IEEE operations (see `chance`).

A fractal field grows by subdivision: a coarse grid of random values is doubled again and again by bilinear
interpolation at half-cell offsets (Chaikin's rule; its limit is a quadratic B-spline, so no lattice shows), and each
level adds its own finer variation. OpenCV's INTER_LINEAR_EXACT does the doubling in fixed point.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

from resam.synthetic.chance import Chance

Field = npt.NDArray[np.float32]


def grey(field: Field) -> Field:
    """(H, W) to (H, W, 3), the same in every channel. Contiguous, so that later arithmetic runs over whole rows."""
    return np.asarray(cv2.merge((field, field, field)), np.float32)


def row(colour: npt.NDArray[np.float32], width: int) -> Field:
    """A colour (3,) as a row of pixels (width, 3): to broadcast this is far faster than to broadcast three numbers."""
    return np.tile(colour, (width, 1))


def fractal(chance: Chance, height: int, width: int, coarse: int, fine: int = 1, gain: float = 0.55) -> Field:
    """A random field (height, width) float32, roughly in -1..1, with features of `coarse` down to `fine` px.

    `coarse`, `fine`: powers of two. `gain`: amplitude of a level over the next coarser one.
    """
    levels = [2**k for k in range(int(math.log2(coarse) + 0.5), -1, -1)]
    amplitude = 14000.0 * (1.0 - gain)
    cell = levels[0]
    rows, columns = height // cell + 3, width // cell + 3
    grid = chance.spread(int(amplitude), (rows, columns))
    for cell in levels[1:]:
        # Only what the finer levels still need: two cells around the picture.
        grid = np.ascontiguousarray(grid[: height // (2 * cell) + 3, : width // (2 * cell) + 3])
        doubled = (2 * grid.shape[1], 2 * grid.shape[0])
        grid = np.asarray(cv2.resize(grid, doubled, interpolation=cv2.INTER_LINEAR_EXACT), np.int16)
        amplitude *= gain
        if cell >= fine and amplitude >= 1:
            grid += chance.spread(int(amplitude), (grid.shape[0], grid.shape[1]))
    return grid[1 : height + 1, 1 : width + 1] * np.float32(1.0 / 8192.0)


@functools.cache
def _sine() -> Field:
    return np.array([math.sin(2 * math.pi * i / 1024) for i in range(1024)], np.float32)


def waves(height: int, width: int, angle: float, period: float, warp: Field | None = None) -> Field:
    """A plane sine wave (height, width) in -1..1: crests along `angle` (radians), `period` px, moved by `warp`
    periods."""
    step = 65536.0 / period
    across, down = -math.sin(angle) * step, math.cos(angle) * step
    phase = np.arange(width, dtype=np.int32)[None] * np.int32(round(across)) + np.arange(height, dtype=np.int32)[
        :, None
    ] * np.int32(round(down))
    if warp is not None:
        phase = phase + (warp * np.float32(65536.0)).astype(np.int32)
    return _sine()[(phase >> 6) & 1023]


def relief(field: Field, dx: float, dy: float, reach: int = 2) -> Field:
    """Shade `field` as terrain: the height lost over `reach` px in the direction (dx, dy) the light travels."""
    shift_x, shift_y = round(dx * reach), round(dy * reach)
    padded = cv2.copyMakeBorder(field, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    rows, columns = field.shape
    behind = padded[reach - shift_y : reach - shift_y + rows, reach - shift_x : reach - shift_x + columns]
    return field - behind


def blend(low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], share: Field) -> Field:
    """Mix two colours (or pictures): `low` where `share` (H, W) is 0, `high` where it is 1; (H, W, 3) float32."""
    mixed = grey(np.clip(share, 0, 1))
    change = high - low
    mixed *= change if change.ndim == 3 else row(change, share.shape[1])
    mixed += low if low.ndim == 3 else row(low, share.shape[1])
    return mixed


def water(chance: Chance, height: int, width: int, scale: float) -> Field:
    """Open water, RGB float32: slow changes of depth and glint, two trains of swell, ripples. `scale`: px per wave."""
    deep = chance.colour((14, 38, 54), (22, 50, 66), (10, 26, 44), (38, 62, 62), (26, 58, 58), jitter=6)
    lift = np.array([chance.uniform(8, 22), chance.uniform(16, 30), chance.uniform(14, 30)], np.float32)
    slow = fractal(chance, height, width, 256, 16)
    wind = chance.uniform(0, math.pi)
    swell = waves(height, width, wind, scale * chance.uniform(5, 9), fractal(chance, height, width, 64, 8) * 0.9)
    chop = waves(height, width, wind + chance.uniform(-0.5, 0.5), scale * chance.uniform(2.2, 3.5), slow * 3)
    ripple = fractal(chance, height, width, 8, 1, 0.8)
    sea = swell * np.float32(chance.uniform(1.0, 3.5)) + chop * np.float32(chance.uniform(0.5, 2.0))
    sea += ripple * np.float32(chance.uniform(2.0, 5.0))
    return blend(deep, deep + lift, slow * 0.5 + 0.4) + grey(sea)


def grass(chance: Chance, height: int, width: int) -> Field:
    """Grass and scrub, RGB float32, with dry patches."""
    green = chance.colour((70, 88, 50), (86, 100, 58), (62, 84, 56), (96, 104, 66))
    dry = chance.colour((132, 124, 88), (118, 116, 80), (146, 132, 98))
    share = fractal(chance, height, width, 128, 4) * 0.6 + chance.uniform(0.15, 0.5)
    return blend(green, dry, share) + grey(fractal(chance, height, width, 8, 1, 0.8) * 9)


def soil(chance: Chance, height: int, width: int) -> Field:
    """Bare soil, sand or gravel, RGB float32, with tracks of wear."""
    dark = chance.colour((122, 104, 82), (136, 122, 100), (110, 100, 88), (142, 124, 96))
    light = dark + np.array([34, 32, 28], np.float32)
    wear = np.abs(fractal(chance, height, width, 64, 2)) * np.float32(-1.3)
    return blend(dark, light, wear + np.float32(0.9)) + grey(fractal(chance, height, width, 4, 1, 0.9) * 7)


def paved(chance: Chance, height: int, width: int, *, concrete: bool) -> Field:
    """Asphalt or concrete, RGB float32, with stains and patches."""
    if concrete:
        base = chance.colour((166, 164, 156), (150, 150, 146), (178, 172, 160))
    else:
        base = chance.colour((82, 84, 88), (98, 98, 98), (70, 72, 76), (112, 110, 106))
    stain = fractal(chance, height, width, 128, 2, 0.6) * 12 + fractal(chance, height, width, 4, 1, 0.9) * 4
    return grey(stain) + row(base, width)


def forest(chance: Chance, height: int, width: int, sun: tuple[float, float], crown: int) -> Field:
    """Closed canopy, RGB float32: crowns about `crown` px (a power of two) lit from where `sun` light comes."""
    bumps = fractal(chance, height, width, crown, 2, 0.6)
    lit = relief(bumps, sun[0], sun[1], max(2, crown // 4))
    dark = chance.colour((36, 54, 36), (44, 62, 40), (30, 50, 40), jitter=5)
    light = dark + np.array([44, 46, 26], np.float32)
    share = 0.42 + lit * 0.9 + bumps * 0.25
    return blend(dark * np.float32(0.55), light, share) + grey(fractal(chance, height, width, 128, 32) * 6)


def stripes(field_size: tuple[int, int], angle: float, period: float, warp: Field) -> Field:
    """Furrows or mowing stripes (H, W) in -1..1, slightly bent by `warp` (H, W)."""
    return waves(field_size[0], field_size[1], angle, period, warp * 0.25)
