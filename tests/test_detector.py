"""Person detectors: targets and answers agree, what is ignored weighs nothing, and pictures of any kind get boxes."""

import json

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import boxes
from kpzoo.data.box_batches import MAX_IGNORED, MAX_PEOPLE, BoxBatches, load_photos
from kpzoo.errors import UserError
from kpzoo.inference.person_detector import PersonDetector
from kpzoo.nms import box_nms, iou_matrix
from kpzoo.scenes import drawn

HW = (96, 128)
CELLS = boxes.cell_centers(HW)


def targets(people=((),), ignored=((),), weights=None):
    """Targets of a batch, one list of boxes for each picture."""
    batch = len(people)
    found = {
        "boxes": np.zeros((batch, MAX_PEOPLE, 4), "float32"),
        "box_weights": np.zeros((batch, MAX_PEOPLE), "float32"),
        "ignored": np.zeros((batch, MAX_IGNORED, 4), "float32"),
    }
    for row, (some, others) in enumerate(zip(people, ignored, strict=True)):
        for place, box in enumerate(some):
            found["boxes"][row, place] = box
            found["box_weights"][row, place] = 1.0 if weights is None else weights[row][place]
        for place, box in enumerate(others):
            found["ignored"][row, place] = box
    return {name: tf.constant(value) for name, value in found.items()}


def assigned(wanted):
    return boxes.assign(wanted["boxes"], wanted["box_weights"] > 0, CELLS)


def perfect_answer(wanted):
    """What a network would answer that knows the targets: logits +-8 and the boxes themselves."""
    index, answers = assigned(wanted)
    own = np.concatenate([CELLS[:, :2] - 4, CELLS[:, :2] + 4], axis=1)
    found = tf.where(answers[..., None], tf.gather(wanted["boxes"], index, batch_dims=1), own[None])
    return {"person_logits": tf.where(answers, 8.0, -8.0), "person_boxes": found}


PEOPLE = [
    [],
    [(10, 20, 40, 90)],
    [(0, 0, 128, 96)],
    [(60, 60, 63, 66)],  # smaller than a cell
    [(5, 5, 30, 60), (20, 10, 45, 70), (90, 40, 120, 96), (100, 5, 106, 20)],
    [(0, 30, 128, 36)],  # flat
]


@pytest.mark.parametrize("people", PEOPLE)
def test_what_is_encoded_is_decoded(people):
    answer = perfect_answer(targets([people]))
    found, scores = boxes.decode_boxes(answer["person_logits"][0].numpy(), answer["person_boxes"][0].numpy(), 0.5)
    found = found[box_nms(found, scores, 0.9)]
    people = np.array(people, float).reshape(-1, 4)
    expected = np.concatenate([people[:, :2], people[:, 2:] - people[:, :2]], axis=1)
    assert len(found) == len(expected)
    if len(expected):
        np.testing.assert_allclose(iou_matrix(expected, found).max(1), 1.0, atol=1e-6)


def test_each_cell_answers_for_the_smallest_person_whose_centre_is_near():
    people = [(0, 0, 40, 40), (10, 10, 30, 30), (80, 0, 120, 90)]
    index, answers = assigned(targets([people]))
    index, answers = index.numpy()[0], answers.numpy()[0]
    assert set(index[answers]) == {0, 1, 2} or set(index[answers]) == {1, 2}
    for cell, person in zip(CELLS[answers], index[answers], strict=True):
        x0, y0, x1, y1 = people[person]
        assert abs(cell[0] - (x0 + x1) / 2) < boxes.CENTER_RADIUS * cell[2]
        assert abs(cell[1] - (y0 + y1) / 2) < boxes.CENTER_RADIUS * cell[2]
        assert x0 < cell[0] < x1 and y0 < cell[1] < y1


@pytest.mark.parametrize("side", [1, 3, 8, 20, 50, 95, 127])
def test_somebody_answers_for_a_person_of_any_size(side):
    rng = np.random.default_rng(side)
    corner = rng.uniform(0, [129 - side, max(1, 97 - side)], (20, 2))
    people = [[(x, y, x + side, min(96, y + side))] for x, y in corner]
    _, answers = assigned(targets(people, [[]] * 20))
    assert answers.numpy().any(axis=1).all()


def test_generalised_iou_is_that_of_the_paper():
    ours = tf.constant([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 4, 4]])
    theirs = tf.constant([[0.0, 0, 2, 2], [2, 0, 3, 1], [2, 2, 6, 6]])
    iou, giou = boxes.iou_and_giou(ours, theirs)
    np.testing.assert_allclose(iou, [1, 0, 4 / 28], atol=1e-6)
    np.testing.assert_allclose(giou, [1, -1 / 3, 4 / 28 - 8 / 36], atol=1e-6)


def test_a_perfect_answer_costs_almost_nothing_and_a_wrong_one_much():
    loss = boxes.PersonBoxLoss(HW)
    wanted = targets([PEOPLE[4], PEOPLE[1]], [[], []])
    right = perfect_answer(wanted)
    assert loss(wanted, right).shape == (2,)
    assert float(tf.reduce_max(loss(wanted, right))) < 1e-3
    wrong = {**right, "person_logits": -right["person_logits"]}
    assert float(tf.reduce_min(loss(wanted, wrong))) > 1.0
    moved = {**right, "person_boxes": right["person_boxes"] + 10.0}
    assert float(tf.reduce_min(loss(wanted, moved))) > 0.3


def gradient_of_logits(wanted, answer):
    logits = tf.Variable(answer["person_logits"])
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(boxes.PersonBoxLoss(HW)(wanted, {**answer, "person_logits": logits}))
    return tape.gradient(value, logits).numpy()


def test_ignored_regions_and_rows_without_weight_weigh_nothing():
    region = (64, 0, 128, 96)
    plain, with_region = targets([PEOPLE[1]], [[]]), targets([PEOPLE[1]], [[region]])
    answer = {**perfect_answer(plain), "person_logits": tf.zeros([1, len(CELLS)])}
    before, after = gradient_of_logits(plain, answer)[0], gradient_of_logits(with_region, answer)[0]
    inside = (CELLS[:, 0] > 64) & (CELLS[:, 0] < 128)
    assert (before[inside] != 0).all() and (after[inside] == 0).all()
    np.testing.assert_array_equal(before[~inside], after[~inside])
    nobody = targets([PEOPLE[1], PEOPLE[2]], [[], []], weights=[[1.0], [0.0]])
    np.testing.assert_array_equal(nobody["box_weights"].numpy().sum(1), [1, 0])
    _, answers = assigned(nobody)
    assert answers.numpy().any(1).tolist() == [True, False]


def test_a_person_inside_of_an_ignored_region_is_learned():
    wanted = targets([[(70, 20, 100, 90)]], [[(64, 0, 128, 96)]])
    answer = {**perfect_answer(wanted), "person_logits": tf.zeros([1, len(CELLS)])}
    _, answers = assigned(wanted)
    assert (gradient_of_logits(wanted, answer)[answers.numpy()] < 0).all()


def test_the_weight_of_a_box_is_the_weight_of_its_cells():
    people = [[(10, 20, 40, 90), (90, 20, 120, 90)]]
    gradients = []
    for weight in (1.0, 0.5):
        wanted = targets(people, weights=[[1.0, weight]])
        answer = {**perfect_answer(wanted), "person_logits": tf.zeros([1, len(CELLS)])}
        index, answers = assigned(wanted)
        second = answers.numpy()[0] & (index.numpy()[0] == 1)
        first = answers.numpy()[0] & (index.numpy()[0] == 0)
        found = gradient_of_logits(wanted, answer)[0]
        gradients.append(found[second].mean() / found[first].mean())
    assert gradients[1] == pytest.approx(gradients[0] / 2)


# The model


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    return kpzoo.build("person_fpn_tiny", image_hw=HW)


def batch_of(seed=0, count=4):
    """Pictures of bright rectangles on noise, and where they are."""
    rng = np.random.default_rng(seed)
    images, people = rng.uniform(0, 80, (count, *HW, 3)).astype("float32"), []
    for image in images:
        x, y = rng.uniform(5, 60), rng.uniform(5, 30)
        box = (x, y, x + rng.uniform(20, 50), y + rng.uniform(30, 60))
        image[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = [230, 180, 160]
        people.append([box])
    return {"image": tf.constant(images), **targets(people, [[]] * count)}


def test_fit_lowers_the_loss():
    keras.utils.set_random_seed(0)
    model = kpzoo.build("person_fpn_tiny", image_hw=HW)
    model.compile(keras.optimizers.Adam(1e-2), boxes.PersonBoxLoss(HW))
    batch = tf.data.Dataset.from_tensors(batch_of()).repeat()
    history = model.fit(batch, steps_per_epoch=10, epochs=4, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert set(history) == {"loss", "loss_score", "loss_box"}
    np.testing.assert_allclose(np.add(history["loss_score"], history["loss_box"]), history["loss"], rtol=1e-4)


def test_the_answer_does_not_depend_on_the_rest_of_the_batch(tiny):
    image = batch_of()["image"]
    whole, alone = tiny({"image": image}, training=False), tiny({"image": image[1:2]}, training=False)
    for name in whole:
        np.testing.assert_allclose(whole[name][1:2], alone[name], rtol=1e-4, atol=1e-4)


def test_cells_and_boxes_are_in_one_order(tiny):
    answer = tiny({"image": np.zeros((1, *HW, 3), "float32")}, training=False)
    centers = (answer["person_boxes"][0, :, :2] + answer["person_boxes"][0, :, 2:]) / 2
    assert answer["person_logits"].shape == (1, len(CELLS))
    # A fresh head reaches nearly as far to every side, so that the middle of a box is the cell's centre.
    assert np.abs(centers - CELLS[:, :2]).max() < 0.5 * CELLS[:, 2].max()
    assert np.abs((centers - CELLS[:, :2]) / CELLS[:, 2:]).max() < 0.5


def test_a_detector_takes_no_skeleton_and_a_pose_model_is_no_detector():
    with pytest.raises(UserError, match="finds person boxes, no keypoints. Received: skeleton 'coco17'"):
        kpzoo.build("person_fpn_tiny", skeleton="coco17")
    with pytest.raises(UserError, match="Unknown trunk"):
        kpzoo.build("person_fpn_tiny", trunk="lite9")
    with pytest.raises(UserError, match="A person detector is a model such as"):
        PersonDetector(kpzoo.build("simplebaseline_tiny", image_hw=(64, 64)))


def test_where_a_pose_model_is_wanted_a_detector_is_refused_in_one_line(tiny, tmp_path):
    drawn.write_drawn(tmp_path / "scenes", 2, seed=1)
    data = kpzoo.data.load(tmp_path / "scenes")
    image = np.zeros((96, 128, 3), np.uint8)
    asked = [
        lambda: kpzoo.predict(tiny, image, boxes_xywh=[[10, 10, 40, 60]]),
        lambda: kpzoo.accelerate(tiny)(image[None].astype("float32")),
        lambda: kpzoo.evaluate(tiny, data),
    ]
    for ask in asked:
        with pytest.raises(UserError, match="Model 'person_fpn_tiny' finds person boxes, no keypoints"):
            ask()


# Batches


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    annotations, images = [], []
    for index, (height, width) in enumerate([(60, 90), (120, 80), (40, 200)]):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 255, (height, width, 3), np.uint8))
        images.append(dict(id=index, file_name=f"{index}.png", height=height, width=width))
        box = [width * 0.2, height * 0.1, width * 0.5, height * 0.8]
        annotations.append(dict(id=len(annotations), image_id=index, category_id=1, bbox=box, iscrowd=0))
        annotations.append(dict(id=len(annotations), image_id=index, category_id=1, bbox=[0, 0, 30, 30], iscrowd=1))
    annotations[0]["score"] = 0.5
    (folder / "boxes.json").write_text(json.dumps(dict(images=images, annotations=annotations)))
    return folder


def make_batches(folder, **options):
    photos = load_photos(folder / "boxes.json", folder)
    return BoxBatches([(photos, 1.0)], HW, 4, **options)


def test_batches_are_the_same_wherever_they_begin(folder):
    whole = list(make_batches(folder, seed=3).dataset(0, 4))
    later = list(make_batches(folder, seed=3).dataset(2, 4))
    for one, other in zip(whole[2:], later, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert (whole[0]["image"] != whole[1]["image"]).numpy().any()
    assert (whole[0]["image"] != next(iter(make_batches(folder, seed=4).dataset(0, 1)))["image"]).numpy().any()


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_stay_inside_the_picture_and_keep_their_weights(folder, mosaic):
    batches = make_batches(folder, mosaic=mosaic)
    weights = set()
    for step in range(6):
        images, people, box_weights, ignored = batches.batch(step)
        assert images.shape == (4, *HW, 3) and images.dtype == np.uint8
        for found in (people[box_weights > 0], ignored):
            assert (found >= 0).all() and (found <= [HW[1], HW[0]] * 2).all()
        size = people[box_weights > 0][:, 2:] - people[box_weights > 0][:, :2]
        assert (size >= 4).all()
        weights |= set(box_weights[box_weights > 0])
    assert weights == {0.5, 1.0}


def test_a_box_lies_where_its_person_went(tmp_path):
    """A photo that is black but for one white person: the white pixels are those in the box."""
    image = np.zeros((80, 100, 3), np.uint8)
    image[20:60, 30:70] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    content = dict(
        images=[dict(id=1, file_name="a.png")], annotations=[dict(image_id=1, bbox=[30, 20, 40, 40], iscrowd=0)]
    )
    (tmp_path / "a.json").write_text(json.dumps(content))
    batches = BoxBatches([(load_photos(tmp_path / "a.json", tmp_path), 1.0)], HW, 1, mosaic=0.0)
    compared = 0
    for step in range(20):
        [image], [people], [weights], _ = batches.batch(step)
        grey = np.float32(image).mean(-1)
        inside = np.zeros(HW, bool)
        for x0, y0, x1, y1 in people[weights > 0].round().astype(int):
            inside[y0:y1, x0:x1] = True
            compared += 1
        if inside.any():
            bright, rest = grey[inside].mean(), grey[~inside & (np.abs(grey - grey[~inside].min()) < 60)]
            assert bright > rest.mean() + 80
    assert compared > 10


def test_missing_images_are_told(folder, tmp_path):
    with pytest.raises(UserError, match="3 of 3 images of .* are missing, such as"):
        load_photos(folder / "boxes.json", tmp_path)


# Pictures of any kind


@pytest.fixture(scope="module")
def detector(tiny):
    return PersonDetector(tiny, min_score=0.0)


PICTURES = {
    "one pixel": np.full((1, 1, 3), 200, np.uint8),
    "empty": np.zeros((48, 64, 3), np.uint8),
    "panorama": np.random.default_rng(0).integers(0, 255, (30, 600, 3), np.uint8),
    "tower": np.random.default_rng(0).integers(0, 255, (600, 30, 3), np.uint8),
    "small": np.random.default_rng(0).integers(0, 255, (7, 5, 3), np.uint8),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_boxes_of_any_picture_lie_within_it(detector, kind):
    image = PICTURES[kind]
    [found], [scores] = detector.detect([image])
    height, width = image.shape[:2]
    assert found.shape == (len(scores), 4) and len(scores) <= detector.max_boxes
    assert np.isfinite(found).all() and (found >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= [width + 1e-6, height + 1e-6]).all()
    assert (np.diff(scores) <= 0).all() and ((scores >= 0) & (scores <= 1)).all()


def test_pictures_are_answered_alike_alone_and_together(detector):
    together = detector.detect([*PICTURES.values(), *PICTURES.values()])
    for place, image in enumerate(PICTURES.values()):
        alone = detector.detect([image])
        for some in (place, place + len(PICTURES)):
            np.testing.assert_allclose(together[1][some], alone[1][0], atol=1e-4)
    assert detector.detect([]) == ([], [])


def test_forty_megapixels_are_answered(detector):
    image = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 1, 3))
    image = np.ascontiguousarray(np.broadcast_to(image.repeat(25, 0), (5000, 8000, 3)))
    [found], _ = detector.detect([image])
    assert (found[:, :2] + found[:, 2:] <= [8000, 5000]).all()


def test_two_hundred_people_are_learned_and_found():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, [110, 80], (200, 2))
    people = np.concatenate([corner, corner + rng.uniform(4, 16, (200, 2))], axis=1).astype("float32")
    wanted = {
        "boxes": tf.constant(people[None]),
        "box_weights": tf.ones([1, 200]),
        "ignored": tf.zeros([1, 1, 4]),
    }
    answer = perfect_answer(wanted)
    assert np.isfinite(boxes.PersonBoxLoss(HW)(wanted, answer).numpy()).all()
    found, scores = boxes.decode_boxes(answer["person_logits"][0].numpy(), answer["person_boxes"][0].numpy())
    assert len(box_nms(found, scores, 0.6)) > 60  # of 192 cells of the finest level


def test_nobody_is_found_where_no_cell_is_sure(tiny):
    [found], [scores] = PersonDetector(tiny, min_score=0.99).detect([PICTURES["empty"]])
    assert found.shape == (0, 4) and scores.shape == (0,)


def test_boxes_come_back_to_the_pixels_of_the_picture(tiny, monkeypatch):
    """A network that answers one known box in its input: it must return to the photo whatever that photo's size."""
    detector = PersonDetector(tiny)

    def known(size_hw):
        def answer(images):
            logits = np.full((len(images), 1), 5.0, np.float32)
            return tf.constant(logits), tf.constant([[[0, 0, 64.0, 48.0]]] * len(images))

        return answer

    monkeypatch.setattr(PersonDetector, "_networks", lambda self, size_hw: known(size_hw))
    for height, width in [(96, 128), (480, 640), (48, 64), (300, 128)]:
        [[box]], _ = detector.detect([np.zeros((height, width, 3), np.uint8)])
        scale = 128 / max(height, width)
        np.testing.assert_allclose(box, [0, 0, min(64 / scale, width), min(48 / scale, height)], rtol=0.02)
