"""An ONNX file answers what the Keras model answers under onnxruntime alone, and says what a client must know."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import keras
import numpy as np
import onnx
import pytest
from test_export import lively

import kpzoo
from kpzoo import export, heatmaps
from kpzoo.errors import UserError

CLIENT = """
    import sys
    for name in ("kpzoo", "tensorflow", "keras"):
        sys.modules[name] = None  # importing it fails
    import numpy as np, onnxruntime
    root, *names = sys.argv[1:]
    image = np.load(f"{root}/image.npy")
    answers = {}
    for name in names:
        session = onnxruntime.InferenceSession(f"{root}/{name}.onnx", providers=["CPUExecutionProvider"])
        for rows, queries in ((0, 2), (1, 1), (3, 2)):
            instance = np.tile(np.eye(2, dtype=np.float32)[:queries], (rows, 1, 1))
            found = session.run(None, {"image": image[:rows], "instance": instance})
            for output, value in zip(session.get_outputs(), found):
                answers[f"{output.name}_{rows}"] = value
    np.savez(f"{root}/answers.npz", **answers)
"""


@pytest.fixture(scope="module")
def model():
    return lively(kpzoo.build("mipnet_tiny", image_hw=(64, 64)))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with both kinds of ONNX file of a MIPNet."""
    root = tmp_path_factory.mktemp("onnx")
    for answer in ("heatmaps", "keypoints"):
        export.to_onnx(model, root / f"{answer}.onnx", answer=answer)
    return root


def test_onnx_answers_as_the_keras_model_under_onnxruntime_alone(model, folder):
    image = np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)
    np.save(folder / "image.npy", image)
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(folder), "heatmaps", "keypoints"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    answers = np.load(folder / "answers.npz")
    for rows, queries in ((1, 1), (3, 2)):
        instance = np.tile(np.eye(2, dtype=np.float32)[:queries], (rows, 1, 1))
        maps = model({"image": image[:rows], "instance": instance})["heatmaps"].numpy()
        assert maps.std() > 0.01 * np.abs(maps).max(), "heatmaps so flat prove nothing"
        found = np.moveaxis(answers[f"heatmaps_{rows}"], 2, -1)
        assert np.abs(found - maps).max() <= 1e-5 * np.abs(maps).max()
        keypoints, scores = heatmaps.decode(heatmaps.CODECS["hrnet"], maps)
        np.testing.assert_allclose(answers[f"keypoints_crop_xy_{rows}"], keypoints, atol=0.01)
        np.testing.assert_allclose(answers[f"keypoint_scores_{rows}"], scores, rtol=1e-4)
    assert answers["heatmaps_0"].shape == (0, 2, 17, 16, 16)
    assert answers["keypoints_crop_xy_0"].shape == (0, 2, 17, 2)


def test_the_client_in_twenty_lines_finds_what_predict_finds(model, folder, tmp_path):
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    cv2.imwrite(str(tmp_path / "picture.png"), pixels)
    box = [20, 10, 70, 90]
    client = Path(__file__).resolve().parents[1] / "export/serving/onnx_client.py"
    command = [sys.executable, client, folder / "keypoints.onnx", tmp_path / "picture.png", *map(str, box)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    found = np.array([list(json.loads(line).values()) for line in result.stdout.splitlines()])
    poses = kpzoo.predict(model, tmp_path / "picture.png", [box], flip=False, nms=None)
    # OpenCV's warp rounds places to 1/32 of a pixel, so a keypoint may move to a cell that is as high.
    same = np.abs(found[..., :2] - poses.keypoints_xy).max(axis=-1) < 0.01
    assert same.mean() > 0.8
    assert found.shape == (2, 17, 3)


def test_dimensions_have_names_and_the_metadata_tells_how_to_ask(folder):
    proto = onnx.load(folder / "keypoints.onnx")
    told = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert told == {
        "image": ["batch", 64, 64, 3],
        "instance": ["batch", "queries", 2],
        "keypoints_crop_xy": ["batch", "queries", 17, 2],
        "keypoint_scores": ["batch", "queries", 17],
    }
    assert [(entry.domain, entry.version) for entry in proto.opset_import if not entry.domain] == [("", 17)]
    told = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert (told["model"], told["opset"], told["precision"]) == ("mipnet_tiny", 17, "float32")
    assert told["crop_rule"] == {"name": "hrnet", "grow_xy": [1.0, 1.0], "padding": 1.25, "fill_rgb": [0.0, 0.0, 0.0]}
    assert len(told["keypoints"]) == 17
    assert [told["keypoints"][index] for index in told["skeleton"]["links"][0]] == ["left_shoulder", "left_elbow"]
    assert told["normalization"]["mean"] == [123.675, 116.28, 103.53]
    assert {"kpzoo", "tensorflow", "keras", "tf2onnx", "onnx"} <= set(told["versions"])


def test_channels_stay_first_behind_the_input(folder, tmp_path):
    export.to_onnx(lively(kpzoo.build("cpn_tiny", image_hw=(64, 64))), tmp_path / "cpn.onnx")
    for path in (folder / "heatmaps.onnx", folder / "keypoints.onnx", tmp_path / "cpn.onnx"):
        graph = onnx.load(path).graph
        (turned,) = [node for node in graph.node if node.op_type == "Transpose"]
        assert [node.op_type for node in graph.node if turned.output[0] in node.input] == ["Conv"]


def test_the_comparison_finds_another_model_different(model, folder):
    assert export.compare(model, folder / "heatmaps.onnx", folder / "keypoints.onnx").passed
    other = kpzoo.build("mipnet_tiny", image_hw=(64, 64))
    other.set_weights([weight * 1.01 for weight in model.get_weights()])
    parity = export.compare(other, folder / "heatmaps.onnx")
    assert not parity.passed
    assert "DIFFERENT" in str(parity)
    with pytest.raises(UserError, match="does not accept the inputs"):
        export.compare(lively(kpzoo.build("mipnet_tiny", image_hw=(64, 96))), folder / "heatmaps.onnx")


def test_reduced_precision_tells_what_it_costs(model, folder, tmp_path):
    found = export.reduce_onnx(folder / "keypoints.onnx", tmp_path / "half.onnx", "float16", model)
    assert found.megabytes[1] < found.megabytes[0]
    assert 0 <= found.keypoint_loss_px < 5
    assert f"{found.keypoint_loss_px:.3f} px" in str(found)
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "half.onnx").metadata_props}
    assert told["precision"] == "float16"
    assert told["reduction"]["keypoint_loss_px"] == found.keypoint_loss_px
    with pytest.raises(UserError, match="must be a float32 export"):
        export.reduce_onnx(tmp_path / "half.onnx", tmp_path / "again.onnx", "int8", model)
    assert [path.name for path in tmp_path.iterdir()] == ["half.onnx"]


@pytest.mark.parametrize("name", ["cpn_tiny", "hourglass_tiny", "mipnet_hrnet_tiny", "person_fpn_tiny"])
def test_opencv_reads_a_file_of_fixed_batch_and_finds_what_the_model_finds(name, tmp_path):
    model = lively(kpzoo.build(name, image_hw=(64, 64)))
    path = export.to_onnx(model, tmp_path / "fixed.onnx", answer="heatmaps", batch=2)
    graph = onnx.load(path).graph
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    assert all(dim.dim_value and not dim.dim_param for shape in shapes for dim in shape)
    inputs = {"image": np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)}
    if "instance" in model.input:
        inputs["instance"] = np.tile(np.eye(2, dtype=np.float32), (2, 1, 1))
    network = cv2.dnn.readNetFromONNX(str(path))
    for key, value in inputs.items():
        network.setInput(value, key)
    expected = model(inputs)
    for value in graph.output:
        found, known = network.forward(value.name), expected[value.name].numpy()
        if value.name == "heatmaps":
            found = np.moveaxis(found, -3, -1)
        assert found.shape == known.shape and np.abs(found - known).max() <= 1e-5 * np.abs(known).max()
    assert export.compare(model, path).passed


def test_a_file_of_fixed_batch_answers_any_number_of_crops_in_the_comparison(model, tmp_path):
    path = export.to_onnx(model, tmp_path / "fixed.onnx", batch=3)  # of which four crops are no multiple
    assert export.compare(model, path).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "`batch=` must be a whole number from 1 to"),
        ({"batch": "2"}, "Received: '2'"),
        ({"opset": 25}, "must be 13 to 18. Received: 25"),
        ({"opset": 9}, "must be 13 to 18"),
        ({"answer": "keypoint"}, "Did you mean 'keypoints'"),
    ],
)
def test_bad_options_are_told_and_nothing_is_written(model, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export.to_onnx(model, tmp_path / "model.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_replaced_unasked(model, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export.to_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"
    with pytest.raises(UserError, match="is a folder"):
        export.to_onnx(model, tmp_path, overwrite=True)
    with pytest.raises(UserError, match="Cannot write .*below.onnx"):
        export.to_onnx(model, tmp_path / "model.onnx" / "below.onnx")


def test_a_model_of_mixed_precision_is_refused_with_the_remedy(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(UserError, match="computes in float16; ONNX exports require float32"):
        export.to_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match="Only models of the zoo.*`kpzoo.build`"):
        export.to_onnx(keras.Sequential(), tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_corrupt_onnx_file_is_told(model, folder, tmp_path, content):
    whole = (folder / "keypoints.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match="is not an ONNX file") as error:
        export.compare(model, tmp_path / "bad.onnx")
    assert "\n" not in str(error.value)
