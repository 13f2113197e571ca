"""Procedural images with exact masks: what the tiny base is pretrained on.

Abstract shapes over abstract textures, with occlusion, shading, blur and noise; nothing in them is meant to look
like a satellite picture (that is the target domain, `resam.synthetic`). Everything follows from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

MIN_AREA = 40  # pixels an instance must show to be prompted
MIN_VISIBLE = 0.4  # and the share of it that no other shape hides


@dataclass(frozen=True)
class ProceduralImage:
    """image: (S, S, 3) uint8 RGB; labels: (S, S) uint8, 0 where no instance is, else 1..count."""

    image: np.ndarray
    labels: np.ndarray
    count: int

    @property
    def masks(self) -> np.ndarray:
        """(count, S, S) bool, disjoint, each with at least `MIN_AREA` pixels."""
        return self.labels[None] == np.arange(1, self.count + 1, dtype=np.uint8)[:, None, None]


def generate(seed: int, size: int = 256) -> ProceduralImage:
    """One image of side `size` and its instances. The same seed and size give the same bytes."""
    rng = np.random.default_rng(seed)
    while True:
        image = _background(rng, size)
        radius = float(np.exp(rng.uniform(np.log(6), np.log(min(75, size * 0.4)))))  # typical of this image's shapes
        owner = np.zeros((size, size), np.uint8)
        full = [0]
        for outline in _shapes(rng, size, radius):
            area = _paint(rng, image, owner, outline, len(full))
            if area:
                full.append(area)
        visible = np.bincount(owner.ravel(), minlength=len(full))
        keep = [
            index
            for index in range(1, len(full))
            if visible[index] >= MIN_AREA and visible[index] >= MIN_VISIBLE * full[index]
        ]
        if keep:
            relabel = np.zeros(len(full), np.uint8)
            relabel[keep] = np.arange(1, len(keep) + 1)
            return ProceduralImage(_degrade(rng, image, radius), relabel[owner], len(keep))


def _noise(rng: np.random.Generator, height: int, width: int, octaves: int = 4, cells: int = 2) -> np.ndarray:
    """Smooth multi-octave noise, (height, width) float32, -1..1."""
    total = np.zeros((height, width), np.float32)
    start = int(rng.integers(cells, cells + 4))
    roughness = rng.uniform(0.35, 0.8)
    for octave in range(octaves):
        side = min(max(height, width), start * 2**octave)
        grid = rng.standard_normal((side, side), np.float32)
        total += roughness**octave * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / max(1e-6, float(np.abs(total).max()))


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32 colour texture, 0..255."""
    base = _colour(rng)
    kind = rng.integers(0, 6)
    angle = rng.uniform(0, np.pi)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if kind == 0:  # plain
        return np.full((height, width, 3), base, np.float32)
    if kind == 1:  # clouds
        field = _noise(rng, height, width, int(rng.integers(2, 6)))
    elif kind == 2:  # stripes
        field = np.sin(along * np.float32(rng.uniform(0.15, 1.6)) + np.float32(rng.uniform(0, 6)))
        field = np.sign(field) if rng.random() < 0.4 else field
    elif kind == 3:  # checks
        across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        pitch = np.float32(rng.uniform(3, 16))
        field = np.sign(np.sin(along * np.pi / pitch) * np.sin(across * np.pi / pitch))
    elif kind == 4:  # gradient
        along = along - along.mean()
        field = along / max(1.0, float(np.abs(along).max()))
    else:  # speckles
        field = _noise(rng, height, width, 3, cells=min(20, max(2, max(height, width) // 4)))
    other = np.clip(base + rng.normal(0, rng.uniform(4, 55), 3) * (1 if rng.random() < 0.5 else 0.4), 0, 255)
    weight = (field[..., None].astype(np.float32) + 1) / 2
    return base.astype(np.float32) + weight * (other - base).astype(np.float32)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A colour, (3,) float; often dull, sometimes vivid, sometimes grey."""
    level = rng.uniform(15, 240)
    spread = rng.choice([0.0, 12.0, 35.0, 70.0])
    return np.clip(level + rng.normal(0, 1, 3) * spread, 0, 255)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A patchwork of textures, (S, S, 3) float32."""
    image = _texture(rng, size, size)
    for _ in range(rng.integers(0, 5)):
        kind = rng.integers(0, 3)
        if kind == 0:  # a region bounded by noise
            region = _noise(rng, size, size, 3) > rng.uniform(-0.3, 0.5)
        elif kind == 1:  # a half plane
            angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3) * size
            x = np.arange(size) - size / 2
            region = x * np.cos(angle) + x[:, None] * np.sin(angle) > offset
        else:  # lines that are nobody's object
            canvas = np.zeros((size, size), np.uint8)
            for _ in range(rng.integers(1, 6)):
                start, end = rng.integers(-size // 4, size * 5 // 4, (2, 2))
                cv2.line(canvas, start.tolist(), end.tolist(), 1, int(rng.integers(1, 6)))
            region = canvas > 0
        cv2.copyTo(_texture(rng, size, size), region.view(np.uint8), image)
    return image


def _shapes(rng: np.random.Generator, size: int, typical: float) -> list[np.ndarray]:
    """Outlines (K, 2) of shapes of about the `typical` radius, in drawing order; some in rows of near-touching ones."""
    room = max(2, int(0.4 * (size / typical) ** 2))  # shapes that together would cover about half the image
    count = min(200, room, int(rng.integers(3, 13) * (size / 128.0) ** 2))
    shapes: list[np.ndarray] = []
    while len(shapes) < count:
        radius = float(np.clip(typical * np.exp(rng.normal(0, 0.45)), 4, 0.45 * size))
        centre = rng.uniform(0, size, 2)
        outline = _outline(rng, radius)
        if rng.random() < 0.22:  # a row
            angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 4)
            direction = np.array([np.cos(angle), np.sin(angle)])
            extent = float(np.ptp(outline @ direction)) + gap
            shapes += [outline + centre + step * extent * direction for step in range(int(rng.integers(2, 6)))]
        else:
            shapes.append(outline + centre)
    return shapes


def _outline(rng: np.random.Generator, radius: float) -> np.ndarray:
    """The outline (K, 2) of a shape around the origin."""
    kind = rng.choice(9, p=[0.2, 0.14, 0.1, 0.12, 0.14, 0.08, 0.1, 0.06, 0.06])
    aspect = np.exp(rng.uniform(-1.3, 0))
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack((np.cos(turn), np.sin(turn)), 1)
    if kind == 0:  # rectangle
        ring = np.array([[-1, -aspect], [1, -aspect], [1, aspect], [-1, aspect]])
    elif kind == 1:  # ellipse
        ring = circle * [1, aspect]
    elif kind == 2:  # circle
        ring = circle
    elif kind == 3:  # L, T, U and other rectilinear outlines
        x, y = rng.uniform(-0.4, 0.5, 2)
        ring = np.array([[-1, -1], [1, -1], [1, y], [x, y], [x, 1], [-1, 1]])
        if rng.random() < 0.4:
            w, h = rng.uniform(0.2, 0.5), rng.uniform(-0.5, 0.4)
            ring = np.array([[-1, -1], [1, -1], [1, 1], [w, 1], [w, h], [-w, h], [-w, 1], [-1, 1]])
    elif kind == 4:  # blob
        wave = sum(rng.normal(0, 0.35 / order) * np.cos(order * turn + rng.uniform(0, 6)) for order in range(1, 6))
        ring = circle * np.clip(1 + wave, 0.25, 1.8)[:, None]
    elif kind == 5:  # irregular polygon
        corners = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
        ring = np.stack((np.cos(corners), np.sin(corners)), 1) * rng.uniform(0.6, 1.1, (len(corners), 1))
    elif kind == 6:  # spindle, pointed at one or both ends
        x = np.linspace(-1, 1, 24)
        half = 0.35 * (1 - np.abs(x) ** rng.uniform(1.5, 5)) * (1 if rng.random() < 0.5 else (1.2 + x) / 1.4)
        ring = np.concatenate((np.stack((x, half), 1), np.stack((x, -half), 1)[::-1]))
    elif kind == 7:  # cross or star
        points = int(rng.integers(3, 7))
        corners = np.arange(2 * points) * np.pi / points
        depth = rng.uniform(0.25, 0.6)
        reach = np.where(np.arange(2 * points) % 2 == 0, 1.0, depth)
        ring = np.stack((np.cos(corners), np.sin(corners)), 1) * reach[:, None]
    else:  # a bar with wings
        w, a, b = rng.uniform(0.1, 0.22), rng.uniform(-0.3, 0.1), rng.uniform(0.15, 0.35)
        ring = np.array(
            [[-1, -w], [a, -w], [a - 0.2, -1], [a + b, -1], [a + b, -w], [1, -w],
             [1, w], [a + b, w], [a + b, 1], [a - 0.2, 1], [a, w], [-1, w]]
        )  # fmt: skip
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (radius * ring) @ rotation


def _paint(rng: np.random.Generator, image: np.ndarray, owner: np.ndarray, outline: np.ndarray, label: int) -> int:
    """Draw a shape into `image` and `owner`, in place; returns its area inside the image in pixels.

    A texture, and sometimes a shadow, two tones, a rim, parts of other colours, or ground that shines through.
    """
    margin, size = 8, image.shape[0]
    low = np.clip(np.floor(outline.min(0)).astype(int) - margin, 0, size)
    high = np.clip(np.ceil(outline.max(0)).astype(int) + margin, 0, size)
    width, height = (high - low).tolist()
    if width <= 0 or height <= 0:
        return 0
    window = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.round((outline - low) * 16).astype(np.int32)], 1, shift=4)
    shape, ground = canvas.astype(bool), image[window]
    area = int(shape.sum())
    if area == 0:
        return 0
    if rng.random() < 0.25:  # the shadow belongs to nobody
        dx, dy = rng.integers(-6, 7, 2).tolist()
        shift = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
        shadow = cv2.warpAffine(canvas, shift, (width, height), flags=cv2.INTER_NEAREST).astype(bool) & ~shape
        ground[shadow] *= np.float32(rng.uniform(0.35, 0.8))
    fill = _texture(rng, height, width)
    around = cv2.dilate(canvas, np.ones((5, 5), np.uint8)).astype(bool) & ~shape
    if around.any():  # lift the contrast where the shape would be lost in what surrounds it
        difference = fill[shape].mean(0) - ground[around].mean(0)
        distance, wanted = float(np.linalg.norm(difference)), rng.uniform(18, 90)
        if distance < wanted:
            direction = difference / distance if distance > 1 else rng.choice([-1.0, 1.0]) * np.ones(3) / 3**0.5
            fill = np.clip(fill + (direction * (wanted - distance)).astype(np.float32), 0, 255)
    if rng.random() < 0.2:  # two tones, as on a roof
        angle = rng.uniform(0, np.pi)
        yy, xx = np.nonzero(shape)
        side = (xx - xx.mean()) * np.cos(angle) + (yy - yy.mean()) * np.sin(angle) > 0
        fill[yy[side], xx[side]] *= np.float32(rng.uniform(0.6, 0.95))
    if rng.random() < 0.2:  # a rim
        inner = cv2.erode(canvas, np.ones((3, 3), np.uint8)).astype(bool)
        fill[shape & ~inner] = _colour(rng)
    for _ in range(rng.binomial(3, min(0.5, 0.1 + area**0.5 / 120))):  # the larger, the more there is to see on it
        _add_parts(rng, fill, outline - low)
    opacity = np.float32(1.0 if rng.random() < 0.85 else rng.uniform(0.65, 0.95))
    ground[shape] = ground[shape] * (1 - opacity) + fill[shape] * opacity
    owner[window][shape] = label
    return area


def _add_parts(rng: np.random.Generator, fill: np.ndarray, outline: np.ndarray) -> None:
    """Draw parts of a shape into its texture `fill`, in place: an inset, lines, or details scattered over it.

    They belong to the shape, as the lines to a tennis court and the skylights to a roof: where the colour changes,
    the object need not end.
    """
    height, width = fill.shape[:2]
    centre, extent = outline.mean(0), max(4.0, float(np.ptp(outline, axis=0).max()))
    parts = np.zeros((height, width), np.uint8)
    kind = rng.integers(0, 3)
    if kind == 0:  # an inset
        inset = centre + rng.uniform(0.35, 0.9) * (outline - centre)
        cv2.fillPoly(parts, [np.round(inset * 16).astype(np.int32)], 1, shift=4)
    elif kind == 1:  # lines, parallel or crossing
        thickness, angle = int(rng.integers(1, 2 + int(extent / 30))), rng.uniform(0, np.pi)
        for _ in range(rng.integers(1, 8)):
            direction = np.array([np.cos(angle), np.sin(angle)]) * extent
            middle = centre + rng.uniform(-0.5, 0.5, 2) * extent
            start, end = (np.clip(middle + way * direction, -9999, 9999).astype(int).tolist() for way in (-1, 1))
            cv2.line(parts, start, end, 1, thickness)
            angle += rng.choice([0.0, np.pi / 2], p=[0.7, 0.3])
    else:  # details
        for _ in range(rng.integers(1, 12)):
            ring = centre + rng.uniform(-0.5, 0.5, 2) * extent + _outline(rng, extent * rng.uniform(0.03, 0.14))
            cv2.fillPoly(parts, [np.round(ring * 16).astype(np.int32)], 1, shift=4)
    other = _texture(rng, height, width)
    if rng.random() < 0.5:  # of a colour near its own
        other += (fill.mean((0, 1)) + rng.normal(0, 25, 3) - other.mean((0, 1))).astype(np.float32)
    drawn = parts.astype(bool)
    fill[drawn] = np.clip(other[drawn], 0, 255)


def _degrade(rng: np.random.Generator, image: np.ndarray, radius: float) -> np.ndarray:
    """Illumination, blur (the stronger, the larger the shapes' `radius`), haze, noise, grey images; returns uint8."""
    size = image.shape[0]
    if rng.random() < 0.3:
        image = image * (1 + 0.25 * _noise(rng, size, size, 2))[..., None]
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, min(3.0, 0.5 + radius / 14)))
    if rng.random() < 0.2:
        haze = rng.uniform(0.1, 0.4)
        image = image * (1 - haze) + haze * rng.uniform(150, 240)
    if rng.random() < 0.2:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    noise = rng.choice([0.0, 3.0, 8.0, 16.0], p=[0.3, 0.35, 0.25, 0.1])
    if noise:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(noise)
    if rng.random() < 0.1:  # multiplicative, as in radar pictures
        image = image * rng.gamma(8.0, 1 / 8.0, (size, size, 1))
    image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return image
