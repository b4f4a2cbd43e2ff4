"""Engines and precisions as predict and evaluate offer them, with losses that are told."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_export import lively

import kpzoo
from kpzoo.cli import main
from kpzoo.errors import UserError
from kpzoo.inference import calibration, calibration_crops


@pytest.fixture(scope="module")
def model():
    return lively(kpzoo.build("cpn_tiny", image_hw=(64, 64)))


def poses_in(folder):
    return json.loads((folder / "results.json").read_text("utf-8"))


def test_predict_writes_the_poses_of_tensorflow(small_folder, tiny_model, tmp_path):
    source = str(small_folder / "images/train")
    for name, options in (("tensorflow", []), ("openvino", ["--engine", "openvino"])):
        box = ["--box", "10", "10", "80", "90", "--no-pictures"]
        assert main(["predict", source, *tiny_model, *options, *box, "--out", str(tmp_path / name)]) == 0
    known, found = poses_in(tmp_path / "tensorflow"), poses_in(tmp_path / "openvino")
    assert len(known) == len(found) == 6 and len(known[0]["keypoints"]) == 3 * 14
    for one, other in zip(known, found, strict=True):
        np.testing.assert_allclose(one["keypoints"], other["keypoints"], atol=0.02)


def test_a_run_of_another_engine_is_not_resumed(small_folder, tiny_model, tmp_path, capsys):
    command = ["predict", str(small_folder / "images/train"), *tiny_model, "--out", str(tmp_path), "--no-pictures"]
    command += ["--box", "10", "10", "80", "90"]
    assert main([*command, "--engine", "openvino"]) == 0
    assert main(command) != 0
    assert "other settings" in capsys.readouterr().err


def test_evaluate_has_the_figures_of_tensorflow(model, small_folder):
    data = kpzoo.data.load(small_folder, "train")
    known, found = (kpzoo.evaluate(model, data, engine=engine) for engine in ("tensorflow", "openvino"))
    assert found.circumstances["engine"] == "openvino" and "engine" not in known.circumstances
    for name, value in known.values.items():
        assert found.values[name] == pytest.approx(value, abs=1e-6)


def test_evaluate_in_int8_tells_pixels_and_the_ap_in_float32(model, small_folder, capsys):
    data = kpzoo.data.load(small_folder, "train")
    found = kpzoo.evaluate(model, data, engine="openvino", precision="int8")
    assert found.circumstances["precision"] == "int8"
    assert found.circumstances["AP_float32"] == pytest.approx(kpzoo.evaluate(model, data).values["AP"], abs=1e-6)
    assert "int8 in openvino: keypoints move by" in capsys.readouterr().err


def test_crops_for_calibration_are_of_the_first_people(model, small_folder, monkeypatch):
    boxes = [[10, 10, 80, 90], [30, 20, 60, 60]]
    crops = calibration_crops(model, small_folder / "images/train", boxes, num_crops=9)
    assert crops.shape == (9, 64, 64, 3) and crops.dtype == np.float32 and 20 < crops.mean() < 235
    assert len(calibration_crops(model, small_folder / "images/train", boxes)) == 12
    with pytest.raises(UserError, match="at least 8 people. Found: 6"):
        calibration_crops(model, small_folder / "images/train", boxes[:1])
    monkeypatch.setattr(calibration, "open_source", lambda source: SimpleNamespace(live=True))
    with pytest.raises(UserError, match="not with a webcam or a stream"):
        calibration_crops(model, "webcam", boxes)


def test_results_files_have_no_engine(small_folder, tmp_path, capsys):
    (tmp_path / "results.json").write_text("[]", "utf-8")
    command = ["evaluate", "--annotations", str(small_folder / "annotations/person_keypoints_train.json")]
    assert main([*command, "--results", str(tmp_path / "results.json"), "--engine", "openvino"]) != 0
    assert "--engine need --model" in capsys.readouterr().err
