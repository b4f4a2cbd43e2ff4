"""Packs: the training crops of a data set in TFRecord files, which are read sequentially.

PACK/pack.json                           index with sizes and checksums of all shards, and a checksum of the index
PACK/persons-00000-of-00008.tfrecord …   one `tf.train.Example` per person, with these features:

image            JPEG of the part of the image that training can use ("window"), at the resolution that it can use
window_to_image  (4,) float32: scale x, scale y, offset x, offset y from window pixels to image pixels
box              (4,) float32: box of the person in image pixels
keypoints        (1 + neighbours, K, 3) float32: x, y in image pixels and visibility, of the person and of the persons
                 with the nearest box centres, zeros if there are fewer
keypoint_weights (1 + neighbours, K) float32: weights of the keypoints in the loss; 1 in packs without them
annotation_id    () int64: id of the annotation
"""

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from kpzoo.data.augment import Augment
from kpzoo.data.files import PACK_INDEX as INDEX
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton

FORMAT, VERSION = "kpzoo pack", 1
NEIGHBOURS = 4  # per person; enough for models with five instances

# Order of an epoch: the shards are shuffled, several of them are interleaved, and the records are shuffled in blocks.
_READ_TOGETHER = 8
_BLOCK = 2048
_PIECE = 1 << 24  # bytes per read for a checksum


class Shard(NamedTuple):
    """A file of a pack: name, number of records, size and CRC-32."""

    name: str
    num_records: int
    num_bytes: int
    crc32: int


@dataclass(frozen=True)
class Pack:
    """The index of a pack.

    Args:
        folder: Folder, or a URL that TensorFlow can read, such as "gs://bucket/pack".
        annotations_name: Name of the annotation file of the data set.
        skeleton: The K keypoints.
        image_hw: (height, width) of the largest crops that can be made of it.
        max_scale: Largest scale augmentation that fits into its windows.
        neighbours: Number of neighbours per record.
        shards: Files of the pack.
        crc32: Checksum of the index.
    """

    folder: str
    annotations_name: str
    skeleton: Skeleton
    image_hw: tuple[int, int]
    max_scale: float
    neighbours: int
    shards: tuple[Shard, ...]
    crc32: int

    @property
    def num_persons(self) -> int:
        return sum(shard.num_records for shard in self.shards)

    @property
    def annotations(self):
        raise UserError(
            f"{self.folder!r} is a pack, which contains training crops but no annotations. Evaluation, contact sheets "
            "and composed crowds need the original data set.",
            "For evaluation pass it as --val-data.",
        )

    image_folder = annotations


def checksum(content: dict) -> int:
    """Returns the CRC-32 of an index without its `crc32` entry."""
    return zlib.crc32(json.dumps({**content, "crc32": None}, sort_keys=True).encode())


def open_pack(root: str | Path, split: str | None = None) -> Pack:
    """Opens a pack and checks its index and the sizes of its shards.

    Args:
        root: Folder of the pack, or a URL that TensorFlow can read.
        split: Part of the name of the annotation file, to verify.

    Raises:
        UserError: If there is no pack, it is damaged, or it is of another split or version.
    """
    folder = str(root) if "://" in str(root) else str(Path(root).expanduser())
    pack = _parsed(folder)
    if split and split not in pack.annotations_name:
        raise UserError(
            f"{folder!r} is a pack of {pack.annotations_name!r}, which has no split {split!r}. Validation needs a "
            "folder of images and annotations.",
            "Pass it as --val-data FOLDER, or use --val-split '' for none.",
        )
    for shard in pack.shards:
        path = shard_path(pack, shard)
        try:
            found = tf.io.gfile.stat(path).length
        except tf.errors.OpError as error:
            raise UserError(f"The shard {path!r} of a pack cannot be read: {_reason(error)}. {_AGAIN}") from None
        if found != shard.num_bytes:
            raise _damaged(path, f"it has {found} bytes instead of {shard.num_bytes}")
    return pack


def check_shards(pack: Pack) -> None:
    """Reads all shards and raises a `UserError` if a checksum differs."""

    def outcome(shard: Shard) -> str | None:
        path = shard_path(pack, shard)
        try:
            return None if file_crc32(path) == shard.crc32 else "its checksum differs"
        except tf.errors.OpError as error:
            return _reason(error)

    with ThreadPoolExecutor(cpu_count()) as pool:
        for shard, wrong in zip(pack.shards, pool.map(outcome, pack.shards), strict=True):
            if wrong:
                raise _damaged(shard_path(pack, shard), wrong)


@contextmanager
def naming_damaged_shard(*sets) -> Iterator[None]:
    """Context manager that names the damaged shard if TensorFlow fails to read one of the packs among the data sets."""
    try:
        yield
    except tf.errors.DataLossError:
        for data in sets:
            if isinstance(data, Pack):
                check_shards(data)
        raise


def check_use(pack: Pack, preset, augment: Augment | None) -> None:
    """Raises a `UserError` if a model or an augmentation needs larger windows or more neighbours than the pack has."""
    (height, width), (most, _) = preset.image_hw, pack.image_hw
    if height > most or height * pack.image_hw[1] != width * most:
        raise UserError(
            f"The pack {pack.folder!r} is for crops of {most}x{pack.image_hw[1]} and smaller crops of that aspect. "
            f"Received: model {preset.name!r} with {height}x{width}. Make a pack of that size with `kpzoo data pack`."
        )
    if preset.num_instances > 1 + pack.neighbours:
        raise UserError(
            f"The pack {pack.folder!r} has {pack.neighbours} neighbours per person, but model {preset.name!r} needs "
            f"{preset.num_instances - 1}. Train on the original data set."
        )
    if augment and augment.scale[1] > pack.max_scale + 1e-6:
        raise UserError(
            f"The windows of the pack {pack.folder!r} allow a scale of up to {pack.max_scale}. "
            f"Received: an augmentation of up to {augment.scale[1]}. Train on the original data set."
        )


def records(pack: Pack, seed: int, start: int) -> tf.data.Dataset:
    """Returns an endless dataset of serialized records. Each epoch contains every person once, in another order.

    The shards are read sequentially. The order depends only on the seed.

    Args:
        pack: The pack.
        seed: Seed of the order.
        start: Number of records to skip. Earlier records of the same epoch are read and dropped.
    """
    paths = tf.constant([shard_path(pack, shard) for shard in pack.shards if shard.num_records])
    first, place = divmod(start, pack.num_persons)

    def epoch_records(epoch):
        epoch_seed = tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)

        def mixed(block, serialized):
            return tf.random.experimental.stateless_shuffle(serialized, tf.random.fold_in(epoch_seed, block + 1))

        order = tf.random.experimental.stateless_shuffle(paths, epoch_seed)
        in_turn = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(_READ_TOGETHER, len(paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return in_turn.batch(_BLOCK).enumerate().map(mixed).unbatch()

    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_records).skip(place)


def parsed(pack: Pack, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the features of a record, without its `annotation_id`."""
    shape = (1 + pack.neighbours, pack.skeleton.num_keypoints, 3)
    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "window_to_image": tf.io.FixedLenFeature((4,), tf.float32),
        "box": tf.io.FixedLenFeature((4,), tf.float32),
        "keypoints": tf.io.FixedLenFeature(shape, tf.float32),
        "keypoint_weights": tf.io.FixedLenFeature(shape[:2], tf.float32, np.ones(shape[:2], np.float32)),
    }
    return tf.io.parse_single_example(serialized, features)


def crop_to_window(window_to_image: tf.Tensor, crop_to_image: tf.Tensor) -> tf.Tensor:
    """Returns the (2, 3) map from crop pixels to window pixels."""
    step, offset = window_to_image[:2, None], window_to_image[2:, None]
    return (crop_to_image - tf.concat([tf.zeros((2, 2)), offset], axis=1)) / step


def shard_path(pack: Pack, shard: Shard) -> str:
    return f"{pack.folder.rstrip('/')}/{shard.name}"


def file_crc32(path: str) -> int:
    """Returns the CRC-32 of a file."""
    crc = 0
    for piece in _pieces(path):
        crc = zlib.crc32(piece, crc)
    return crc


def _pieces(path: str) -> Iterator[bytes]:
    with tf.io.gfile.GFile(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _parsed(folder: str) -> Pack:
    path = f"{folder.rstrip('/')}/{INDEX}"
    try:
        content = json.loads(b"".join(_pieces(path)))
    except tf.errors.OpError as error:
        raise UserError(f"There is no pack at {folder!r}: {INDEX!r} in it: {_reason(error)}.") from None
    except ValueError as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path!r} is not the index of a pack. Make one with `kpzoo data pack`.")
    if content.get("version") != VERSION:
        raise UserError(
            f"{folder!r} is a pack in version {content.get('version')!r} of the format. Expected: version {VERSION}. "
            "Make a new one with `kpzoo data pack`, or use the version of kpzoo that wrote it."
        )
    try:
        if content["crc32"] != checksum(content):
            raise UserError("its checksum differs")
        shards = tuple(Shard(**shard) for shard in content["shards"])
        if any(Path(shard.name).name != shard.name for shard in shards):
            raise UserError("its shards are in another folder")
        names = ("annotations_name", "max_scale", "neighbours", "crc32")
        return Pack(
            folder,
            skeleton=Skeleton.from_config(content["skeleton"]),
            image_hw=tuple(content["image_hw"]),
            shards=shards,
            **{name: content[name] for name in names},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{error}") from None


_AGAIN = "Copy the pack again, or make a new one with `kpzoo data pack`."


def _damaged(path: str, how: str) -> UserError:
    return UserError(f"{path!r} of a pack is damaged: {how}. {_AGAIN}")


def _reason(error: tf.errors.OpError) -> str:
    return error.message.split("; ")[-1]
