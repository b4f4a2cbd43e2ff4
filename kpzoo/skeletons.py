"""Skeletons: names, flip pairs, sigmas and links of the keypoints of a pose."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from kpzoo.errors import UserError, unknown

# Names of different data sets for the same joint. MPII's thorax and pelvis are in none: they lie between the shoulders
# and between the hips, and no other data set labels these points.
SAME_JOINT = (
    # The top of the head. CrowdPose and LSPET call it head, MPII, AI Challenger and PoseTrack head_top; "top_head" is
    # CrowdPose's in other tools.
    ("head_top", "head", "top_head"),
    # The neck above the line of the shoulders. LSPET, CrowdPose and AI Challenger call it neck; MPII upper_neck, in
    # contrast to the thorax; PoseTrack's files head_bottom, and its evaluation neck. On the way from the middle of the
    # shoulders to the top of the head, its median is at 0.18 in LSPET, 0.23 in CrowdPose, 0.24 in nine persons of AI
    # Challenger, and 0.11 in five persons of MPII, whose thorax is at 0.00.
    ("neck", "upper_neck", "head_bottom"),
)


def plain_name(name: str) -> str:
    """Returns a keypoint name in lower case with underscores: "left_shoulder" for "Left Shoulder"."""
    return re.sub(r"\W+", "_", name.lower())


@dataclass(frozen=True)
class Skeleton:
    """Definition of the keypoints of a data set.

    Args:
        name: Key of `SKELETONS`, or name of the category in the annotation file.
        keypoints: K keypoint names, in the order of the annotations. Left and right are from the person's view.
        flip_pairs: Pairs of names that are swapped when an image is mirrored.
        sigmas: K per-keypoint standard deviations, in units of sqrt(area): COCO's `sigmas` (not doubled).
        links: Pairs of names that are connected by a line in drawings.
        upper_body: Names of the upper half in half-body augmentation.
        sides_known: Whether `flip_pairs` is complete. If not, flip augmentation and the flip test are disabled.

    Raises:
        UserError: Names are not distinct, sigmas do not match, or a pair contains an unknown name.
    """

    name: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...]
    links: tuple[tuple[str, str], ...]
    upper_body: tuple[str, ...] = ()
    sides_known: bool = True

    def __post_init__(self):
        if len(set(self.keypoints)) != len(self.keypoints) or not self.keypoints:
            raise UserError(f"Skeleton {self.name!r} needs distinct keypoint names. Received: {list(self.keypoints)}.")
        if len(self.sigmas) != len(self.keypoints) or min(self.sigmas) <= 0:
            raise UserError(
                f"Skeleton {self.name!r} needs {len(self.keypoints)} sigmas above 0, one for each keypoint. "
                f"Received: {list(self.sigmas)}."
            )
        mirrored = [name for pair in self.flip_pairs for name in pair]
        if len(set(mirrored)) != len(mirrored):
            raise UserError(
                f"Flip pairs of skeleton {self.name!r} name a keypoint twice. Received: {list(self.flip_pairs)}."
            )
        for name in [*mirrored, *(name for link in self.links for name in link), *self.upper_body]:
            if name not in self.keypoints:
                raise unknown(f"keypoint in skeleton {self.name!r}", name, self.keypoints)

    @property
    def num_keypoints(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip_order(self) -> np.ndarray:
        """(K,) int indices: keypoint k of the mirrored person is keypoint `flip_order[k]` of the original."""
        order = np.arange(self.num_keypoints)
        for left, right in self.flip_pairs:
            left, right = self.keypoints.index(left), self.keypoints.index(right)
            order[left], order[right] = right, left
        return order

    @cached_property
    def is_lower(self) -> np.ndarray:
        """(K,) bool mask of keypoints of hips, legs and feet, derived from their names."""
        parts = ("hip", "pelvis", "knee", "ankle", "heel", "toe", "foot")
        return np.array([any(part in name for part in parts) for name in self.keypoints], bool)

    @cached_property
    def link_indices(self) -> np.ndarray:
        """(L, 2) int indices of `links` into `keypoints`."""
        pairs = [(self.keypoints.index(a), self.keypoints.index(b)) for a, b in self.links]
        return np.array(pairs, int).reshape(-1, 2)

    def shared_with(self, other: "Skeleton") -> tuple[np.ndarray, np.ndarray]:
        """Returns the keypoints that are also keypoints of another skeleton, by name and by `SAME_JOINT`.

        Args:
            other: The other skeleton.

        Returns:
            (S,) int indices into `keypoints`, ascending, and the (S,) indices of the same joints in `other.keypoints`.

        >>> own, others = COCO17.shared_with(AIC14)
        >>> [(COCO17.keypoints[a], AIC14.keypoints[b]) for a, b in zip(own[:2], others[:2])]
        [('left_shoulder', 'left_shoulder'), ('right_shoulder', 'right_shoulder')]
        """
        own, others = self._places_by_name, other._places_by_name
        pairs = {k: others[name] for name, k in own.items() if name in others}
        for names in SAME_JOINT:
            mine, theirs = ([one[name] for name in names if name in one] for one in (own, others))
            if len(mine) == len(theirs) == 1:  # a skeleton with two of the names means two joints by them
                pairs[mine[0]] = theirs[0]
        ordered = sorted(pairs.items())
        return np.array([a for a, _ in ordered], int), np.array([b for _, b in ordered], int)

    @cached_property
    def _places_by_name(self) -> dict[str, int]:
        """Indices of the keypoints by plain name, or by name if several have the same plain name."""
        plain = [plain_name(name) for name in self.keypoints]
        names = zip(plain, self.keypoints, strict=True)
        return {name if plain.count(name) == 1 else own: k for k, (name, own) in enumerate(names)}

    def places_in(self, other: "Skeleton") -> np.ndarray:
        """Returns (K,) indices of the keypoints in `other.keypoints`, -1 for those that it does not have."""
        own, others = self.shared_with(other)
        places = np.full(self.num_keypoints, -1)
        places[own] = others
        return places

    def part(self, indices: np.ndarray) -> "Skeleton":
        """Returns the skeleton of some of the keypoints, in the order of the indices."""
        names = tuple(self.keypoints[k] for k in indices)
        flip_pairs, links = (
            tuple(pair for pair in pairs if set(pair) <= set(names)) for pairs in (self.flip_pairs, self.links)
        )
        return replace(
            self,
            name=f"{self.name}, {len(names)} of {self.num_keypoints} keypoints",
            keypoints=names,
            flip_pairs=flip_pairs,
            sigmas=tuple(self.sigmas[k] for k in indices),
            links=links,
            upper_body=tuple(name for name in self.upper_body if name in names),
        )

    def difference(self, other: "Skeleton") -> str:
        """Returns in words how the keypoints of another skeleton differ, such as "…, in another order: …"."""
        if set(self.keypoints) == set(other.keypoints):
            moved = [
                k for k, pair in enumerate(zip(self.keypoints, other.keypoints, strict=True)) if len(set(pair)) > 1
            ]
            places = ", ".join(str(k + 1) for k in moved[:6]) + (", …" if len(moved) > 6 else "")
            names = [[one.keypoints[k] for k in moved[:6]] for one in (other, self)]
            return f"the same names in another order: numbers {places} are {names[0]} in place of {names[1]}"
        parts = [f"{other.num_keypoints} in place of {self.num_keypoints} keypoints"]
        for text, one, two in (("new", other, self), ("missing", self, other)):
            if names := [name for name in one.keypoints if name not in two.keypoints]:
                parts.append(f"{text}: {names[:6]}" + (f", {len(names)} in all" if len(names) > 6 else ""))
        return "; ".join(parts)

    def to_config(self) -> dict:
        """Returns the skeleton as lists and strings, the argument of `from_config`."""
        config = asdict(self)
        return config if not self.sides_known else {key: config[key] for key in config if key != "sides_known"}

    @classmethod
    def from_config(cls, config: Mapping) -> "Skeleton":
        pairs = {key: tuple(map(tuple, config[key])) for key in ("flip_pairs", "links")}
        rows = {key: tuple(config[key]) for key in ("keypoints", "sigmas", "upper_body")}
        return cls(name=config["name"], **pairs, **rows, sides_known=config.get("sides_known", True))


def _sides(*parts: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"left_{part}", f"right_{part}") for part in parts)


_ARMS = ("shoulder", "elbow", "wrist")
_LEGS = ("hip", "knee", "ankle")
_FACE = ("eye", "ear")


def _chains() -> tuple[tuple[str, str], ...]:
    """Returns the links of arms and legs."""
    return tuple(
        (f"{side}_{upper}", f"{side}_{lower}")
        for side in ("left", "right")
        for limb in (_ARMS, _LEGS)
        for upper, lower in zip(limb, limb[1:], strict=False)
    )


def _limbs() -> tuple[tuple[str, str], ...]:
    """Returns the links of arms, legs and the torso."""
    trunk = [("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")]
    return (*_chains(), *trunk, ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))


COCO17 = Skeleton(
    name="coco17",
    keypoints=("nose", *(name for pair in _sides(*_FACE, *_ARMS, *_LEGS) for name in pair)),
    flip_pairs=_sides(*_FACE, *_ARMS, *_LEGS),
    # Measured by COCO's authors on 5,000 persons that were annotated twice (cocodataset.org, keypoint evaluation).
    sigmas=(0.026, *np.repeat([0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist()),
    links=(
        *_limbs(),
        *(("nose", f"{side}_eye") for side in ("left", "right")),
        *((f"{side}_eye", f"{side}_ear") for side in ("left", "right")),
        *((f"{side}_ear", f"{side}_shoulder") for side in ("left", "right")),
    ),
    upper_body=("nose", *(name for pair in _sides(*_FACE, *_ARMS) for name in pair)),
)

CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    keypoints=(*(name for pair in _sides(*_ARMS, *_LEGS) for name in pair), "head", "neck"),
    flip_pairs=_sides(*_ARMS, *_LEGS),
    # The sigmas of the CrowdPose evaluation: COCO's for the limbs, the shoulder's for head and neck.
    sigmas=(*np.repeat([0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist(), 0.079, 0.079),
    links=(*_limbs(), ("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    upper_body=("head", "neck", *(name for pair in _sides(*_ARMS) for name in pair)),
)

MPII16 = Skeleton(
    name="mpii16",
    keypoints=(
        *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
        *("pelvis", "thorax", "upper_neck", "head_top"),
        *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    ),
    flip_pairs=_sides(*_ARMS, *_LEGS),
    # MPII is scored by PCKh, which has no sigmas. These are for OKS-NMS: COCO's for the limbs; for the joints that COCO
    # lacks, its shoulder's on the axis of the head and its hip's in the pelvis.
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079)
    + (0.062, 0.072, 0.079, 0.079, 0.072, 0.062),
    links=(
        *_chains(),
        *(("pelvis", f"{side}_hip") for side in ("left", "right")),
        *(("thorax", f"{side}_shoulder") for side in ("left", "right")),
        *(("pelvis", "thorax"), ("thorax", "upper_neck"), ("upper_neck", "head_top")),
    ),
    upper_body=("thorax", "upper_neck", "head_top", *(name for pair in _sides(*_ARMS) for name in pair)),
)

AIC14 = Skeleton(
    name="aic14",
    keypoints=(
        *(f"{side}_{part}" for side in ("right", "left") for part in _ARMS),
        *(f"{side}_{part}" for side in ("right", "left") for part in _LEGS),
        *("head_top", "neck"),
    ),
    flip_pairs=_sides(*_ARMS, *_LEGS),
    # Of the data set's own evaluation (AI Challenger 2017, keypoint_eval.py, which doubles them as COCO's does).
    sigmas=(0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144)
    + (0.03909642, 0.03686941, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173),
    links=(*_limbs(), ("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder")),
    upper_body=("head_top", "neck", *(name for pair in _sides(*_ARMS) for name in pair)),
)

POSETRACK17 = Skeleton(
    name="posetrack17",
    keypoints=(
        *("nose", "head_bottom", "head_top"),
        *(name for pair in _sides("ear", *_ARMS, *_LEGS) for name in pair),
    ),
    flip_pairs=_sides("ear", *_ARMS, *_LEGS),
    # COCO's; head_bottom and head_top have those of the eyes, as in MMPose's evaluation.
    sigmas=(0.026, 0.025, 0.025, *np.repeat([0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist()),
    links=(
        *_limbs(),
        *(("head_top", "nose"), ("nose", "head_bottom")),
        *((f"{side}_ear", "nose") for side in ("left", "right")),
        *(("head_bottom", f"{side}_shoulder") for side in ("left", "right")),
    ),
    upper_body=("nose", "head_bottom", "head_top", *(name for pair in _sides("ear", *_ARMS) for name in pair)),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17, CROWDPOSE14, MPII16, AIC14, POSETRACK17)}


def get(skeleton: "str | Skeleton") -> Skeleton:
    """Returns a skeleton by name. A `Skeleton` is returned unchanged."""
    if isinstance(skeleton, Skeleton):
        return skeleton
    if skeleton not in SKELETONS:
        raise unknown("skeleton", skeleton, SKELETONS, "Or pass a `kpzoo.skeletons.Skeleton`.")
    return SKELETONS[skeleton]
