"""Layers of a composed scene: the people of an image, their order and who hides whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kpzoo.scenes.cutouts import Cutout, Cutouts, Light

_LEAST_SHOWN = 0.2  # minimum visible share of the pixels of a person
_LEAST_JOINTS = 3
_ADAPTATION = 0.4  # share by which the colours of a cut-out are adapted to the photo
_LAYERS = 8192  # largest number of people of background photos that are kept
_NEAR = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)])


@dataclass(frozen=True, eq=False)
class Layer:
    """A person in the scene, in front of the earlier layers of the list.

    Args:
        person: Index of the annotation.
        cutout: The person in its own photo.
        to_scene: (2, 3) map from pixels of the person's photo to scene pixels. None for people of the background photo.
        keypoints_xy: (K, 2) in scene pixels.
        visibility: (K,) 0 if not labelled or outside the image.
        box_xyxy: (4,) clipped to the image.
        area: Area in square pixels.
        height: Height in pixels of the person in upright posture.
        labelled: Number of labelled keypoints in the original photo.
        weights: (K,) `keypoint_weights` of the person.
    """

    person: int
    cutout: Cutout
    to_scene: np.ndarray | None
    keypoints_xy: np.ndarray
    visibility: np.ndarray
    box_xyxy: np.ndarray
    area: float
    height: float
    labelled: int
    weights: np.ndarray

    @property
    def moved(self) -> bool:
        return self.to_scene is not None

    @cached_property
    def points(self) -> np.ndarray:
        """(S + 9K, 2) scene pixels: the cut-out's samples, and the 3x3 pixels around each keypoint."""
        samples = self.cutout.samples_xy
        samples = mapped(self.to_scene, samples) if self.moved else samples
        return np.concatenate([samples, (np.rint(self.keypoints_xy)[:, None] + _NEAR).reshape(-1, 2)])

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """First and last x, first and last y of the cut-out in the scene."""
        x, y, width, height = self.cutout.window_xywh
        ends = np.array([(x - 1, y - 1), (x + width, y + height)], float)
        (x0, x1), (y0, y1) = np.sort((mapped(self.to_scene, ends) if self.moved else ends).T).tolist()
        return x0, x1, y0, y1

    @cached_property
    def points_extent(self) -> tuple[float, float, float, float]:
        """First and last x, first and last y of `points`."""
        (x0, y0), (x1, y1) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return x0, x1, y0, y1

    @cached_property
    def _to_cutout(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors and summands (2,) from x and y in the scene to those in the cut-out."""
        to_cutout = scene_to_cutout(self.cutout, self.to_scene)
        return to_cutout.diagonal().copy(), to_cutout[:, 2].copy()

    def covers(self, points_xy: np.ndarray) -> np.ndarray:
        """Returns which (N, 2) scene pixels the person covers."""
        (zoom, shift), alpha = self._to_cutout, self.cutout.alpha
        height, width = alpha.shape
        columns, rows = np.rint(points_xy * zoom + shift).astype(np.int64).T
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        return inside & (alpha.ravel()[np.where(inside, rows * width + columns, 0)] > 127)


def mapped(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    return points_xy @ matrix[:, :2].T + matrix[:, 2]


def chained(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns the (2, 3) map that applies `first`, then `second`."""
    return np.concatenate([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], axis=1)


def scene_to_cutout(cutout: Cutout, to_scene: np.ndarray | None) -> np.ndarray:
    """Returns the (2, 3) map from scene pixels to pixels of a cut-out, which does not rotate; see `Layer`."""
    from_photo = cutout.from_photo
    if to_scene is None:
        return from_photo
    zooms = from_photo.diagonal() / to_scene[:, :2].diagonal()
    return np.column_stack([np.diag(zooms), from_photo[:, 2] - zooms * to_scene[:, 2]])


def host_layer(source: Cutouts, person: int) -> Layer:
    """Returns the layer of a person of the background photo, which is the same in every scene and kept."""
    layer = source.host_layers.get(person)  # another thread may clear them
    if layer is None:
        if len(source.host_layers) >= _LAYERS:
            source.host_layers.clear()
        layer = source.host_layers[person] = _host_layer(source, person)
    return layer


def _host_layer(source: Cutouts, person: int) -> Layer:
    persons = source.data.annotations.persons
    return Layer(
        person,
        source.cut(person),
        None,
        source.keypoints_xy[person],
        source.visibility[person],
        source.boxes_xyxy[person],
        float(persons.area[person]),
        float(source.heights[person]),
        int((source.visibility[person] > 0).sum()),
        persons.keypoint_weights[person],
    )


def moved_layer(
    source: Cutouts, person: int, zoom: float, corner_xy: np.ndarray, mirrored: bool, image_hw: Sequence[int]
) -> Layer:
    """Returns the layer of a person of another photo.

    Args:
        source: People and photos.
        person: Index of the annotation.
        zoom: Scale of the person.
        corner_xy: (2,) position of the first corner of the box in the scene.
        mirrored: Whether the person is mirrored.
        image_hw: Height and width of the scene.
    """
    persons, cutout = source.data.annotations.persons, source.cut(person)
    corner, size = cutout.window_xywh[:2], cutout.window_xywh[2:]
    scaled = np.maximum(np.rint(size * zoom), 1)  # in scene pixels
    zoom_xy = scaled / size
    shift = (0.5 - corner) * zoom_xy - 0.5
    side = -1.0 if mirrored else 1.0
    to_scene = np.array([[side * zoom_xy[0], 0, side * shift[0]], [0, zoom_xy[1], shift[1]]])
    if mirrored:
        to_scene[0, 2] += scaled[0] - 1
    x0, y0, x1, y1 = source.boxes_xyxy[person]  # corners of pixels, which lie half a pixel before their centres
    ends = mapped(to_scene, np.array([[x0, y0], [x1, y1]]) - 0.5) + 0.5
    box = np.array([*ends.min(axis=0), *ends.max(axis=0)])
    offset = np.rint(corner_xy - box[:2])
    to_scene[:, 2] += offset
    box += np.tile(offset, 2)
    points, visibility = mapped(to_scene, source.keypoints_xy[person]), source.visibility[person]
    weights = persons.keypoint_weights[person]
    if mirrored:
        order = source.data.skeleton.flip_order
        points, visibility, weights = points[order], visibility[order], weights[order]
    image_wh = np.array(image_hw[::-1])
    inside = ((points >= -0.5) & (points <= image_wh - 0.5)).all(axis=1)
    clipped = np.clip(box, 0, np.tile(image_wh, 2))
    share = np.prod(clipped[2:] - clipped[:2]) / np.prod(box[2:] - box[:2])
    return Layer(
        person,
        cutout,
        to_scene,
        points,
        np.where(inside, visibility, 0),
        clipped,
        float(persons.area[person] * np.prod(zoom_xy) * share),
        float(source.heights[person] * zoom),
        int((source.visibility[person] > 0).sum()),
        weights,
    )


def adaptation(own: Light, photo: Light) -> tuple[float, np.ndarray]:
    """Returns the factor and the (3,) summand that adapt pixels of a photo to the light of another one."""
    gain = float(np.clip((photo.contrast / max(own.contrast, 1.0)) ** _ADAPTATION, 0.8, 1.25))
    shift = np.clip(_ADAPTATION * (photo.mean_rgb - own.mean_rgb), -35, 35)
    return gain, own.mean_rgb * (1 - gain) + shift


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1] and one[2] <= other[3] and other[2] <= one[3]


def occlusion_of(place: int, layers: Sequence[Layer], image_hw: Sequence[int]) -> tuple[np.ndarray, bool]:
    """Returns how later layers, which are in front, cover the layer at `place`.

    People of the background photo do not cover each other: the labels of the photo tell what is hidden there.

    Args:
        place: Index of the layer.
        layers: The people, from back to front.
        image_hw: Height and width of the scene.

    Returns:
        A (K,) mask of the hidden joints, with most of the 3x3 pixels around them covered, and whether enough pixels
        and joints of the person are visible.
    """
    layer, covered = layers[place], False
    points, count, (height, width) = layer.points, len(layer.cutout.samples_xy), image_hw
    for later in layers[place + 1 :]:
        if (layer.moved or later.moved) and _meet(layer.points_extent, later.extent):
            covered = later.covers(points) | covered
    if covered is False:
        if not layer.moved:
            return np.zeros(len(layer.visibility), bool), True
        covered = np.zeros(len(points), bool)
    hidden = covered[count:].reshape(-1, len(_NEAR)).sum(axis=1) > len(_NEAR) / 2
    x, y = points[:count].T
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    pixels = np.count_nonzero(inside & ~covered[:count]) >= _LEAST_SHOWN * count
    joints = np.count_nonzero((layer.visibility > 0) & ~hidden) >= min(_LEAST_JOINTS, layer.labelled)
    return hidden, bool(pixels and joints)
