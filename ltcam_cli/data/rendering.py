"""Commutator-like surfaces with thin, low-contrast, irregular cracks, rendered from a seed.

Every image is three layers: a surface (grain, bands, illumination), harmless distractors
(bright scratches, machining lines, dark spots, stains, seams) and, on defective ones, a crack.
Surface and distractors are drawn from a random stream that knows nothing of the label, so that
only the crack tells good from defective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RENDERING_FORMAT = 1
"""To be raised when the same scene gives other pixels."""

MASK_THRESHOLD = 0.4
"""Share of the crack's full darkening from which a pixel belongs to the mask."""

LABELS, STYLE, SURFACE, CRACK, DEPTH = range(5)
"""Random streams; each is seeded by its own number, then the seed, item and part."""


@dataclass(frozen=True)
class Scene:
    """What one image is rendered from; the same scene always gives the same pixels."""

    seed: int
    item: int
    part: int
    defective: bool
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def scale(self) -> float:
        """Pixels for one pixel of the 256 × 128 image in which all lengths are given."""
        return min(self.height / 256, self.width / 128)

    def random(self, stream: int) -> np.random.Generator:
        """Random numbers of one stream of this image."""
        return np.random.default_rng([stream, self.seed, self.item, self.part])


@dataclass(frozen=True)
class _Style:
    """What all parts of one item share. Lengths in pixels at 256 × 128, levels in grey values."""

    brightness: float
    grain: float
    grain_size: tuple[float, float]
    mottle: float
    stripes: float
    bands: float
    lines: int
    noise: float


def _item_style(seed: int, item: int) -> _Style:
    random = np.random.default_rng([STYLE, seed, item])
    return _Style(
        brightness=random.uniform(105, 175),
        grain=random.uniform(7, 11),
        grain_size=(random.uniform(0.7, 1.7), random.uniform(0.7, 1.2)),
        mottle=random.uniform(2, 5),
        stripes=random.uniform(1.5, 4),
        bands=random.uniform(2, 6),
        lines=int(random.integers(0, 4)),
        noise=random.uniform(1.5, 3.0),
    )


def render_image(scene: Scene) -> np.ndarray:
    """Image of a scene: (H, W) uint8."""
    random = scene.random(SURFACE)
    style = _item_style(scene.seed, scene.item)
    pixels = _surface(scene, style, random)
    pixels *= _distractors(scene, style, random)
    noise = random.standard_normal(scene.shape, dtype=np.float32) * style.noise
    if scene.defective:
        depth = scene.random(DEPTH).uniform(0.28, 0.42)
        pixels *= 1 - depth * _crack(scene)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def render_mask(scene: Scene) -> np.ndarray:
    """Mask of a scene's defect: (H, W) bool, all False on a good one."""
    if not scene.defective:
        return np.zeros(scene.shape, dtype=bool)
    return _crack(scene) >= MASK_THRESHOLD


def _surface(scene: Scene, style: _Style, random: np.random.Generator) -> np.ndarray:
    """(H, W) float32 grey values: grain, mottling, stripes, bands and illumination."""
    from scipy import ndimage

    height, width = scene.shape
    scale = scene.scale
    pixels = np.full(scene.shape, style.brightness + random.normal(0, 5), dtype=np.float32)

    grain = random.standard_normal(scene.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [max(s * scale, 0.5) for s in style.grain_size])
    grain /= grain.std()
    grain -= 0.6 * np.maximum(-grain - 1.2, 0)  # dark flecks
    grain += 0.6 * np.maximum(grain - 1.8, 0)  # glints
    pixels += style.grain * grain

    pixels += style.mottle * _clouds(scene.shape, 16 * scale, random)
    columns = random.standard_normal(width)
    columns = ndimage.gaussian_filter1d(columns, 1.5 * scale)
    rows = ndimage.gaussian_filter1d(random.standard_normal(height), 15 * scale)
    pixels += (style.stripes * columns / columns.std()).astype(np.float32)
    pixels += (style.bands * rows / rows.std()).astype(np.float32)[:, None]

    down, across = random.uniform(-12, 12, 2)
    pixels += np.linspace(-down, down, height, dtype=np.float32)[:, None]
    pixels += np.linspace(-across, across, width, dtype=np.float32)
    return pixels


def _distractors(scene: Scene, style: _Style, random: np.random.Generator) -> np.ndarray:
    """(H, W) float32 factors of the surface: below 1 darker, above 1 brighter."""
    height, width = scene.shape
    scale = scene.scale
    factors = np.ones(scene.shape, dtype=np.float32)

    stain = _clouds(scene.shape, 40 * scale, random)
    factors -= random.uniform(0.05, 0.16) * np.clip(stain - 0.8, 0, 1)

    for _ in range(style.lines + random.integers(0, 2)):  # machining: straight, down the image
        start, slant = random.uniform(0, width), random.uniform(-0.03, 0.03)
        top, bottom = np.sort(random.uniform(-0.3, 1.3, 2)) * height
        y = np.arange(top, bottom, 0.5)
        line = _stroke(scene.shape, y, start + slant * y, random.uniform(0.5, 1.0) * scale)
        factors *= 1 + random.choice([-1, 1]) * random.uniform(0.06, 0.16) * line

    if random.random() < 0.4:  # a seam: straight, across the image
        start, slant = random.uniform(0, height), random.uniform(-0.02, 0.02)
        x = np.arange(0, width, 0.5)
        seam = _stroke(scene.shape, start + slant * x, x, random.uniform(0.5, 1.0) * scale)
        factors *= 1 - random.uniform(0.08, 0.2) * seam

    for _ in range(random.integers(0, 4)):  # scratches: straight, any direction, bright
        angle, length = random.uniform(0, np.pi), random.uniform(15, 70) * scale
        distance = np.arange(0, length, 0.5)
        y = random.uniform(0, height) + distance * np.sin(angle)
        x = random.uniform(0, width) + distance * np.cos(angle)
        scratch = _stroke(scene.shape, y, x, random.uniform(0.5, 1.1) * scale)
        factors *= 1 + random.uniform(0.12, 0.35) * scratch

    spots = int(random.integers(2, 12))
    spot = _stroke(
        scene.shape,
        random.uniform(0, height, spots),
        random.uniform(0, width, spots),
        random.uniform(0.8, 3.2, spots) * scale,
        random.uniform(0.4, 1.0, spots),
    )
    factors *= 1 - 0.5 * spot
    return factors


def _crack(scene: Scene) -> np.ndarray:
    """(H, W) float32 from 0 (none) to 1 (full depth): the crack of a defective scene."""
    random = scene.random(CRACK)
    height, width = scene.shape
    scale = scene.scale
    length = random.uniform(0.45, 0.95) * min(height, width)
    steps = max(int(2 * length), 8)

    place = random.random()
    heading = random.uniform(-0.5, 0.5) + random.choice([0, np.pi])
    y0 = random.uniform(0.1, 0.9) * height
    if place < 0.6:  # from an edge into the image, as on commutators
        x0 = 0.0 if np.cos(heading) > 0 else width - 1.0
    else:
        x0 = width / 2 - np.cos(heading) * length / 2
    y, x = _walk(y0, x0, heading, steps, scale, random)
    radius = np.interp(_smooth(steps, 10 * scale, random), [-1.5, 1.5], [0.75, 2.0]) * scale
    taper = np.minimum(1, 0.3 + np.arange(steps)[::-1] / (0.4 * steps))
    radius = np.maximum(radius * taper, 0.7)
    strength = np.interp(_smooth(steps, 8 * scale, random), [-1.5, 1.5], [0.6, 1.0])
    for _ in range(random.integers(0, 4)):  # gaps
        middle, reach = random.uniform(0.15, 0.95) * steps, random.uniform(2, 5) * scale
        strength *= np.clip((np.abs(np.arange(steps) - middle) / 2 - reach) / 2, 0, 1)
    crack = _stroke(scene.shape, y, x, radius, strength)
    if random.random() < 0.35:  # a branch
        root, turn = int(random.uniform(0.2, 0.7) * steps), random.choice([-1, 1])
        heading += turn * random.uniform(0.4, 0.9)
        y, x = _walk(y[root], x[root], heading, steps // 3, scale, random)
        thin = np.linspace(1.0, 0.7, steps // 3) * max(scale, 0.7)
        crack = np.maximum(crack, _stroke(scene.shape, y, x, thin, np.full(steps // 3, 0.7)))
    return crack


def _walk(
    y: float, x: float, heading: float, steps: int, scale: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays (steps,), y and x: an irregular path in half-pixel steps along a heading."""
    bend = 0.4 * _smooth(steps, 16 * scale, random) + 0.45 * _smooth(steps, 3 * scale, random)
    angle = heading + bend
    return y + np.cumsum(np.sin(angle)) / 2, x + np.cumsum(np.cos(angle)) / 2


def _smooth(steps: int, reach: float, random: np.random.Generator) -> np.ndarray:
    """(steps,) random numbers of variance about 1 that change over `reach` pixels."""
    from scipy import ndimage

    sigma = max(2 * reach / 2, 1.0)  # two steps a pixel
    values = ndimage.gaussian_filter1d(random.standard_normal(steps), sigma, mode="wrap")
    return values * np.sqrt(2 * sigma * np.sqrt(np.pi))


def _clouds(shape: tuple[int, int], reach: float, random: np.random.Generator) -> np.ndarray:
    """(H, W) float32, variance about 1: random patches about `reach` pixels wide."""
    coarse = [int(np.ceil(length / reach)) + 3 for length in shape]
    knots = random.standard_normal(coarse).astype(np.float32)
    start = random.random(2)
    for axis, length in enumerate(shape):
        at = start[axis] + np.arange(length) / reach
        low = at.astype(int)
        part = ((1 - np.cos(np.pi * (at - low))) / 2).astype(np.float32)
        part = part[:, None] if axis == 0 else part
        knots = knots.take(low, axis) * (1 - part) + knots.take(low + 1, axis) * part
    return knots * np.float32(1.4)


def _stroke(
    shape: tuple[int, int],
    y: np.ndarray,
    x: np.ndarray,
    radius: float | np.ndarray,
    strength: float | np.ndarray = 1.0,
) -> np.ndarray:
    """(H, W) float32 from 0 to 1: the strongest of soft discs at (y, x)."""
    canvas = np.zeros(shape, dtype=np.float32)
    reach = int(np.ceil(np.max(radius) + 0.5)) + 1
    offset = np.arange(-reach, reach + 1)
    rows = np.round(y).astype(int)[:, None, None] + offset[:, None]
    columns = np.round(x).astype(int)[:, None, None] + offset
    distance = np.hypot(rows - y[:, None, None], columns - x[:, None, None])
    radius, strength = (
        np.broadcast_to(value, y.shape)[:, None, None] for value in (radius, strength)
    )
    cover = np.clip(radius + 0.5 - distance, 0, 1) * strength
    rows, columns = np.broadcast_arrays(rows, columns)
    inside = (cover > 0) & (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    np.maximum.at(canvas, (rows[inside], columns[inside]), cover[inside].astype(np.float32))
    return canvas
