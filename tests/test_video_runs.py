"""Videos from frames to files: thinned detection, interpolation, runs that go on at a frame, flat memory, a window."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import islice

import cv2
import numpy as np
import pytest
from test_cli import run

import kpzoo
from kpzoo import inference
from kpzoo.errors import UserError
from kpzoo.inference import frames, pictures, window
from kpzoo.scenes import write_drawn_video

NUM_FRAMES = 150  # two segments and a part of a third
MODES = {
    "plain": {},
    "tracked": {"track": True},
    "smooth": {"smooth": True, "every": 5},
    "interpolated": {"interpolate": True, "smooth": True, "every": 4},
}


class Boxes:
    """A detector of drawn people: their annotated boxes, without some of them, from a table by frame."""

    def __init__(self, path):
        self.path, self.boxes, self.asked = path, {}, []
        for row in json.loads(path.read_text())["annotations"]:
            self.boxes.setdefault(row["image_id"], []).append(row["bbox"])

    def __repr__(self):
        return "Boxes()"

    def detect(self, images, image_ids):
        self.asked += image_ids
        found = [np.array(self.boxes.get(one % NUM_FRAMES, [])[one % 7 == 3 :]).reshape(-1, 4) for one in image_ids]
        return found, [np.full(len(one), 0.9) for one in found]


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    return write_drawn_video(path, NUM_FRAMES, people=3, image_hw=(96, 128), seed=2)


@pytest.fixture
def detector(video):
    return Boxes(video.with_suffix(".json"))


def rows_of(results) -> list[dict]:
    return [row for one in results for row in one.poses.to_coco(one.picture.image_id)]


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_goes_on_from_its_state_with_equal_results(model, video, detector, mode):
    predictor = kpzoo.Predictor(model, detector=detector, flip=False)
    whole = list(predictor.stream(video, **MODES[mode]))
    assert [one.picture.image_id for one in whole] == list(range(NUM_FRAMES))
    states = [(number, one.state) for number, one in enumerate(whole) if one.state is not None]
    assert [number for number, _ in states] == [64, 128, NUM_FRAMES - 1] or MODES[mode].get("every") == 5
    for number, state in states[:2]:
        state = json.loads(json.dumps(state, allow_nan=False))
        rest = list(predictor.stream(video, **MODES[mode], state=state))
        assert rows_of(rest) == rows_of(whole[number + 1 :])
    assert all((one.poses.track_ids is not None) == (mode != "plain") for one in whole)


def test_the_detector_sees_every_nth_frame_and_the_networks_rest_when_poses_are_interpolated(model, video, detector):
    crops = []
    predictor = kpzoo.Predictor(model, detector=detector, flip=False)
    start = predictor._start
    predictor._start = lambda images, flip: crops.append(len(images)) or start(images, flip=flip)
    found = list(predictor.stream(video, every=4, interpolate=True))
    keys = [*range(0, NUM_FRAMES, 4), NUM_FRAMES - 1]
    assert detector.asked == keys and len(found) == NUM_FRAMES
    between = sum(crops)
    crops.clear()
    thinned = list(predictor.stream(video, every=4))
    assert detector.asked[len(keys) :] == keys[:-1] and len(thinned) == NUM_FRAMES
    assert between < 0.4 * sum(crops)
    for number in range(1, 4):  # a person in both is in between where the line leads
        for row, track_id in enumerate(found[number].poses.track_ids):
            ends = [found[place].poses for place in (0, 4)]
            if all(track_id in end.track_ids for end in ends):
                a, b = (end.keypoints_xy[end.track_ids.tolist().index(track_id)] for end in ends)
                share = number / 4
                expected = (1 - share) * a + share * b
                np.testing.assert_allclose(found[number].poses.keypoints_xy[row], expected, atol=1e-9)


def test_a_person_in_one_of_two_frames_stays_in_the_half_that_is_nearer():
    from test_poses import some_poses

    from kpzoo.inference.interpolation import between
    from kpzoo.inference.pictures import Picture
    from kpzoo.inference.prediction import Prediction
    from kpzoo.poses import Poses

    ends = []
    for number, ids in ((0, [1, 2, 5]), (4, [2, 1, 3])):
        poses = Poses(**{**vars(some_poses(3)), "track_ids": ids})
        ends.append(Prediction(Picture(str(number), number, number, seconds=number / 25), poses, poses[[]]))
    waiting = [Picture(str(number), number, number, seconds=number / 25) for number in (1, 2, 3)]
    found = [set(poses.track_ids.tolist()) for _, poses, _ in between(ends[0], waiting, ends[1])]
    assert found == [{1, 2, 5}, {1, 2, 3}, {1, 2, 3}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every=` must be 1 or more. Received: 0"),
        ({"interpolate": True}, "leaves the networks out between every N-th frame"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        frames.Options(**options)


@pytest.mark.parametrize("name", ["track", "smooth"])
def test_images_have_no_order_in_time(model, name):
    with pytest.raises(UserError, match=f"`{name}=` is for videos"):
        inference.stream(model, [np.zeros((9, 9, 3), np.uint8)], detector="whole", **{name: True})


# Output folders -------------------------------------------------------------------------------------------------------


def contents(out) -> dict:
    capture, drawn = cv2.VideoCapture(str(out / "walk.mp4")), []
    while (read := capture.read())[0]:
        drawn.append(read[1].tobytes())
    return {"json": (out / "results.json").read_text(), "csv": (out / "poses.csv").read_text(), "frames": drawn}


@pytest.mark.parametrize("mode", ["tracked", "interpolated"])
def test_an_interrupted_video_goes_on_to_the_files_of_an_uninterrupted_one(model, video, detector, mode, tmp_path):
    options = dict(detector=detector, flip=False, **MODES[mode])
    kpzoo.predict_to_folder(model, video, tmp_path / "whole", **options)
    whole = contents(tmp_path / "whole")
    assert len(whole["frames"]) == NUM_FRAMES
    lines = (tmp_path / "whole/progress.jsonl").read_bytes().splitlines(keepends=True)
    first = [number for number, line in enumerate(lines) if line.startswith(b'{"state":')][0]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/progress.jsonl").write_bytes(b"".join(lines[: first + 20]) + lines[first + 20][:30])
    detector.asked.clear()
    summary = kpzoo.predict_to_folder(model, video, tmp_path / "cut", resume=True, **options)
    assert (summary.num_skipped, summary.num_pictures) == (65, NUM_FRAMES - 65)
    assert min(detector.asked) > 64
    assert contents(tmp_path / "cut") == whole
    again = kpzoo.predict_to_folder(model, video, tmp_path / "cut", **options)
    assert (again.num_skipped, again.num_pictures) == (NUM_FRAMES, 0)
    assert contents(tmp_path / "cut") == whole
    rows = list(csv.DictReader((tmp_path / "cut/poses.csv").open()))
    records = json.loads(whole["json"])
    ids = [one["track_id"] for one in records]
    assert [row["track_id"] for row in rows] == ["" if one is None else str(one) for one in ids]


KILLED = """
import sys
from pathlib import Path
import kpzoo
from test_video_runs import Boxes
model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
kpzoo.load_weights(model, sys.argv[1])
video = Path(sys.argv[2])
options = dict(detector=Boxes(video.with_suffix(".json")), flip=False, track=True)
kpzoo.predict_to_folder(model, video, sys.argv[3], **options)
"""


def test_a_killed_run_goes_on_to_the_results_of_an_uninterrupted_one(model, video, detector, tmp_path):
    kpzoo.save_weights(model, tmp_path / "w.safetensors")
    options = dict(detector=detector, flip=False, track=True)
    kpzoo.predict_to_folder(model, video, tmp_path / "whole", **options)
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "w.safetensors"), str(video), str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL)
    progress = tmp_path / "out/progress.jsonl"
    while process.poll() is None and not (progress.exists() and b'{"state":' in progress.read_bytes()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert b'{"state":' in progress.read_bytes()
    summary = kpzoo.predict_to_folder(model, video, tmp_path / "out", resume=True, **options)
    assert summary.num_skipped >= 65 and summary.num_skipped + summary.num_pictures == NUM_FRAMES
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_cannot_be_resumed_is_said_in_one_line(model, video, detector, tmp_path):
    options = dict(detector=detector, flip=False, pictures=False)
    for more, reason in (({}, "no earlier run"), ({"overwrite": True}, "anew"), ({"show_nms": True}, "start again")):
        with pytest.raises(UserError, match=reason):
            kpzoo.predict_to_folder(model, video, tmp_path / "out", resume=True, **options, **more)
    kpzoo.predict_to_folder(model, video, tmp_path / "out", **options)
    with pytest.raises(UserError, match=r"other settings \(track: None before, True now\)"):
        kpzoo.predict_to_folder(model, video, tmp_path / "out", track=True, **options)


def test_a_long_video_is_written_at_flat_memory(model, video, detector, tmp_path):
    """The frames of a small video 40 times over; what is held grows neither with the frames nor with the results."""
    images = [frame.image for frame in islice(pictures.Video(video), 30)]

    class Endless(pictures.Video):
        def __init__(self, num_frames):
            super().__init__(video)
            self._frames = (
                pictures.Picture(str(number), number, number, images[number % 30], seconds=number / 25)
                for number in range(num_frames)
            )

    def peak(num_frames: int) -> int:
        out = tmp_path / str(num_frames)
        tracemalloc.start()
        options = dict(detector=detector, flip=False, track=True, smooth=True, pictures=False)
        summary = kpzoo.predict_to_folder(model, Endless(num_frames), out, overwrite=True, **options)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert summary.num_pictures == num_frames and (out / "results.json").stat().st_size > 1000 * num_frames
        return highest

    peak(200)
    short, long = peak(200), peak(1200)
    assert long < short + 500_000, (short, long)


# The command line and the window --------------------------------------------------------------------------------------


def test_the_command_tracks_a_video_and_writes_a_gallery(video, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "predict",
        video,
        "--out",
        out,
        "--track",
        "--smooth",
        "--every",
        "40",
        "--interpolate",
        "--gallery",
        "--openpose",
    ]
    code, _, err = run(capsys, *arguments, "--detector", "whole", "--no-flip")
    assert code == 0, err
    records = json.loads((out / "results.json").read_text())
    assert {record["track_id"] for record in records} >= {1}
    page = (out / "gallery.html").read_text()
    assert page.count("<figure") == NUM_FRAMES and "data:image/jpeg" in page and "walk.mp4" in page
    assert len(list((out / "openpose").iterdir())) == NUM_FRAMES
    content = json.loads((out / "openpose/walk_000000000149_keypoints.json").read_text())
    last = [record["track_id"] or -1 for record in records if record["image_id"] == 149]
    assert [person["person_id"] for person in content["people"]] == [[one] for one in last]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk.mp4"], "Add --out FOLDER, or --show"),
        (["walk.mp4", "--show", "--gallery"], "--gallery need --out FOLDER"),
        (["walk.mp4", "--out", "o", "--gallery", "--no-pictures"], "Drop it, or --no-pictures"),
        (["walk.mp4", "--out", "o", "--box", "0", "0", "9", "9", "--every", "2"], "Drop --every, or --box"),
    ],
)
def test_options_that_do_nothing_are_refused(arguments, message, capsys):
    code, _, err = run(capsys, "predict", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def with_windows(monkeypatch, gui="QT5"):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: f"  GUI:   {gui}\n")
    monkeypatch.setenv("DISPLAY", ":0")
    shown = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 9 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    return shown


def test_a_video_is_shown_in_a_window_until_a_key_is_pressed(model, video, detector, tmp_path, monkeypatch):
    shown = with_windows(monkeypatch)
    assert kpzoo.watch(model, video, detector=detector, flip=False) == 9
    assert shown == [(96, 128, 3)] * 9 + ["closed"]
    shown.clear()
    summary = kpzoo.predict_to_folder(model, video, tmp_path / "out", detector=detector, flip=False, show=True)
    assert summary.num_pictures == 9 and len(contents(tmp_path / "out")["frames"]) == 9


def test_a_build_without_windows_says_which_package_has_them(model, video, monkeypatch):
    with_windows(monkeypatch, gui="NONE")
    with pytest.raises(UserError, match="pip install opencv-python`"):
        kpzoo.watch(model, video)
    with_windows(monkeypatch)
    with pytest.raises(UserError, match="`show=True` is for videos"):
        window.check(pictures.Pictures([]))
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(UserError, match="neither DISPLAY nor WAYLAND_DISPLAY is set"):
        kpzoo.watch(model, video)


def test_frames_per_second_are_those_of_the_last_frames(monkeypatch):
    with_windows(monkeypatch)
    clock = iter([0.0, 1.0, 1.5, 2.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    shown = window.Window("w")
    assert shown.fps == 0.0
    for _ in range(4):
        assert shown.show(np.zeros((20, 30, 3), np.uint8))
    assert shown.fps == 1.5
