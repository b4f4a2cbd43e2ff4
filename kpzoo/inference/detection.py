"""Detection of the people in many images or a video, written as one file of person boxes."""

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kpzoo.errors import UserError
from kpzoo.files import check_target, write_json
from kpzoo.inference import detectors
from kpzoo.inference.boxes import AT_ONCE
from kpzoo.inference.pictures import open_source
from kpzoo.progress import Progress

PERSON = 1  # COCO's category


@dataclass(frozen=True)
class Detected:
    """Summary of a run.

    Args:
        num_images: Number of images or frames in which people were searched for.
        num_boxes: Number of boxes found.
        num_broken: Number of frames of a video that could not be read.
        seconds: Duration.
        problems: A line for each image that could not be read.
    """

    num_images: int
    num_boxes: int
    num_broken: int
    seconds: float
    problems: tuple[str, ...]


def detect_to_file(source, path: str | Path, detector=detectors.DEFAULT, *, progress: bool = True) -> Detected:
    """Writes the person boxes of images or a video as JSON in COCO's results format.

    An entry has `image_id`, `file_name`, `category_id` 1, `bbox` [x, y, width, height] in image pixels and `score`,
    best first in an image. `file_name` is the path below the folder that contains all images, or the number of a frame.
    `image_id` is the number in the file name if all file names are numbers, as those of COCO; else images are counted
    from 1. The file is written when all images are done. It replaces an existing file.

    Args:
        source: An image, folder, glob, video, webcam or a list of images, see `kpzoo.predict`.
        path: The JSON file.
        detector: See `kpzoo.detectors.get`.
        progress: Whether to print progress on stderr.

    Raises:
        UserError: If the file cannot be written, or no image can be read.
    """
    path = check_target(path)
    opened, detector, started = open_source(source), detectors.get(detector), time.monotonic()
    rows, problems, num_images = [], [], 0
    unit = "images" if hasattr(opened, "listed") else "frames"
    with Progress(len(opened), unit, shown=progress) as shown, closing(iter(opened)) as pictures:
        while group := list(islice(pictures, AT_ONCE)):
            for picture in group:
                if picture.problem:
                    problems.append(str(picture.problem))
                    shown.say(f"kpzoo: {picture.problem}")
                    shown.step()
            readable = [picture for picture in group if not picture.problem]
            found = detector.detect([one.image for one in readable], [one.key for one in readable])
            for picture, boxes_xywh, scores in zip(readable, *found, strict=True):
                rows += _entries(picture, boxes_xywh, scores)
                shown.step()
            num_images += len(readable)
    if problems and not num_images:
        raise UserError(f"None of the {len(problems)} images can be read. The first: {problems[0]}")
    write_json(path, rows)
    num_broken = getattr(opened, "num_broken", 0)
    return Detected(num_images, len(rows), num_broken, time.monotonic() - started, tuple(problems))


def _entries(picture, boxes_xywh, scores) -> list[dict]:
    entry = {"image_id": picture.image_id, "file_name": picture.name, "category_id": PERSON}
    # Hundredths of a pixel and six digits of a score keep the file short and change AP by less than 1e-4.
    boxes = [[round(float(value), 2) for value in box] for box in boxes_xywh]
    return [{**entry, "bbox": box, "score": round(float(s), 6)} for box, s in zip(boxes, scores, strict=True)]
