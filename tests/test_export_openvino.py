"""OpenVINO files answer what the Keras model answers, without kpzoo, and are written whole or not at all."""

import json

import numpy as np
import openvino
import pytest
from test_export import lively

import kpzoo
from kpzoo import export, heatmaps
from kpzoo.cli import main
from kpzoo.errors import UserError


@pytest.fixture(scope="module")
def model():
    return lively(kpzoo.build("mipnet_tiny", image_hw=(64, 64)))


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    return export.to_openvino(model, tmp_path_factory.mktemp("openvino") / "mipnet_tiny.xml")


def test_the_file_answers_as_the_keras_model_and_describes_itself(model, written):
    graph = openvino.Core().read_model(written)
    assert json.loads(graph.get_rt_info(["kpzoo"]).astype(str))["num_instances"] == 2
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    image = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    for rows, queries in ((1, 1), (3, 2)):
        instance = np.tile(np.eye(2, dtype=np.float32)[:queries], (rows, 1, 1))
        asked = {"image": image[:rows], "instance": instance}
        maps, found = model(asked)["heatmaps"].numpy(), compiled(asked)
        assert np.abs(found["heatmaps"] - maps).max() <= 1e-5 * np.abs(maps).max()
        points, scores = heatmaps.decode(model.preset.rules, maps)
        np.testing.assert_allclose(found["keypoints_crop_xy"], points, atol=0.01)
        np.testing.assert_allclose(found["keypoint_scores"], scores, rtol=1e-4)
    assert export.compare(model, written).passed


def test_a_person_detector_is_written_too(tmp_path):
    detector = lively(kpzoo.build("person_fpn_tiny", image_hw=(64, 64)))
    path = export.to_openvino(detector, tmp_path / "detector.xml")
    assert export.compare(detector, path).passed


def test_both_files_are_replaced_together_or_not_at_all(model, written, tmp_path, monkeypatch):
    path = tmp_path / "model.xml"
    path.with_suffix(".bin").write_bytes(b"of another")
    with pytest.raises(UserError, match="model.bin' exists already"):
        export.to_openvino(model, path)
    monkeypatch.setattr(openvino, "save_model", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises((UserError, OSError), match="No space left"):
        export.to_openvino(model, path, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["model.bin"]
    assert path.with_suffix(".bin").read_bytes() == b"of another"
    monkeypatch.undo()
    export.to_openvino(model, path, overwrite=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert path.with_suffix(".bin").read_bytes() == written.with_suffix(".bin").read_bytes()


def test_what_is_no_openvino_export_is_told(model, tmp_path):
    with pytest.raises(UserError, match="are .xml files"):
        export.to_openvino(model, tmp_path / "model.bin")
    (tmp_path / "bad.xml").write_text("<?xml version='1.0'?><net></net>", "utf-8")
    with pytest.raises(UserError, match="is not an OpenVINO file of `kpzoo export`"):
        export.compare(model, tmp_path / "bad.xml")


def test_the_command_writes_and_compares(tiny_model, tmp_path, capsys):
    out = tmp_path / "tiny.xml"
    main(["export", *tiny_model, "--to", "openvino", "--out", str(out)])
    told = capsys.readouterr()
    assert "equal" in told.out + told.err and out.with_suffix(".bin").exists()
