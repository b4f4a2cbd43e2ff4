"""Covariances and calibrated scores of keypoints: moments, calibration, engines, exports, files and poses."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import kpzoo
from kpzoo import crops, export, heatmaps
from kpzoo.errors import UserError
from kpzoo.evaluation import confidence as fitting
from kpzoo.evaluation import reliability
from kpzoo.heatmaps import CODECS, UNFITTED, Confidence
from kpzoo.inference import agreement
from kpzoo.inference.folded_model import decoded, instance_heatmaps, output_names
from kpzoo.poses import Poses
from kpzoo.skeletons import COCO17
from kpzoo.weights import published

NUMBERS = Confidence(1.3, (1.5, 1.0, 0.5))
FINE = ["cpn_lite_tiny", "mipnet_lite_tiny"]
EXACT = CODECS["cpn_exact"]


def built(name: str, confidence=NUMBERS):
    model = kpzoo.build(name, image_hw=(64, 64))
    rng = np.random.default_rng(0)
    for variable in model.variables:  # distinct heatmaps, and no zeros
        if "kernel" in variable.path:
            variable.assign(rng.normal(0, 1 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    maps = instance_heatmaps(model, tf.constant(agreement.drawn_crops(model, 2)))
    peak = 0.6 * EXACT.peak / float(tf.reduce_max(maps))  # as of a trained model, so that scores depend on the peaks
    last = [variable for variable in model.variables if re.fullmatch(r"refine_head_bn/(gamma|beta)", variable.path)]
    assert last
    for variable in last:
        variable.assign(variable * peak)
    model.preset = replace(model.preset, confidence=confidence)
    return model


@pytest.fixture(scope="module", params=FINE)
def model(request):
    return built(request.param)


def gaussians(size_hw, places_xy, covariances, height=255.0) -> np.ndarray:
    """Returns (h, w, K) Gaussians with these covariances, all in cells."""
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    offsets = np.stack([columns, rows], axis=-1)[:, :, None] - np.asarray(places_xy)
    squared = np.einsum("hwki,kij,hwkj->hwk", offsets, np.linalg.inv(covariances), offsets)
    return (height * np.exp(-squared / 2)).astype(np.float32)


def cut_share() -> float:
    """Returns the variance of a Gaussian of variance 1 above its foot, from the integrals over the radius."""
    radii = np.linspace(0, np.sqrt(-2 * np.log(0.1)), 20_001)
    mass = (np.exp(-(radii**2) / 2) - 0.1) * radii
    return float((mass * radii**2).sum() / mass.sum() / 2)


@pytest.mark.parametrize("kernel", [7, 9, 13, 17])
def test_the_spread_of_a_label_is_its_variance_above_the_foot_and_the_least_variance(kernel):
    size_hw = (96, 72) if kernel > 9 else (32, 24)
    point = np.array([[4 * size_hw[1] / 2 + 1.3, 4 * size_hw[0] / 2 - 2.1]], np.float32)
    rows, columns, _ = heatmaps.encoding._exact_labels(point, size_hw, kernel)
    label = 255 * np.einsum("kh,kw->hwk", rows, columns)
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    found = heatmaps.spread(EXACT, tf.constant(label), tf.constant(point)).numpy()[0]
    expected = 16 * sigma**2 * cut_share() + 1
    np.testing.assert_allclose(np.diag(found), expected, rtol=0.05)
    assert abs(found[0, 1]) < 0.05 * expected


def test_the_spread_follows_the_direction_of_a_heatmap_and_a_second_peak():
    tilted = np.array([[[9.0, 4.0], [4.0, 5.0]]])
    maps = gaussians((64, 64), [(31.0, 30.0)], tilted)
    found = heatmaps.spread(EXACT, maps, np.array([[126.0, 122.0]], np.float32)).numpy()[0]
    np.testing.assert_allclose(found - np.eye(2), 16 * cut_share() * tilted[0], rtol=0.03)
    far = maps + 0.8 * gaussians((64, 64), [(51.0, 30.0)], tilted)
    wide = heatmaps.spread(EXACT, far, np.array([[126.0, 122.0]], np.float32)).numpy()[0]
    assert wide[0, 0] > found[0, 0] + 16 * 100 and wide[1, 1] == pytest.approx(found[1, 1], rel=0.05)


def test_the_spread_of_a_heatmap_without_positive_values_is_that_of_the_whole_crop():
    for maps in (np.zeros((1, 16, 12, 2), np.float32), np.full((1, 16, 12, 2), -3.0, np.float32)):
        points, scores, covariances, of_poses = heatmaps.decode_with_covariance(EXACT, maps, [0.05, 0.1], NUMBERS)
        assert np.isfinite(covariances).all() and np.isfinite(scores).all() and np.isfinite(of_poses).all()
        assert (np.trace(covariances.numpy(), axis1=-2, axis2=-1) > 16 * (16**2 + 12**2) / 12).all()


@settings(max_examples=25, deadline=None)
@given(angle=st.floats(-3.1, 3.1), size=st.floats(0.3, 4.0), seed=st.integers(0, 99))
def test_covariances_turn_and_scale_with_the_affine_of_the_crop(angle, size, seed):
    rng = np.random.default_rng(seed)
    half = rng.normal(0, 3, (1, 2, 3, 2, 2))
    covariances = (half @ half.swapaxes(-1, -2)).astype(np.float32)
    view = tf.constant([50.0, 60.0, 30 * size, 40 * size])
    matrix = crops.view_matrix(view, 1.0, tf.constant(angle, tf.float32), tf.constant(False), (128, 96))[None]
    found = crops.covariance_to_image(matrix, tf.constant(covariances)).numpy()
    points = rng.multivariate_normal([0, 0], covariances[0, 1, 2], 4000)
    moved = crops.to_image(matrix, points[None].astype(np.float32)).numpy()[0]
    expected = np.asarray(matrix)[0, :, :2] @ np.cov(points.T) @ np.asarray(matrix)[0, :, :2].T
    np.testing.assert_allclose(np.cov(moved.T), expected, rtol=1e-3, atol=1e-4 * np.trace(expected))
    linear = np.asarray(matrix)[0, :, :2]
    np.testing.assert_allclose(found[0], linear @ covariances[0] @ linear.T, rtol=1e-4, atol=1e-4 * found.max())
    np.testing.assert_allclose(found, found.swapaxes(-1, -2), rtol=1e-4, atol=1e-5 * found.max())
    np.testing.assert_allclose(np.linalg.det(found), np.linalg.det(covariances) * np.linalg.det(linear) ** 2, rtol=0.02)


def test_the_spread_turns_with_the_heatmap():
    tilted = np.array([[[9.0, 4.0], [4.0, 5.0]]])
    maps = gaussians((41, 41), [(20.0, 20.0)], tilted)
    centre = np.array([[82.0, 82.0]], np.float32)
    found = heatmaps.spread(EXACT, maps, centre).numpy()[0]
    turned = heatmaps.spread(EXACT, np.rot90(maps).copy(), centre).numpy()[0]
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(turned, quarter @ found @ quarter.T, rtol=1e-4)


def test_the_flip_test_averages_heatmaps_and_mirrors_covariances(model):
    crop = agreement.drawn_crops(model, 2)
    order = model.preset.skeleton.flip_order
    _, scores, covariances, of_poses = (part.numpy() for part in decoded(model, True, tf.constant(crop)))
    mirrored = decoded(model, True, tf.constant(crop[:, :, ::-1].copy()))
    _, other_scores, other, other_poses = (part.numpy() for part in mirrored)
    signs = np.array([[1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(other[:, :, order] * signs, covariances, rtol=1e-2, atol=0.5)
    np.testing.assert_allclose(other_scores[:, :, order], scores, atol=1e-3)
    np.testing.assert_allclose(other_poses, of_poses, rtol=1e-3)


def test_scores_are_calibrated_as_documented(model):
    maps = heatmaps.encode(EXACT, np.full((1, 17, 2), 30.0, np.float32), np.full((1, 17), 2), (64, 64))["heatmaps"]
    maps = maps * 0.6
    points, peaks = heatmaps.decode(EXACT, maps)
    found = heatmaps.decode_with_covariance(EXACT, maps, COCO17.sigmas, NUMBERS)
    spread = heatmaps.spread(EXACT, maps, points).numpy()
    np.testing.assert_allclose(found[2], NUMBERS.scale * spread, rtol=1e-6)
    variance = np.trace(spread, axis1=-2, axis2=-1) / 2
    logits = 1.5 + np.log(peaks) + 0.5 * np.log(np.square(COCO17.sigmas) * 64 * 64 / variance)
    np.testing.assert_allclose(found[1], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_allclose(found[3], heatmaps.pose_scores(EXACT, peaks, 1.0))
    raw = heatmaps.decode_with_covariance(EXACT, maps, COCO17.sigmas, UNFITTED)
    np.testing.assert_array_equal(raw[1], peaks)


def test_without_confidence_outputs_and_poses_are_as_before():
    model = built("cpn_lite_tiny", None)
    crop = agreement.drawn_crops(model, 1)
    assert output_names(model.preset) == ("keypoints_crop_xy", "keypoint_scores")
    assert len(kpzoo.accelerate(model).start(crop)()) == 2 == len(decoded(model, True, tf.constant(crop)))
    poses = kpzoo.predict(model, np.zeros((90, 80, 3), np.uint8), [[5, 5, 60, 80]])
    assert poses.covariance_xy is None and "covariance_xy" not in poses.to_coco(1)[0]
    with pytest.raises(UserError, match="no covariances.*fit_confidence"):
        poses.draw(np.zeros((90, 80, 3), np.uint8), ellipses=True)


@pytest.mark.parametrize("engine", ["tensorflow", "openvino", "onnxruntime"])
@pytest.mark.parametrize("flip", [True, False])
def test_engines_equal_keras(model, engine, flip):
    crop = agreement.drawn_crops(model, 3)
    function = kpzoo.accelerate(model, engine=engine)
    found = function.start(crop, flip)()
    expected = decoded(model, flip, tf.constant(crop))
    assert len(found) == len(expected) == 4 and len(function(crop, flip)) == 2
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)
    size = np.trace(expected[2], axis1=-2, axis2=-1)[..., None, None]
    assert (np.abs(found[2] - expected[2]) / size).max() < 1e-2
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-3)
    assert np.ptp(expected[1]) > 0.1 and np.max(expected[3]) > 0.1  # the comparison is one of scores that differ


def test_a_new_confidence_is_used_at_once(model):
    crop = agreement.drawn_crops(model, 1)
    function = kpzoo.accelerate(model)
    before = function.start(crop)()[2].numpy()
    model.preset = replace(model.preset, confidence=replace(NUMBERS, scale=2 * NUMBERS.scale))
    try:
        np.testing.assert_allclose(function.start(crop)()[2], 2 * before, rtol=1e-5)
    finally:
        model.preset = replace(model.preset, confidence=NUMBERS)


def test_exports_have_the_outputs_and_equal_keras(model, tmp_path):
    targets = [
        export.to_savedmodel(model, tmp_path / "saved"),
        export.to_onnx(model, tmp_path / "model.onnx"),
        export.to_openvino(model, tmp_path / "model.xml"),
        export.to_litert(model, tmp_path / "model.tflite"),
    ]
    parity = export.compare(model, *targets)
    assert parity.passed, str(parity)
    for target in targets:
        rows = {row.what for row in parity.differences if row.target == str(target)}
        assert {"keypoints", "scores", "variances", "poses"} <= rows, target
    changed = replace(NUMBERS, scale=1.01 * NUMBERS.scale)
    model.preset = replace(model.preset, confidence=changed)
    try:
        failed = [row.what for row in export.compare(model, targets[0]).differences if not row.passed]
    finally:
        model.preset = replace(model.preset, confidence=NUMBERS)
    assert failed == ["variances"]


def test_an_export_without_covariances_is_told(tmp_path):
    model = built("cpn_lite_tiny", None)
    target = export.to_litert(model, tmp_path / "model.tflite")
    model.preset = replace(model.preset, confidence=NUMBERS)
    with pytest.raises(UserError, match="has no covariances.*Export it again"):
        export.compare(model, target)


def test_the_serving_graph_predicts_images_as_keras(model, tmp_path):
    import cv2

    image = np.random.default_rng(0).integers(0, 255, (120, 100, 3), np.uint8)
    boxes = np.array([[10, 12, 60, 80], [20, 5, 40, 100]], np.float32)
    loaded = tf.saved_model.load(str(export.to_savedmodel(model, tmp_path / "saved")))
    contents = tf.constant(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    ask = loaded.signatures["predict_image"]
    served = ask(contents=contents, boxes_xywh=tf.constant(boxes), flip=tf.constant(True))
    poses = kpzoo.predict(model, image, boxes, nms=None)
    shape = poses.covariance_xy.shape
    found = served["covariance_xy"].numpy().reshape(shape)
    size = np.trace(poses.covariance_xy, axis1=-2, axis2=-1)[..., None, None]
    assert (np.abs(found - poses.covariance_xy) / size).max() < 1e-2
    np.testing.assert_allclose(served["scores"].numpy().ravel(), poses.scores, rtol=1e-3)
    empty = ask(contents=contents, boxes_xywh=tf.zeros((0, 4)), flip=tf.constant(True))
    assert empty["covariance_xy"].shape == (0, model.preset.num_instances, 17, 2, 2)


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_weights_files_keep_the_confidence(tmp_path, name):
    model = built("cpn_lite_tiny")
    path = kpzoo.save_weights(model, tmp_path / name)
    assert kpzoo.build("cpn_lite_tiny", image_hw=(64, 64), weights=path).preset.confidence == NUMBERS
    with pytest.warns(UserWarning, match="image size"):  # fitted to crops of another size
        assert kpzoo.build("cpn_lite_tiny", image_hw=(96, 64), weights=path).preset.confidence is None
    other = kpzoo.save_weights(built("cpn_lite_tiny", None), tmp_path / f"other_{name}")
    kpzoo.load_weights(model, other)
    assert model.preset.confidence is None


def test_a_damaged_confidence_is_told_and_changes_nothing(tmp_path):
    from kpzoo.weights.files import read_state
    from kpzoo.weights.safetensors_file import write_safetensors

    model = built("cpn_lite_tiny")
    path = kpzoo.save_weights(model, tmp_path / "w.safetensors")
    state = read_state(path)
    for text in ('{"scale": -1, "weights": null}', "[", '{"scale": 1, "weights": [1, 2]}', '{"odd": 1}'):
        write_safetensors(path, state.arrays, {**state.metadata, "kpzoo_confidence": text})
        with pytest.raises(UserError, match="metadata of the weights file are invalid"):
            kpzoo.load_weights(model, path)
    assert model.preset.confidence == NUMBERS


def test_keras_files_keep_the_confidence_and_training_removes_it(tmp_path):
    import keras

    model = built("cpn_lite_tiny")
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.preset.confidence == NUMBERS
    crop = agreement.drawn_crops(model, 2)
    targets = heatmaps.encode(
        model.preset.rules, np.full((2, 17, 2), 30.0, np.float32), np.full((2, 17), 2), (64, 64), model.num_levels
    )
    model.compile("sgd", kpzoo.losses.default_loss(model.preset))
    model.fit(tf.data.Dataset.from_tensors({"image": crop, **targets}), verbose=0)
    assert model.preset.confidence is None
    assert "confidence" not in model.preset.to_config()  # records of earlier runs have none


def test_shipped_weights_have_their_row():
    fitted = {tag: row for tag, row in published.ROWS.items() if row.confidence is not None}
    assert fitted
    for tag, row in fitted.items():
        assert kpzoo.build(row.model, weights=tag).preset.confidence == row.confidence
        with pytest.warns(UserWarning, match="image size"):
            assert kpzoo.build(row.model, weights=tag, image_hw=(64, 64)).preset.confidence is None


def invented(seed: int, num_people: int = 400):
    """Returns annotations, and poses with `UNFITTED` confidence whose numbers and errors follow a known truth."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(20, 200, (num_people, 17, 2))
    half = rng.normal(0, 2, (num_people, 17, 2, 2)) + 4 * np.eye(2)
    covariance = half @ half.swapaxes(-1, -2)
    errors = np.sqrt(2.5) * (half @ rng.normal(size=(num_people, 17, 2, 1)))[..., 0]
    persons = SimpleNamespace(
        keypoints_image_xy=truth, visibility=rng.integers(0, 3, (num_people, 17)), area=np.full(num_people, 4000.0)
    )
    annotations = SimpleNamespace(persons=persons, skeleton=COCO17, path="invented")
    boxes = np.tile([0.0, 0.0, 60.0, 80.0], (num_people, 1))
    peaks = rng.uniform(0.1, 1, (num_people, 17))
    poses = Poses(
        truth + errors, peaks, np.ones(num_people), boxes, np.zeros(num_people), COCO17, covariance_xy=covariance
    )
    return annotations, poses


def test_the_fit_finds_the_true_scale_and_is_calibrated_on_other_people():
    preset = built("cpn_lite_tiny").preset
    annotations, poses = invented(0)
    found = fitting.fitted(annotations, np.arange(400), poses, preset)
    assert found.scale == pytest.approx(2.5, rel=0.1)
    annotations, poses = invented(1)
    area = kpzoo.geometry.views(poses.boxes_xywh, preset.rules.crop, preset.image_hw)[:, 2:].prod(axis=1)
    variance = np.trace(poses.covariance_xy, axis1=-2, axis2=-1) / 2
    w0, w1, w2 = found.weights
    logits = w0 + w1 * np.log(poses.keypoint_scores)
    logits += w2 * np.log(np.square(COCO17.sigmas) * area[:, None] / variance)
    scores = 1 / (1 + np.exp(-logits))
    told = reliability.reliability(
        annotations, np.arange(400), poses.keypoints_xy, scores, found.scale * poses.covariance_xy
    )
    assert told["ECE"] < 0.05 and told["AUC"] > 0.6
    assert told["coverage_90"] == pytest.approx(0.9, abs=0.02) and told["coverage_50"] == pytest.approx(0.5, abs=0.04)


def test_logistic_regression_finds_the_true_weights():
    rng = np.random.default_rng(0)
    features = rng.normal([3, -50], [1, 20], (50_000, 2))
    outcomes = rng.random(50_000) < 1 / (1 + np.exp(-(1.0 + 0.7 * features[:, 0] + 0.04 * features[:, 1])))
    np.testing.assert_allclose(fitting.logistic_regression(features, outcomes), [1.0, 0.7, 0.04], rtol=0.1)


def test_calibration_of_known_scores():
    told = reliability.calibration(np.array([0.05, 0.05, 0.95, 1.0]), np.array([False, True, True, True]))
    assert told["ECE"] == pytest.approx((2 * 0.45 + 2 * 0.025) / 4)
    assert [row["count"] for row in told["bins"]] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    assert told["AUC"] == pytest.approx((0.5 + 1 + 1) / 3)  # the tie counts half
    assert reliability.calibration(np.array([0.5]), np.array([True]))["AUC"] is None


def test_too_few_keypoints_are_told():
    annotations, poses = invented(0, 5)
    with pytest.raises(UserError, match="at least 200 labelled keypoints"):
        fitting.fitted(annotations, np.arange(5), poses, built("cpn_lite_tiny").preset)


def some_poses(count: int = 3, **more) -> Poses:
    rng = np.random.default_rng(0)
    half = rng.normal(0, 3, (count, 17, 2, 2))
    arrays = rng.uniform(5, 60, (count, 17, 2)), rng.random((count, 17)), rng.random(count), np.ones((count, 4))
    return Poses(*arrays, np.zeros(count), COCO17, covariance_xy=half @ half.swapaxes(-1, -2), **more)


def test_poses_keep_covariances_through_json_tables_indices_and_concatenation():
    poses = some_poses(track_ids=np.array([1, -1, 2]))
    again = Poses.from_coco(json.loads(json.dumps(poses.to_coco(7))), COCO17)
    np.testing.assert_array_equal(again.covariance_xy, poses.covariance_xy)
    np.testing.assert_array_equal(poses[[2, 0]].covariance_xy, poses.covariance_xy[[2, 0]])
    table = poses.to_pandas("a.jpg")
    assert list(table.columns) == Poses.csv_header(COCO17, tracked=True, covariance=True)
    np.testing.assert_allclose(table["nose_xy"], poses.covariance_xy[:, 0, 0, 1])
    plain = replace(some_poses(2), covariance_xy=None)
    joined = Poses.concatenate([Poses.empty(COCO17), poses, plain])
    assert np.isnan(joined.covariance_xy[3:]).all() and joined.track_ids.tolist() == [1, -1, 2, -1, -1]
    np.testing.assert_array_equal(joined.covariance_xy[:3], poses.covariance_xy)
    rows = joined.to_coco(7)
    assert rows[3]["covariance_xy"] is None and len(joined.to_csv(7)[3]) == len(table.columns)
    np.testing.assert_array_equal(Poses.from_coco(rows, COCO17).covariance_xy, joined.covariance_xy)
    assert Poses.concatenate([plain, plain]).covariance_xy is None
    nobody = poses[poses.scores > 1]  # with covariances of nobody
    assert nobody.covariance_xy.shape == (0, 17, 2, 2) and nobody.to_coco(7) == nobody.to_csv(7) == []
    assert list(nobody.to_pandas().columns) == list(table.columns) and nobody.to_pandas().empty
    with pytest.raises(UserError, match="`covariance_xy` of 51 numbers"):
        Poses.from_coco([{**poses.to_coco(7)[0], "covariance_xy": [1.0]}], COCO17)


def test_interpolated_poses_have_covariances_between():
    from kpzoo.inference.interpolation import _mixed

    first = some_poses(1, track_ids=np.array([1]))
    second = replace(first, covariance_xy=3 * first.covariance_xy)
    np.testing.assert_allclose(_mixed(first, second, 0.25).covariance_xy, 1.5 * first.covariance_xy)


def test_ellipses_cover_ninety_percent_and_are_drawn():
    from kpzoo.drawing import _ellipse

    covariance = np.array([[30.0, 12.0], [12.0, 10.0]])
    outline = _ellipse(covariance)
    radii = (outline @ np.linalg.inv(covariance) * outline).sum(axis=1)
    np.testing.assert_allclose(radii, reliability.RADIUS2[0.9], rtol=1e-6)
    poses = some_poses(1)
    poses = replace(poses, keypoint_scores=np.ones((1, 17)))
    image = np.zeros((80, 80, 3), np.uint8)
    assert (poses.draw(image, ellipses=True) != poses.draw(image)).any()


def test_the_command_fits_writes_and_reports(tmp_path, capsys):
    from kpzoo import cli, scenes

    folder = tmp_path / "data"
    scenes.write_drawn(folder, 60, split="val")
    weights = kpzoo.save_weights(built("cpn_lite_tiny", None), tmp_path / "plain.safetensors")
    data = ["--annotations", folder / "annotations/person_keypoints_val.json", "--images", folder / "images/val"]
    fitted, report = tmp_path / "fitted.safetensors", tmp_path / "report.html"
    given = ["evaluate", "--model", "cpn_lite_tiny", *data, "--json"]
    assert not cli.main(list(map(str, [*given, "--weights", weights, "--fit-confidence", fitted, "--report", report])))
    out, err = capsys.readouterr()
    model = kpzoo.build("cpn_lite_tiny", image_hw=(64, 64), weights=fitted)
    assert f"confidence={model.preset.confidence}" in err
    told = json.loads(out)["confidence"]
    assert told["coverage_90"] == pytest.approx(0.9, abs=0.01) and told["ECE"] < 0.05  # on the data of the fit
    assert sum(row["count"] for row in told["bins"]) == told["num_keypoints"]
    page = report.read_text("utf-8")
    for text in ("Confidence of keypoints", "expected calibration error", "inside the 90% ellipses", "calibrated"):
        assert text in page
    assert not cli.main(list(map(str, [*given, "--weights", fitted])))
    assert json.loads(capsys.readouterr().out)["confidence"] == told
    assert cli.main(list(map(str, [*given, "--weights", weights, "--fit-confidence", "w.npz"]))) == 2
    assert cli.main(list(map(str, [*given, "--weights", weights, "--fit-confidence", "--boxes", "b.json"]))) == 2
    photos = folder / "images/val"
    drawn = ["predict", photos, "--model", "cpn_lite_tiny", "--out", tmp_path / "poses", "--detector", "whole"]
    assert cli.main(list(map(str, [*drawn, "--weights", weights, "--draw-ellipses"]))) == 2
    assert "has no fitted confidence" in capsys.readouterr().err
    assert not cli.main(list(map(str, [*drawn, "--weights", fitted, "--draw-ellipses"])))
    rows = json.loads((tmp_path / "poses/results.json").read_text("utf-8"))
    assert all(len(row["covariance_xy"]) == 3 * 17 for row in rows)
    header = (tmp_path / "poses/poses.csv").read_text("utf-8").splitlines()[0]
    assert header.split(",") == Poses.csv_header(COCO17, covariance=True)
