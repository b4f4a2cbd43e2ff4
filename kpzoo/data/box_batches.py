"""Training batches for person detectors: photos with boxes and random scaling, cropping, mosaics and colour changes.

Batch n depends only on the seed and n, so that a resumed training uses the same batches as an uninterrupted one.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from kpzoo.boxes import PAD
from kpzoo.errors import UserError

MIN_SIDE = 4  # pixels; smaller people are ignored
MIN_VISIBLE = 0.25  # boxes with a smaller share of their area inside the image are ignored
SCALES = (0.5, 1.6)  # longer side of the scaled photo, divided by that of the training image
TILE_SCALES = (0.35, 1.0)  # the same for each of the four photos of a mosaic
STRETCH = 0.1  # maximum change of the aspect ratio
MAX_PEOPLE, MAX_IGNORED = 64, 32  # per image; the smallest boxes are dropped


@dataclass(frozen=True)
class Photo:
    """A photo: file, boxes (N, 4) x0, y0, x1, y1 in pixels, (N,) weights of the boxes, and ignored regions (M, 4)."""

    path: str
    boxes: np.ndarray
    weights: np.ndarray
    ignored: np.ndarray


def load_photos(annotations: str | Path, images: str | Path) -> list[Photo]:
    """Reads a COCO file of person boxes.

    Annotations with `iscrowd` are ignored regions. `score` is the weight of a box, by default 1.
    """
    content = json.loads(Path(annotations).read_text("utf-8-sig"))
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    photos = []
    for image in content["images"]:
        people = [a for a in by_image[image["id"]] if not a.get("iscrowd")]
        crowds = [a for a in by_image[image["id"]] if a.get("iscrowd")]
        weights = np.array([a.get("score", 1.0) for a in people], np.float32)
        photos.append(Photo(str(Path(images) / image["file_name"]), _corners(people), weights, _corners(crowds)))
    missing = [photo.path for photo in photos if not Path(photo.path).is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(photos)} images of {annotations} are missing, such as {missing[0]!r}.")
    return photos


def _corners(annotations: list[dict]) -> np.ndarray:
    boxes = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def read_rgb(path: str) -> np.ndarray:
    """Returns (H, W, 3) uint8."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"{path!r} is not an image file that OpenCV can read.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class BoxBatches:
    """Batches of training images with person boxes.

    Args:
        sources: (photos, share) of each source. The shares are normalised to a sum of 1.
        image_hw: (height, width) of the training images.
        batch_size: Number of images in a batch.
        mosaic: Share of images that are mosaics of four photos.
        seed: Random seed.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[Photo], float]],
        image_hw: tuple[int, int],
        batch_size: int,
        mosaic: float = 0.5,
        seed: int = 0,
    ):
        self.photos = [photos for photos, _ in sources]
        shares = np.array([share for _, share in sources], float)
        self.shares = shares / shares.sum()
        self.image_hw, self.batch_size, self.mosaic, self.seed = tuple(image_hw), batch_size, mosaic, seed

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns images (B, H, W, 3) uint8, boxes (B, G, 4), box_weights (B, G), ignored (B, I, 4)."""
        made = [self.picture(int(step) * self.batch_size + place) for place in range(self.batch_size)]
        return tuple(np.stack(column) for column in zip(*made, strict=True))

    def picture(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns one image and its boxes as in `batch`. `index` counts the images of all batches."""
        rng = np.random.default_rng((self.seed, index))
        height, width = self.image_hw
        canvas = np.full((height, width, 3), PAD, np.uint8)
        people, ignored = [np.zeros((0, 5), np.float32)], [np.zeros((0, 4), np.float32)]
        if rng.random() < self.mosaic:
            cut_y, cut_x = (int(side * rng.uniform(0.35, 0.65)) for side in (height, width))
            rows, columns = ((0, cut_y), (cut_y, height)), ((0, cut_x), (cut_x, width))
            tiles = [(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns]
            scales = TILE_SCALES
        else:
            tiles, scales = [(0, 0, height, width)], SCALES
        for tile in tiles:
            photo = self._draw(rng)
            found = _paste(canvas, tile, photo, max(height, width) * _log_uniform(rng, *scales), rng)
            people.append(found[0])
            ignored.append(found[1])
        people, ignored = np.concatenate(people), np.concatenate(ignored)
        if rng.random() < 0.5:
            canvas = canvas[:, ::-1]
            people[:, [0, 2]], ignored[:, [0, 2]] = width - people[:, [2, 0]], width - ignored[:, [2, 0]]
        people = _largest(people, MAX_PEOPLE)
        return _colored(canvas, rng), people[:, :4], people[:, 4], _largest(ignored, MAX_IGNORED)

    def _draw(self, rng: np.random.Generator) -> Photo:
        photos = self.photos[rng.choice(len(self.photos), p=self.shares)]
        return photos[rng.integers(len(photos))]

    def dataset(self, start: int, stop: int) -> tf.data.Dataset:
        """Returns batches `start` … `stop` - 1 as dicts."""
        height, width = self.image_hw
        shapes = ((height, width, 3), (MAX_PEOPLE, 4), (MAX_PEOPLE,), (MAX_IGNORED, 4))
        names = ("image", "boxes", "box_weights", "ignored")

        def make(step):
            kinds = [tf.uint8, tf.float32, tf.float32, tf.float32]
            arrays = tf.numpy_function(self.batch, [step], kinds, stateful=False)
            for array, shape in zip(arrays, shapes, strict=True):
                array.set_shape((self.batch_size, *shape))
            return {name: tf.cast(array, tf.float32) for name, array in zip(names, arrays, strict=True)}

        return tf.data.Dataset.range(start, stop).map(make, num_parallel_calls=2, deterministic=True).prefetch(4)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _paste(canvas, tile, photo: Photo, long_side: float, rng: np.random.Generator):
    """Draws a photo with a longer side of `long_side` pixels at a random position of the tile.

    Returns:
        (N, 5) boxes and weights of the people, and (M, 4) ignored regions, in pixels of the canvas.
    """
    y0, x0, y1, x1 = tile
    image = read_rgb(photo.path)
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    stretch = np.sqrt(rng.uniform(1 - STRETCH, 1 + STRETCH))
    size = max(1, round(width * scale * stretch)), max(1, round(height * scale / stretch))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, up = x0 + int(round(rng.random() * (x1 - x0 - size[0]))), y0 + int(round(rng.random() * (y1 - y0 - size[1])))
    a, b, c, d = max(x0, left), max(y0, up), min(x1, left + size[0]), min(y1, up + size[1])
    canvas[b:d, a:c] = small[b - up : d - up, a - left : c - left]
    moves = np.float32([size[0] / width, size[1] / height] * 2), np.float32([left, up] * 2)
    window = np.float32([a, b, c, d])
    people, kept, cut = _clipped(photo.boxes * moves[0] + moves[1], window)
    ignored, some, _ = _clipped(photo.ignored * moves[0] + moves[1], window, MIN_SIDE, 0.0)
    rows = np.concatenate([people[kept], photo.weights[kept, None]], axis=1)
    return rows, np.concatenate([people[cut], ignored[some]])


def _clipped(boxes, window, min_side=MIN_SIDE, min_visible=MIN_VISIBLE):
    """Returns boxes clipped to the window, a mask of boxes for training, and a mask of boxes to ignore."""
    low, high = window[:2], window[2:]
    inner = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
    size = inner[:, 2:] - inner[:, :2]
    visible = size.prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-6)
    seen = (size > 0).all(1)
    kept = seen & (size >= min_side).all(1) & (visible >= min_visible)
    return inner, kept, seen & ~kept


def _largest(rows: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` rows with the largest boxes, padded with zeros."""
    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    rows = rows[np.argsort(-areas, kind="stable")[:count]]
    return np.pad(rows, ((0, count - len(rows)), (0, 0))).astype(np.float32)


def _colored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast and saturation at random; a tenth of the images become grey."""
    gain, offset, saturation = rng.uniform(0.7, 1.3), rng.uniform(-25, 25), rng.uniform(0.5, 1.5)
    if rng.random() < 0.1:
        saturation = 0.0
    grey = np.float32([[0.299, 0.587, 0.114]] * 3)
    mix = gain * (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * grey)
    mix = np.concatenate([mix, np.full((3, 1), offset, np.float32)], axis=1)
    return cv2.transform(np.ascontiguousarray(image), mix)  # saturates at 0 and 255
