"""People cut out of annotated photos with soft edges, by their mask or by a mask estimated from their keypoints."""

import sys
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from kpzoo.data.coco import clipped_boxes, inside_image
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.images import read_image
from kpzoo.scenes.body_masks import body_heights, grown_mask, softened, trunk_indices

MIN_LABELLED = 8  # minimum number of labelled keypoints of a person
MIN_LABELLED_UNMASKED = 0.85  # minimum share of labelled keypoints to estimate a mask, which lacks unlabelled limbs
MIN_HEIGHT = 48.0  # minimum height in pixels of a person in upright posture
ONE_PIECE = 0.85  # minimum share of the largest polygon of a mask
_CUTOUTS = 8192  # number of cached cut-outs, each about 10 KB for small photos
_PHOTOS = 8  # number of cached photos, since a scene uses a photo several times
_SAMPLES = 160  # number of pixels of a person that stand for all of them where occlusion is decided
_GREY = 1.0  # mean difference of the channels below which a photo is black and white


class Light(NamedTuple):
    """Brightness, tint and contrast of a photo.

    Args:
        mean_rgb: (3,) mean of the channels.
        contrast: Mean standard deviation of the channels.
        is_grey: Whether the photo is black and white.
    """

    mean_rgb: np.ndarray
    contrast: float
    is_grey: bool


@dataclass(frozen=True, eq=False)
class Cutout:
    """A person cut out of a photo.

    Args:
        alpha: (h, w) uint8 opacity of the person in 0..255.
        window_xywh: (4,) int, the part of the photo that `alpha` shows. It has more pixels than `alpha` if the cut-out
            was made smaller.
        samples_xy: (S, 2) float32, pixels of the photo, evenly spread over the person.
        light: Of the photo.
    """

    alpha: np.ndarray
    window_xywh: np.ndarray
    samples_xy: np.ndarray
    light: Light

    @property
    def from_photo(self) -> np.ndarray:
        """(2, 3) map from the photo's pixels to pixels of `alpha`."""
        (x, y, width, height), (rows, columns) = self.window_xywh.tolist(), self.alpha.shape
        zoom_x, zoom_y = columns / width, rows / height
        return np.array([[zoom_x, 0, (0.5 - x) * zoom_x - 0.5], [0, zoom_y, (0.5 - y) * zoom_y - 0.5]])


class Cutouts:
    """The people of a data set that can be cut out, and the photos that can be used as background.

    Args:
        data: Data set, see `kpzoo.data.load`.

    Attributes:
        keypoints_xy: (P, K, 2) in image pixels.
        visibility: (P, K) 0 if not labelled or outside the image.
        heights: (P,) estimated heights in pixels of the persons in upright posture, NaN if unknown.
        sizes_hw: (P, 2) sizes of their photos.
        boxes_xyxy: (P, 4) boxes in image pixels, clipped to the image.
        box_sizes_wh: (P, 2) their widths and heights.
        hosts: Indices into `data.annotations.persons` of the people whose photo can be a background.
        movable: Indices of the people that can be cut out completely.
        unreadable: Files that could not be read, with the reasons.

    Raises:
        UserError: If no person can be cut out.
    """

    def __init__(self, data: PoseData):
        self.data, self.unreadable = data, {}
        self._cutouts, self._photos, self.host_layers = {}, {}, {}
        persons, annotations = data.annotations.persons, data.annotations
        self.sizes_hw = sizes_hw = annotations.image_sizes_hw[persons.image_index]
        boxes, usable = clipped_boxes(persons.boxes_image_xywh, sizes_hw)
        self.boxes_xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] + 1], axis=1)
        self.box_sizes_wh = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
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
                f"{annotations.path} has no person to cut out. Received: {len(persons.ids)} annotations, of them "
                f"{len(self.hosts)} with a box, {MIN_LABELLED} or more labelled keypoints and a height of "
                f"{MIN_HEIGHT:.0f} pixels, {len(self.movable)} of these within the image, with a labelled ankle, "
                f"and with a mask or labelled shoulders, hips and {MIN_LABELLED_UNMASKED:.0%} of the keypoints."
            )

    def _drawable(self, labelled: np.ndarray, sizes_hw: np.ndarray) -> np.ndarray:
        """Returns a (P,) mask of the people whose mask can be estimated from the keypoints."""
        skeleton, shown = self.data.skeleton, self.visibility > 0
        trunk = trunk_indices(skeleton)
        if trunk is None:
            return np.zeros(len(labelled), bool)
        points = np.where(shown[..., None], self.keypoints_xy, np.nan)
        low, high = np.nanmin(points, axis=1, initial=np.inf), np.nanmax(points, axis=1, initial=-np.inf)
        margin = 0.05 * np.nan_to_num(self.heights)[:, None]
        off = _off_border(np.concatenate([low, high + 1], axis=1), sizes_hw, margin)
        return off & shown[:, trunk].all(axis=1) & (labelled >= MIN_LABELLED_UNMASKED * skeleton.num_keypoints - 0.5)

    def _stands(self) -> np.ndarray:
        """Returns a (P,) mask of the people with a labelled ankle. Others, with hidden legs, would float in a photo."""
        ankles = [place for place, name in enumerate(self.data.skeleton.keypoints) if name.endswith("_ankle")]
        return (self.visibility[:, ankles] > 0).any(axis=1) if ankles else np.ones(len(self.visibility), bool)

    def photo(self, person: int) -> np.ndarray | None:
        """Returns the photo of a person, see `read`. The last ones are cached."""
        place = int(self.data.annotations.persons.image_index[person])
        if place not in self._photos:
            self._photos[place] = self.read(person)
            if len(self._photos) > _PHOTOS:
                self._photos.pop(next(iter(self._photos)))
        return self._photos[place]

    def read(self, person: int) -> np.ndarray | None:
        """Returns the photo of a person, (H, W, 3) uint8 RGB, or None if it cannot be read or has another size."""
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
            print(f"skipped: {error}", file=sys.stderr)
            return None
        return image

    def readable(self, person: int) -> bool:
        """Returns whether the photo of a person can be read."""
        return self.photo(person) is not None

    def cut(self, person: int) -> Cutout:
        """Returns a person whose photo can be read. It is cached."""
        if person not in self._cutouts:
            photo = self.photo(person)
            self._cutouts[person] = cut_out(self, person, photo, light_of(photo))
            if len(self._cutouts) > _CUTOUTS:
                self._cutouts.pop(next(iter(self._cutouts)))  # the oldest
        return self._cutouts[person]

    def pixels(self, person: int) -> np.ndarray:
        """Returns the (h, w, 3) uint8 RGB pixels of a person's cut-out."""
        x, y, width, height = self.cut(person).window_xywh
        return self.photo(person)[y : y + height, x : x + width]


def light_of(photo: np.ndarray) -> Light:
    mean, deviation = cv2.meanStdDev(photo)
    is_grey = np.abs(photo[::4, ::4].astype(int) - photo[::4, ::4, 1:2]).mean() < _GREY
    return Light(mean.reshape(3), float(deviation.mean()), bool(is_grey))


def cut_out(source: Cutouts, person: int, photo: np.ndarray, light: Light) -> Cutout:
    """Cuts a person out of its photo."""
    persons = source.data.annotations.persons
    segmentation = persons.segmentation[person]
    if segmentation:
        try:
            alpha = softened(decoded(segmentation, photo.shape[:2]))
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            where = f"{source.data.annotations.path}: annotation {persons.ids[person]}"
            raise UserError(f"{where} has an invalid `segmentation`: {error}. Correct or remove it.") from None
    else:
        body = source.keypoints_xy[person], source.visibility[person], source.heights[person]
        alpha = grown_mask(photo, source.data.skeleton, *body)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    x, y, width, height = 0, 0, 1, 1
    if len(rows):
        x, y, width, height = columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1
    alpha = alpha[y : y + height, x : x + width].copy()
    inner = np.flatnonzero(alpha > 127)
    inner = inner[np.linspace(0, len(inner) - 1, min(_SAMPLES, len(inner))).round().astype(int)]
    samples = np.stack([x + inner % width, y + inner // width], axis=1).astype(np.float32)
    return Cutout(alpha, np.array([x, y, width, height]), samples, light)


def decoded(segmentation, size_hw: tuple[int, int]) -> np.ndarray:
    """Returns COCO polygons or run lengths as an (H, W) uint8 mask of 0 and 1. Raises a ValueError if invalid."""
    from pycocotools import mask as rle

    height, width = size_hw
    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects([_polygon(part).ravel().tolist() for part in segmentation], height, width))
    else:
        counts = segmentation["counts"]
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"the mask is for an image of {segmentation['size']}")
        if isinstance(counts, list):
            if sum(counts) != height * width or min(counts) < 0:
                raise ValueError("the run lengths do not match the image")
            code = rle.frPyObjects(segmentation, height, width)
        else:
            code = segmentation
    return np.asarray(rle.decode(code))


def _polygon(values) -> np.ndarray:
    """Returns the (N, 2) corners of a polygon. Raises a ValueError if there are fewer than three."""
    corners = np.array(values, np.float64).reshape(-1, 2)
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon has {len(corners)} corners")
    return corners


def _in_one_piece(segmentation) -> bool:
    """Returns whether a mask is almost in one piece, and not divided by an occluder. True for run lengths."""
    if not isinstance(segmentation, list) or len(segmentation) < 2:
        return True
    try:
        corners = [_polygon(part).T for part in segmentation]
    except (ValueError, TypeError):
        return False
    areas = [abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) for x, y in corners]
    return max(areas) >= ONE_PIECE * sum(areas)


def _off_border(boxes_xyxy: np.ndarray, sizes_hw: np.ndarray, margin) -> np.ndarray:
    sizes_wh = sizes_hw[:, ::-1]
    return ((boxes_xyxy[:, :2] >= margin) & (boxes_xyxy[:, 2:] <= sizes_wh - margin)).all(axis=1)
