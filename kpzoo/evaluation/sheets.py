"""Contact sheets: predictions, heatmaps and annotations as pictures."""

import numpy as np
import tensorflow as tf

from kpzoo import drawing, heatmaps, images
from kpzoo.data.augment import Augment
from kpzoo.data.batches import make_dataset
from kpzoo.data.files import PoseData
from kpzoo.evaluation.evaluator import boxes_of
from kpzoo.inference.acceleration import accelerate
from kpzoo.inference.predictor import predict_boxes
from kpzoo.pose_model import PoseModel


def prediction_sheet(model: PoseModel, data: PoseData, num_images: int, columns: int = 4) -> np.ndarray:
    """Returns a contact sheet of pictures with the poses that the model finds in the annotated boxes."""
    _, image_ids, boxes_xywh, box_scores, _ = boxes_of(data, "gt")
    chosen = np.unique(image_ids)[:num_images]
    rows = np.flatnonzero(np.isin(image_ids, chosen))
    paths = data.image_paths(image_ids[rows])
    poses = predict_boxes(model, paths, boxes_xywh[rows], box_scores[rows])
    pose_image_ids = np.repeat(image_ids[rows], model.preset.num_instances)
    pictures = []
    for image_id, path in zip(chosen, data.image_paths(chosen), strict=True):
        picture = images.read_image(path, apply_exif=False)
        pictures.append(poses[pose_image_ids == image_id].draw(picture))
    return drawing.contact_sheet(pictures, columns, cell_hw=_cell(pictures))


def heatmap_sheet(
    model: PoseModel,
    data: PoseData,
    num_crops: int,
    *,
    found: bool = False,
    augment: str | Augment | None = None,
    seed: int = 0,
) -> drawing.Picture:
    """Returns a sheet of crops, each with the heatmaps of every instance that the model can be asked for beside it.

    Args:
        model: Whose crops, keypoints and instances are drawn.
        data: What `kpzoo.data.load` returns.
        num_crops: How many persons, in the order in which training sees them.
        found: Whether to draw what the model finds, instead of the targets that it is trained with.
        augment: See `kpzoo.data.make_dataset`.
        seed: Which persons, and how they are augmented.
    """
    batch = next(iter(make_dataset(data, model, num_crops, augment=augment, seed=seed, check_images=False)))
    maps = accelerate(model).heatmaps(batch["image"]) if found else batch["heatmaps"]
    maps = tf.reshape(maps, [num_crops, model.preset.num_instances, *maps.shape[-3:]]).numpy()
    present = batch["present"].numpy() if "present" in batch else np.ones((num_crops, 1))
    pictures, captions = [], []
    for crop, of_crop, there in zip(batch["image"].numpy().round().astype(np.uint8), maps, present, strict=True):
        pictures += [crop, *(drawing.heatmap_overlay(crop, instance) for instance in of_crop)]
        alone = "" if found else ": nobody else"
        captions += ["crop", *(f"instance {n}{'' if there[n] else alone}" for n in range(len(of_crop)))]
    columns = (1 + model.preset.num_instances) * (2 if num_crops > 1 else 1)
    return drawing.contact_sheet(pictures, columns, captions, model.preset.image_hw)


def progress_sheet(model: PoseModel, data: PoseData, num_crops: int = 6) -> drawing.Picture:
    """Returns a sheet of crops, always the same ones, to look at while a model learns.

    Each stands beside itself: with what is annotated, with what the model finds (of all its instances, those behind the
    first dashed), and with the heatmaps of each instance. Annotations are shown as the targets say them.
    """
    preset, codec = model.preset, model.preset.rules
    batch = next(iter(make_dataset(data, model, num_crops, check_images=False)))
    found = accelerate(model).heatmaps(batch["image"])
    poses = []
    for maps in (tf.reshape(batch["heatmaps"], tf.shape(found)), found):
        poses.append([array.numpy() for array in heatmaps.decode(codec, maps)])  # (B, N, K, 2), (B, N, K)
    pictures, captions, instance = [], [], np.arange(preset.num_instances)
    for index, crop in enumerate(batch["image"].numpy().round().astype(np.uint8)):
        for points, scores in poses:
            drawn = dict(instance=instance, scores=-instance, min_score=0.1)  # early guesses are faint
            pictures.append(drawing.draw_poses(crop, points[index], scores[index], preset.skeleton, **drawn))
        pictures += [drawing.heatmap_overlay(crop, maps) for maps in found[index].numpy()]
        captions += ["annotated", "found", *(f"instance {number}" for number in instance)]
    columns = (2 + preset.num_instances) * (2 if num_crops > 1 else 1)
    return drawing.contact_sheet(pictures, columns, captions, preset.image_hw)


def annotation_sheet(data: PoseData, num_images: int, columns: int = 4) -> np.ndarray:
    """Returns a contact sheet of pictures with annotated keypoints, the hidden ones faint, and boxes."""
    persons = data.annotations.persons
    pictures = []
    for image_id, path in zip(
        data.annotations.image_ids[:num_images],
        data.image_paths(data.annotations.image_ids[:num_images]),
        strict=True,
    ):
        rows = (persons.image_ids == image_id) & (persons.num_keypoints > 0)
        pictures.append(
            drawing.draw_poses(
                images.read_image(path, apply_exif=False),
                persons.keypoints_image_xy[rows],
                persons.visibility[rows] / 2,
                data.skeleton,
                boxes_xywh=persons.boxes_image_xywh[rows],
            )
        )
    return drawing.contact_sheet(pictures, columns, cell_hw=_cell(pictures))


def _cell(pictures: list[np.ndarray]) -> tuple[int, int]:
    """Returns the (height, width) of a sheet's cells: the pictures' median shape, 320 pixels wide."""
    aspect = float(np.median([picture.shape[0] / picture.shape[1] for picture in pictures]))
    return round(320 * aspect), 320
