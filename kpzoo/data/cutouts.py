"""People cut out of annotated photos, with soft edges: along their mask, or along one grown from their skeleton."""

import sys
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from kpzoo.data.coco import clipped_boxes, inside_image
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.images import read_image
from kpzoo.skeletons import Skeleton

MIN_LABELLED = 8  # keypoints of a person worth learning from; of fewer, half the body is out of sight
MIN_LABELLED_UNMASKED = 0.85  # share of them where the mask must be grown: an unlabelled limb would be cut off
MIN_HEIGHT = 48.0  # pixels from head to foot, were the person upright; who is smaller turns into a smear
ONE_PIECE = 0.85  # share of a mask that its largest polygon covers
CACHED = 4096  # cut-outs kept in memory, about 30 KB each where photos are small

# Parts between two joints: (length, radius at either end), in heights of an upright person.
_PARTS = {
    ("shoulder", "elbow"): (0.17, 0.036, 0.029),
    ("elbow", "wrist"): (0.15, 0.029, 0.022),
    ("hip", "knee"): (0.24, 0.056, 0.040),
    ("knee", "ankle"): (0.24, 0.040, 0.028),
}
_TRUNK = (0.29, 0.045)  # shoulders to hips, and how far the body reaches beyond these four joints
_HEAD = 0.068  # radius
_ENDS = {"wrist": ("elbow", 0.065, 0.028), "ankle": ("knee", 0.035, 0.045)}  # hands and feet: how far beyond, radius


@dataclass(frozen=True, eq=False)
class Cutout:
    """A person with the part of the photo around.

    Args:
        image: (h, w, 3) uint8 RGB, the part of the photo.
        alpha: (h, w) float32 in 0..1, how much of a pixel is the person's.
        origin_xy: (2,) int, the photo's pixel that is the first one here.
    """

    image: np.ndarray
    alpha: np.ndarray
    origin_xy: np.ndarray


class Cutouts:
    """The people of a data set who can be cut out, and the photos they can be put into.

    Args:
        data: COCO-format keypoint data.

    Attributes:
        heights: (P,) estimated heights in pixels, were the persons upright; NaN where the skeleton does not tell.
        sizes_hw: (P, 2) sizes of their photos.
        boxes_xyxy: (P, 4) boxes in image pixels, clipped to the picture.
        hosts: Places in `data.annotations.persons` of those whose photo others can be put into.
        movable: Places of those who can be cut out whole.
        unreadable: Files that were met and could not be read, with the reason.
    """

    def __init__(self, data: PoseData):
        self.data, self.unreadable = data, {}
        self._cache: OrderedDict = OrderedDict()
        persons, annotations = data.annotations.persons, data.annotations
        self.sizes_hw = sizes_hw = annotations.image_sizes_hw[persons.image_index]
        boxes, usable = clipped_boxes(persons.boxes_image_xywh, sizes_hw)
        self.boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] + 1], axis=1)
        inside = inside_image(persons.keypoints_image_xy, sizes_hw)
        self.visibility = np.where(inside, persons.visibility, 0)
        self.keypoints_xy = persons.keypoints_image_xy.astype(np.float64)
        self.heights = body_heights(data.skeleton, self.keypoints_xy, self.visibility)
        labelled = (self.visibility > 0).sum(axis=1)
        named = np.array([bool(name) for name in annotations.file_names], bool)[persons.image_index]
        good = ~persons.is_crowd & persons.has_box & usable & (persons.area > 0) & named & (sizes_hw > 0).all(axis=1)
        good &= (labelled >= min(MIN_LABELLED, data.skeleton.num_keypoints)) & (self.heights >= MIN_HEIGHT)
        masked = np.array([bool(mask) for mask in persons.segmentation], bool)
        whole = np.where(masked, _off_border(self.boxes_xyxy, sizes_hw, 1.0), self._drawable(labelled, sizes_hw))
        whole &= np.array([_in_one_piece(mask) for mask in persons.segmentation], bool) & self._stands()
        self.hosts, self.movable = np.flatnonzero(good), np.flatnonzero(good & whole)
        if not len(self.hosts) or not len(self.movable):
            raise UserError(
                f"{annotations.path} has nobody to cut out. Received: {len(persons.ids)} annotations, of them "
                f"{len(self.hosts)} with a box, {MIN_LABELLED} or more labelled keypoints and a height of "
                f"{MIN_HEIGHT:.0f} pixels, {len(self.movable)} of these wholly in the picture with a mask or with "
                f"shoulders, hips and {MIN_LABELLED_UNMASKED:.0%} of the keypoints labelled."
            )

    def _drawable(self, labelled: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
        """Returns (P,) whether a whole mask can be grown from the skeleton."""
        skeleton, shown = self.data.skeleton, self.visibility > 0
        trunk = _trunk_indices(skeleton)
        if trunk is None:
            return np.zeros(len(labelled), bool)
        points = np.where(shown[..., None], self.keypoints_xy, np.nan)
        with np.errstate(all="ignore"):
            low, high = np.nanmin(points, axis=1, initial=np.inf), np.nanmax(points, axis=1, initial=-np.inf)
        margin = 0.05 * np.nan_to_num(self.heights)[:, None]
        off = _off_border(np.concatenate([low, high + 1], axis=1), sizes_hw, margin)
        return off & shown[:, trunk].all(axis=1) & (labelled >= MIN_LABELLED_UNMASKED * skeleton.num_keypoints - 0.5)

    def _stands(self) -> np.ndarray:
        """Returns (P,) whether an ankle is labelled: whose legs are behind a table would float in another photo."""
        ankles = [place for place, name in enumerate(self.data.skeleton.keypoints) if name.endswith("_ankle")]
        return (self.visibility[:, ankles] > 0).any(axis=1) if ankles else np.ones(len(self.visibility), bool)

    def photo(self, person: int) -> np.ndarray | None:
        """Returns the photo of a person, (H, W, 3) uint8 RGB, or None where the file is unreadable or another one."""
        annotations = self.data.annotations
        place = annotations.persons.image_index[person]
        path = str(self.data.image_folder / annotations.file_names[place])
        if path in self.unreadable:
            return None
        try:
            image = read_image(path, apply_exif=False)
            height, width = annotations.image_sizes_hw[place].tolist()
            if image.shape[:2] != (height, width):
                raise UserError(f"{path} has {image.shape[:2]} pixels, its annotations say {(height, width)}.")
        except UserError as error:
            self.unreadable[path] = str(error)
            print(f"left out: {error}", file=sys.stderr)
            return None
        return image

    def cut(self, person: int, photo: np.ndarray) -> Cutout:
        """Returns a person of `photo`; the mask is made once and kept."""
        if person not in self._cache:
            self._cache[person] = self._alpha(person, photo)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        x, y, alpha = self._cache[person]
        height, width = alpha.shape
        return Cutout(photo[y : y + height, x : x + width], alpha.astype(np.float32) / 255, np.array([x, y]))

    def _alpha(self, person: int, photo: np.ndarray) -> tuple[int, int, np.ndarray]:
        """Returns x, y and (h, w) uint8: the window around a person's mask."""
        segmentation = self.data.annotations.persons.segmentation[person]
        if segmentation:
            alpha = softened(decoded(segmentation, photo.shape[:2]))
        else:
            alpha = grown_mask(
                photo, self.data.skeleton, self.keypoints_xy[person], self.visibility[person], self.heights[person]
            )
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not len(rows):
            return 0, 0, np.zeros((1, 1), np.uint8)
        y, x = rows[0], columns[0]
        return int(x), int(y), alpha[y : rows[-1] + 1, x : columns[-1] + 1].copy()


def body_heights(skeleton: Skeleton, keypoints_xy: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Returns (P,) the heights of persons, were they upright, in the unit of their (P, K, 2) keypoints.

    Foreshortening makes parts shorter, never longer: long ones count, but not the longest, which may be mislabelled.
    """
    points = np.where(visibility[..., None] > 0, keypoints_xy, np.nan)
    places = {name: place for place, name in enumerate(skeleton.keypoints)}
    ratios = [np.full(len(points), np.nan)]
    for (upper, lower), (length, *_) in _PARTS.items():
        for side in ("left", "right"):
            ends = [places.get(f"{side}_{part}") for part in (upper, lower)]
            if None not in ends:
                ratios.append(np.linalg.norm(points[:, ends[0]] - points[:, ends[1]], axis=1) / length)
    trunk = _trunk_indices(skeleton)
    if trunk is not None:
        middle = points[:, trunk].reshape(-1, 2, 2, 2).mean(axis=2)
        ratios.append(np.linalg.norm(middle[:, 0] - middle[:, 1], axis=1) / _TRUNK[0])
    ratios = np.sort(np.stack(ratios), axis=0)  # NaN come last
    counts = np.isfinite(ratios).sum(axis=0)
    chosen = np.maximum(np.ceil(0.75 * counts).astype(int) - 1, 0)
    return np.where(counts > 0, ratios[chosen, np.arange(ratios.shape[1])], np.nan)


def decoded(segmentation, size_hw: tuple[int, int]) -> np.ndarray:
    """Returns COCO's polygons or run lengths as an (H, W) uint8 mask of 0 and 1."""
    from pycocotools import mask as rle

    height, width = size_hw
    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return np.asarray(rle.decode(code))


def _in_one_piece(segmentation) -> bool:
    """Whether no more than a bit of a person is cut off by what is before them; unknown for run lengths."""
    if not isinstance(segmentation, list) or len(segmentation) < 2:
        return True
    areas = []
    for polygon in segmentation:
        x, y = np.array(polygon, float).reshape(-1, 2).T
        areas.append(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    return max(areas) >= ONE_PIECE * sum(areas)


def softened(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of 0 and 1 as 0..255 with an edge two pixels wide, that lies just inside."""
    return cv2.GaussianBlur(cv2.erode(mask, np.ones((2, 2), np.uint8)) * np.uint8(255), (0, 0), 0.8)


def grown_mask(
    photo: np.ndarray, skeleton: Skeleton, keypoints_xy: np.ndarray, visibility: np.ndarray, height: float
) -> np.ndarray:
    """Returns the mask (H, W) uint8 0..255 of a person of whom only the joints are known.

    Limbs are drawn as thick lines; colours decide, in a band about their edges, what is person and what is not.

    Args:
        photo: (H, W, 3) uint8 RGB.
        skeleton: Names the keypoints.
        keypoints_xy: (K, 2) in image pixels.
        visibility: (K,) 0 where not labelled.
        height: The person's height in pixels, as of `body_heights`.
    """
    points = {name: xy for name, xy, v in zip(skeleton.keypoints, keypoints_xy, visibility, strict=True) if v > 0}
    if not points or not np.isfinite(height):
        return np.zeros(photo.shape[:2], np.uint8)
    all_xy = np.stack(list(points.values()))
    low = np.clip(np.floor(all_xy.min(0) - 0.15 * height), 0, np.array(photo.shape[1::-1]) - 1).astype(int)
    high = np.clip(np.ceil(all_xy.max(0) + 0.15 * height) + 1, 1, photo.shape[1::-1]).astype(int)
    window = photo[low[1] : high[1], low[0] : high[0]]
    zoom = min(1.0, WORKING_HEIGHT / height)
    small = cv2.resize(window, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA) if zoom < 1 else window
    moved = {name: (xy - low) * zoom for name, xy in points.items()}
    inner, middle, outer = (draw_body(small.shape[:2], moved, height * zoom, width) for width in (0.5, 1.0, 1.75))
    mask = refined(small, inner, middle, outer)
    if zoom < 1:
        soft = cv2.resize(mask * np.uint8(255), window.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        mask = (soft > 127).astype(np.uint8)
    result = np.zeros(photo.shape[:2], np.uint8)
    result[low[1] : high[1], low[0] : high[0]] = softened(mask)
    return result


WORKING_HEIGHT = 120.0  # of a person whose mask is refined; more pixels cost time and change little


def refined(image: np.ndarray, inner: np.ndarray, middle: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Returns the (h, w) mask of 0 and 1 between `inner` and `outer` that the colours of the picture suggest."""
    labels = np.where(inner > 0, cv2.GC_FGD, np.where(middle > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD))
    labels = np.where(outer > 0, labels, cv2.GC_BGD).astype(np.uint8)
    cv2.setRNGSeed(1)  # grabCut begins with a random clustering
    cv2.grabCut(image, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    mask = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    mask = cv2.medianBlur(mask, 5) | inner
    _, pieces = cv2.connectedComponents(mask)
    mask = np.isin(pieces, np.unique(pieces[inner > 0])).astype(np.uint8) & mask
    return mask if 0.6 < mask.sum() / max(middle.sum(), 1) < 1.7 else middle


def draw_body(size_hw: tuple[int, int], points: dict[str, np.ndarray], height: float, width: float) -> np.ndarray:
    """Returns an (h, w) mask of 0 and 1 of a body whose parts are `width` times as thick as usual."""
    mask = np.zeros(size_hw, np.uint8)
    reach = width * height
    for side in ("left", "right"):
        for (upper, lower), (_, start, end) in _PARTS.items():
            if f"{side}_{upper}" in points and f"{side}_{lower}" in points:
                _capsule(mask, points[f"{side}_{upper}"], points[f"{side}_{lower}"], start * reach, end * reach)
        for joint, (before, beyond, radius) in _ENDS.items():
            if f"{side}_{joint}" in points and f"{side}_{before}" in points:
                tip = points[f"{side}_{joint}"]
                along = tip - points[f"{side}_{before}"]
                along = along / max(float(np.linalg.norm(along)), 1e-6) * beyond * height
                _capsule(mask, tip, tip + along * min(width, 1.0), radius * reach, radius * reach)
    trunk = [points[name] for name in _TRUNK_NAMES if name in points]
    if len(trunk) == 4:
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(np.stack(trunk)).astype(np.int32)), 1)
    for one, other in zip(trunk, [*trunk[1:], *trunk[:1]], strict=True):
        _capsule(mask, one, other, _TRUNK[1] * reach, _TRUNK[1] * reach)
    _draw_head(mask, points, trunk, height, reach)
    return mask


def _draw_head(mask: np.ndarray, points: dict, trunk: list, height: float, reach: float) -> None:
    if "head" in points and "neck" in points:  # the top of the head, as in CrowdPose
        top, neck = points["head"], points["neck"]
        _capsule(mask, neck + 0.7 * (top - neck), neck + 0.5 * (top - neck), _HEAD * reach, _HEAD * reach)
        _capsule(mask, neck, neck + 0.5 * (top - neck), 0.04 * reach, 0.04 * reach)
        return
    face = [xy for name, xy in points.items() if name == "nose" or name.endswith(("_eye", "_ear"))]
    if face:
        middle = np.mean(face, axis=0)
        _capsule(mask, middle, middle, 1.25 * _HEAD * reach, 1.25 * _HEAD * reach)
        shoulders = [points[name] for name in _TRUNK_NAMES[:2] if name in points]
        if len(shoulders) == 2:
            _capsule(mask, middle, np.mean(shoulders, axis=0), 0.04 * reach, 0.04 * reach)


def _capsule(mask: np.ndarray, start_xy: np.ndarray, end_xy: np.ndarray, start: float, end: float) -> None:
    """Draws a limb with round ends of two radii, to a sixteenth of a pixel."""
    along = end_xy - start_xy
    length = float(np.linalg.norm(along))
    across = np.array([-along[1], along[0]]) / max(length, 1e-6)
    corners = np.stack(
        [start_xy + start * across, end_xy + end * across, end_xy - end * across, start_xy - start * across]
    )
    if length > 0:
        cv2.fillConvexPoly(mask, np.rint(16 * corners).astype(np.int32), 1, cv2.LINE_8, 4)
    for xy, radius in ((start_xy, start), (end_xy, end)):
        centre = tuple(int(value) for value in np.rint(16 * xy))
        cv2.circle(mask, centre, max(round(16 * radius), 8), 1, cv2.FILLED, cv2.LINE_8, 4)


_TRUNK_NAMES = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")


def _trunk_indices(skeleton: Skeleton) -> list[int] | None:
    """Returns the places of both shoulders and both hips, or None for a skeleton without them."""
    if any(name not in skeleton.keypoints for name in _TRUNK_NAMES):
        return None
    return [skeleton.keypoints.index(name) for name in _TRUNK_NAMES]


def _off_border(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray, margin) -> np.ndarray:
    sizes_wh = sizes_hw[:, ::-1]
    return ((boxes_xyxy[:, :2] >= margin) & (boxes_xyxy[:, 2:] <= sizes_wh - margin)).all(axis=1)
