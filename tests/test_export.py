"""SavedModels and LiteRT files answer what the Keras model answers, in a process that has TensorFlow alone."""

import importlib.util
import json
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import export, heatmaps
from kpzoo.errors import UserError
from kpzoo.export import savedmodel
from kpzoo.export.runtimes import ask_savedmodel
from kpzoo.inference import predict
from kpzoo.inference.folded_model import flip_test_heatmaps, instance_heatmaps

SCRIPTS = Path(__file__).resolve().parents[1] / "export"
NAMES = ["cpn_tiny", "mipnet_tiny", "hrnet_tiny", "hourglass_tiny"]
OPTIONS = {"hourglass_tiny": {"num_stacks": 1}}  # quicker to export
BOXES = np.array([[10, 10, 50, 90], [60, -20, 120, 100], [-900, -900, 20, 30]], np.float32)

CLIENT = """
    import sys
    sys.modules["kpzoo"] = None  # importing it fails
    import numpy as np, tensorflow as tf
    root = sys.argv[1]
    asked = np.load(f"{root}/asked.npz", allow_pickle=False)
    contents = tf.io.read_file(f"{root}/picture.png")
    ROWS = ((1, 1), (3, 2))  # crops and queries

    def queries(rows, count):
        return np.tile(np.eye(2, dtype=np.float32)[None, :count], [rows, 1, 1])

    def of_savedmodel(folder):
        loaded, answers = tf.saved_model.load(folder), {}
        serve, crops, image = (loaded.signatures[n] for n in ("serving_default", "predict_crops", "predict_image"))
        takes_instance = "instance" in serve.structured_input_signature[1]
        for rows, count in ROWS:
            query = {"instance": tf.constant(queries(rows, count))} if takes_instance else {}
            answers[f"heatmaps_{rows}"] = serve(image=tf.constant(asked["image"][:rows]), **query)["heatmaps"]
        for rows, flip in ((0, True), (3, False), (3, True)):
            found = crops(image=tf.constant(asked["image"][:rows]), flip=tf.constant(flip))
            answers[f"crops_{flip}_{rows}"] = found["keypoints_crop_xy"]
        for count, flip in ((0, False), (3, True)):
            boxes = tf.constant(asked["boxes"][:count])
            found = image(contents=contents, boxes_xywh=boxes, flip=tf.constant(flip))
            answers |= {f"{key}_{count}": value for key, value in found.items()}
        return answers

    def of_litert(path):
        ask, answers = tf.lite.Interpreter(path).get_signature_runner(), {}
        for rows, count in ROWS:
            found = ask(image=asked["image"][:rows], instance=queries(rows, count))
            answers |= {f"{key}_{rows}": value for key, value in found.items()}
        return answers

    for name in map(str.strip, sys.stdin):
        path = f"{root}/{name}"
        answers = of_litert(path) if name.endswith(".tflite") else of_savedmodel(f"{path}/1")
        np.savez(f"{path}.npz", **{key: np.asarray(value) for key, value in answers.items()})
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
    return {name: lively(kpzoo.build(name, image_hw=(64, 64), **OPTIONS.get(name, {}))) for name in NAMES}


@pytest.fixture(scope="module")
def asked():
    return np.random.default_rng(0).uniform(0, 255, (3, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def served(models, asked, tmp_path_factory):
    """A folder with a SavedModel of each family and a LiteRT file, and what they answered to a client without kpzoo."""
    root = tmp_path_factory.mktemp("serving")
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    cv2.imwrite(str(root / "picture.png"), picture)
    np.savez(root / "asked.npz", image=asked, boxes=BOXES)
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        for name, model in models.items():  # what is written is asked while the next is being written
            export.to_savedmodel(model, root / name / "1")
            print(name, file=client.stdin, flush=True)
        export.to_litert(models["mipnet_tiny"], root / "mipnet_tiny.tflite")
        told = client.communicate("mipnet_tiny.tflite", timeout=900)[1]
    assert client.returncode == 0, told[-3000:]
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
    for flip, ask in ((False, instance_heatmaps), (True, flip_test_heatmaps)):
        expected = heatmaps.decode(model.preset.rules, ask(model, tf.constant(asked)))[0]
        np.testing.assert_allclose(answers[f"crops_{flip}_3"], expected, atol=0.01)
    assert answers["crops_True_0"].shape == (0, count, 17, 2)


def test_a_litert_file_answers_as_the_keras_model_without_kpzoo(models, served, asked):
    model, path = models["mipnet_tiny"], served / "mipnet_tiny.tflite"
    answers = np.load(f"{path}.npz")
    for rows, queries in ((1, 1), (3, 2)):
        instance = np.tile(np.eye(2, dtype=np.float32)[:queries], (rows, 1, 1))
        maps = model({"image": asked[:rows], "instance": instance})["heatmaps"].numpy()
        assert np.abs(answers[f"heatmaps_{rows}"] - maps).max() <= 1e-5 * np.abs(maps).max()
        keypoints, scores = heatmaps.decode(heatmaps.CODECS["hrnet"], maps)
        np.testing.assert_allclose(answers[f"keypoints_crop_xy_{rows}"], keypoints, atol=0.01)
        np.testing.assert_allclose(answers[f"keypoint_scores_{rows}"], scores, rtol=1e-4)
    with zipfile.ZipFile(path) as behind:
        assert json.loads(behind.read("kpzoo.json"))["num_instances"] == 2
    assert export.compare(model, path).passed


@pytest.mark.parametrize("content", [b"\0\0\0\0TFL3junk", b"PK"])
def test_a_corrupt_litert_file_is_told(models, tmp_path, content):
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(UserError, match="is not an? (LiteRT|ONNX) file of `kpzoo export`"):
        export.compare(models["mipnet_tiny"], tmp_path / "bad.tflite")
    with pytest.raises(UserError, match="Cannot read '.*missing.tflite': No such file"):
        export.compare(models["mipnet_tiny"], tmp_path / "missing.tflite")


@pytest.mark.parametrize("name", ["cpn_tiny", "mipnet_tiny"])
def test_a_picture_and_its_boxes_give_what_predict_gives(models, served, name):
    model, answers = models[name], np.load(served / f"{name}.npz")
    count = model.preset.num_instances
    poses = predict(model, served / "picture.png", BOXES[:2], flip=True, nms=None)  # it leaves out the box outside
    np.testing.assert_allclose(answers["keypoints_xy_3"][:2].reshape(-1, 17, 2), poses.keypoints_xy, atol=0.01)
    np.testing.assert_allclose(answers["keypoint_scores_3"][:2].reshape(-1, 17), poses.keypoint_scores, rtol=1e-4)
    np.testing.assert_allclose(answers["scores_3"][:2].ravel(), poses.scores, rtol=1e-4)
    assert answers["scores_3"].shape == (3, count)
    assert answers["keypoints_xy_0"].shape == (0, count, 17, 2)
    assert answers["scores_0"].shape == (0, count)


@pytest.fixture(scope="module")
def image_signature(served):
    loaded = tf.saved_model.load(str(served / "mipnet_tiny/1"))
    ask = loaded.signatures["predict_image"]

    def answer(contents, boxes):
        boxes = tf.constant(np.asarray(boxes, np.float32).reshape(-1, 4))
        found = ask(contents=tf.constant(contents), boxes_xywh=boxes, flip=tf.constant(False))
        return found["keypoints_xy"].numpy(), found["keypoint_scores"].numpy()

    answer.loaded = loaded  # its functions do not keep its weights alive
    return answer


def test_more_boxes_than_are_cropped_at_once_answer_as_few_do(served, image_signature):
    contents = (served / "picture.png").read_bytes()
    many = np.tile(BOXES, (savedmodel.CROPS_AT_ONCE // 3 + 2, 1))
    found, few = (image_signature(contents, boxes)[1] for boxes in (many, BOXES))
    np.testing.assert_allclose(found, np.tile(few, (len(many) // 3, 1, 1)), rtol=1e-4)


def test_several_pictures_at_once_answer_as_each_does(served, image_signature):
    pictures = [(served / "picture.png").read_bytes(), encoded(".jpg", PIXELS)]
    indices = np.array([1, 0, 1, 0, 0] * 8, np.int32)
    boxes = np.float32([BOXES[number % 3] for number in range(len(indices))])
    found = image_signature.loaded.signatures["predict_images"](
        contents=tf.constant(pictures),
        boxes_xywh=tf.constant(boxes),
        image_indices=tf.constant(indices),
        flip=tf.constant(False),
    )
    for index, contents in enumerate(pictures):
        alone = image_signature(contents, boxes[indices == index])
        for name, expected in zip(("keypoints_xy", "keypoint_scores"), alone, strict=True):
            np.testing.assert_allclose(found[name].numpy()[indices == index], expected, rtol=1e-4, atol=1e-3)


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


PIXELS = cv2.resize(np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8), (160, 120))


@pytest.mark.parametrize(
    ("contents", "boxes"),
    [
        (encoded(".jpg", PIXELS[..., 0]), [[10, 10, 50, 90]]),  # grey
        (encoded(".png", np.dstack([PIXELS, PIXELS[..., :1]])), [[10, 10, 50, 90]]),  # with transparency
        (encoded(".png", PIXELS.astype(np.uint16) * 257), [[10, 10, 50, 90]]),  # of 16 bits
        (encoded(".bmp", PIXELS), [[10, 10, 50, 90]]),
        (encoded(".png", PIXELS[:1, :1]), [[0, 0, 1, 1]]),
        (encoded(".png", PIXELS), [[-1e5, -1e5, 3e5, 3e5], [0, 0, 0.1, 900], [5000, 5000, 10, 10]]),
    ],
)
def test_odd_pictures_and_boxes_are_answered_in_the_graph(image_signature, contents, boxes):
    keypoints, scores = image_signature(contents, boxes)
    assert keypoints.shape == (len(boxes), 2, 17, 2)
    assert np.isfinite(keypoints).all() and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("contents", "boxes", "message"),
    [
        (b"", [[0, 0, 9, 9]], "empty"),
        (b"<html>404</html>", [[0, 0, 9, 9]], "Unknown image file format"),
        (encoded(".jpg", PIXELS)[:900], [[0, 0, 9, 9]], "Invalid JPEG"),
        (encoded(".bmp", PIXELS[..., 0]), [[0, 0, 9, 9]], "BMP with a palette cannot be read. Send JPEG or PNG"),
        (encoded(".jpg", PIXELS), [[0, 0, np.nan, 5]], "boxes_xywh must be finite"),
        (encoded(".jpg", PIXELS), [[0, 0, -3, 5]], "boxes_xywh must be finite"),
        (encoded(".jpg", PIXELS), [[0, np.inf, 3, 5]], "boxes_xywh must be finite"),
    ],
)
def test_what_cannot_be_read_is_refused_in_the_graph(image_signature, contents, boxes, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        image_signature(contents, boxes)


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
    several = {"contents": ([None], "string"), "image_indices": ([None], "int32")}
    assert told["predict_images"] == {
        "in": {**told["predict_image"]["in"], **several},
        "out": told["predict_image"]["out"],
    }
    # The checkpoint of a SavedModel lists each weight under its one name.
    stored = tf.train.load_checkpoint(str(served / "mipnet_tiny/1/variables/variables")).get_variable_to_shape_map()
    sizes = sum(int(np.prod(shape)) for name, shape in stored.items() if name.startswith("kept"))
    whole = sum(int(np.prod(variable.shape)) for variable in models["mipnet_tiny"].variables)
    folded = [layer for layer in models["mipnet_tiny"].layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert sizes == whole - sum(3 * layer.gamma.shape[0] for layer in folded)  # of each batch norm a bias is left
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
    with pytest.raises(UserError, match="no space left"):
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
    image = tf.saved_model.load(str(served / "mipnet_tiny/1")).signatures[body["signature_name"]]
    assert set(json.loads(json.dumps(body))["inputs"]) == set(image.structured_input_signature[1])
    assert set(body["inputs"]["contents"]) == {"b64"}


def test_warm_up_records_name_a_signature_and_its_inputs(served, tmp_path, monkeypatch):
    folder = shutil.copytree(served / "mipnet_tiny/1", tmp_path / "1")
    monkeypatch.setattr(sys, "argv", ["warmup.py", str(folder)])
    warmup = script("serving/warmup.py")
    assert warmup.main() == 0
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / warmup.RECORDS))]
    assert len(records) == 2
    for record in records:
        assert all(name in record for name in (b"predict_image", b"contents", b"boxes_xywh", b"flip"))
    assert warmup.field(6, b"x" * 300)[:3] == bytes([6 << 3 | 2, 300 & 127 | 128, 300 >> 7])
