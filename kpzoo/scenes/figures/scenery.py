"""What surrounds the people of a drawn scene: background, things in front of them, light and camera."""

import cv2
import numpy as np

from kpzoo.scenes.figures.canvas import SHIFT, fixed
from kpzoo.scenes.figures.textures import make_cloth, noise_patch, pick, sample_colour, shaded


def _surface(rng: np.random.Generator, size_hw: tuple[int, int], colour: np.ndarray, strength: float) -> np.ndarray:
    """(h, w, 3) uint8 of one material: a colour, noise of one kind on it, and a gradient of light."""
    kind = pick(rng, {"fine": 1, "cloud": 2, "streak": 1, "patchy": 1})
    noise = noise_patch(rng, kind, size_hw, rng.uniform(0.5, 3))
    if rng.random() < 0.3:
        noise = noise[:, ::-1] if kind != "streak" else noise_patch(rng, kind, size_hw[::-1], 1.0).T
    tone = (np.arange(256) / 128.0 - 1.0) * strength
    slope = rng.uniform(-0.25, 0.25)
    table = np.clip(colour * (1 + tone[:, None]), 0, 255).astype(np.uint8)[:, None, :]
    surface = cv2.LUT(cv2.merge([noise] * 3), table)
    gain = np.linspace(1 - slope, 1 + slope, size_hw[0]) * 128
    gains = np.ascontiguousarray(np.broadcast_to(gain[:, None, None], surface.shape).astype(np.uint8))
    return cv2.multiply(surface, gains, scale=1 / 128)


def _stick(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws a distractor that resembles a limb: a bent bar with round ends."""
    height, width = image.shape[:2]
    start = rng.uniform((0, 0), (width, height))
    heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.25) * height
    points = [start]
    for turn in rng.normal(0, 0.7, rng.integers(1, 4)):
        heading += turn
        points.append(points[-1] + length * np.array([np.cos(heading), np.sin(heading)]))
    thickness = int(rng.integers(2, max(3, int(0.05 * height))))
    colour = sample_colour(rng)
    path = [fixed(points)]
    cv2.polylines(image, path, False, (0.6 * colour).tolist(), thickness + 2, cv2.LINE_AA, SHIFT)
    cv2.polylines(image, path, False, colour.tolist(), thickness, cv2.LINE_AA, SHIFT)


def _box(rng: np.random.Generator, image: np.ndarray, floor: float) -> None:
    """Draws furniture or a building: a textured rectangle with edges, sometimes with windows or shelves."""
    height, width = image.shape[:2]
    w, h = int(rng.uniform(0.06, 0.4) * width) + 2, int(rng.uniform(0.08, 0.55) * height) + 2
    left = int(rng.uniform(-0.1, 0.95) * width)
    bottom = int(rng.uniform(floor - 0.1, 1.0) * height) if rng.random() < 0.6 else int(rng.uniform(0.1, 0.9) * height)
    x0, y0, x1, y1 = max(left, 0), max(bottom - h, 0), min(left + w, width), min(bottom, height)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return
    colour = sample_colour(rng, 0.75)
    image[y0:y1, x0:x1] = _surface(rng, (y1 - y0, x1 - x0), colour, rng.uniform(0.05, 0.35))
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), (colour * rng.uniform(0.4, 1.2)).clip(0, 255).tolist(), 1)
    if rng.random() < 0.5:
        columns, rows = rng.integers(1, 5, 2)
        inner = (colour * rng.uniform(0.4, 1.5)).clip(0, 255).tolist()
        cell_w, cell_h = (x1 - x0) / columns, (y1 - y0) / rows
        for i in range(columns * rows):
            x, y = x0 + (i % columns + 0.18) * cell_w, y0 + (i // columns + 0.18) * cell_h
            cv2.rectangle(image, (int(x), int(y)), (int(x + 0.64 * cell_w), int(y + 0.64 * cell_h)), inner, -1)


def _foliage(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draws a tree, a bush or any heap of round things."""
    height, width = image.shape[:2]
    centre = rng.uniform((0, 0.1 * height), (width, 0.8 * height))
    colour = np.array([60, 95, 45]) * rng.uniform(0.5, 1.7) if rng.random() < 0.6 else sample_colour(rng)
    size = rng.uniform(0.03, 0.1) * height
    for offset in rng.normal(0, 1.6 * size, (rng.integers(6, 16), 2)):
        shade = (colour * rng.uniform(0.6, 1.3) + rng.normal(0, 6, 3)).clip(0, 255).tolist()
        axes = fixed(size * rng.uniform(0.5, 1.2, 2))
        cv2.ellipse(image, fixed(centre + offset), axes, rng.uniform(0, 180), 0, 360, shade, -1, cv2.LINE_AA, SHIFT)


def draw_backdrop(rng: np.random.Generator, image_hw: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Returns (H, W, 3) uint8 RGB without people and the height of the horizon, as a share of H."""
    height, width = image_hw
    floor = rng.uniform(0.35, 0.8)
    split = int(floor * height)
    image = np.empty((height, width, 3), np.uint8)
    image[:split] = _surface(rng, (split, width), sample_colour(rng, 0.93), rng.uniform(0.04, 0.3))
    image[split:] = _surface(rng, (height - split, width), sample_colour(rng, 0.97), rng.uniform(0.04, 0.35))
    clutter = rng.uniform(0.1, 1.0)
    for _ in range(rng.poisson(7 * clutter)):
        _box(rng, image, floor)
    for _ in range(rng.poisson(2.0 * clutter)):
        _foliage(rng, image)
    for _ in range(rng.poisson(5 * clutter)):
        _stick(rng, image)
    if rng.random() < 0.4:  # out of focus
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.5))
    return image, floor


def draw_occluder(rng: np.random.Generator, image_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (H, W, 4) premultiplied RGBA of an object in front of all people, and its mask."""
    height, width = image_hw
    layer = np.zeros((height, width, 4), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    kind = pick(rng, {"pole": 1, "box": 1, "plant": 1, "rail": 1})
    x = rng.uniform(0.05, 0.95) * width
    if kind == "pole":
        half, tilt = rng.uniform(0.008, 0.035) * width, rng.normal(0, 0.04) * width
        corners = [(x - half, 0), (x + half, 0), (x + half + tilt, height), (x - half + tilt, height)]
    elif kind == "box":
        w, top = rng.uniform(0.1, 0.4) * width, rng.uniform(0.6, 0.92) * height
        corners = [(x - w / 2, top), (x + w / 2, top), (x + w / 2, height), (x - w / 2, height)]
    elif kind == "rail":
        y, half, slope = rng.uniform((0.45, 0.008, -0.05), (0.85, 0.03, 0.05)) * height
        corners = [(0, y - half), (width, y - half + slope), (width, y + half + slope), (0, y + half)]
    else:
        base, reach = np.array([x, height * 1.02]), rng.uniform(0.15, 0.5) * height
        for heading in rng.normal(0, 0.55, rng.integers(5, 14)):
            tip = base + reach * rng.uniform(0.5, 1.0) * np.array([np.sin(heading), -np.cos(heading)])
            side = np.array([np.cos(heading), np.sin(heading)]) * reach * 0.05
            bend = (base + tip) / 2 + side * rng.normal(0, 1.5)
            leaf = np.array([base, bend - side, tip, bend + side])
            cv2.fillPoly(mask, [fixed(leaf)], 255, cv2.LINE_AA, SHIFT)
        corners = []
    if corners:
        cv2.fillConvexPoly(mask, fixed(corners), 255, cv2.LINE_AA, SHIFT)
    cloth = make_cloth(rng, sample_colour(rng, 0.8))
    cloth = shaded(cloth, rng.uniform(-1, 1)) if kind != "plant" else cloth
    texture = cv2.resize(cloth, (width, height), interpolation=cv2.INTER_LINEAR)
    if kind == "pole":
        half = max(half, 1.0)
        frame = np.array([[2 * half / 32, tilt / 64, x - half], [0, height / 64, 0]])
        texture = cv2.warpAffine(cloth, frame, (width, height), borderMode=cv2.BORDER_REPLICATE)
    cv2.copyTo(texture, None, layer)
    return cv2.multiply(layer, cv2.merge([mask] * 4), scale=1 / 255), mask > 127


def draw_seat(rng: np.random.Generator, image: np.ndarray, hips_xy: np.ndarray, feet_y: float, height: float) -> None:
    """Draws a box, or a chair with a back, for a seated person of `height` pixels."""
    half = height * rng.uniform(0.12, 0.2)
    top, bottom = hips_xy[1] + 0.05 * height, max(feet_y, hips_xy[1] + 0.2 * height)
    colour = sample_colour(rng, 0.8)
    blocks = [(top, bottom)] if rng.random() < 0.5 else [(top - height * rng.uniform(0.2, 0.4), top), (top, bottom)]
    for shade, (low, high) in zip((0.75, 1.0), reversed(blocks), strict=False):
        corners = np.array([(-half, low), (half, low), (half, high), (-half, high)]) + (hips_xy[0], 0)
        cv2.fillConvexPoly(image, fixed(corners), (shade * colour).tolist(), cv2.LINE_AA, SHIFT)
    seat = np.array([(-half, top), (half, top), (0.9 * half, top - 0.04 * height), (-0.9 * half, top - 0.04 * height)])
    light = np.minimum(1.2 * colour, 255).tolist()
    cv2.fillConvexPoly(image, fixed(seat + (hips_xy[0], 0)), light, cv2.LINE_AA, SHIFT)


def over(image: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Returns RGB `image` (h, w, 3) behind a premultiplied RGBA `layer` (h, w, 4)."""
    red, green, blue, alpha = cv2.split(layer)
    clear = cv2.bitwise_not(alpha)
    behind = cv2.multiply(image, cv2.merge([clear] * 3), scale=1 / 255)
    return cv2.add(behind, cv2.merge([red, green, blue]))


_DISC = np.round(255 * np.exp(-(np.hypot(*np.meshgrid(*[np.linspace(-2.6, 2.6, 48)] * 2)) ** 2))).astype(np.uint8)


def darken_disc(image: np.ndarray, centre_xy: np.ndarray, radii_xy: np.ndarray, strength: float) -> None:
    """Draws a soft shadow, an upright ellipse, into `image`."""
    height, width = image.shape[:2]
    reach = 1.7 * np.asarray(radii_xy)
    low = np.maximum(np.floor(centre_xy - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre_xy + reach), (width, height)).astype(int)
    if (high - low).min() < 2:
        return
    grow = 2 * reach / 48
    frame = np.array([[grow[0], 0, centre_xy[0] - reach[0] - low[0]], [0, grow[1], centre_xy[1] - reach[1] - low[1]]])
    disc = cv2.warpAffine(_DISC, frame, tuple((high - low).tolist()))
    window = image[low[1] : high[1], low[0] : high[0]]
    keep = cv2.convertScaleAbs(disc, alpha=-strength, beta=255)
    cv2.multiply(window, cv2.merge([keep] * 3), window, scale=1 / 255)


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Returns the picture as a camera of varying quality sees it: light, colour cast, contrast, blur, noise."""
    ramp = np.arange(256) / 255.0
    gamma, contrast, light = np.exp(rng.normal(-0.05, 0.2)), rng.uniform(0.7, 1.1), rng.normal(0.02, 0.05)
    cast = 1 + rng.normal(0, 0.06, 3)
    curve = (ramp[:, None] ** gamma - 0.5) * contrast + 0.5 + light
    image = cv2.LUT(image, np.clip(255 * curve * cast, 0, 255).astype(np.uint8)[:, None, :])
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 1.1))
    grain = rng.uniform(0, 8)
    noise = noise_patch(rng, "fine", image.shape[:2], rng.uniform(1.0, 1.6))
    bright = cv2.convertScaleAbs(cv2.subtract(noise, 128), alpha=grain / 42)
    dark = cv2.convertScaleAbs(cv2.subtract(np.full_like(noise, 128), noise), alpha=grain / 42)
    return cv2.subtract(cv2.add(image, cv2.merge([bright] * 3)), cv2.merge([dark] * 3))
