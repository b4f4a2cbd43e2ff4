"""Videos by their content: containers that guess, files that are damaged, names that say nothing, and streams."""

import shutil
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reliability_rows import row

from kpzoo import cli
from kpzoo.errors import UserError
from kpzoo.inference import pictures, videos

FORMATS = {
    "mp4": "mp4v", "mov": "mp4v", "m4v": "mp4v", "3gp": "mp4v", "mkv": "mp4v", "webm": "VP80", "avi": "MJPG",
    "ts": "MPG2", "mpg": "MPG1", "flv": "FLV1", "wmv": "WMV2",
}  # fmt: skip
NUM_FRAMES = 30


def write(path, fourcc, num_frames=NUM_FRAMES):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*fourcc), 20, (80, 60))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for number in range(num_frames):
        writer.write(np.roll(noise, number, axis=1))
    writer.release()
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Healthy files by format, under names without a suffix."""
    folder = tmp_path_factory.mktemp("videos")
    return {kind: write(folder / f"v.{kind}", fourcc).rename(folder / kind) for kind, fourcc in FORMATS.items()}


def counts(path) -> tuple[int, int]:
    """Frames that were read, and frames that could not be."""
    video = pictures.Video(path)
    return len(list(video)), video.num_broken


def with_duration(path, seconds: float) -> bytes:
    """A Matroska file whose header declares another duration, as of sound that is longer than the video."""
    data = path.read_bytes()
    place = data.index(b"\x44\x89\x88") + 3  # element Duration, 8 bytes
    return data[:place] + struct.pack(">d", 1000 * seconds) + data[place + 8 :]


def with_edit_list(path, num_frames: int) -> bytes:
    """An MP4 file whose edit list shows only the first frames, as after a cut without encoding."""
    data = path.read_bytes()
    place = data.index(b"elst") + 12  # the duration of the first edit, in milliseconds
    return data[:place] + struct.pack(">I", 1000 * num_frames // 20) + data[place + 4 :]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_video_is_known_by_its_content(kind, written, tmp_path):
    path = written[kind]
    assert isinstance(pictures.open_source(path), pictures.Video)
    assert not pictures.is_one_picture(path)
    assert counts(path) == (NUM_FRAMES, 0)
    jpeg = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    (tmp_path / f"photo.{kind}").write_bytes(jpeg)
    assert pictures.is_one_picture(tmp_path / f"photo.{kind}")
    with pytest.raises(UserError, match="Pass videos one by one"):
        pictures.open_source([str(path)])


@row(
    96,
    "Videos that declare a wrong number of frames, as with an edit list or longer sound; another suffix or none",
    "All frames are read, exit code 0; videos are recognized by their content",
)
@settings(max_examples=6, deadline=None)
@given(seconds=st.floats(0.05, 1e4), num_frames=st.integers(5, NUM_FRAMES - 1))
def test_a_number_of_frames_that_a_container_guesses_is_no_damage(seconds, num_frames, written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guess")
    (folder / "long").write_bytes(with_duration(written["mkv"], seconds))
    assert counts(folder / "long") == (NUM_FRAMES, 0)
    (folder / "trimmed").write_bytes(with_edit_list(written["mp4"], num_frames))
    assert counts(folder / "trimmed") == (num_frames, 0)


@row(
    97,
    "Videos that are damaged in the middle or truncated, with any declared number of frames",
    "The other frames are read, exit code 2 with the number of missing frames",
)
@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "ts", "wmv"])
@pytest.mark.parametrize("damage", ["zeros", "noise", "cut"])
def test_damage_is_told(kind, damage, written, tmp_path):
    data = written[kind].read_bytes()
    start, end = (len(data) * part // 100 for part in (40, 55))
    if damage == "cut":
        data = data[:end]
    else:
        noise = np.random.default_rng(1).integers(0, 256, end - start, np.uint8).tobytes()
        data = data[:start] + (noise if damage == "noise" else bytes(end - start)) + data[end:]
    (tmp_path / "damaged").write_bytes(data)
    if kind == "mp4" and damage == "cut":  # its index comes last
        with pytest.raises(UserError, match="the file is incomplete"):
            counts(tmp_path / "damaged")
        return
    num_read, num_broken = counts(tmp_path / "damaged")
    assert 0 < num_read < NUM_FRAMES and num_broken > 0
    if kind == "mkv":
        (tmp_path / "damaged").write_bytes(with_duration(tmp_path / "damaged", 60))
        assert counts(tmp_path / "damaged")[1] > 0


def test_the_command_says_how_many_frames_are_missing(written, tmp_path, capsys):
    data = written["mkv"].read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    (tmp_path / "long").write_bytes(with_duration(written["mkv"], 60))
    arguments = ["--detector", "whole", "--out"]
    assert cli.main(["detect", str(tmp_path / "long"), *arguments, str(tmp_path / "long.json")]) == 0
    assert cli.main(["detect", str(tmp_path / "cut"), *arguments, str(tmp_path / "cut.json")]) == 2
    capsys.readouterr()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@row(
    98,
    "http:// and rtsp:// sources, also with a password; other schemes; no answer; a URL as a single image",
    "Frames are read if OpenCV supports the source, else an error of one line without the password",
)
def test_streams_are_read_or_refused_without_their_passwords(written, tmp_path):
    shutil.copy(written["mkv"], tmp_path / "v.mkv")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"HTTP://127.0.0.1:{server.server_port}/v.mkv"
        video = pictures.open_source(url)
        assert (video.name, video.live, len(list(video)), video.num_broken) == ("stream", True, NUM_FRAMES, 0)
        for other in (f"http://me:secret@127.0.0.1:{server.server_port}/none.mkv", "rtsp://me:secret@127.0.0.1:9/x"):
            with pytest.raises(UserError, match="Cannot open the video '(http|rtsp)://127") as error:
                pictures.open_source(other)
            assert "secret" not in str(error.value)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(UserError, match="Expected the URL of a stream, rtsp://.*Received: 's3://"):
        pictures.open_source("s3://bucket/v.mp4")
    with pytest.raises(UserError, match="Expected one image.*the URL 'https://"):
        pictures.check_one("https://me:secret@host/photo.jpg")
    with pytest.raises(UserError, match="Pass videos one by one"):
        pictures.open_source(["a.jpg", "rtsp://host/x"])


@given(st.text("abc:/@.", max_size=20), st.text("abc%@:", min_size=1, max_size=10))
def test_no_url_is_shown_with_its_password(path, password):
    assert videos.without_password(f"rtsp://user:{password}@host/{path}") == f"rtsp://host/{path}"
