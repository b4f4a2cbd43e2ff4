"""Exports of person detectors answer what the Keras model answers, and serve pictures as they come."""

import json

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import export
from kpzoo.errors import UserError
from kpzoo.export.person_boxes import letterboxed
from kpzoo.inference.person_detector import PersonDetector
from kpzoo.nms import iou_matrix

HW = (96, 128)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = kpzoo.build("person_fpn_tiny", image_hw=HW)
    rng = np.random.default_rng(0)
    for variable in model.variables:  # weights at which cells differ, and some are sure of a person
        kind = variable.path.split("/")[-1]
        if kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.7, 1.3, variable.shape))
        elif kind in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.3, variable.shape))
    model.get_layer("score_conv").kernel.assign(rng.normal(0, 0.5, model.get_layer("score_conv").kernel.shape))
    model.get_layer("score_conv").bias.assign([-1.0])
    return model


@pytest.fixture(scope="module")
def exports(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return export.to_savedmodel(model, folder / "saved" / "1"), export.to_onnx(model, folder / "model.onnx")


def test_savedmodel_and_onnx_answer_the_models_boxes(model, exports):
    parity = export.compare(model, *exports)
    assert parity.passed, str(parity)
    assert [row.what for row in parity.differences] == ["scores", "boxes"] * 2
    assert {row.mean > 0 or row.largest == 0 for row in parity.differences} == {True}


def test_the_export_of_another_detector_is_found_out(model, exports):
    other = kpzoo.build("person_fpn_tiny", image_hw=HW)
    assert not export.compare(other, *exports).passed
    smaller = kpzoo.build("person_fpn_tiny", image_hw=(64, 64))
    with pytest.raises(UserError, match="does not accept the inputs|it is another's export"):
        export.compare(smaller, exports[1])


def test_a_served_picture_gets_the_detectors_boxes(model, exports, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (96, 128, 3), np.uint8)  # the input's size: nothing is resized
    contents = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    served = tf.saved_model.load(str(exports[0])).signatures["predict_image"]
    found = served(contents=tf.constant(contents), min_score=tf.constant(0.1))
    detector = PersonDetector(model, min_score=0.1, min_size=0.0)
    [boxes], [scores] = detector.detect([pixels])
    assert len(scores) > 3
    low = np.clip(found["boxes_xywh"][:, :2], 0, [128, 96])
    high = np.clip(found["boxes_xywh"][:, :2] + found["boxes_xywh"][:, 2:], 0, [128, 96])
    # The detector clips to the picture before boxes are compared, so that a few may differ at its border.
    overlap = iou_matrix(boxes, np.concatenate([low, high - low], axis=1)).max(1)
    assert (overlap > 0.99).mean() > 0.8
    assert float(found["scores"][0]) == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.parametrize("size_hw", [(1, 1), (10, 300), (300, 10), (480, 640), (96, 128)])
def test_letterboxed_pictures_fit_and_scales_bring_boxes_back(size_hw):
    pixels = np.full((*size_hw, 3), 200, np.uint8)
    image, scale = letterboxed(tf.constant(pixels), HW)
    assert image.shape == (*HW, 3)
    bright = (np.abs(image.numpy() - 200) < 0.01).all(-1)
    rows, columns = bright.any(1).sum(), bright.any(0).sum()
    np.testing.assert_allclose(scale, [columns / size_hw[1], rows / size_hw[0]] * 2, rtol=1e-6)
    assert bright[:rows, :columns].all() and (image.numpy()[~bright] == 127).all()
    assert rows == HW[0] or columns == HW[1]


def test_the_description_tells_what_a_client_needs(exports):
    told = json.loads((exports[0] / "assets.extra" / "kpzoo.json").read_text())
    assert told["model"] == "person_fpn_tiny" and told["strides"] == [8, 16, 32]
    assert told["picture"] == {"scaled_to_fit": True, "place": "upper left", "fill": 127}
    assert "keypoints" not in told and told["normalization"]["name"] == "lite_rgb"


def test_litert_is_refused_in_one_line(model, tmp_path):
    with pytest.raises(UserError, match="written as SavedModel or ONNX"):
        export.to_litert(model, tmp_path / "model.tflite")
