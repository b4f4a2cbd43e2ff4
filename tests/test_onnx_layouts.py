"""Detectors of every family in ONNX files with known boxes: recognized, fed as the family wants, and read right."""

import zipfile
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from published_server import Server

from kpzoo import cli
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference import detectors
from kpzoo.inference.detectors import OnnxDetector
from kpzoo.inference.onnx_layouts import IMAGENET_MEAN, IMAGENET_STD, LAYOUTS
from kpzoo.weights import cache, fetching, published, unpacking
from kpzoo.weights.rows import DetectorFile

SIDE, CELLS = 96, 12**2 + 6**2 + 3**2
COLOUR = (60, 102, 150)  # red, green, blue: the first channel tells their order
IMAGE = np.full((480, 960, 3), COLOUR, np.uint8)  # at a tenth, half as high as the input
BOX = [100, 40, 200, 200]  # x, y, width, height of the person in the image
# Its corners in the input, by how the image is placed there.
CORNER, CENTRE, STRETCH = (10, 4, 30, 24), (10, 28, 30, 48), (10, 8, 30, 48)
COCO_NAMES = str({0: "person", **{label: f"thing {label}" for label in range(1, 80)}})


def centred(corners):
    x, y, right, bottom = corners
    return (x + right) / 2, (y + bottom) / 2, right - x, bottom - y


def write_onnx(
    path, outputs: Mapping[str, tuple], metadata=(), shape=(1, 3, SIDE, SIDE), kind=1, names=None, open_=False
):
    """Writes a model whose outputs are constants, and at one place of one of them the first channel's mean.

    Args:
        outputs: Arrays by name, or (array, place, weight) where `weight` times the mean is added at a place.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    axis = shape.index(3)
    first = numpy_helper.from_array(np.array([0], np.int64), "first")
    nodes = [
        helper.make_node("Gather", ["picture", "first"], ["channel"], axis=axis),
        helper.make_node("Cast", ["channel"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], keepdims=0),
    ]
    constants, infos = [first], []
    for name, value in outputs.items():
        array, place, weight = value if isinstance(value, tuple) else (value, None, 0)
        constants.append(numpy_helper.from_array(array, f"{name}_base"))
        if place is None:
            nodes.append(helper.make_node("Identity", [f"{name}_base"], [name]))
        else:
            mask = np.zeros(array.shape, np.float32)
            mask[place] = weight
            constants.append(numpy_helper.from_array(mask, f"{name}_mask"))
            nodes += [
                helper.make_node("Mul", [f"{name}_mask", "mean"], [f"{name}_part"]),
                helper.make_node("Add", [f"{name}_base", f"{name}_part"], [name]),
            ]
        told = [f"{name}_{axis}" for axis in range(array.ndim)] if open_ else array.shape
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), told))
    picture = helper.make_tensor_value_info("picture", kind, shape)
    graph = helper.make_graph(nodes, "detector", [picture], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
    return path


def yolo(columns=84, label=0, rest=0):
    """Cells of YOLOv8: a person, the same a bit to the right and less sure, and a thing that is no person."""
    array = np.zeros((1, columns, CELLS), np.float32)
    array[0, :4, 7], array[0, 4 + label, 7] = centred(CENTRE), 0.4
    array[0, :4, 8], array[0, 4 + label, 8] = centred(np.add(CENTRE, 1)), 0.3
    if columns - rest > 5:
        array[0, :4, 9], array[0, 4 + (label + 1) % (columns - rest - 4), 9] = (50, 50, 20, 20), 0.9
    return {"output0": (array, (0, 4 + label, 7), 1.0)}


def end_to_end(columns=6):
    array = np.zeros((1, 300, columns), np.float32)
    array[0, 0, :6], array[0, 1, :6] = (*CENTRE, 0.4, 0), (50, 50, 70, 70, 0.9, 16)
    return {"output0": (array, (0, 0, 4), 1.0)}


def yolov5():
    array = np.zeros((1, 3 * CELLS, 85), np.float32)
    array[0, 7, :6] = (*centred(CENTRE), 0.4, 1)
    array[0, 8, :7] = (50, 50, 20, 20, 0.9, 0, 1)
    return {"output": (array, (0, 7, 4), 1.0)}


def yolox(classes=80):
    array = np.zeros((1, CELLS, 5 + classes), np.float32)
    x, y, width, height = centred(CORNER)  # 20, 14: of the cell (2, 1) with a stride of 8
    array[0, 12 + 2, :6] = (x / 8 - 2, y / 8 - 1, np.log(width / 8), np.log(height / 8), 0.2, 1)
    if classes > 1:
        array[0, 40, 4], array[0, 40, 7] = 0.9, 1
    return {"output": (array, (0, 14, 4), 0.001)}


def shares(classes, boxes="pred_boxes", logits="logits", label=1, corners=STRETCH, size=(SIDE, SIDE)):
    box = np.full((1, 50, 4), 0.5, np.float32)
    box[0, 3] = np.array(centred(corners)) / (size * 2)
    numbers = np.full((1, 50, classes), -9, np.float32)
    numbers[0, :, -1] = 9 if classes == 92 else -9  # "nothing", where the last class is that
    numbers[0, 3] = -9
    numbers[0, 3, label], numbers[0, 4, 20] = 1, 12
    return {boxes: box, logits: (numbers, (0, 3, label), 1.0)}


def mmdeploy():
    rows = np.zeros((1, 20, 5), np.float32)
    rows[0, 0], rows[0, 1] = (*CORNER, 0.2), (50, 50, 70, 70, 0.9)
    labels = np.full((1, 20), -1, np.int64)
    labels[0, :2] = 0, 16
    return {"dets": (rows, (0, 0, 4), 0.001), "labels": labels}


def torchvision():
    boxes = np.array([[100, 40, 300, 240], [0, 0, 50, 50]], np.float32)
    return {"5": boxes, "6": np.array([1, 18]), "7": (np.array([0.2, 0.9], np.float32), (0,), 1.0)}


def ultralytics(task="detect", names=COCO_NAMES):
    return {"task": task, "names": names, "imgsz": f"[{SIDE}, {SIDE}]"}


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


GREY = 114
RED, BLUE = COLOUR[0], COLOUR[2]
RED_IMAGENET = (RED - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
HALF_RED = (RED + GREY) / 2 / 255  # half of the input is image
HALF_BLUE = (BLUE + GREY) / 2
PERSON_ONLY, OWN_NAMES = str({0: "person"}), str({0: "cat", 1: "dog", 2: "Person"})
MASKS = {"output1": np.zeros((1, 32, 24, 24), np.float32)}
CASES = {
    "YOLOv8": ("yolo", yolo(), ultralytics(), 0.4 + HALF_RED),
    "YOLOv8 without metadata": ("yolo", yolo(), {}, 0.4 + HALF_RED),
    "YOLO11, own classes": ("yolo", yolo(7, label=2), ultralytics(names=OWN_NAMES), 0.4 + HALF_RED),
    "YOLO11, one class": ("yolo", yolo(5), ultralytics(names=PERSON_ONLY), 0.4 + HALF_RED),
    "YOLOv8 pose": ("yolo", yolo(56, rest=51), ultralytics("pose", PERSON_ONLY), 0.4 + HALF_RED),
    "YOLOv8 pose without metadata": ("yolo", yolo(56, rest=51), {}, 0.4 + HALF_RED),
    "YOLO11 masks": ("yolo", {**yolo(116, rest=32), **MASKS}, ultralytics("segment"), 0.4 + HALF_RED),
    "YOLO26": ("yolo_end_to_end", end_to_end(), ultralytics(), 0.4 + HALF_RED),
    "YOLOv10 without metadata": ("yolo_end_to_end", end_to_end(), {}, 0.4 + HALF_RED),
    "YOLO26 pose": ("yolo_end_to_end", end_to_end(57), ultralytics("pose", PERSON_ONLY), 0.4 + HALF_RED),
    "YOLOv5": ("yolov5", yolov5(), {}, 0.4 + HALF_RED),
    "YOLOX": ("yolox", yolox(), {}, 0.2 + HALF_BLUE / 1000),
    "YOLOX, one class": ("yolox", yolox(1), {}, 0.2 + HALF_BLUE / 1000),
    "RF-DETR": ("rf_detr", shares(91, "dets", "labels"), {}, sigmoid(1 + RED_IMAGENET)),
    "RT-DETR": ("rt_detr", shares(80, label=0), {}, sigmoid(1 + RED / 255)),
    "Deformable DETR": ("deformable_detr", shares(91), {}, sigmoid(1 + RED_IMAGENET)),
    "DETR": ("detr", shares(92), {}, None),
    "mmdeploy": ("mmdeploy", mmdeploy(), {}, 0.2 + HALF_BLUE / 1000),
    "mmdeploy without labels": ("mmdeploy", {"dets": mmdeploy()["dets"]}, {}, None),
    "rtmdet": ("rtmdet", mmdeploy(), {}, None),
    "torchvision": ("boxes_scores_labels", torchvision(), {}, 0.2 + RED / 255),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_detector_is_recognized_and_its_person_is_found(name, tmp_path):
    layout, outputs, metadata, score = CASES[name]
    shape = (3, "h", "w") if name == "torchvision" else (1, 3, SIDE, SIDE)
    path = write_onnx(tmp_path / f"{name}.onnx", outputs, metadata, shape)
    detector = OnnxDetector(path, min_score=0.01)
    assert detector._layout is LAYOUTS[layout]
    [boxes], [scores] = detector.detect([IMAGE])
    place = [index for index, box in enumerate(boxes) if np.allclose(box, BOX, atol=0.01)]
    assert len(place) == 1 and len(boxes) == 1
    if score is not None:
        assert scores[place[0]] == pytest.approx(score, abs=1e-4)


def test_the_softmax_of_detr_leaves_out_nothing(tmp_path):
    path = write_onnx(tmp_path / "detr.onnx", shares(92))
    numbers = np.full(92, -9.0)
    numbers[1] = 1 + RED_IMAGENET
    expected = np.exp(numbers[1]) / np.exp(numbers).sum()
    assert OnnxDetector(path).detect([IMAGE])[1][0].tolist() == pytest.approx([expected], abs=1e-4)


def test_detr_without_a_size_gets_the_short_side_of_its_paper(tmp_path):
    size = np.array((667 * 2, 667))[::-1]  # 480 x 960 with a longer side of 1333
    outputs = shares(92, corners=(100, 40, 300, 240), size=(960, 480))
    detector = OnnxDetector(write_onnx(tmp_path / "detr.onnx", outputs, shape=(1, 3, "h", "w")))
    ports, image = detector._placed(IMAGE, detector._layout)
    assert np.abs(np.subtract(ports.size_hw, size)).max() <= 1 and image.pixels.shape[:2] == ports.size_hw
    assert detector.detect([IMAGE])[0][0].tolist() == [pytest.approx(BOX, abs=0.01)]


def test_open_shapes_of_outputs_are_those_of_a_first_image(tmp_path):
    path = write_onnx(tmp_path / "open.onnx", yolo(), open_=True)
    assert OnnxDetector(path).detect([IMAGE])[0][0].tolist() == [pytest.approx(BOX, abs=0.01)]


def test_options_override_what_the_family_has(tmp_path):
    path = write_onnx(tmp_path / "yolo.onnx", yolo())
    [boxes], [scores] = OnnxDetector(path, person_label=1).detect([IMAGE])
    assert scores.tolist() == pytest.approx([0.9])
    [boxes], [scores] = OnnxDetector(path, input_scale=0.001).detect([IMAGE])
    assert scores.tolist() == pytest.approx([0.4 + (RED + GREY) / 2000], abs=1e-4)
    other = write_onnx(tmp_path / "other.onnx", mmdeploy())
    assert OnnxDetector(other, layout="rtmdet")._layout is LAYOUTS["rtmdet"]
    with pytest.raises(UserError, match="Unknown layout of a detector.*'rtmdet'"):
        OnnxDetector(other, layout="rtmdett").detect([IMAGE])


def test_a_file_of_no_family_is_refused_with_what_was_found_and_what_is_known(tmp_path):
    path = write_onnx(tmp_path / "classifier.onnx", {"logits": np.zeros((1, 1000), np.float32)})
    with pytest.raises(
        UserError, match=r"Received: logits \(1, 1000\). Known: .*YOLOX: .*RF-DETR|RF-DETR.*YOLOX"
    ) as error:
        OnnxDetector(path).detect([IMAGE])
    assert "\n" not in str(error.value)
    rotated = write_onnx(tmp_path / "obb.onnx", yolo(), ultralytics("obb"))
    with pytest.raises(UserError, match="no known family"):
        OnnxDetector(rotated).detect([IMAGE])


def test_a_detector_that_does_not_tell_its_person_class_asks_for_it(tmp_path, capsys):
    write_onnx(tmp_path / "own.onnx", yolo(10))
    with pytest.raises(UserError, match="Which label of .* means person. It has 6 classes. Pass `person_label=`"):
        OnnxDetector(tmp_path / "own.onnx").detect([IMAGE])
    write_image(tmp_path / "photo.jpg", IMAGE)
    command = ["predict", str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "out"), "--no-pictures", "--json"]
    assert cli.main([*command, "--detector", str(tmp_path / "own.onnx")]) == 2
    assert "Pass --person-label." in capsys.readouterr().err
    assert cli.main([*command, "--person-label", "0"]) == 2
    error = capsys.readouterr().err
    assert "requires an .onnx file or keras-hub:PRESET as --detector. Received: person_fpn_lite0" in error
    assert cli.main([*command, "--detector", str(tmp_path / "own.onnx"), "--person-label", "0", "--overwrite"]) == 0


# Published detectors


@pytest.fixture
def zipped(tmp_path, monkeypatch):
    """A server with the zip file of a detector under a name of the table; returns it."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    write_onnx(tmp_path / "end2end.onnx", mmdeploy())
    with zipfile.ZipFile(server.folder / "yolox.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "end2end.onnx", "2023/end2end.onnx")
        archive.writestr("2023/pipeline.json", "{}")
    row = published.DETECTORS["yolox_tiny.humanart_v1"]
    row = replace(row, url=server.url("yolox.zip"), image_hw=(SIDE, SIDE))
    monkeypatch.setitem(published.DETECTORS, "yolox_tiny.humanart_v1", row)
    for name in ("KPZOO_OFFLINE", "KPZOO_MIRROR", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetching, "DELAYS", ())
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("word", ["yolox_tiny", "yolox_tiny.humanart", "yolox_tiny.humanart_v1"])
def test_a_published_detector_is_fetched_unpacked_and_used(word, zipped, capsys):
    detector = detectors.get(word)
    assert zipped.asked == []  # until it looks
    assert detector.detect([IMAGE])[0][0].tolist() == [pytest.approx(BOX, abs=0.01)]
    err = capsys.readouterr().err
    assert f"no digest of yolox.zip. The one that came has SHA-256 {zipped.sha256('yolox.zip')}" in err
    detectors.get(word).detect([IMAGE])
    assert len(zipped.asked) == 1 and (cache.home() / "yolox.onnx").exists()
    (cache.home() / "yolox.onnx").write_bytes(b"changed")
    assert len(detectors.get(word).detect([IMAGE])[0][0]) == 1
    assert len(zipped.asked) == 1


def test_a_detector_of_another_size_than_published_is_refused(zipped, monkeypatch):
    row = replace(published.DETECTORS["yolox_tiny.humanart_v1"], image_hw=(416, 416))
    monkeypatch.setitem(published.DETECTORS, "yolox_tiny.humanart_v1", row)
    with pytest.raises(UserError, match=r"takes images of \(96, 96\). Expected: \(416, 416\)"):
        detectors.get("yolox_tiny").detect([IMAGE])


@pytest.mark.parametrize("content", ["web page", "bomb", "two", "none", "cut"])
def test_a_zip_file_that_is_none_or_too_large_is_refused(content, zipped, monkeypatch):
    path = zipped.folder / "yolox.zip"
    if content == "web page":
        path.write_text("<html>moved</html>")
    elif content == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("end2end.onnx", bytes(10_000_000))
    elif content in ("two", "none"):
        with zipfile.ZipFile(path, "w") as archive:
            for folder in {"two": "ab", "none": ""}[content]:
                archive.writestr(f"{folder}/end2end.onnx", b"x")
    else:
        data = path.read_bytes()
        path.write_bytes(data[:200] + data[210:])
    message = {"bomb": "would be 10,000,000 bytes large", "two": "once", "none": "once"}.get(
        content, "not a complete zip"
    )
    with pytest.raises(UserError, match=message) as error:
        detectors.get("yolox_tiny").detect([IMAGE])
    assert "\n" not in str(error.value) and not (cache.home() / "yolox.onnx").exists()


def test_a_zip_file_cannot_write_elsewhere(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil/end2end.onnx", b"numbers")
    unpacking.unpack(tmp_path / "a.zip", "end2end.onnx", tmp_path / "out/a.onnx")
    assert (tmp_path / "out/a.onnx").read_bytes() == b"numbers"
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.onnx", "a.zip"]


def test_the_rows_of_detectors_are_words_of_the_option():
    assert [row.detector for row in published.DETECTORS.values()] == ["yolox_tiny", "yolox_m", "yolox_x"]
    assert all(isinstance(row, DetectorFile) for row in published.DETECTORS.values())
    with pytest.raises(UserError, match="Did you mean 'yolox_m'|'yolox_m'"):
        detectors.get("yolox_n")
