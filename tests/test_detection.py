"""`kpzoo detect` and `detect_to_file`: person boxes of images and videos in one file, and odd images."""

import json

import cv2
import numpy as np
import pytest

import kpzoo
from kpzoo.cli import main
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference.boxes import BoxFile
from kpzoo.inference.person_detector import PersonDetector


@pytest.fixture(scope="module")
def tiny():
    return PersonDetector(kpzoo.build("person_fpn_tiny", image_hw=(64, 64)), min_score=0.005)


def photos(folder, shapes):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        write_image(folder / f"{number + 5:06d}.png", rng.integers(0, 255, (*shape, 3), np.uint8))
    return folder


def test_boxes_of_a_folder_are_those_of_the_detector(tmp_path, tiny):
    folder = photos(tmp_path / "a", [(40, 60)] * 5 + [(60, 40)] * 6)
    done = kpzoo.detect_to_file(folder, tmp_path / "boxes.json", tiny, progress=False)
    rows = json.loads((tmp_path / "boxes.json").read_text())
    assert (done.num_images, done.num_boxes) == (11, len(rows)) and rows
    files = sorted(folder.iterdir())
    known = tiny.detect(files)
    read = BoxFile(tmp_path / "boxes.json").detect(files, [file.stem for file in files])
    for expected, found in zip(zip(*known, strict=True), zip(*read, strict=True), strict=True):
        np.testing.assert_allclose(found[0], expected[0], atol=0.011)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    assert {row["image_id"] for row in rows} <= set(range(5, 16)) and rows[0]["file_name"] == "000005.png"


def test_frames_of_a_video_are_numbered(tmp_path, tiny):
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for shade in range(10):
        writer.write(np.full((48, 64, 3), 20 * shade, np.uint8))
    writer.release()
    done = kpzoo.detect_to_file(tmp_path / "v.mp4", tmp_path / "boxes.json", tiny, progress=False)
    rows = json.loads((tmp_path / "boxes.json").read_text())
    assert done.num_images == 10 and {row["image_id"] for row in rows} == set(range(10))


def test_an_unreadable_image_is_named_and_the_others_are_searched(tmp_path, tiny):
    folder = photos(tmp_path / "a", [(40, 60)] * 2)
    (folder / "000001.png").write_bytes(b"")
    done = kpzoo.detect_to_file(folder, tmp_path / "boxes.json", tiny, progress=False)
    assert done.num_images == 2 and len(done.problems) == 1 and "000001.png" in done.problems[0]
    for file in folder.iterdir():
        file.write_bytes(b"")
    (tmp_path / "boxes.json").unlink()
    with pytest.raises(UserError, match="None of the 3 images can be read"):
        kpzoo.detect_to_file(folder, tmp_path / "boxes.json", tiny, progress=False)
    assert not (tmp_path / "boxes.json").exists()


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (30, 600), (600, 30), (5, 3)])
def test_images_of_any_shape(tiny, shape):
    image = np.full((*shape, 3), 90, np.uint8)
    [boxes], [scores] = tiny.detect([image])
    assert boxes.shape == (len(scores), 4) and np.isfinite(boxes).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= np.array(shape[::-1]) + 1e-9).all()


def test_an_empty_image_is_refused_in_one_line(tiny):
    with pytest.raises(UserError) as error:
        tiny.detect([np.zeros((0, 10, 3), np.uint8)])
    assert "\n" not in str(error.value)


def test_a_batch_gives_what_single_images_give(tiny):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in [(40, 60), (64, 20), (50, 60), (40, 60)]]
    together = tiny.detect(images)
    for place, image in enumerate(images):
        [boxes], [scores] = tiny.detect([image])
        np.testing.assert_allclose(together[0][place], boxes, atol=1e-3)
        np.testing.assert_allclose(together[1][place], scores, atol=1e-5)


def test_the_command_writes_boxes_with_weights_of_a_file(tmp_path, tiny, capsys):
    folder = photos(tmp_path / "a", [(40, 60)] * 2)
    weights = kpzoo.save_weights(kpzoo.build("person_fpn_tiny"), tmp_path / "tiny.safetensors")
    out = tmp_path / "boxes.json"
    given = ["detect", str(folder), "--detector", "person_fpn_tiny", "--weights", str(weights), "--out", str(out)]
    assert main([*given, "--min-box-score", "0.001", "--max-boxes", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_images"] == 2 and told["num_boxes"] == len(json.loads(out.read_text())) <= 6
    assert main(["detect", str(folder), "--detector", "whole", "--out", str(out)]) == 0
    assert [row["bbox"] for row in json.loads(out.read_text())] == [[0, 0, 60, 40]] * 2
    capsys.readouterr()
    assert main(["detect", str(folder), "--detector", "whole", "--weights", "x.npz", "--out", str(out)]) == 2
    assert "--weights" in capsys.readouterr().err
