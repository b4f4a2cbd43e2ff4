"""Subsets of a data set by a rule, such as the images in which people overlap."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpzoo import nms
from kpzoo.data.coco import training_persons
from kpzoo.data.files import PoseData
from kpzoo.data.json_file import read_json
from kpzoo.data.repair import check_unused, write_linked
from kpzoo.errors import UserError


class Subset(NamedTuple):
    """What a subset holds: its images, those of the data set, and its labelled people."""

    num_images: int
    of_images: int
    num_people: int


def crowded_images(persons: Mapping[str, np.ndarray], min_iou: float) -> np.ndarray:
    """Returns the sorted ids of the images with two people whose boxes overlap by `min_iou` or more.

    Args:
        persons: What `coco.training_persons` returns: no crowds, with a box and a keypoint in the image.
        min_iou: IoU of two boxes.
    """
    ids, boxes = persons["image_ids"], persons["boxes_image_xywh"]
    kept = []
    for image_id in np.unique(ids):
        ious = nms.iou_matrix(boxes[ids == image_id], boxes[ids == image_id])
        if (np.triu(ious, 1) >= min_iou).any() and len(ious) > 1:
            kept.append(image_id)
    return np.array(kept, ids.dtype)


def write_subset(data: PoseData, folder: str | Path, *, min_iou: float) -> tuple[Path, Subset]:
    """Writes the annotations of the images with two labelled people that overlap, and a link to the image folder.

    Labelled people are those that can be trained on: no crowds, with a box and a keypoint in the image. All annotations
    of these images are kept as they are, also of people without labels.

    Args:
        data: Data set, see `kpzoo.data.load`.
        folder: Output folder: `annotations/NAME.json` and `images/NAME`, with the name of the data set's file.
        min_iou: IoU of the boxes of two labelled people.

    Returns:
        The annotation file, and the numbers of images and people.

    Raises:
        UserError: If there is no such image, or the files exist already or cannot be written.
    """
    path = Path(data.annotations.path)
    check_unused(folder, path)
    persons = training_persons(data.annotations)
    kept = crowded_images(persons, min_iou)
    if not len(kept):
        raise UserError(f"{path} has no image with two labelled people whose boxes overlap by {min_iou} or more.")
    content, wanted = read_json(path), set(kept.tolist())
    rows = {name: content[name] for name in ("images", "annotations")}
    content["images"] = [row for row in rows["images"] if row["id"] in wanted]
    content["annotations"] = [row for row in rows["annotations"] if row["image_id"] in wanted]
    info = content.get("info") if isinstance(content.get("info"), dict) else {}
    content["info"] = {**info, "subset": f"images with two labelled people whose boxes overlap by {min_iou} or more"}
    num_people = int(np.isin(persons["image_ids"], kept).sum())
    found = Subset(len(content["images"]), len(rows["images"]), num_people)
    return write_linked(folder, path, content, data.image_folder), found
