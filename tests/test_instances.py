"""Several people of one crop as targets: who they are, who is missing, and what the loss makes of it."""

import json

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import geometry, heatmaps
from kpzoo.data.batches import INSTANCE_RULES, fill_missing, make_dataset, nearest_persons
from kpzoo.data.loading import load
from kpzoo.errors import UserError
from kpzoo.losses import CPNLoss, HeatmapLoss, MultiInstanceLoss, default_loss
from kpzoo.skeletons import COCO17

pytestmark = pytest.mark.usefixtures("unoptimized_graphs")


def folder_of(root, boxes_by_image):
    """Writes grey pictures with people whose keypoints stand in a grid; the first one's box has a dark centre."""
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    images, annotations = [], []
    for image_id, boxes in enumerate(boxes_by_image, 1):
        picture = np.full((200, 300, 3), 90, np.uint8)
        x, y, width, height = boxes[0]
        cv2.circle(picture, (x + width // 2, y + height // 2), 5, 0, -1)
        cv2.imwrite(str(root / f"images/{image_id}.png"), picture)
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 200, "width": 300})
        for x, y, width, height in boxes:
            places = np.arange(17)
            points = np.column_stack([x + width * (places % 4 + 0.5) / 4, y + height * (places // 4 + 0.5) / 5])
            keypoints = np.column_stack([points, np.full(17, 2)]).ravel().tolist()
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image_id, category_id=1, iscrowd=0, num_keypoints=17,
                     bbox=[x, y, width, height], area=width * height * 0.6, keypoints=keypoints)
            )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoints), "skeleton": []}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "annotations/people.json").write_text(json.dumps(content))
    return load(root)


def test_neighbours_are_those_of_the_picture_nearest_box_centre_first():
    boxes = np.array([[0, 0, 10, 10], [100, 0, 10, 10], [30, 0, 10, 10], [0, 0, 10, 10.0]])
    image_ids = np.array([7, 7, 7, 9])
    assert nearest_persons(image_ids, boxes, 2).tolist() == [[2, 1], [2, 0], [0, 1], [-1, -1]]
    assert nearest_persons(image_ids, boxes, 1).tolist() == [[2], [2], [0], [-1]]
    assert nearest_persons(image_ids, boxes, 0).shape == (4, 0)


@pytest.mark.parametrize(
    ("boxes", "num_instances", "expected"),
    [
        ([(100, 50, 60, 100)], 2, [0, 0]),  # n < N: alone, so the first stands in
        ([(100, 50, 60, 100), (130, 50, 60, 100)], 2, [0, 1]),  # n = N
        ([(100, 50, 60, 100), (170, 50, 60, 100), (120, 50, 60, 100)], 2, [0, 2]),  # n > N: the nearest
        ([(100, 50, 60, 100), (115, 50, 60, 100), (130, 50, 60, 100)], 3, [0, 1, 2]),
        ([(20, 50, 40, 80), (240, 50, 40, 80)], 2, [0, 0]),  # the other one lies outside of the crop
    ],
)
def test_targets_are_the_centred_person_and_the_nearest_others(tmp_path, boxes, num_instances, expected):
    data = folder_of(tmp_path, [boxes])
    model = kpzoo.build("mipnet_tiny", image_hw=(128, 96), num_instances=num_instances)
    batches = list(make_dataset(data, model, 1).take(len(boxes)))
    batch = next(batch for batch in batches if batch["image"][0, 64, 48, 1] < 45)  # the one about the marked person
    persons = data.annotations.persons
    views = geometry.views(persons.boxes_image_xywh[:1], model.preset.rules.crop, (128, 96))
    to_crop = geometry.invert(geometry.crop_to_image(views, (128, 96)))[0]
    decoded = heatmaps.decode(model.preset.rules, batch["heatmaps"])[0].numpy()[0]
    labelled = batch["weights"].numpy()[0] > 0
    for instance, person in enumerate(expected):
        points = geometry.transform(to_crop, persons.keypoints_image_xy[person])
        assert labelled[instance].sum() >= 3
        assert np.abs(decoded[instance] - points)[labelled[instance]].max() <= 4.0
    assert batch["present"].numpy()[0].tolist() == [1.0] + [float(person != 0) for person in expected[1:]]
    assert batch["instance"].numpy().tolist() == [np.eye(num_instances).tolist()]


@pytest.mark.parametrize(("rule", "kept"), [("paper", True), ("official", False)])
def test_the_rules_differ_in_how_many_keypoints_make_a_person(rule, kept):
    points = np.full((1, 2, 17, 2), 20.0, np.float32)
    points[0, 1, 3:] = -50.0  # three keypoints of the second stay inside
    visibility = np.full((1, 2, 17), 2.0, np.float32)
    filled, seen, present = fill_missing(tf.constant(points), tf.constant(visibility), (64, 64), INSTANCE_RULES[rule])
    assert present.numpy().tolist() == [[1.0, float(kept)]]
    assert seen.numpy()[0, 1].sum() == (6 if kept else 34)
    assert (filled.numpy()[0, 1] == points[0, 1 if kept else 0]).all()


def test_keypoints_outside_the_crop_lose_their_label_for_the_first_person_too():
    points = np.full((1, 2, 17, 2), 20.0, np.float32)
    points[0, 0, 5] = (200.0, 20.0)
    _, seen, present = fill_missing(tf.constant(points), tf.ones((1, 2, 17)), (64, 64), 3)
    assert seen.numpy()[0, 0, 5] == 0
    assert seen.numpy()[0, 0].sum() == 16
    assert present.numpy().tolist() == [[1.0, 1.0]]


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    names = {"heatmaps": (3, 2, 6, 5, 7), "global_heatmaps": (3, 2, 4, 6, 5, 7)}
    targets = {name: rng.random(shape).astype(np.float32) for name, shape in names.items()}
    targets |= {"weights": np.ones((3, 2, 7), np.float32), "global_weights": np.ones((3, 2, 4, 7), np.float32)}
    targets["present"] = np.array([[1, 1], [1, 0], [1, 1]], np.float32)
    return targets, {name: rng.random(shape).astype(np.float32) for name, shape in names.items()}


@pytest.mark.parametrize("loss", [HeatmapLoss(), CPNLoss(top_k=3), HeatmapLoss(top_k=2)])
@pytest.mark.parametrize("missing", ["repeat", "ignore"])
def test_the_loss_is_the_sum_over_instances_of_the_loss_of_each(case, loss, missing):
    targets, outputs = case
    expected = []
    for b in range(3):
        total = 0.0
        for n in range(2):
            one_target = {name: value[b : b + 1, n] for name, value in targets.items() if name != "present"}
            one_output = {name: value[b : b + 1, n] for name, value in outputs.items()}
            counts = missing == "repeat" or targets["present"][b, n]
            total += float(loss(one_target, one_output)[0]) * counts
        expected.append(total)
    found = MultiInstanceLoss(loss, missing)
    np.testing.assert_allclose(found(targets, outputs), expected, rtol=1e-5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(found))
    np.testing.assert_array_equal(again(targets, outputs), found(targets, outputs))


@pytest.mark.parametrize("name", ["mipnet_tiny", "mipnet_hrnet_tiny", "mipnet_cpn_tiny"])
def test_mipnets_train_with_their_default_loss(name, small_folder):
    keras.utils.set_random_seed(0)
    model = kpzoo.build(name, image_hw=(64, 64))
    model.compile(keras.optimizers.Adam(1e-3), default_loss(model.preset))
    batches = make_dataset(load(small_folder, "train"), model, 4, augment="hrnet")
    history = model.fit(batches, steps_per_epoch=2, epochs=1, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
    assert 0 <= history["pck"][0] <= 1


def test_unknown_rules_are_refused(small_folder):
    model = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    with pytest.raises(UserError, match="Did you mean 'official'"):
        make_dataset(load(small_folder, "train"), model, 4, instance_rule="offical")
    with pytest.raises(UserError, match="Did you mean 'ignore'"):
        MultiInstanceLoss(HeatmapLoss(), missing="ignroe")
