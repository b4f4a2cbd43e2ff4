"""Skin, hair and clothes of a random person."""

from dataclasses import dataclass

import numpy as np

from kpzoo.scenes.figures.textures import make_cloth, pick, sample_colour

SKIN_RGB = np.array(
    [
        (250, 220, 196), (241, 194, 160), (226, 176, 134), (208, 148, 104), (188, 126, 82),
        (158, 102, 66), (126, 80, 52), (98, 62, 42), (72, 46, 34), (52, 34, 28),
    ],
    float,
)  # fmt: skip
HAIR_RGB = np.array(
    [
        (20, 16, 16), (34, 24, 20), (62, 42, 28),
        (96, 64, 38), (140, 98, 54), (202, 164, 100), (150, 68, 34),
    ],
    float,
)  # fmt: skip
HAIR_STYLES = {"short": 36, "long": 22, "bun": 12, "curly": 10, "bald": 6, "cap": 14}
SLEEVES = np.array((0.0, 0.22, 0.3, 0.4))
TROUSERS = {1.0: 72, 0.45: 18, 0.3: 10}
GREY_RGB = np.array((168, 166, 164), float)


@dataclass(frozen=True)
class Look:
    """What a person wears. Cloths are (64, 32, 4) RGBA."""

    skin: np.ndarray
    skin_rgb: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    shoe: np.ndarray
    hair_rgb: np.ndarray
    hair: str  # short, long, bun, curly, bald, cap
    hat_rgb: np.ndarray
    sleeve: float  # share of the arm that is covered
    trouser: float  # share of the leg that is covered
    flare: float  # how loosely, in body heights
    hem: float  # where a skirt or coat ends, as a share of the thigh; 0 = none
    coat: bool
    bag: np.ndarray | None
    glasses: bool
    beard: bool


def sample_look(rng: np.random.Generator) -> Look:
    """Returns skin, hair and clothes of a random person."""
    tone = rng.integers(len(SKIN_RGB))
    hair_rgb = GREY_RGB if rng.random() < 0.08 else HAIR_RGB[rng.integers(7 if tone < 4 else 3)]
    skin_rgb = np.clip(SKIN_RGB[tone] * rng.uniform(0.92, 1.06) + rng.normal(0, 4, 3), 15, 255)
    top_rgb, bottom_rgb = sample_colour(rng, 0.45), sample_colour(rng, 0.75)
    if rng.random() < 0.3:
        bottom_rgb = np.array([62, 82, 120]) * rng.uniform(0.5, 1.5)  # jeans
    top = make_cloth(rng, top_rgb)
    bottom = top if rng.random() < 0.1 else make_cloth(rng, bottom_rgb, patterned=rng.random() < 0.12)
    coat, skirt = rng.random() < 0.14, rng.random() < 0.16
    hem = rng.uniform(0.45, 0.95) if coat else rng.uniform(0.5, 1.15) if skirt else 0.0
    return Look(
        skin=make_cloth(rng, skin_rgb, patterned=False, folds=0.03),
        skin_rgb=skin_rgb,
        top=top,
        bottom=bottom,
        shoe=make_cloth(rng, sample_colour(rng, 0.8), patterned=False),
        hair_rgb=np.clip(hair_rgb * rng.uniform(0.8, 1.2), 0, 255),
        hair=pick(rng, HAIR_STYLES),
        hat_rgb=sample_colour(rng, 0.4),
        sleeve=1.0 if coat or rng.random() < 0.45 else rng.choice(SLEEVES),
        trouser=pick(rng, {0.0: 1, 1.0: 1} if skirt else TROUSERS),
        flare=rng.uniform(0.0, 0.012),
        hem=hem,
        coat=coat,
        bag=make_cloth(rng, sample_colour(rng, 0.5)) if rng.random() < 0.12 else None,
        glasses=rng.random() < 0.15,
        beard=rng.random() < 0.15,
    )
