"""Colours, cloth and noise of drawn scenes: small pictures, made once or in microseconds."""

from collections.abc import Hashable
from functools import cache
from typing import Any

import cv2
import numpy as np

NOISE_SIZE = 512
CLOTH_HW = (64, 32)  # along the limb, across it
_SHADES, _LEVELS = 17, 24  # steps from right to left, and from black to the colour itself


@cache
def noise_field(kind: str) -> np.ndarray:
    """(512, 512) uint8 around 128 that tiles: `fine`, `cloud` (1/f), `streak` (grain) or `patchy` (steps)."""
    rng = np.random.default_rng(sum(kind.encode()))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIZE), np.fft.fftfreq(NOISE_SIZE)))
    white = np.fft.fft2(rng.normal(size=(NOISE_SIZE, NOISE_SIZE)))
    if kind == "fine":
        field = np.fft.ifft2(white).real
    elif kind == "streak":
        across, along = np.meshgrid(np.fft.fftfreq(NOISE_SIZE), np.fft.fftfreq(NOISE_SIZE))
        field = np.fft.ifft2(white / (0.01 + np.hypot(14 * along, across))).real
    else:
        field = np.fft.ifft2(white / (0.004 + frequency) ** (1.3 if kind == "cloud" else 1.6)).real
        if kind == "patchy":
            field = np.digitize(field, np.quantile(field, (0.25, 0.5, 0.7, 0.85))).astype(float)
    field = (field - field.mean()) / field.std()
    return np.clip(128 + 42 * field, 0, 255).astype(np.uint8)


def noise_patch(rng: np.random.Generator, kind: str, size_hw: tuple[int, int], zoom: float) -> np.ndarray:
    """(h, w) uint8 window of a field, enlarged by `zoom`."""
    height, width = (max(2, min(NOISE_SIZE, int(np.ceil(side / zoom)))) for side in size_hw)
    top, left = (int(rng.integers(0, NOISE_SIZE - side + 1)) for side in (height, width))
    window = noise_field(kind)[top : top + height, left : left + width]
    return cv2.resize(window, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_LINEAR)


@cache
def _shade_map(step: int, level: int) -> np.ndarray:
    """(64, 32, 4) uint8 gains, 128 = 1, of a cylinder lit from one side; `step` 0..16 is right to left."""
    across = np.linspace(-1, 1, CLOTH_HW[1])
    offset = 1.5 * (step / (_SHADES - 1)) - 0.75
    facing = np.sqrt(np.clip(1 - across**2, 0, 1)) * np.sqrt(1 - offset**2 * 0.8) + across * offset
    gain = (0.5 + 0.6 * np.clip(facing, 0, 1)) * level / _LEVELS
    row = np.concatenate([np.repeat(gain[:, None], 3, 1), np.ones((CLOTH_HW[1], 1))], 1) * 128
    return np.ascontiguousarray(np.broadcast_to(row.astype(np.uint8), (*CLOTH_HW, 4)))


def shaded(cloth: np.ndarray, side: float, gain: float = 1.0) -> np.ndarray:
    """Returns `cloth` on a cylinder; `side` in [-1, 1] says from which side the light comes."""
    step = min(max(round((side + 1) / 2 * (_SHADES - 1)), 0), _SHADES - 1)
    return cv2.multiply(cloth, _shade_map(step, round(gain * _LEVELS)), scale=1 / 128)


def pick(rng: np.random.Generator, chances: dict[Hashable, float]) -> Any:
    """Returns a key of `chances`, drawn with its value as probability."""
    point = rng.random() * sum(chances.values())
    *choices, last = chances
    for choice in choices:
        point -= chances[choice]
        if point < 0:
            return choice
    return last


_GREYS = (25, 50, 90, 140, 190, 235)


def sample_colour(rng: np.random.Generator, muted: float = 0.5) -> np.ndarray:
    """(3,) float RGB in 0..255: greys, muted tones or bright ones."""
    if rng.random() < 0.3 * (0.5 + muted):
        return np.clip(_GREYS[rng.integers(len(_GREYS))] + rng.normal(0, 8, 3), 0, 255)
    saturation = rng.uniform(0.1, 0.5) if rng.random() < muted else rng.uniform(0.4, 0.85)
    value, hue = 255 * rng.uniform(0.25, 0.95), 6 * rng.random()
    shares = (min(max(abs((hue + turn) % 6 - 3) - 1, 0.0), 1.0) for turn in (0, 4, 2))
    return np.array([value * (1 - saturation + saturation * share) for share in shares])


_ALONG, _ACROSS = np.meshgrid(np.linspace(0, 1, CLOTH_HW[0]), np.linspace(0, 1, CLOTH_HW[1]), indexing="ij")
_PATTERNS = {"plain": 50, "rings": 14, "stripes": 7, "checks": 10, "dots": 5, "camouflage": 8, "halves": 6}


def _pattern(rng: np.random.Generator, kind: str) -> np.ndarray:
    """(64, 32) share of the second colour."""
    count = rng.integers(2, 8)
    rings = np.sin(_ALONG * count * 2 * np.pi + rng.uniform(0, 6)) > rng.uniform(-0.6, 0.6)
    stripes = np.sin(_ACROSS * count * 2 * np.pi) > rng.uniform(-0.6, 0.6)
    if kind == "rings":
        return rings.astype(float)
    if kind == "stripes":
        return stripes.astype(float)
    if kind == "checks":
        return 0.5 * rings + 0.5 * stripes
    if kind == "dots":
        return (np.sin(_ALONG * 38) * np.sin(_ACROSS * 19) > 0.45).astype(float)
    if kind == "halves":
        return (rng.uniform(0.25, 0.75) > _ALONG).astype(float)
    return noise_patch(rng, "patchy", CLOTH_HW, 1.0) / 255.0


def make_cloth(rng: np.random.Generator, colour: np.ndarray, patterned: bool = True, folds: float = 0.1) -> np.ndarray:
    """(64, 32, 4) uint8 RGBA: one colour or a pattern of two, with folds."""
    cloth = np.asarray(colour, np.float32)
    kind = pick(rng, _PATTERNS) if patterned else "plain"
    if kind != "plain":
        second = sample_colour(rng, 0.3).astype(np.float32)
        cloth = cloth + _pattern(rng, kind).astype(np.float32)[..., None] * (second - cloth)
    fold = noise_patch(rng, "cloud", CLOTH_HW, 2.5)[..., None] * np.float32(folds / 42) + np.float32(1 - 3 * folds)
    out = np.full((*CLOTH_HW, 4), 255, np.uint8)
    out[..., :3] = np.minimum(cloth * fold, 255)
    return out


def make_plain(colour: np.ndarray) -> np.ndarray:
    """(64, 32, 4) uint8 RGBA of one colour with the fine grain of hair or felt."""
    out = np.full((*CLOTH_HW, 4), 255, np.uint8)
    out[..., :3] = np.clip(colour.astype(np.float32) + _grain() * (6 + 0.2 * colour).astype(np.float32), 0, 255)
    return out


@cache
def _grain() -> np.ndarray:
    """(64, 32, 1) float32 around 0."""
    return noise_field("fine")[: CLOTH_HW[0], : CLOTH_HW[1], None] / np.float32(128) - np.float32(1)
