"""Names and texts in other encodings than UTF-8, and consoles that lack characters."""

import io
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reliability_rows import row

import kpzoo
from kpzoo import cli, files
from kpzoo.data import loading, make_dataset
from kpzoo.errors import UserError
from kpzoo.inference import pictures
from kpzoo.video_file import VideoFile

CONSOLES = ["ascii", "cp1252", "cp437", "latin-1", "koi8-r", "cp932", "gbk", "utf-8", "utf-16"]
POSIX = pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="names there are texts, not bytes")


def jpeg() -> bytes:
    return cv2.imencode(".jpg", np.full((60, 80, 3), 90, np.uint8))[1].tobytes()


def annotations(folder: Path, file_name: str, keypoints) -> Path:
    """A data set of one image and one person, as Python's json writes it: in ASCII."""
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    person = dict(id=1, image_id=1, category_id=1, iscrowd=0, bbox=[5, 5, 40, 50], area=900.0)
    person["keypoints"] = [value for _ in keypoints for value in (20, 30, 2)]
    content = dict(images=[dict(id=1, file_name=file_name, height=60, width=80)], annotations=[person])
    content["categories"] = [dict(id=1, name="person", keypoints=list(keypoints))]
    path = folder / "annotations/train.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


@row(
    99,
    "A console or pipe whose encoding, such as ASCII or cp1252, lacks characters; file names not in UTF-8",
    "The complete output, with codes such as \\u2026 for these characters; files of any name are read",
)
@settings(max_examples=40, deadline=None)
@given(encoding=st.sampled_from(CONSOLES), word=st.text(min_size=1, max_size=8))
def test_a_report_is_written_to_every_console(encoding, word, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    annotations(folder, "a.jpg", ["nose", f"left_{word}", f"right_{word}"])
    (folder / "images/a.jpg").write_bytes(jpeg())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = cli.main(["data", "check", str(folder), "--split", "train"])
    for stream in (out, err):
        stream.flush()
    assert code in (0, 2)
    told = [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]
    assert told[0] if code == 0 else "error:" in told[1]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_commands_work_without_a_console(stream, monkeypatch):
    monkeypatch.setattr(sys, stream, None)  # as of a service, or after >&-
    assert cli.main(["models"]) == 0


NAMES = {"latin-1": b"caf\xe9", "cp437": b"caf\x82", "utf-8": "café".encode(), "gbk": "猫".encode("gbk")}


@POSIX
@pytest.mark.parametrize("encoding", NAMES)
def test_images_are_predicted_under_names_in_any_encoding(encoding, tmp_path):
    folder = os.fsencode(tmp_path / "p")
    os.mkdir(folder)
    for name in (b"a", NAMES[encoding], b"z"):
        Path(os.fsdecode(os.path.join(folder, name + b".jpg"))).write_bytes(jpeg())
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    for _ in range(2):  # the second run resumes the first
        summary = kpzoo.predict_to_folder(model, tmp_path / "p", tmp_path / "out", detector="whole", flip=False)
    assert (summary.num_pictures, summary.num_skipped, summary.problems) == (0, 3, ())
    rows = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    names = [one["file_name"] for one in rows]
    expected = "café.jpg" if encoding == "utf-8" else NAMES[encoding].decode("utf-8", "backslashreplace") + ".jpg"
    assert sorted(names) == sorted(["a.jpg", expected, "z.jpg"])
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == sorted(names)
    assert expected in (tmp_path / "out/poses.csv").read_text("utf-8")


@POSIX
@pytest.mark.parametrize("encoding", ["latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("escaped", [True, False])
def test_annotated_images_are_read_under_names_in_any_encoding(encoding, escaped, tmp_path):
    name = os.fsdecode(NAMES[encoding] + b".jpg")
    path = annotations(tmp_path, name if escaped else "café.jpg", kpzoo.skeletons.COCO17.keypoints)
    (tmp_path / "images" / name).write_bytes(jpeg())
    if name == "café.jpg" or escaped:
        data = loading.load(annotations=path)
    else:
        with pytest.warns(UserWarning, match="spelt differently on disk"):
            data = loading.load(annotations=path)
    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    batch = next(iter(make_dataset(data, model, batch_size=1)))
    assert np.asarray(batch["image"]).max() > 50


@POSIX
def test_a_video_whose_name_is_not_utf8_is_refused_and_not_passed_to_opencv(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    for use in (lambda: pictures.Video(path), lambda: VideoFile(path, 20).add(np.zeros((20, 20, 3), np.uint8))):
        with pytest.raises(UserError, match=r"caf.{1,3}xe9.*is not UTF-8"):
            use()


@POSIX
def test_a_locale_without_utf8_finds_names_in_utf8(tmp_path):
    annotations(tmp_path, "café.jpg", kpzoo.skeletons.COCO17.keypoints)
    (tmp_path / "images/café.jpg").write_bytes(jpeg())
    with closing(VideoFile(tmp_path / "vü.mp4", 20)) as video:
        video.add(np.zeros((20, 20, 3), np.uint8))
    program = f"""
import os, pathlib, sys
from kpzoo import video_file
from kpzoo.inference import pictures
from kpzoo.data import loading
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
video = pictures.Video(os.fsdecode({os.fsencode(tmp_path / "vü.mp4")!r}))
video_file.VideoFile(pathlib.Path({str(tmp_path)!r}) / f"{{video.name}}.drawn.mp4", 20).add(next(iter(video)).image)
(one,) = pictures.open_source({str(tmp_path / "images")!r})
assert (one.name, one.problem) == ("caf\\xe9.jpg", None)
import warnings; warnings.simplefilter("ignore")
data = loading.load({str(tmp_path)!r}, "train")
assert pictures.Pictures([str(data.image_folder / data.annotations.file_names[0])]).listed[0].name == "caf\\xe9.jpg"
assert next(iter(pictures.Pictures([data.image_folder / data.annotations.file_names[0]]))).problem is None
"""
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_any_bytes_are_shown_as_text_that_every_encoding_of_unicode_can_write(name):
    shown = files.shown_name(os.fsdecode(name))
    assert shown.encode("utf-8") and json.dumps(shown)
    if os.name == "posix" and "\\x" not in shown:
        assert os.fsencode(files.system_name(shown)) == name
