"""Packs: the persons of a data set as TFRecords of small pictures, read one behind the other, for training.

PACK/pack.json               what it holds; the sizes and checksums of all shards, and one of its own text
PACK/persons-00000-of-00008.tfrecord …   one `tf.train.Example` a person, of these features:

image            a JPEG of the window of the picture that training may look into, at the resolution that it can use
window_to_image  (4,) float32: x and y of a pixel of the window are these times the first two, plus the last two
box              (4,) float32: the person's box in pixels of the whole picture
keypoints        (1 + neighbours, K, 3) float32: x, y of the whole picture and visibility, of the person and of those
                 whose box centres are nearest, 0 where there are none
annotation_id    () int64: whom the record is of
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
NEIGHBOURS = 4  # of each person: enough for models of five instances

# An epoch's order: shards in random order, this many of them read in turn, and what they give mixed in blocks.
_READ_TOGETHER = 8
_BLOCK = 2048
_PIECE = 1 << 24  # bytes read at a time for a checksum


class Shard(NamedTuple):
    """One file of a pack: its name, its number of records, its bytes and their CRC-32."""

    name: str
    num_records: int
    num_bytes: int
    crc32: int


@dataclass(frozen=True)
class Pack:
    """What is known of a pack from its index.

    Args:
        folder: Where it lies: a folder, or an address that TensorFlow reads, such as "gs://bucket/pack".
        annotations_name: The file that it was made of.
        skeleton: Names the K keypoints.
        image_hw: (height, width) of the largest crops that it is made for.
        max_scale: The largest factor of augmentation on a view's size that its windows have room for.
        neighbours: How many neighbours each record has room for.
        shards: Its files.
        crc32: Tells this pack from others.
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
            f"{self.folder!r} is a pack, which is to train on: it holds crops and no annotations. Use the folder of "
            "pictures and annotations for evaluation, pictures of the data and composed crowds.",
            "Name it with --val-data.",
        )

    image_folder = annotations


def checksum(content: dict) -> int:
    """Returns the CRC-32 of an index, without the entry that holds it."""
    return zlib.crc32(json.dumps({**content, "crc32": None}, sort_keys=True).encode())


def open_pack(root: str | Path, split: str | None = None) -> Pack:
    """Returns a pack after checking its index, and that all shards are there in their full size.

    Args:
        root: The folder of the pack, or an address that TensorFlow reads.
        split: Part of the name of the annotations that the pack must be made of.
    """
    folder = str(root) if "://" in str(root) else str(Path(root).expanduser())
    pack = _parsed(folder)
    if split and split not in pack.annotations_name:
        raise UserError(
            f"{folder!r} is a pack of {pack.annotations_name!r} to train on; it has no part {split!r}. "
            "Validation needs a folder of pictures and annotations.",
            "Name it with --val-data FOLDER, or pass --val-split '' for none.",
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
    """Refuses a pack with a byte that is not as it was written, by reading all of them."""

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
def told_by_shard(data) -> Iterator[None]:
    """Lets what is read of a damaged pack within end with the name of the shard, which TensorFlow does not tell."""
    try:
        yield
    except tf.errors.DataLossError:
        if isinstance(data, Pack):
            check_shards(data)
        raise


def check_use(pack: Pack, preset, augment: Augment | None) -> None:
    """Refuses a model or an augmentation that needs more of the pictures than the pack has kept."""
    (height, width), (most, _) = preset.image_hw, pack.image_hw
    if height > most or height * pack.image_hw[1] != width * most:
        raise UserError(
            f"The pack {pack.folder!r} is made for crops of {most}x{pack.image_hw[1]} or smaller ones of that shape, "
            f"model {preset.name!r} takes {height}x{width}. Make another of that size with `kpzoo data pack`."
        )
    if preset.num_instances > 1 + pack.neighbours:
        raise UserError(
            f"The pack {pack.folder!r} holds {pack.neighbours} neighbours of each person, model {preset.name!r} asks "
            f"for {preset.num_instances - 1}. Train on the folder that it was made of."
        )
    if augment and augment.scale[1] > pack.max_scale + 1e-6:
        raise UserError(
            f"The windows of the pack {pack.folder!r} have room for views grown by {pack.max_scale}. "
            f"Received: an augmentation of up to {augment.scale[1]}. Train on the folder that it was made of."
        )


def records(pack: Pack, seed: int, start: int) -> tf.data.Dataset:
    """Returns the endless stream of serialized records, each person once an epoch, in another order each time.

    The shards are read from their beginnings to their ends. The order follows from the seed alone, so that the stream
    from `start` on is what the whole stream has there; records before it in its epoch are read and dropped.
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
    }
    return tf.io.parse_single_example(serialized, features)


def crop_to_window(window_to_image: tf.Tensor, crop_to_image: tf.Tensor) -> tf.Tensor:
    """Returns the (2, 3) map from crop pixels to pixels of the window."""
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
            f"{folder!r} is a pack in version {content.get('version')!r} of the format. This kpzoo reads version "
            f"{VERSION}: make it anew with `kpzoo data pack`, or use the kpzoo that it was made with."
        )
    try:
        if content["crc32"] != checksum(content):
            raise UserError("its checksum differs")
        shards = tuple(Shard(**shard) for shard in content["shards"])
        if any(Path(shard.name).name != shard.name for shard in shards):
            raise UserError("its shards lie outside of it")
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


_AGAIN = "Copy the pack anew, or make it anew with `kpzoo data pack`."


def _damaged(path: str, how: str) -> UserError:
    return UserError(f"{path!r} of a pack is damaged: {how}. {_AGAIN}")


def _reason(error: tf.errors.OpError) -> str:
    return error.message.split("; ")[-1]
