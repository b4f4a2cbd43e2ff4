"""Writing of packs, see `kpzoo.data.pack`."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

import kpzoo
from kpzoo import geometry
from kpzoo.data import files, pack
from kpzoo.data.augment import AUGMENTS, HALF_BODY_GROWTH
from kpzoo.data.batches import nearest_persons
from kpzoo.data.coco import training_persons
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.files import aside, hold, remove, take_name
from kpzoo.progress import Progress
from kpzoo.skeletons import Skeleton

QUALITY = 92  # JPEG quality
MAX_SIDE = 4096  # of crops, in pixels
PERSONS_PER_SHARD = 4096  # about 150 MB

# Window pixels per crop pixel at scale 1. Augmented views are up to 0.65 times smaller, and half bodies are smaller
# still; with a higher resolution, a crop at scale 1 would skip pixels.
DETAIL = 1.5
MAX_SCALE = max(augment.scale[1] for augment in AUGMENTS.values())

_NEARLY_WHOLE = 0.9  # above this factor, windows are not resized
_LOCK = ".lock"
_AT_ONCE = 64  # images that are decoded in parallel before they are written


def write_pack(
    data: PoseData,
    folder: str | Path,
    *,
    image_hw: tuple[int, int] = (256, 192),
    num_shards: int | None = None,
    quality: int = QUALITY,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes a pack of all persons that can be trained on, atomically.

    Args:
        data: Data set, see `kpzoo.data.load`.
        folder: Folder of the pack.
        image_hw: (height, width) of the largest crops. Smaller crops of the same aspect are possible.
        num_shards: Number of files. Defaults to one per `PERSONS_PER_SHARD` persons.
        quality: JPEG quality, 1 to 100.
        overwrite: Whether to replace an existing pack.
        progress: Whether to print progress on stderr.

    Returns:
        The folder.

    Raises:
        UserError: If an argument is invalid, the folder exists or cannot be written, or there is no person to train on.
    """
    folder = _target(folder, overwrite)
    if not 1 <= quality <= 100:
        raise UserError(f"`quality=` must be 1 to 100. Received: {quality}.")
    if not 1 <= min(image_hw) <= max(image_hw) <= MAX_SIDE:
        raise UserError(f"`image_hw=` must be (height, width) of up to {MAX_SIDE} pixels. Received: {image_hw}.")
    persons = training_persons(data.annotations)
    count = len(persons["index"])
    num_shards = num_shards or -(-count // PERSONS_PER_SHARD)
    if not 1 <= num_shards <= count:
        raise UserError(f"The number of shards must be 1 to {count}, the number of persons. Received: {num_shards}.")
    with _part_of(folder) as part:
        _target(folder, overwrite)  # another process may have written it
        written = _write_shards(data, persons, part, image_hw, num_shards, quality, progress)
        if not sum(shard.num_records for shard in written):
            raise UserError(f"No labelled person with a readable image in {str(data.image_folder)!r}.")
        content = {
            "format": pack.FORMAT,
            "version": pack.VERSION,
            "kpzoo": kpzoo.__version__,
            "annotations_name": Path(data.annotations.path).name,
            "annotations_crc32": data.crc32,
            "skeleton": data.skeleton.to_config(),
            "image_hw": list(image_hw),
            "max_scale": MAX_SCALE,
            "detail": DETAIL,
            "quality": quality,
            "neighbours": pack.NEIGHBOURS,
            "num_persons": sum(shard.num_records for shard in written),
            "left_out": count - sum(shard.num_records for shard in written),
            "shards": [shard._asdict() for shard in written],
        }
        content["crc32"] = pack.checksum(json.loads(json.dumps(content)))
        with (part / pack.INDEX).open("w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1))
            file.flush()
            os.fsync(file.fileno())
    return folder


def _target(folder: str | Path, overwrite: bool) -> Path:
    if "://" in str(folder):
        raise UserError(f"A pack must be written to a local folder. Received: {str(folder)!r}. Copy it afterwards.")
    folder = Path(folder).expanduser().resolve()  # "." has no name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not files.is_pack(folder):
            raise UserError(f"{str(folder)!r} exists and is not a pack. Choose another folder.")
        if not overwrite:
            raise UserError(
                f"The pack {str(folder)!r} exists already. Choose another folder.",
                "Or replace it with `overwrite=True`.",
            )
    return folder


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """Context manager: yields an empty temporary folder that is renamed to `folder` at the end.

    Files of an interrupted process are removed, and an old pack that it has renamed is restored.
    """
    part = folder.with_name(f".{folder.name}.part")
    old = aside(part)
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = (part / _LOCK).open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"Cannot write the pack {str(folder)!r}: {error.strerror}. Use another folder.") from None
    with lock:
        if not hold(lock, wait=False):
            raise UserError(f"Another process is writing the pack {str(folder)!r}. Wait for it, or use another folder.")
        try:
            if old.exists() and not folder.exists():
                take_name(old, folder)
            for stale in part.iterdir():
                if stale.name != _LOCK:
                    stale.unlink()
            yield part
            remove(old)
            take_name(part, folder)
            (folder / _LOCK).unlink()
        except (OSError, tf.errors.OpError) as error:
            shutil.rmtree(part, ignore_errors=True)
            reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
            raise UserError(f"Cannot write the pack {str(folder)!r}: {reason}. The disk may be full.") from None
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _write_shards(data, persons, part, image_hw, num_shards, quality, progress) -> list[pack.Shard]:
    """Writes the records to random shards, and returns the shards."""
    rng, count = np.random.default_rng(0), len(persons["index"])
    shard_of, num_records = rng.permutation(count) % num_shards, np.zeros(num_shards, int)
    order = np.argsort(persons["image_ids"], kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(persons["image_ids"][order])) + 1)
    rng.shuffle(groups)
    names = [f"persons-{number:05d}-of-{num_shards:05d}.tfrecord" for number in range(num_shards)]
    make, bad = _record_maker(data, persons, image_hw, quality), {}
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        told = stack.enter_context(Progress(len(groups), "images", "packed", shown=progress))
        writers = [stack.enter_context(tf.io.TFRecordWriter(str(part / name))) for name in names]
        for start in range(0, len(groups), _AT_ONCE):
            chunk = groups[start : start + _AT_ONCE]
            for group, made in zip(chunk, pool.map(make, chunk), strict=True):
                told.step()
                if isinstance(made, files.Undecodable):
                    bad[made.path] = made.reason
                    continue
                for shard, serialized in zip(shard_of[group], made, strict=True):
                    writers[shard].write(serialized)
                    num_records[shard] += 1
    files.report_undecodable(bad)
    return [_shard(part / name, records) for name, records in zip(names, num_records.tolist(), strict=True)]


def _shard(path: Path, num_records: int) -> pack.Shard:
    """Flushes a shard to disk and returns its entry in the index."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return pack.Shard(path.name, num_records, path.stat().st_size, pack.file_crc32(str(path)))


def _record_maker(data: PoseData, persons: dict, image_hw: tuple[int, int], quality: int):
    """Returns a function from the indices of the persons of an image to their records, or to an `Undecodable`."""
    paths = data.image_paths(persons["image_ids"])
    ids = data.annotations.persons.ids[persons["index"]]
    low_xy, high_xy, resolution = windows(persons, data.skeleton, image_hw)
    others = nearest_persons(persons["image_ids"], persons["boxes_image_xywh"], pack.NEIGHBOURS)
    labels = np.concatenate([persons["keypoints_image_xy"], persons["visibility"][..., None]], axis=-1)  # (S, K, 3)

    def record(person: int, image: np.ndarray) -> bytes:
        corner, step, window = _window(image, low_xy[person], high_xy[person], resolution[person])
        rows = np.array([person, *others[person]])
        bgr = cv2.cvtColor(window, cv2.COLOR_RGB2BGR)
        features = {
            "image": _bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()),
            "window_to_image": _floats([*step, *(corner + step / 2 - 0.5)]),  # indices refer to pixel centres
            "box": _floats(persons["boxes_image_xywh"][person]),
            "keypoints": _floats((labels[rows] * (rows >= 0)[:, None, None]).ravel()),
            "keypoint_weights": _floats(persons["keypoint_weights"][rows].ravel()),
            "annotation_id": tf.train.Feature(int64_list=tf.train.Int64List(value=[ids[person]])),
        }
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)

    def make(group: Sequence[int]) -> list[bytes] | files.Undecodable:
        image = files.decode(paths[group[0]])
        if isinstance(image, files.Undecodable):
            return image
        return [record(person, image.numpy()) for person in group]

    return make


def windows(persons: dict, skeleton: Skeleton, image_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the parts of the images that training can use, for all crop rules and augmentations.

    Since views can be rotated by any angle, a window contains the circle around each view, including half bodies.

    Args:
        persons: Result of `training_persons`.
        skeleton: Skeleton with upper and lower body.
        image_hw: (height, width) of the crops.

    Returns:
        (S, 2) minimum and (S, 2) maximum x and y in image pixels, which may be outside the image, and (S,) window
        pixels per image pixel, at most 1.
    """
    boxes = persons["boxes_image_xywh"]
    views = [geometry.views(boxes, rule, image_hw) for rule in geometry.CROP_RULES.values()]
    resolution = np.minimum(DETAIL * image_hw[1] / np.min([view[:, 2] for view in views], axis=0), 1.0)
    resolution[resolution > _NEARLY_WHOLE] = 1.0
    views += _half_views(persons["keypoints_image_xy"], persons["visibility"] > 0, skeleton, image_hw)
    low, high = [], []
    for view in views:
        # Bilinear interpolation needs one more window pixel; the other pixels allow for rounding.
        radius = MAX_SCALE / 2 * np.hypot(view[:, 2], view[:, 3]) + 1 / resolution + 2
        low.append(view[:, :2] - radius[:, None])
        high.append(view[:, :2] + radius[:, None])
    return np.nanmin(low, axis=0), np.nanmax(high, axis=0), resolution


def _half_views(points: np.ndarray, labelled: np.ndarray, skeleton, image_hw: tuple[int, int]) -> list[np.ndarray]:
    """Returns the (S, 4) views of the upper and the lower bodies, see `augment.half_body`; NaN if there is none."""
    views, aspect = [], image_hw[1] / image_hw[0]
    for half in (~skeleton.is_lower, skeleton.is_lower):
        chosen = (labelled & half)[..., None]  # (S, K, 1)
        count = chosen.sum(axis=1)
        extent = np.where(chosen, points, -np.inf).max(axis=1) - np.where(chosen, points, np.inf).min(axis=1)
        width = HALF_BODY_GROWTH * np.maximum(np.maximum(extent[:, 0], extent[:, 1] * aspect), 1.0)
        centre = (points * chosen).sum(axis=1) / np.maximum(count, 1)
        view = np.column_stack([centre, width, width / aspect])
        views.append(np.where(count >= 2, view, np.nan))
    return views


def _window(image: np.ndarray, low_xy: np.ndarray, high_xy: np.ndarray, resolution: float):
    """Returns the (2,) corner of a window, image pixels per window pixel, and the pixels of the window."""
    last = np.array(image.shape[1::-1]) - 1
    low = np.clip(np.floor(low_xy), 0, last).astype(int)
    high = np.clip(np.ceil(high_xy), 0, last).astype(int)
    window = image[low[1] : high[1] + 1, low[0] : high[0] + 1]
    if resolution < 1:
        size = np.maximum(np.rint((high - low + 1) * resolution), 1).astype(int)
        window = cv2.resize(window, size.tolist(), interpolation=cv2.INTER_AREA)
    return low, (high - low + 1) / np.array(window.shape[1::-1]), window


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _floats(values) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
