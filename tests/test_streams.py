"""From any source to poses: names and order, full batches across pictures, boxes of videos, what cannot be read."""

import json
import re
import warnings
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tensorflow as tf

import kpzoo
from kpzoo import geometry, inference, progress
from kpzoo.drawing import ACCENTS, COLOURS
from kpzoo.errors import UserError
from kpzoo.images import write_image
from kpzoo.inference import batching, detectors, pictures
from kpzoo.poses import Poses
from kpzoo.skeletons import COCO17


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


@pytest.fixture(scope="module")
def predictor(model):
    return kpzoo.Predictor(model, flip=False)


def noise(seed, size_hw=(60, 80)):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", noise(ord(name)))
    return tmp_path


def write_video(path, num_frames=12, fourcc="MJPG", fps=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*fourcc), fps, (80, 60))
    for number in range(num_frames):
        frame = np.full((60, 80, 3), 20, np.uint8)
        cv2.circle(frame, (10 + 5 * number, 30), 8, (40, 200, 250), -1)
        writer.write(frame)
    writer.release()
    return path


class Counting:
    """Returns one box and records the image ids."""

    def __init__(self):
        self.asked = []

    def detect(self, images, image_ids):
        self.asked += image_ids
        return [np.array([[5.0 + len(self.asked), 5, 30, 40]])], [np.ones(1)]


def named(results):
    return {one.picture.name: one.poses for one in results}


def test_predict_returns_poses_and_stream_yields_one_result_per_image(model, folder):
    boxes = np.array([[5.0, 5, 40, 50]])
    alone = kpzoo.predict(model, folder / "b.png", boxes, flip=False)
    assert isinstance(alone, Poses)
    predictor = kpzoo.Predictor(model, flip=False)
    assert isinstance(predictor(noise(ord("b")), boxes), Poses)
    for source in (folder, str(folder / "*.png"), [folder / "a.png", noise(ord("b")), folder / "c.png"]):
        for results in (kpzoo.stream(model, source, boxes, flip=False), predictor.stream(source, boxes)):
            found = named(results)
            assert list(found) == ["a.png", "1" if isinstance(source, list) else "b.png", "c.png"]
            np.testing.assert_allclose(list(found.values())[1].keypoints_xy, alone.keypoints_xy, atol=1e-3)
    assert list(named(predictor.stream(folder / "a.png", boxes))) == ["a.png"]


@pytest.mark.parametrize(
    ("source", "received"),
    [
        (".", "the folder '.'"),
        ("*.png", "the pattern '*.png'"),
        ("walk.mp4", "the video 'walk.mp4'"),
        ("webcam:1", "the webcam 'webcam:1'"),
        (["a.png"], "Received: list"),
        (None, "Received: NoneType"),
    ],
)
def test_predict_of_many_images_names_stream(model, predictor, folder, monkeypatch, source, received):
    monkeypatch.chdir(folder)
    for call in (predictor, lambda *given: kpzoo.predict(model, *given)):
        with pytest.raises(UserError, match=re.escape(received) + ".*kpzoo.stream.*predictor.stream"):
            call(source, [[0, 0, 9, 9]])


def test_what_nms_leaves_out_is_still_told_and_can_be_drawn(model):
    class Twice:
        def detect(self, images, image_ids):
            return [np.array([[5.0, 5, 30, 40], [5, 5, 30, 40], [40, 10, 30, 45]])], [np.array([0.5, 0.9, 0.7])]

    (found,) = inference.stream(model, noise(0), detector=Twice(), flip=False)
    assert (len(found.dropped), len(found.poses)) == (1, 2)
    assert found.dropped.scores.max() < found.poses.scores.min()
    sheet = found.draw_nms()
    assert sheet.shape[0] >= 60 and sheet.shape[1] >= 2 * 80
    (every,) = inference.stream(model, noise(0), detector=Twice(), flip=False, nms=None)
    assert (len(every.poses), len(every.dropped)) == (3, 0)


def test_dropped_poses_have_a_colour_of_their_own_on_the_left_alone(model):
    points = np.random.default_rng(0).uniform(20, 180, (2, 17, 2))
    kept, dropped = (
        Poses(points[i : i + 1], np.ones((1, 17)), np.ones(1), np.ones((1, 4)), np.zeros(1, int), COCO17)
        for i in range(2)
    )
    picture = pictures.Picture("a.png", 0, "a", np.zeros((200, 200, 3), np.uint8))
    sheet = np.asarray(inference.Prediction(picture, kept, dropped).draw_nms()).astype(int)
    halves = np.array_split(sheet, 2, axis=1)
    purple = [(np.abs(half - ACCENTS[1]).max(-1) < 9).sum() for half in halves]
    blue = [(np.abs(half - COLOURS[-1]).max(-1) < 9).sum() for half in halves]
    assert purple[0] > 100 and purple[1] == 0 and min(blue) > 100


def test_names_count_from_the_folder_that_all_pictures_share(tmp_path):
    for name in ("x/1.png", "y/z/1.png"):
        write_image(tmp_path / name, noise(0))
    listed = pictures.open_source(str(tmp_path / "**/*.png")).listed
    assert [(one.name, one.image_id) for one in listed] == [("x/1.png", 1), ("y/z/1.png", 2)]


def test_file_names_of_digits_are_image_ids(tmp_path):
    for name in ("000000000785.png", "000000000139.png"):
        write_image(tmp_path / name, noise(0))
    assert [one.image_id for one in pictures.open_source(tmp_path).listed] == [139, 785]


def test_boxes_of_many_pictures_share_full_batches_and_come_back_in_order(model):
    """17 boxes of five pictures, one of which has none, are two batches of 7 and one of 3."""
    rng = np.random.default_rng(0)
    counts = [3, 0, 9, 1, 4]
    boxes = [np.c_[rng.uniform(0, 30, (count, 2)), rng.uniform(20, 40, (count, 2))] for count in counts]
    images = [noise(seed, (50 + 10 * seed, 90)) for seed in range(5)]
    rule = geometry.CROP_RULES["cpn"]
    looked = batching.with_boxes(pictures.open_source(images), boxes, None)
    assert [len(batch) for batch in batching.batches(looked, rule, (64, 64), 7)] == [7, 7, 3]
    found = [one.poses for one in kpzoo.stream(model, images, boxes, batch_size=7, flip=False)]
    assert [len(poses) for poses in found] == counts
    predictor = kpzoo.Predictor(model, batch_size=32, flip=False)
    for image, given, poses in zip(images, boxes, found, strict=True):
        np.testing.assert_array_equal(poses.boxes_xywh, given)
        alone = predictor(image, given)
        np.testing.assert_allclose(poses.keypoints_xy, alone.keypoints_xy, atol=1e-3)
        np.testing.assert_allclose(poses.scores, alone.scores, atol=1e-5)


def test_pictures_do_not_pile_up_behind_one_that_waits_for_its_batch():
    boxes = [np.array([[0.0, 0, 20, 20]])] + [np.zeros((0, 4))] * 50
    opened = pictures.open_source([noise(0)] * 51)
    looked = batching.with_boxes(opened, boxes, None)
    first = next(batching.batches(looked, geometry.CROP_RULES["cpn"], (64, 64), 8))
    assert len(first) == 1
    assert len(first.started) == 17


def test_only_a_few_pictures_are_read_ahead_of_what_was_asked_for(model, monkeypatch):
    read = []
    monkeypatch.setattr(pictures.images, "as_image", lambda entry: read.append(1) or entry)
    found = inference.stream(model, [noise(0)] * 60, np.array([[0.0, 0, 30, 30]]), batch_size=4, flip=False)
    next(found)
    assert len(read) <= 16
    found.close()


def test_a_picture_that_cannot_be_read_is_named_and_the_others_go_on(model, folder):
    (folder / "b.png").write_text("<html>")
    with pytest.warns(UserWarning, match=r"b\.png.*web page"):
        found = list(kpzoo.stream(model, folder, np.array([[5, 5, 40, 50]])))
    assert [(one.picture.name, len(one.poses), one.picture.problem is None) for one in found] == [
        ("a.png", 1, True),
        ("b.png", 0, False),
        ("c.png", 1, True),
    ]
    with pytest.raises(UserError, match="b.png"):
        kpzoo.predict(model, folder / "b.png", np.array([[5, 5, 40, 50]]))


def test_what_a_detector_raises_reaches_the_caller_as_it_is(model):
    class Broken:
        def detect(self, images, image_ids):
            raise KeyError("the detector's own fault")

    with pytest.raises(KeyError, match="own fault"):
        list(kpzoo.stream(model, [noise(0)], detector=Broken()))


def test_no_person_found_comes_with_a_hint(model):
    with pytest.warns(UserWarning, match="found no person.*'whole'"):
        assert len(kpzoo.predict(model, np.zeros((60, 80, 3), np.uint8))) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(kpzoo.predict(model, noise(0), detector="whole")) == 1
        assert len(kpzoo.predict(model, noise(0), [])) == 0


def test_a_word_names_the_detector_and_a_box_file_knows_pictures_by_their_names(model, folder, tmp_path):
    rows = [{"image_id": "b", "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}]
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(rows))
    found = named(kpzoo.stream(model, str(folder / "*.png"), detector=str(boxes)))
    assert [len(poses) for poses in found.values()] == [0, 1, 0]
    np.testing.assert_array_equal(found["b.png"].boxes_xywh, [[1, 2, 30, 40]])


@pytest.mark.parametrize(("every", "asked"), [(1, list(range(12))), (5, [0, 5, 10]), (99, [0])])
def test_boxes_follow_the_poses_between_the_frames_that_the_detector_sees(model, tmp_path, every, asked):
    video, detector = write_video(tmp_path / "v.avi"), Counting()
    predictor = kpzoo.Predictor(model, detector=detector)
    joints = np.random.default_rng(0).uniform((20, 12), (44, 52), (17, 2)).astype(np.float32)  # of a crop
    predictor._start = lambda crops, flip: (
        lambda: (
            np.tile(joints, (len(crops), 1, 1, 1)),
            tf.ones((len(crops), 1, 17)),
        )
    )
    found = list(predictor.stream(video, every=every))
    assert detector.asked == asked
    assert [one.picture.name for one in found] == [str(number) for number in range(12)]
    for call, number in enumerate(asked, start=1):
        assert found[number].poses.boxes_xywh[0, 0] == 5.0 + call
    for before, one in pairwise(found if every > 1 else []):
        if one.picture.image_id not in asked:
            (x, y, w, h), joints = one.poses.boxes_xywh[0], before.poses.keypoints_xy[0]
            low, high = np.clip(joints.min(0), 0, (80, 60)), np.clip(joints.max(0), 0, (80, 60))
            assert (np.array([x, y]) <= low).all() and (np.array([x + w, y + h]) >= high).all()
            assert w * h < 2.5 * np.prod(high - low)


def test_boxes_stay_where_they_were_for_poses_without_keypoints(model, tmp_path):
    video, detector = write_video(tmp_path / "v.avi"), Counting()
    predictor = kpzoo.Predictor(model, detector=detector)
    predictor._start = lambda crops, flip: (
        lambda: (
            np.ones((len(crops), 1, 17, 2), "f"),
            tf.zeros((len(crops), 1, 17)),
        )
    )
    found = list(predictor.stream(video, every=5))
    assert [one.poses.boxes_xywh[0, 0] for one in found] == [6.0] * 5 + [7.0] * 5 + [8.0] * 2


def test_broken_and_missing_frames_are_counted_and_the_others_are_read(tmp_path):
    whole = write_video(tmp_path / "v.avi", 30)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes()
    (tmp_path / "hole.avi").write_bytes(data)
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: len(data) * 6 // 10])
    for name in ("hole.avi", "cut.avi"):
        video = pictures.Video(tmp_path / name)
        frames = list(video)
        assert 5 <= len(frames) < 30
        assert video.num_broken == 30 - len(frames)
        assert frames[0].image.shape == (60, 80, 3)
        red, green, blue = frames[0].image[30, 10]
        assert red > green > blue  # the disc is drawn in BGR, frames come in RGB


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.mp4", "There is no video 'none.mp4'"),
        ("text.mp4", "Cannot open the video"),
        ("webcam:x", "`webcam:` and a number"),
        ("webcam:99", "Is a camera connected?"),
        (["a.png", "v.mp4"], "videos one by one"),
        ([7], "Received: int"),
        ("*.png", "No images in"),
    ],
)
def test_a_source_that_is_none_is_named(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        pictures.open_source(source)


def test_a_video_without_a_frame_is_refused(tmp_path):
    write_video(tmp_path / "v.avi")
    video = pictures.Video(tmp_path / "v.avi")
    video._capture.release()
    with pytest.raises(UserError, match="no frame that can be read"):
        list(video)


@pytest.mark.parametrize(
    ("boxes", "options", "message"),
    [
        ([np.ones((1, 4))], {}, "2 arrays"),
        ([[0, 0, 5, -1]], {}, "Box 0"),
        (None, {"every": 2}, "every"),
        (None, {"detector": "hole"}, "Did you mean 'whole'"),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused(model, boxes, options, message):
    with pytest.raises(UserError, match=message):
        list(kpzoo.stream(model, [noise(0), noise(1)], boxes, **options))


def test_a_terminal_sees_a_bar_and_a_file_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=iter(range(0, 1000, 11)).__next__))
    told = "1/2 pictures, 3 poses, "
    for terminal, expected in ((True, f"\r[{'#' * 12}{'.' * 12}] {told}"), (False, told)):
        monkeypatch.setattr(progress.sys.stderr, "isatty", lambda terminal=terminal: terminal)
        progress.Progress(2, "pictures").step(3)
        assert capsys.readouterr().err.startswith(expected)


@pytest.mark.parametrize(
    ("total", "unit", "counts", "last"),
    [
        (12.4, "MB", (6.2, 6.2), "fetched 12/12 MB, "),
        (0, "MB", (3.0,), "fetched 3/? MB, "),
        (0, "pictures", (), ""),
    ],
)
def test_the_last_line_is_the_whole_amount_and_nothing_to_do_is_no_line(total, unit, counts, last, monkeypatch, capsys):
    for shown in (True, False):
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=iter(range(0, 1000, 11)).__next__))
        with progress.Progress(total, unit, "fetched", shown=shown) as told:
            for count in counts:
                told.step(count=count)
        lines = capsys.readouterr().err.splitlines()
        assert bool(lines) == (shown and bool(last))
        assert not lines or lines[-1].startswith(last) and lines[-1].endswith(f" {unit}/s")


def test_slow_work_has_a_speed_and_its_last_line_is_printed_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=iter(range(0, 1000, 40)).__next__))
    with progress.Progress(1, "pictures") as told:
        told.step(1)
    assert capsys.readouterr().err == "1/1 pictures, 1 pose, 0.013 pictures/s\n"


def test_an_own_suppression_of_boxes_can_be_asked_of_any_detector():
    class Twice(detectors.Detector):
        def find(self, image_rgb, image_id):
            boxes = np.array([[0, 0, 20, 40], [2, 0, 20, 40], [50, 0, 20, 40]], float)
            return boxes, np.array([0.9, 0.8, 0.7])

    def boxes_of(**options):
        return Twice(**options).detect([noise(0)])

    assert len(boxes_of()[0][0]) == 3
    boxes, scores = boxes_of(suppression="hard", max_iou=0.5)
    assert boxes[0][:, 0].tolist() == [0, 50]
    boxes, scores = boxes_of(suppression="linear", max_iou=0.5)
    assert boxes[0][:, 0].tolist() == [0, 50, 2]
    assert scores[0][2] == pytest.approx(0.8 * (1 - 18 / 22))
    boxes, scores = boxes_of(suppression="gaussian")
    assert scores[0][2] == pytest.approx(0.8 * np.exp(-((18 / 22) ** 2) / 0.5))
    assert len(boxes_of(suppression="linear", max_iou=0.5, min_score=0.2)[0][0]) == 2
    with pytest.raises(UserError, match="linear"):
        boxes_of(suppression="lineer")
