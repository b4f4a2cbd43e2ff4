"""From annotated pictures to AP: with an oracle in place of the network, and with a network that knows nothing."""

import json
import shutil
import struct
from types import SimpleNamespace

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import cli, evaluation, geometry, heatmaps, inference
from kpzoo.data import loading
from kpzoo.data.results import read_results
from kpzoo.errors import UserError
from kpzoo.evaluation import evaluator
from kpzoo.evaluation.metrics import average_precision
from kpzoo.inference import box_poses
from kpzoo.nms import iou_matrix
from kpzoo.poses import Poses
from kpzoo.scenes import drawn
from kpzoo.skeletons import COCO17, CROWDPOSE14


@pytest.fixture(scope="module", params=["cpn_official", "cpn_pytorch", "cpn_exact", "hrnet"])
def codec(request):
    return request.param


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(256, 192))


def with_codec(model, codec):
    """Returns a model with the rules of another codec; its predictions are not tested."""
    from dataclasses import replace

    copy = kpzoo.build("cpn_tiny", image_hw=(256, 192))
    copy.preset = replace(model.preset, codec=codec)
    return copy


def oracle(model, data):
    """Returns what stands in for `accelerate`: it draws the annotated keypoints as heatmaps, and decodes them."""
    preset = model.preset
    rules = preset.rules
    index, _, boxes, *_ = evaluator.boxes_of(data, "gt")
    views = geometry.views(boxes, rules.crop, preset.image_hw)
    to_crop = geometry.invert(geometry.crop_to_image(views, preset.image_hw))
    points = geometry.transform(to_crop, data.annotations.persons.keypoints_image_xy[index])
    visibility = data.annotations.persons.visibility[index]
    done = 0

    def predict_crops(image):
        nonlocal done
        rows = slice(done, done + len(image))
        count = min(len(image), len(points) - done)
        done += count
        encoded = heatmaps.encode(rules, points[rows].astype(np.float32), visibility[rows], preset.image_hw)["heatmaps"]
        padded = tf.pad(encoded, [[0, len(image) - count], [0, 0], [0, 0], [0, 0]])
        return heatmaps.decode(rules, padded[:, None])

    def start(image, flip):
        found = predict_crops(image)
        return lambda: found

    return lambda *options: SimpleNamespace(start=start)


def test_a_perfect_network_reaches_an_ap_of_one(small_folder, model, codec, monkeypatch, tmp_path):
    data = loading.load(small_folder, "train")
    model = with_codec(model, codec)
    monkeypatch.setattr(box_poses, "accelerate", oracle(model, data))
    found = kpzoo.evaluate(model, data, batch_size=4, results_path=tmp_path / "results.json", nms=None)
    assert found.values["AP"] > 0.99
    assert found.values["AR"] > 0.99
    assert found.circumstances["boxes"] == "gt (annotated)"
    assert "gt (annotated)" in str(found)
    again = average_precision(data.annotations, read_results(tmp_path / "results.json", data.annotations))
    assert {name: found.values[name] for name in again.values} == again.values
    scored = kpzoo.score(data.annotations.path, tmp_path / "results.json")
    assert scored.values == again.values == kpzoo.score(data.annotations, found.results).values
    for name in ("image_ids", "keypoints_image_xy", "keypoint_scores", "scores"):
        np.testing.assert_array_equal(getattr(scored.results, name), getattr(found.results, name))


def test_detections_and_annotated_boxes_are_told_apart(small_folder, model, tmp_path):
    data = loading.load(small_folder, "train")
    detections = tmp_path / "detections.json"
    rows = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 60, 90], "score": 0.8}]
    detections.write_text(json.dumps(rows))
    found = kpzoo.evaluate(model, data, boxes=detections, flip=False)
    assert found.circumstances["boxes"] == "detections of detections.json"
    assert "PCK@0.2" not in found.values  # detections have no known person
    assert found.circumstances["poses"] == 1
    detections.write_text(json.dumps([{**rows[0], "image_id": 99}]))
    with pytest.raises(UserError, match="detections.json"):
        kpzoo.evaluate(model, data, boxes=detections)


def test_no_detection_at_all_is_an_ap_of_zero(small_folder, model, tmp_path):
    detections = tmp_path / "detections.json"
    detections.write_text("[]")
    assert kpzoo.evaluate(model, loading.load(small_folder, "train"), boxes=detections).values["AP"] == 0.0


def test_a_corrupt_picture_stops_the_evaluation_and_is_named(tmp_path, model):
    from conftest import write_small_folder

    write_small_folder(tmp_path)
    victim = tmp_path / "images/train/3.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match="3.jpg cannot be decoded"):
        kpzoo.evaluate(model, loading.load(tmp_path, "train"))


def test_other_keypoints_are_refused_with_the_way_out(small_folder):
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton="crowdpose14")
    with pytest.raises(UserError, match="has other keypoints than model"):
        kpzoo.evaluate(model, loading.load(small_folder, "train"))


@pytest.fixture(scope="module")
def crowdpose(small_folder, tmp_path_factory):
    """The small folder with CrowdPose's keypoints; head and neck, which COCO lacks, are where no model finds them."""
    root = tmp_path_factory.mktemp("crowdpose")
    shutil.copytree(small_folder, root, dirs_exist_ok=True)
    path = root / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    places = CROWDPOSE14.places_in(COCO17)
    for row in content["annotations"]:
        triples = np.array(row["keypoints"], float).reshape(17, 3)[places]
        triples[places < 0] = (0, 0, 2)
        row |= dict(keypoints=triples.ravel().tolist(), num_keypoints=14)
    content["annotations"].append({**content["annotations"][0], "id": 99, "keypoints": [0] * 36 + [9, 9, 2, 9, 9, 2]})
    content["categories"] = [{"id": 1, "name": "person", "keypoints": list(CROWDPOSE14.keypoints)}]
    path.write_text(json.dumps(content))
    return loading.load(root, "train")


def test_keypoints_that_model_and_data_share_are_scored_and_the_figure_says_so(
    small_folder, crowdpose, model, monkeypatch, tmp_path
):
    monkeypatch.setattr(box_poses, "accelerate", oracle(model, loading.load(small_folder, "train")))
    found = kpzoo.evaluate(model, crowdpose, batch_size=4, nms=None, shared_keypoints=True)
    assert found.values["AP"] > 0.99 and found.values["PCK@0.2"] == 1.0
    assert found.circumstances["persons"] == 13  # and not the one with head and neck alone
    assert found.results.keypoints_image_xy.shape[1:] == (12, 2)
    own, shared = COCO17.shared_with(CROWDPOSE14)
    assert own.tolist() == list(range(5, 17)) and list(found.details["per_keypoint"]) == list(COCO17.keypoints[5:])
    said = "shared keypoints: 12 of the data's 14 and of the model's 17: left_shoulder, right_shoulder"
    assert said in str(found) and "skeleton: crowdpose14, 12 of 14 keypoints" in str(found)
    data = evaluation.of_shared_keypoints(crowdpose, model.preset)
    assert data.skeleton.sigmas == CROWDPOSE14.sigmas[:12]
    assert average_precision(data.annotations, found.results).values["AP"] == found.values["AP"]
    with pytest.raises(UserError, match="are not written. Leave out `results_path=`"):
        kpzoo.evaluate(model, crowdpose, shared_keypoints=True, results_path=tmp_path / "results.json")
    with pytest.raises(UserError, match="evaluate the 12 keypoints that both have with `shared_keypoints=True`"):
        kpzoo.evaluate(model, crowdpose)


def test_the_same_keypoints_are_scored_as_ever_if_shared_ones_are_asked_for(small_folder, model):
    data = loading.load(small_folder, "train")
    plain, shared = (kpzoo.evaluate(model, data, shared_keypoints=given, flip=False) for given in (False, True))
    assert plain.values == shared.values and plain.circumstances == shared.circumstances


def test_the_command_scores_shared_keypoints_and_names_the_option(crowdpose, tmp_path, capsys):
    kpzoo.save_weights(kpzoo.build("cpn_tiny", image_hw=(64, 64)), tmp_path / "tiny.weights.h5")
    given = ["--model", "cpn_tiny", "--weights", str(tmp_path / "tiny.weights.h5"), "--json"]
    command = ["evaluate", "--annotations", crowdpose.annotations.path, "--images", str(crowdpose.image_folder), *given]
    assert cli.main(command) == 2
    assert "evaluate the 12 keypoints that both have with --shared-keypoints" in capsys.readouterr().err
    assert cli.main([*command, "--shared-keypoints", "--report", str(tmp_path / "report.html")]) == 0
    assert json.loads(capsys.readouterr().out)["shared_keypoints"].startswith("12 of the data's 14")
    assert "shared keypoints" in (tmp_path / "report.html").read_text("utf-8")
    assert cli.main([*command, "--shared-keypoints", "--save-results", str(tmp_path / "results.json")]) == 2
    assert "Leave out --save-results or --shared-keypoints" in capsys.readouterr().err
    scored = ["evaluate", "--annotations", crowdpose.annotations.path, "--results", "r.json", "--shared-keypoints"]
    assert cli.main(scored) == 2 and "--shared-keypoints need --model" in capsys.readouterr().err


def test_predict_keeps_the_order_of_given_boxes_and_takes_none(model):
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    boxes = np.array([[10.0, 10, 50, 90], [60, 20, 40, 60], [0, 0, 160, 120]])
    poses = kpzoo.predict(model, image, boxes, batch_size=2)
    np.testing.assert_array_equal(poses.boxes_xywh, boxes)
    for row in range(3):
        alone = kpzoo.predict(model, image, boxes[row : row + 1], batch_size=2)
        np.testing.assert_allclose(alone.keypoints_xy[0], poses.keypoints_xy[row], atol=1e-3)
    empty = kpzoo.predict(model, image, np.zeros((0, 4)))
    assert isinstance(empty, Poses)
    assert empty.keypoints_xy.shape == (0, 17, 2)


def test_boxes_of_annotated_pictures_give_the_poses_of_predict_in_their_own_order(small_folder, model):
    """Whatever picture comes when, and how many crops fill a batch."""
    paths = [str(small_folder / f"images/train/{name}.jpg") for name in (2, 1, 2, 3, 1)]
    boxes = np.array([[10.0, 10, 50, 90], [60, 20, 40, 60], [0, 0, 160, 120], [5, 5, 60, 60], [30, 0, 50, 100]])
    found = inference.predict_boxes(model, paths, boxes, np.arange(5.0), flip=False, batch_size=2)
    np.testing.assert_array_equal(found.boxes_xywh, boxes)
    for row, path in enumerate(paths):
        alone = kpzoo.predict(model, path, boxes[row : row + 1], flip=False)
        np.testing.assert_allclose(found.keypoints_xy[row], alone.keypoints_xy[0], atol=1e-3)
        assert found.scores[row] == pytest.approx(alone.scores[0] * row, abs=1e-5)


@pytest.mark.parametrize("box", [[0, 0, -5, 10], [0, 0, np.nan, 10], [1, 2, 3]])
def test_predict_names_a_box_that_cannot_be_one(model, box):
    with pytest.raises(UserError, match="boxes_xywh"):
        kpzoo.predict(model, np.zeros((50, 50, 3), np.uint8), [box])


def test_predict_applies_the_exif_orientation_and_training_does_not(tmp_path, model):
    """The rule: what a user sees is what is searched; annotations count the pixels as they are stored."""
    upright = np.zeros((60, 80, 3), np.uint8)
    upright[:, :40] = 200
    jpeg = cv2.imencode(".jpg", upright)[1].tobytes()
    orientation = (0x0112, 3, 1, 6, 0)  # tag, type, count, value 6: to be turned by 90 degrees, end of the list
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, *orientation)
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    from kpzoo import images

    assert images.read_image(tmp_path / "turned.jpg").shape == (80, 60, 3)
    assert images.read_image(tmp_path / "turned.jpg", apply_exif=False).shape == (60, 80, 3)
    boxes = np.array([[5.0, 5, 40, 60]])
    seen = kpzoo.predict(model, tmp_path / "turned.jpg", boxes, flip=False)
    expected = kpzoo.predict(model, images.read_image(tmp_path / "turned.jpg"), boxes, flip=False)
    np.testing.assert_array_equal(seen.keypoints_xy, expected.keypoints_xy)


def test_sheets_show_all_pictures(small_folder, model):
    data = loading.load(small_folder, "train")
    for sheet in (evaluation.prediction_sheet(model, data, 4), evaluation.annotation_sheet(data, 4)):
        assert sheet.shape[1] > 4 * 320
        assert sheet.std() > 10


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crowd")
    drawn.write_drawn(folder, 4, seed=1, crowding=1.0, people=(2, 2))
    return loading.load(folder)


def test_of_two_annotated_boxes_that_overlap_the_better_visible_one_is_looked_at(crowd):
    persons = crowd.annotations.persons
    every, *_ = evaluator.boxes_of(crowd, "gt")
    kept, image_ids, *_ = evaluator.boxes_of(crowd, "gt", box_nms=0.5)
    dropped = np.setdiff1d(every, kept)
    assert len(dropped) > 0
    for index in dropped:
        beside = kept[image_ids == persons.image_ids[index]]
        ious = iou_matrix(persons.boxes_image_xywh[[index]], persons.boxes_image_xywh[beside])[0]
        nearest = beside[ious.argmax()]
        assert ious.max() > 0.5
        shown = (persons.visibility == 2).sum(axis=1)
        assert shown[nearest] >= shown[index]


def test_a_mipnet_is_scored_whole_and_by_instance(crowd):
    model = kpzoo.build("mipnet_cpn_tiny", image_hw=(64, 64))
    whole = kpzoo.evaluate(model, crowd, flip=False)
    some = kpzoo.evaluate(model, crowd, box_nms=0.5, flip=False)
    assert {"AP_instance_0", "AP_instance_1"} < set(whole.values)
    assert some.circumstances["boxes_used"] < whole.circumstances["boxes_used"]
    assert "IoU of 0.5" in some.circumstances["boxes"]


def test_each_instance_alone_is_what_it_would_be_without_the_other(crowd, monkeypatch):
    model = kpzoo.build("mipnet_cpn_tiny", image_hw=(64, 64))
    index, _, boxes, *_ = evaluator.boxes_of(crowd, "gt")
    truth = crowd.annotations.persons.keypoints_image_xy[index]
    count, (_, num_keypoints, _) = len(index), truth.shape

    def find(*_, **__):  # the first instance knows, the second does not
        points = np.stack([truth, np.zeros_like(truth)], axis=1).reshape(-1, num_keypoints, 2)
        instance, known = np.tile([0, 1], count), np.ones((2 * count, num_keypoints))
        return Poses(points, known, np.where(instance, 0.5, 1.0), np.repeat(boxes, 2, axis=0), instance, COCO17)

    monkeypatch.setattr(evaluator, "predict_boxes", find)
    values = kpzoo.evaluate(model, crowd).values
    assert values["AP"] == values["AP_instance_0"] > 0.99
    assert values["AP_instance_1"] == 0


@pytest.fixture
def asked(crowd, monkeypatch) -> list[int]:
    """Numbers of boxes per call of the network, which is replaced by predictions near the ground truth."""
    index, _, boxes, *_ = evaluator.boxes_of(crowd, "gt")
    rng, asked = np.random.default_rng(0), []
    points = crowd.annotations.persons.keypoints_image_xy[index]
    points = points + rng.normal(0, 4, points.shape)
    scores = rng.uniform(0.2, 1, len(points))

    def find(model, _, boxes_xywh, *__, **___):
        asked.append(len(boxes_xywh))
        rows = [int(np.flatnonzero((boxes == box).all(axis=1))[0]) for box in boxes_xywh]
        instances = model.preset.num_instances
        rows, instance = np.repeat(rows, instances), np.tile(np.arange(instances), len(boxes_xywh))
        found = points[rows], np.ones((len(rows), 17)), scores[rows] / (1 + instance), boxes[rows], instance, COCO17
        return Poses(*found)

    monkeypatch.setattr(evaluator, "predict_boxes", find)
    return asked


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_cpn_tiny"])
def test_ap_against_the_boxes_kept_is_that_of_box_nms_and_asks_once(crowd, asked, name):
    model = kpzoo.build(name, image_hw=(64, 64))
    whole = kpzoo.evaluate(model, crowd, kept_ious=evaluation.KEPT_IOUS)
    (num_boxes,) = asked
    kept = whole.details["kept"]
    assert [row["max_iou"] for row in kept] == list(evaluation.KEPT_IOUS)
    assert kept[0]["share"] == 1 and kept[0]["AP"] == whole.values["AP"]
    assert kept[-1]["share"] == len(crowd.annotations.image_ids) / num_boxes < 1  # all people of a scene overlap
    assert kept[-1]["AP"] < kept[0]["AP"]
    for row in kept:
        found = kpzoo.evaluate(model, crowd, box_nms=row["max_iou"])
        assert row["share"] == found.circumstances["boxes_used"] / num_boxes
        assert row["AP"] == found.values["AP"]


@pytest.mark.parametrize(
    ("name", "protocol", "expected", "poses_of_a_box"),
    [
        ("cpn_tiny", "coco", "none", 1),
        ("hrnet_tiny", "coco", 0.9, 1),
        ("hrnet_tiny", "crowdpose", "none", 1),
        ("mipnet_cpn_tiny", "coco", 0.9, 1),
        ("mipnet_cpn_tiny", "crowdpose", "none", 2),
    ],
)
def test_unless_told_the_pose_nms_is_that_of_the_reference(crowd, asked, name, protocol, expected, poses_of_a_box):
    model = kpzoo.build(name, image_hw=(64, 64))
    circumstances = kpzoo.evaluate(model, crowd, protocol=protocol).circumstances
    assert circumstances["oks_nms"] == expected
    assert circumstances["poses"] == poses_of_a_box * asked[0]


@pytest.mark.parametrize("found", [False, True])
def test_a_sheet_shows_the_heatmaps_of_every_instance(crowd, found):
    model = kpzoo.build("mipnet_cpn_tiny", image_hw=(64, 64))
    sheet = evaluation.heatmap_sheet(model, crowd, 2, found=found)
    assert sheet.shape[1] > 6 * 64  # two crops beside one another, each with two maps
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


def test_a_model_built_in_bfloat16_is_scored_as_such(small_folder):
    data = loading.load(small_folder, "train")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton=data.skeleton)
    finally:
        keras.config.set_dtype_policy("float32")
    assert kpzoo.evaluate(model, data, flip=False).circumstances["precision"] == "mixed_bfloat16"
