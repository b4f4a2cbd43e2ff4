"""Writes the poses that another program has found as a COCO results file, to be scored against annotations."""

from collections import Counter
from pathlib import Path

import numpy as np

from kpzoo.convert.coco_folder import name_of
from kpzoo.convert.model import Category, Export, Person
from kpzoo.data.coco import Annotations, read_annotations
from kpzoo.data.results import Results, write_results
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton


def to_results(export: Export, out: str | Path, annotations: str | Path, *, category: str | int | None = None) -> Path:
    """Writes poses as COCO keypoint results, with the image ids and the keypoints of an annotation file.

    Images are matched by their file name without folders and suffix; keypoints by their names. Keypoints that the
    program does not know get the middle of the pose and a score of 0.

    Args:
        export: The poses.
        out: The .json file.
        annotations: COCO keypoint annotations of the same images.
        category: Name or id of the category of the annotations.

    Returns:
        The file. Poses in images without annotations are counted in the notes of the export.

    Raises:
        UserError: If no image or no keypoint is that of the annotations.
    """
    truth = read_annotations(annotations, category=category)
    ids = _ids(truth)
    rows, places = [], {}
    for picture in export.pictures:
        image_id = ids.get(_key(name_of(picture)))
        for person in picture.persons:
            if image_id is None:
                export.notes.add("poses in images without annotations are left out", picture.name)
                continue
            if person.category not in places:
                places[person.category] = _places(person.category, truth.skeleton, truth.path)
            rows.append((image_id, *_pose(person, places[person.category])))
    if not rows:
        raise UserError(
            f"None of the {len(export.pictures)} images has a name of {truth.path}, so nothing can be scored."
        )
    image_ids, points, point_scores, scores = (np.array(column) for column in zip(*rows, strict=True))
    return write_results(out, Results(image_ids, points, point_scores, scores), truth.category_id)


def _key(name: str) -> str:
    return Path(name.replace("\\", "/")).stem.casefold()


def _ids(truth: Annotations) -> dict[str, int]:
    """Returns the image id of each name without folders and suffix. Names that occur twice are left out."""
    names = list(map(_key, truth.file_names))
    counts, ids = Counter(names), truth.image_ids.tolist()
    return {name: number for name, number in zip(names, ids, strict=True) if counts[name] == 1}


def _places(category: Category, skeleton: Skeleton, path: str) -> np.ndarray:
    """Returns (K,) indices in the category of the keypoints of a skeleton, -1 for those that it does not have."""
    own = Skeleton(category.name, tuple(category.keypoints), (), (1.0,) * len(category.keypoints), ())
    places = skeleton.places_in(own)
    if (places < 0).all():
        raise UserError(f"No keypoint of {path} is found among those of the poses. Received: {category.keypoints[:6]}.")
    return places


def _pose(person: Person, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the (K, 2) points, their (K,) scores, and the score of the pose."""
    known = person.keypoints[:, 2] > 0
    middle = person.keypoints[known, :2].mean(axis=0) if known.any() else np.zeros(2)
    point_scores = np.where(known, 1.0 if person.scores is None else person.scores, 0.0)
    points = np.vstack([np.where(known[:, None], person.keypoints[:, :2], middle), middle])  # -1 is the last
    total = person.fields.get("score", float(point_scores[known].mean()) if known.any() else 0.0)
    return points[places], np.append(point_scores, 0.0)[places], total
