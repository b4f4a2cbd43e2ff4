"""Contact sheets of predictions, heatmaps and annotations."""

import numpy as np
import tensorflow as tf

from kpzoo import drawing, heatmaps, images
from kpzoo.data.augment import Augment
from kpzoo.data.batches import make_dataset
from kpzoo.data.files import PoseData
from kpzoo.evaluation.evaluator import boxes_of
from kpzoo.inference.box_poses import predict_boxes
from kpzoo.inference.folded_model import instance_heatmaps
from kpzoo.pose_model import PoseModel


def prediction_sheet(model: PoseModel, data: PoseData, num_images: int, columns: int = 4) -> np.ndarray:
    """Returns a contact sheet of images with the poses that the model predicts in the annotated boxes."""
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
    """Returns a contact sheet of crops, each next to its heatmaps for all instance indices.

    Args:
        model: The model, which decides the size of the crops, the keypoints and the instances.
        data: What `kpzoo.data.load` returns.
        num_crops: Number of persons, in the order of training.
        found: Whether to draw the predicted heatmaps instead of the training targets.
        augment: See `kpzoo.data.make_dataset`.
        seed: Seed of the order of the persons and of the augmentation.
    """
    batch = next(iter(make_dataset(data, model, num_crops, augment=augment, seed=seed, check_images=False)))
    maps = instance_heatmaps(model, batch["image"]) if found else batch["heatmaps"]
    maps = tf.reshape(maps, [num_crops, model.preset.num_instances, *maps.shape[-3:]]).numpy()
    present = batch["present"].numpy() if "present" in batch else np.ones((num_crops, 1))
    pictures, captions = [], []
    for crop, of_crop, there in zip(batch["image"].numpy().round().astype(np.uint8), maps, present, strict=True):
        pictures += [crop, *(drawing.heatmap_overlay(crop, instance) for instance in of_crop)]
        alone = "" if found else ": no person"
        captions += ["crop", *(f"instance {n}{'' if there[n] else alone}" for n in range(len(of_crop)))]
    columns = (1 + model.preset.num_instances) * (2 if num_crops > 1 else 1)
    return drawing.contact_sheet(pictures, columns, captions, model.preset.image_hw)


def progress_sheet(model: PoseModel, data: PoseData, num_crops: int = 6) -> drawing.Picture:
    """Returns a contact sheet of a fixed set of crops, to monitor training.

    Each crop is shown with the annotated keypoints, decoded from the training targets, with the predicted keypoints of
    all instances (dashed for instance 1 and above), and with the predicted heatmaps of each instance.
    """
    preset, codec = model.preset, model.preset.rules
    batch = next(iter(make_dataset(data, model, num_crops, check_images=False)))
    found = instance_heatmaps(model, batch["image"])
    poses = []
    for maps in (tf.reshape(batch["heatmaps"], tf.shape(found)), found):
        poses.append([array.numpy() for array in heatmaps.decode(codec, maps)])  # (B, N, K, 2), (B, N, K)
    pictures, captions, instance = [], [], np.arange(preset.num_instances)
    for index, crop in enumerate(batch["image"].numpy().round().astype(np.uint8)):
        for points, scores in poses:
            drawn = dict(instance=instance, scores=-instance, min_score=0.1)  # predictions are weak early in training
            pictures.append(drawing.draw_poses(crop, points[index], scores[index], preset.skeleton, **drawn))
        pictures += [drawing.heatmap_overlay(crop, maps) for maps in found[index].numpy()]
        captions += ["annotated", "predicted", *(f"instance {number}" for number in instance)]
    columns = (2 + preset.num_instances) * (2 if num_crops > 1 else 1)
    return drawing.contact_sheet(pictures, columns, captions, preset.image_hw)


def annotation_sheet(data: PoseData, num_images: int, columns: int = 4) -> np.ndarray:
    """Returns a contact sheet of images with annotated boxes and keypoints. Hidden keypoints are drawn faint."""
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
    """Returns the (height, width) of the cells: 320 pixels wide, with the median aspect ratio of the images."""
    aspect = float(np.median([picture.shape[0] / picture.shape[1] for picture in pictures]))
    return round(320 * aspect), 320
