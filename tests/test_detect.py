"""Detectors: the common interface, and the handling of inputs in each detector."""

import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SHARED

from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference import detectors
from kpzoo.inference.boxes import BoxFile, Detector, WholeImage
from kpzoo.inference.detectors import KerasHubDetector, OnnxDetector


def ground(height=60, width=80) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


@dataclass(frozen=True)
class Fake(Detector):
    """Gives the same candidates for every picture."""

    boxes: tuple = ()
    scores: tuple = ()

    def find(self, image_rgb, image_id):
        return np.reshape(self.boxes, (-1, 4)), np.array(self.scores)


def test_no_candidates_give_empty_arrays_and_no_pictures_empty_lists():
    boxes, scores = Fake().detect([ground(), ground()])
    assert [array.shape for array in boxes] == [(0, 4)] * 2 and [array.shape for array in scores] == [(0,)] * 2
    assert Fake().detect([]) == ([], [])


def test_boxes_are_clipped_filtered_and_sorted():
    candidates = {
        (10, 10, 20, 20): 0.5,
        (70, 50, 20, 20): 0.9,  # half outside: clipped to 10 x 10
        (-30, -30, 20, 20): 0.8,  # outside
        (0, 0, 30, 3): 0.7,  # too flat
        (0, 0, 30, 30): 0.1,  # not sure
        (np.nan, 0, 30, 30): 0.9,
        (1, 1, 30, 30): np.nan,
        (2, 2, 1e9, 1e9): 0.6,
    }
    fake = Fake(tuple(candidates), tuple(candidates.values()), min_score=0.2, min_size=5)
    boxes, scores = fake.detect([ground()])
    assert boxes[0].tolist() == [[70, 50, 10, 10], [2, 2, 78, 58], [10, 10, 20, 20]]
    assert scores[0].tolist() == [0.9, 0.6, 0.5]


def test_no_more_than_a_hundred_boxes_are_kept():
    scores = np.random.default_rng(0).permutation(500) / 500
    boxes, kept = Fake(((0, 0, 20, 20),) * 500, tuple(scores)).detect([ground()])
    assert len(boxes[0]) == 100 and kept[0].tolist() == sorted(scores, reverse=True)[:100]


def test_files_are_read_and_arrays_that_are_no_picture_are_refused(tmp_path):
    boxes, _ = WholeImage().detect([write_image(tmp_path / "a.png", ground()), ground(5, 7)])
    assert boxes[0].tolist() == [[0, 0, 80, 60]] and boxes[1].tolist() == [[0, 0, 7, 5]]
    with pytest.raises(UserError, match="greyscale image"):
        WholeImage().detect([ground()[..., 0]])
    with pytest.raises(UserError, match="Received: 1 images, 2 ids"):
        WholeImage().detect([ground()], [1, 2])


def test_a_detector_without_find_says_what_it_needs():
    with pytest.raises(UserError, match="Detector must implement `find"):
        Detector().detect([ground()])


def box_file(tmp_path, entries):
    path = tmp_path / "boxes.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_a_box_file_gives_the_boxes_of_the_picture_that_is_named(tmp_path):
    path = box_file(
        tmp_path,
        [
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.4},
            {"image_id": 7, "category_id": 1, "bbox": [5, 6, 7, 8], "score": 0.9},
            {"image_id": 7, "category_id": 3, "bbox": [9, 9, 9, 9], "score": 0.9},
            {"image_id": "frame_1", "bbox": [0, 0, 10, 10]},
        ],
    )
    detector = BoxFile(path)
    boxes, scores = detector.detect([ground()] * 5, [7, "000000000007", "frame_1", 8, 0])
    assert boxes[0].tolist() == boxes[1].tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert scores[0].tolist() == [0.9, 0.4] and scores[2].tolist() == [1.0]
    assert len(boxes[3]) == len(boxes[4]) == 0
    detector.check([8, "7"])
    with pytest.raises(UserError, match="has boxes of none of the 2 images. Received boxes of '7', expected of '8'"):
        detector.check([8, "frame_2"])
    assert len(BoxFile(path, category_id=3).detect([ground()], [7])[0][0]) == 1
    with pytest.raises(UserError, match="Pass `image_ids=`"):
        detector.detect([ground()])


def test_an_empty_box_file_gives_no_boxes(tmp_path):
    assert BoxFile(box_file(tmp_path, [])).detect([ground()], [1])[0][0].shape == (0, 4)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"images": []}, "must be a list of boxes.*Received: dict"),
        ([{"image_id": 1, "bbox": [1, 2, 3]}], r"entry \[0\] is not a valid box.*Received: \[1.0, 2.0, 3.0, 1.0\]"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1}], r"entry \[1\] is not a valid box. KeyError: 'bbox'"),
        ([{"bbox": [1, 2, 3, 4]}], "KeyError: 'image_id'"),
        ([[1, 2, 3, 4]], r"entry \[0\] is not a valid box"),
        ([{"image_id": 1, "bbox": ["a", 2, 3, 4]}], "could not convert"),
        ([{"image_id": 1, "bbox": [1, 2, -3, 4]}], "size is negative"),
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 7}], "score 7.0 is not in 0 … 1"),
        ('[{"image_id": 1, "bbox": [NaN, 2, 3, 4]}]', r"NaN|nan"),
        ("<html>", "boxes.json"),
    ],
)
def test_a_faulty_box_file_is_refused_with_its_entry(tmp_path, entries, reason):
    with pytest.raises(UserError, match=reason):
        BoxFile(box_file(tmp_path, entries)).detect([ground()], [1])


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
def test_a_real_box_file_is_read():
    path = SHARED / "data/coco_real/person_detection_results/mmpose_test_coco_det_AP_H_56.json"
    boxes, scores = BoxFile(path, min_score=0.5).detect([ground(640, 640)], ["000000000785"])
    np.testing.assert_allclose(boxes[0], [[277.1183, 45.6997, 225.0913, 333.5603]], atol=1e-4)
    np.testing.assert_allclose(scores[0], [0.99997], atol=1e-5)


def onnx_model(path, image_shape, image_type, names=("boxes", "scores", "labels"), labels=(1, 18, 1, 1), fixed=3):
    """Constant boxes, all but the last with constant scores; the last's is the mean of the input."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    boxes = np.array([[[10, 20, 30, 60], [0, 0, 5, 5], [8, 8, 16, 24], [0, 0, 32, 16]]], np.float32)
    labels, fixed = np.array([labels], np.int64), np.array([[0.6, 0.9, 0.8][:fixed]], np.float32)
    constants = [numpy_helper.from_array(array, name) for array, name in ((boxes, "b"), (labels, "l"), (fixed, "f"))]
    constants.append(numpy_helper.from_array(np.array([1, 1], np.int64), "one"))
    nodes = [
        helper.make_node("Identity", ["b"], [names[0]]),
        helper.make_node("Identity", ["l"], [names[2]]),
        helper.make_node("Cast", ["picture"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["column"]),
        helper.make_node("Concat", ["f", "column"], [names[1]], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info(names[0], TensorProto.FLOAT, (1, 4, 4)),
        helper.make_tensor_value_info(names[1], TensorProto.FLOAT, (1, fixed.size + 1)),
        helper.make_tensor_value_info(names[2], TensorProto.INT64, labels.shape),
    ]
    picture = helper.make_tensor_value_info("picture", image_type, image_shape)
    graph = helper.make_graph(nodes, "detector", [picture], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("image_shape", "image_type", "names", "mean"),
    [
        ((1, 3, 64, 64), 1, ("boxes", "scores", "labels"), 0.5 * 0.4),
        ((1, 64, 64, 3), 1, ("o1", "o2", "o3"), 0.5 * 0.4),
        ((1, 64, 64, 3), 2, ("boxes", "scores", "labels"), 0.5 * 102),
        ((1, 3, "h", "w"), 1, ("boxes", "scores", "labels"), 0.5 * 0.4),
        ((1, 3, 64, 64), 10, ("boxes", "scores", "labels"), 0.5 * 0.4),
    ],
    ids=["channels first", "channels last, other names", "uint8", "any size", "float16"],
)
def test_an_onnx_detector_gets_the_picture_and_gives_people_in_its_pixels(
    tmp_path, image_shape, image_type, names, mean
):
    detector = OnnxDetector(onnx_model(tmp_path / "a.onnx", image_shape, image_type, names))
    image = np.full((320, 640, 3), 102, np.uint8)  # fills the upper half of the square
    boxes, scores = detector.detect([image])
    scale = {64: 0.1}.get(image_shape[2], 1.0)
    expected = {0.6: [10, 20, 20, 40], 0.8: [8, 8, 8, 16], mean: [0, 0, 32, 16]}
    ranked = sorted(expected, reverse=True)
    np.testing.assert_allclose(scores[0], ranked, rtol=1e-3)  # a mean in float32
    low = np.array([expected[score] for score in ranked]) / scale
    high = np.minimum(low[:, :2] + low[:, 2:], (640, 320))  # clipped to the picture
    np.testing.assert_allclose(boxes[0], np.concatenate([low[:, :2], high - low[:, :2]], axis=1), rtol=1e-5)
    animals, _ = OnnxDetector(detector.path, person_label=18).detect([image])
    assert animals[0].tolist() == [[0, 0, 5 / scale, 5 / scale]]


def test_what_is_no_onnx_detector_is_refused(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    onnx_model(tmp_path / "grey.onnx", (1, 1, 64, 64), 1)
    onnx_model(tmp_path / "four.onnx", (4, 3, 64, 64), 1)
    onnx_model(tmp_path / "labels.onnx", (1, 3, 64, 64), 1, labels=(1, 1))
    onnx_model(tmp_path / "scores.onnx", (1, 3, 64, 64), 1, fixed=1)
    onnx_model(tmp_path / "int.onnx", (1, 3, 64, 64), 7)
    for name, reason in [
        ("missing.onnx", "There is no ONNX model"),
        ("junk.onnx", "is not an ONNX model"),
        ("grey.onnx", r"must take one image.*Received: \[\('picture', \[1, 1, 64, 64\]\)"),
        ("four.onnx", r"must take one image.*Received: \[\('picture', \[4, 3, 64, 64\]\)"),
        ("labels.onnx", r"labels.onnx' must return boxes \(1, N, 4\).*Received: .*labels \(1, 2\)"),
        ("scores.onnx", r"scores.onnx' must return boxes.*Received: boxes \(1, 4, 4\), scores \(1, 2\)"),
        ("int.onnx", r"int.onnx' failed on an input of float32 \(1, 3, 64, 64\): .*int64"),
    ]:
        with pytest.raises(UserError, match=reason):
            OnnxDetector(tmp_path / name).detect([ground()])


class FakeKerasHub:
    """What a KerasHub object detector shows to its user, for a square of 40 pixels."""

    num_classes = 91
    bounding_box_format = "yxyx"
    preprocessor = SimpleNamespace(image_converter=SimpleNamespace(image_size=(40, 40)))

    def predict(self, images, verbose):
        assert images.shape == (1, 40, 40, 3) and images.dtype == np.float32
        boxes = np.array([[[5, 10, 25, 20], [0, 0, 9, 9], [1, 2, 3, 4]]], np.float32)
        assert (images[0, :30, :40] == 90).all() and (images[0, 30:] == 0).all()  # 60 x 80 scaled by a half
        return {"boxes": boxes, "confidence": np.array([[0.7, 0.9, -1]]), "labels": np.array([[1, 2, -1]])}


def test_a_keras_hub_detector_gives_people_in_image_pixels():
    boxes, scores = KerasHubDetector(FakeKerasHub()).detect([ground(60, 80)])
    assert boxes[0].tolist() == [[20, 10, 20, 40]] and scores[0].tolist() == [0.7]
    others, _ = KerasHubDetector(FakeKerasHub(), person_label=2).detect([ground(60, 80)])
    assert others[0].tolist() == [[0, 0, 18, 18]]


def test_a_keras_hub_detector_asks_for_the_label_it_cannot_know():
    model = FakeKerasHub()
    model.num_classes = 3
    with pytest.raises(UserError, match="has 3 labels"):
        KerasHubDetector(model).detect([ground()])


def test_what_keras_hub_cannot_load_is_told_in_one_line(monkeypatch):
    def from_preset(name):
        raise ValueError(f"Unknown preset {name}.\n\nUse a folder.")

    models = SimpleNamespace(ObjectDetector=SimpleNamespace(from_preset=from_preset))
    monkeypatch.setitem(sys.modules, "keras_hub", SimpleNamespace(models=models))
    with pytest.raises(UserError, match="cannot load the detector 'dfine_x': Unknown preset dfine_x. Pass") as error:
        KerasHubDetector("dfine_x").detect([ground()])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_gaussian_suppression_is_as_gentle_as_told(sigma):
    fake = Fake(((0, 0, 20, 20), (10, 0, 20, 20)), (0.9, 0.8), suppression="gaussian", sigma=sigma)
    scores = fake.detect([ground()])[1][0]
    assert scores.tolist() == pytest.approx([0.9, 0.8 * np.exp(-((1 / 3) ** 2) / sigma)])


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install keras-hub"):
        KerasHubDetector("dfine_nano_coco").detect([ground()])
    with pytest.raises(UserError, match="pip install onnxruntime"):
        OnnxDetector(tmp_path / "a.onnx").detect([ground()])


def test_a_detector_is_found_by_its_word():
    assert detectors.get("whole") == WholeImage()
    assert detectors.get("a/b.json") == BoxFile("a/b.json") and detectors.get("c.onnx") == OnnxDetector("c.onnx")
    assert detectors.get("keras-hub:dfine_nano_coco") == KerasHubDetector("dfine_nano_coco")
    fake = Fake()
    assert detectors.get(fake) is fake
    with pytest.raises(UserError, match="Unknown detector. Received: 'hole'. Did you mean 'whole'"):
        detectors.get("hole")
    with pytest.raises(UserError, match="Did you mean 'person_fpn_lite0'"):
        detectors.get("person_fpn_lite1")
    with pytest.raises(UserError, match="'person_fpn_tiny' has no published weights. Pass a file"):
        detectors.get("person_fpn_tiny")
    with pytest.raises(UserError, match="`weights=` is for person detectors of the zoo"):
        detectors.get("whole", weights="a.safetensors")
