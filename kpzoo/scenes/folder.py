"""COCO-format folders of generated scenes, which are written atomically and never replace other data."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from kpzoo.errors import UserError
from kpzoo.files import written_whole
from kpzoo.progress import Progress
from kpzoo.skeletons import SKELETONS, Skeleton


def paths(folder: str | Path, split: str) -> tuple[Path, Path]:
    """Returns the image folder and the annotation file of a split."""
    folder = Path(folder).expanduser()
    return folder / "images" / split, folder / "annotations" / f"person_keypoints_{split}.json"


def write(
    folder: str | Path,
    num_images: int,
    draw: Callable[[Sequence[int]], tuple[np.ndarray, list[dict]]],
    skeleton: Skeleton,
    info: dict,
    *,
    seed: int,
    split: str,
    overwrite: bool = False,
    qualities: tuple[int, int] = (60, 97),
    progress: bool = False,
) -> Path:
    """Writes scenes in COCO format: `images/<split>/*.jpg` and `annotations/person_keypoints_<split>.json`.

    Args:
        folder: Output folder, which may contain other splits.
        num_images: Number of images.
        draw: Function of a seed (a sequence of integers) that returns an image (H, W, 3) uint8 RGB and its annotations
            without ids.
        skeleton: Skeleton of the annotations.
        info: The `info` of the annotation file. Its `generator`, a name and a version, determines which splits may be
            overwritten.
        seed: Seed of the scenes.
        split: Name of the split, such as `train` or `val`.
        overwrite: Whether to replace a split that the same generator has written.
        qualities: Minimum JPEG quality, and maximum quality plus 1.
        progress: Whether to print progress on stderr.

    Returns:
        The path of the annotation file.

    Raises:
        UserError: If an argument is invalid, the split exists, or the files cannot be written.
    """
    if num_images < 1:
        raise UserError(f"A data set needs at least one image. Received: {num_images}.")
    if seed < 0:
        raise UserError(f"`seed=` must be 0 or more. Received: {seed}.")
    if not split or Path(split).name != split:
        raise UserError(f"`split=` must be a plain name such as 'train'. Received: {split!r}.")
    images, annotations = paths(folder, split)
    _check_target(images, annotations, overwrite, info["generator"].split()[0])
    table = content({**info, "seed": seed, "split": split}, skeleton)
    bar = Progress(num_images, "images", "generated", shown=progress)
    with written_whole(annotations) as written, written_whole(images) as pictures, bar:
        pictures.mkdir()
        for index in range(num_images):
            source = (seed, zlib.crc32(split.encode()), index)
            image, persons = draw(source)
            name, (height, width) = f"{index + 1:012d}.jpg", image.shape[:2]
            (pictures / name).write_bytes(_jpeg(image, source, qualities))
            table["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for number, person in enumerate(persons):
                table["annotations"].append({"id": 100 * (index + 1) + number, "image_id": index + 1, **person})
            bar.step()
        written.write_text(json.dumps(table), "utf-8")
    return annotations


def _check_target(images: Path, annotations: Path, overwrite: bool, maker: str) -> None:
    """Raises a `UserError` if the split exists and may not be overwritten."""
    if not annotations.exists() and not (images.exists() and any(images.iterdir())):
        return
    if not overwrite:
        raise UserError(
            f"{images} or {annotations} exists already. Choose another folder or split.",
            "Or replace it with `overwrite=True`.",
        )
    try:
        generator = str(json.loads(annotations.read_text("utf-8"))["info"]["generator"])
    except (OSError, ValueError, KeyError, TypeError):
        generator = "an unknown program"
    if generator.split()[:1] != [maker]:
        raise UserError(f"{annotations} was written by {generator}, not by {maker}, so it is not overwritten.")


def content(info: dict, skeleton: Skeleton) -> dict:
    """Returns the annotation file without images and persons."""
    person = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.keypoints),
        "skeleton": (skeleton.link_indices + 1).tolist(),
    }
    if skeleton not in SKELETONS.values():  # what the names alone would not tell
        person["sigmas"] = list(skeleton.sigmas)
        if skeleton.sides_known:
            person["flip_pairs"] = [list(pair) for pair in skeleton.flip_pairs]
    return {"info": info, "licenses": [], "categories": [person], "images": [], "annotations": []}


def _jpeg(image: np.ndarray, seed: Sequence[int], qualities: tuple[int, int]) -> bytes:
    quality = int(np.random.default_rng((*seed, 1)).integers(*qualities))
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
