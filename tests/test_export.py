"""A SavedModel answers what the Keras model answers, in a process that has TensorFlow alone."""

import importlib.util
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import export
from kpzoo.errors import UserError
from kpzoo.export import savedmodel
from kpzoo.export.parity import ask_savedmodel
from kpzoo.inference import make_predictor, predict

SCRIPTS = Path(__file__).resolve().parents[1] / "export"
NAMES = ["cpn_tiny", "mipnet_tiny", "hrnet_tiny", "hourglass_tiny"]
BOXES = np.array([[10, 10, 50, 90], [60, -20, 120, 100], [-900, -900, 20, 30]], np.float32)

CLIENT = """
    import sys
    sys.modules["kpzoo"] = None  # importing it fails
    import numpy as np, tensorflow as tf
    root, *names = sys.argv[1:]
    asked = np.load(f"{root}/asked.npz", allow_pickle=False)
    contents = tf.io.read_file(f"{root}/picture.png")
    for name in names:
        loaded = tf.saved_model.load(f"{root}/{name}/1")
        serve, crops, image = (loaded.signatures[n] for n in ("serving_default", "predict_crops", "predict_image"))
        takes_instance = "instance" in serve.structured_input_signature[1]
        answers = {}
        for rows, queries in ((1, 1), (3, 2)):
            query = {"instance": tf.tile(tf.eye(2)[None, :queries], [rows, 1, 1])} if takes_instance else {}
            found = serve(image=tf.constant(asked["image"][:rows]), **query)
            answers[f"heatmaps_{rows}"] = found["heatmaps"]
        for rows, flip in ((0, True), (3, False), (3, True)):
            found = crops(image=tf.constant(asked["image"][:rows]), flip=tf.constant(flip))
            answers[f"crops_{flip}_{rows}"] = found["keypoints_crop_xy"]
        for count, flip in ((0, False), (3, True)):
            boxes = tf.constant(asked["boxes"][:count])
            found = image(contents=contents, boxes_xywh=boxes, flip=tf.constant(flip))
            for key, value in found.items():
                answers[f"{key}_{count}"] = value
        np.savez(f"{root}/{name}.npz", **{key: value.numpy() for key, value in answers.items()})
"""


def lively(model):
    """Draws weights at which no feature dies and no two cells of a heatmap are equal."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        kind = variable.path.split("/")[-1]
        if kind == "kernel":
            drawn = rng.normal(0, np.sqrt(2 / np.prod(variable.shape[:-1])), variable.shape)
        elif kind in ("gamma", "moving_variance"):
            drawn = rng.uniform(0.5, 1.5, variable.shape)
        else:
            drawn = rng.normal(0, 0.1, variable.shape)
        variable.assign(drawn)
    return model


@pytest.fixture(scope="module")
def models():
    return {name: lively(kpzoo.build(name, image_hw=(64, 64))) for name in NAMES}


@pytest.fixture(scope="module")
def asked():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def served(models, asked, tmp_path_factory):
    """A folder with a SavedModel of each family, and beside it what they answered to a client without kpzoo."""
    root = tmp_path_factory.mktemp("serving")
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    cv2.imwrite(str(root / "picture.png"), picture)
    np.savez(root / "asked.npz", image=asked, boxes=BOXES)
    for name, model in models.items():
        export.to_savedmodel(model, root / name / "1")
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(root), *NAMES]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    return root


@pytest.mark.parametrize("name", NAMES)
def test_a_savedmodel_answers_as_the_keras_model_without_kpzoo(models, served, asked, name):
    model, answers = models[name], np.load(served / f"{name}.npz")
    count = model.preset.num_instances
    for rows, queries in ((1, 1), (3, 2)):
        inputs = {"image": asked[:rows]}
        if count > 1:
            inputs["instance"] = np.tile(np.eye(2, dtype=np.float32)[:queries], (rows, 1, 1))
        expected = model(inputs)["heatmaps"].numpy()
        assert expected.std() > 0.01 * np.abs(expected).max(), "heatmaps so flat prove nothing"
        assert np.abs(answers[f"heatmaps_{rows}"] - expected).max() <= 1e-5 * np.abs(expected).max()
    for flip in (False, True):
        expected = make_predictor(model, flip)(asked)[0]
        np.testing.assert_allclose(answers[f"crops_{flip}_3"], expected, atol=0.01)
    assert answers["crops_True_0"].shape == (0, count, 17, 2)


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_tiny"])
def test_a_picture_and_its_boxes_give_what_predict_gives(models, served, name):
    model, answers = models[name], np.load(served / f"{name}.npz")
    count = model.preset.num_instances
    poses = predict(model, served / "picture.png", BOXES, flip=True, nms=None)
    keypoints = poses.keypoints_xy.reshape(3, count, 17, 2)
    np.testing.assert_allclose(answers["keypoints_xy_3"][:2], keypoints[:2], atol=0.01)
    np.testing.assert_allclose(answers["keypoint_scores_3"].reshape(-1, 17), poses.keypoint_scores, rtol=1e-4)
    np.testing.assert_allclose(answers["scores_3"].ravel(), poses.scores, rtol=1e-4)
    assert answers["keypoints_xy_0"].shape == (0, count, 17, 2)
    assert answers["scores_0"].shape == (0, count)


def test_more_boxes_than_are_cropped_at_once_answer_as_few_do(served):
    loaded = tf.saved_model.load(str(served / "hourglass_tiny/1"))
    contents = tf.io.read_file(str(served / "picture.png"))
    flip = tf.constant(False)
    image = loaded.signatures["predict_image"]
    many = np.tile(BOXES, (savedmodel.CROPS_AT_ONCE // 3 + 2, 1))
    found = image(contents=contents, boxes_xywh=tf.constant(many), flip=flip)["keypoint_scores"]
    few = image(contents=contents, boxes_xywh=tf.constant(BOXES), flip=flip)["keypoint_scores"]
    np.testing.assert_allclose(found, np.tile(few, (len(many) // 3, 1, 1)), rtol=1e-4)
    for bad in ([0, 0, np.nan, 5], [0, 0, -3, 5]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="boxes_xywh must be finite"):
            image(contents=contents, boxes_xywh=tf.constant([bad], tf.float32), flip=flip)
    truncated = tf.io.encode_jpeg(np.zeros((50, 50, 3), np.uint8)).numpy()[:200]
    with pytest.raises(tf.errors.InvalidArgumentError):
        image(contents=tf.constant(truncated), boxes_xywh=tf.constant(BOXES), flip=flip)


def test_the_signatures_are_named_and_each_weight_is_stored_once(models, served):
    loaded = tf.saved_model.load(str(served / "mipnet_tiny/1"))
    told = {
        name: {
            "in": {key: (spec.shape.as_list(), spec.dtype.name) for key, spec in inputs.items()},
            "out": {key: (spec.shape.as_list(), spec.dtype.name) for key, spec in outputs.items()},
        }
        for name, signature in loaded.signatures.items()
        for inputs, outputs in [(signature.structured_input_signature[1], signature.structured_outputs)]
    }
    image, points = ([None, 64, 64, 3], "float32"), ([None, 2, 17, 2], "float32")
    scores, flip = ([None, 2, 17], "float32"), ([], "bool")
    assert told["serving_default"] == {
        "in": {"image": image, "instance": ([None, None, 2], "float32")},
        "out": {"heatmaps": ([None, None, 16, 16, 17], "float32")},
    }
    assert told["predict_crops"] == {
        "in": {"image": image, "flip": flip},
        "out": {"keypoints_crop_xy": points, "keypoint_scores": scores},
    }
    assert told["predict_image"] == {
        "in": {"contents": ([], "string"), "boxes_xywh": ([None, 4], "float32"), "flip": flip},
        "out": {"keypoints_xy": points, "keypoint_scores": scores, "scores": ([None, 2], "float32")},
    }
    # The checkpoint of a SavedModel lists each weight under its one name.
    stored = tf.train.load_checkpoint(str(served / "mipnet_tiny/1/variables/variables")).get_variable_to_shape_map()
    sizes = sum(int(np.prod(shape)) for name, shape in stored.items() if name.startswith("kept"))
    assert sizes == sum(int(np.prod(variable.shape)) for variable in models["mipnet_tiny"].variables)
    assert sum(int(np.prod(shape)) for shape in stored.values()) < sizes + 100


def test_the_description_travels_with_the_graph(served):
    told = json.loads((served / "cpn_tiny/1/assets.extra/kpzoo.json").read_text())
    assert told["keypoints"][0] == "nose"
    assert ["left_eye", "right_eye"] in told["flip_pairs"]
    assert told["crop_rule"]["grow_xy"] == [1.2, 1.3]
    assert told["decoder"]["name"] == "second_peak"


def test_an_existing_folder_is_not_replaced_unasked_and_whole_if_asked(models, tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1/old").touch()
    with pytest.raises(UserError, match="exists already"):
        export.to_savedmodel(models["mipnet_tiny"], tmp_path / "1")
    assert (tmp_path / "1/old").exists()
    export.to_savedmodel(models["mipnet_tiny"], tmp_path / "1", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert not (tmp_path / "1/old").exists()
    assert export.compare(models["mipnet_tiny"], tmp_path / "1").passed


def test_an_export_that_fails_leaves_nothing_and_keeps_what_was_there(models, tmp_path, monkeypatch):
    def save(module, folder, signatures):
        (tmp_path / folder).mkdir()
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", save)
    (tmp_path / "1").mkdir()
    (tmp_path / "1/old").touch()
    with pytest.raises(OSError, match="no space left"):
        export.to_savedmodel(models["cpn_tiny"], tmp_path / "1", overwrite=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["1", "1/old"]


def test_a_folder_that_is_no_savedmodel_is_told(tmp_path):
    with pytest.raises(UserError, match="is not a SavedModel"):
        ask_savedmodel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"junk")
    with pytest.raises(UserError, match="is not a SavedModel"):
        ask_savedmodel(tmp_path)


def script(name: str):
    """Returns a script of the folder `export` as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, SCRIPTS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["savedmodel.py", "onnx.py", "parity.py", "serving/rest_client.py", "web/check.py"])
def test_the_scripts_tell_how_they_are_used(name):
    result = subprocess.run([sys.executable, SCRIPTS / name, "--help"], capture_output=True, text=True, timeout=900)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage:" in result.stdout


def test_the_rest_client_asks_for_what_the_signature_takes(served):
    body = script("serving/rest_client.py").request_body((served / "picture.png").read_bytes(), BOXES.tolist(), True)
    image = tf.saved_model.load(str(served / "hourglass_tiny/1")).signatures[body["signature_name"]]
    assert set(json.loads(json.dumps(body))["inputs"]) == set(image.structured_input_signature[1])
    assert set(body["inputs"]["contents"]) == {"b64"}


def test_warm_up_records_name_a_signature_and_its_inputs(served, tmp_path, monkeypatch):
    folder = shutil.copytree(served / "hourglass_tiny/1", tmp_path / "1")
    monkeypatch.setattr(sys, "argv", ["warmup.py", str(folder)])
    warmup = script("serving/warmup.py")
    assert warmup.main() == 0
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / warmup.RECORDS))]
    assert len(records) == 2
    for record in records:
        assert all(name in record for name in (b"predict_image", b"contents", b"boxes_xywh", b"flip"))
    assert warmup.field(6, b"x" * 300)[:3] == bytes([6 << 3 | 2, 300 & 127 | 128, 300 >> 7])
