"""The table of invalid inputs: each row has an input, the behaviour of kpzoo, and a test of this behaviour.

`python tests/test_bad_inputs.py --write` writes the table to docs/reliability.md.
"""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import test_check  # noqa: F401, for its rows
import test_decoders  # noqa: F401, for its rows
import test_encodings  # noqa: F401, for its rows
import test_image_files  # noqa: F401, for its rows
import test_image_inputs  # noqa: F401, for its rows
import test_image_names  # noqa: F401, for its rows
import test_json_forms  # noqa: F401, for its rows
import test_keras_programs  # noqa: F401, for its rows
import test_sides  # noqa: F401, for its rows
import test_videos  # noqa: F401, for its rows
from conftest import full_disk
from reliability_rows import ROWS, row
from test_advice import check_advice, options_in
from test_coco import K, annotation, box, changed, content, del_, keypoints_with, pieces, result, two_categories, write
from test_images import CMYK_JPEG, WEB_PAGE, encoded, png_that_claims, scene, with_exif

import kpzoo
from kpzoo import cli, images
from kpzoo.data import files, json_file, loading
from kpzoo.data.coco import read_annotations, training_persons
from kpzoo.data.results import read_boxes, read_results, write_results
from kpzoo.errors import UserError
from kpzoo.files import write_json
from kpzoo.weights import fetching, published

PAGE = Path(__file__).resolve().parents[1] / "docs/reliability.md"
NAN = float("nan")


SECTIONS = {1: "Annotations", 24: "Images", 36: "Boxes", 45: "Weights and checkpoints", 65: "Commands and exports"}
SECTIONS |= {75: "Packs", 77: "Files and names of other tools"}
SECTIONS |= {90: "Use with Keras and in other programs"}


def refusal(call, *args, **kwargs) -> str:
    """The message of the one error there is for users: a line."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1000, message
    assert not options_in(message), f"names an option of a command to who calls a function: {message}"
    return message


def command(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def refused_command(capsys, *arguments) -> str:
    """The one line on stderr of a command that ends with code 2."""
    code, _, told = command(capsys, *arguments)
    assert code == 2, told
    (line,) = [line for line in told.splitlines() if "error:" in line]
    check_advice(arguments, line)
    return line


@pytest.fixture
def load(tmp_path):
    """Loads annotations as a training does: JSON values or text in, `Annotations` out."""

    def load(data, **options):
        return loading.load(annotations=write(tmp_path, data), images=tmp_path, **options).annotations

    return load


@pytest.fixture
def mended(load):
    """Loads annotations that are repaired: returns them with the warning, and knows that `strict` refuses them."""

    def mended(data):
        with pytest.warns(UserWarning, match="annotations.json") as told:
            read = load(data)
        assert "This is an error because of `strict=True`" in refusal(load, data, strict=True)
        return read, str(told[0].message)

    return mended


def note(read, text: str):
    """The one problem of the annotations whose words hold the text."""
    (problem,) = [problem for problem in read.problems if text in str(problem)]
    return problem


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


def noise(height=60, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


BOX = np.array([[5.0, 5, 40, 50]])


def poses_of(model, picture, boxes=BOX, **options):
    return kpzoo.predict(model, picture, boxes, flip=False, **options)


# Annotations


@row(
    1,
    "Truncated JSON, a file that is not JSON, UTF-16, a byte order mark",
    "Error with file, line and column; a byte order mark is accepted",
)
def test_json_that_is_none_is_told_with_its_place(load, tmp_path):
    whole = json.dumps(content(), indent=1)
    assert re.search(r"annotations.json:\d+:\d+ is not JSON.*truncated", refusal(load, whole[: len(whole) // 2]))
    assert "annotations.json:1:1 is not JSON" in refusal(load, "<html>")
    for encoding, message in (("utf-16", "not UTF-8"), ("utf-8-sig", None)):
        path = tmp_path / "encoded.json"
        path.write_bytes(whole.encode(encoding))
        if message:
            assert message in refusal(read_annotations, path)
        else:
            assert len(read_annotations(path).persons.ids) == 3


@row(2, "JSON that is a list, or has no images, annotations or categories", "Error that names the missing key")
def test_a_missing_part_is_named(load):
    assert "Received: a list" in refusal(load, "[1, 2]")
    for key in ("images", "annotations", "categories"):
        assert f"needs the list '{key}'" in refusal(load, changed(key, del_))


@row(
    3,
    "An annotation with a number of keypoints other than its category's",
    "Error with annotation id, received and expected number",
)
def test_keypoints_of_another_number_are_refused_by_id(load):
    message = refusal(load, changed("annotations", 1, "keypoints", [1.0] * 48))
    assert "[48] numbers where 3 * 17 = 51 are expected (annotation ids 1)" in message


@row(4, "No num_keypoints", "Computed: the number of keypoints with v > 0")
def test_a_missing_num_keypoints_is_counted(mended):
    read, told = mended(changed("annotations", 1, "num_keypoints", del_))
    assert read.persons.num_keypoints.tolist() == [5, 5, 5] and "without `num_keypoints`" in told


@row(5, "No iscrowd", "Read as 0")
def test_a_missing_iscrowd_is_0(mended):
    read, told = mended(changed("annotations", 1, "iscrowd", del_))
    assert read.persons.is_crowd.tolist() == [False, False, True] and "Read as 0" in told


@row(
    6,
    "No area, as in CrowdPose",
    "Estimated as 0.53 * width * height of the box; a note if all areas are missing, a warning if some are",
)
def test_a_missing_area_follows_the_rule_of_the_data_set(load, mended):
    read, told = mended(changed("annotations", 1, "area", del_))
    assert read.persons.area.tolist() == [1300, 0.53 * 40 * 60, 1300] and "0.53 * width" in told
    data = content()
    for person in data["annotations"]:
        del person["area"]
    assert note(load(data, strict=True), "without `area`").severity == "note"


@row(7, "An area of 0, with which other tools compute an AP of 1.000", "Estimated from the box, with a warning")
def test_an_area_of_0_is_computed_anew(mended):
    read, told = mended(changed("annotations", 1, "area", 0))
    assert read.persons.area[1] == 0.53 * 40 * 60 and "`area` that is not a number above 0" in told


@row(8, "An annotation with id 0, which COCO's tools treat as no match", "Renumbered, with a warning")
def test_the_id_0_is_renumbered(mended):
    read, told = mended(changed("annotations", 1, "id", 0))
    assert read.persons.ids.tolist() == [3, 4, 2] and "Renumbered to 4" in told


@row(9, "Duplicate annotation ids", "Error that names the ids")
def test_annotation_ids_that_occur_twice_are_refused(load):
    assert "occur twice (annotation ids 4, 5)" in refusal(load, pieces(4, 5, 5, 4))


@row(10, "Annotations with an unknown image id", "Error with the first ten image ids and their number")
def test_image_ids_without_image_are_counted(load):
    data = content() | dict(annotations=[annotation(i, 100 + i) for i in range(1, 26)])
    message = refusal(load, data)
    assert "of no image (image ids 101, 102, " in message and "110, … 25 in total)" in message


@row(11, "Duplicate image ids or file names", "Error")
def test_images_that_occur_twice_are_refused(load):
    assert "Image ids that occur twice (image ids 1, 1)" in refusal(load, changed("images", 0, "id", 1))
    assert "the same `file_name`" in refusal(load, changed("images", 0, "file_name", "1.jpg"))


BAD_BOXES = [[9, 9, 0, 9], [9, 9, 9, -9], [9, NAN, 9, 9], None, ["wide", 9, 9, 9], [0, 0, 1e9, 1e9], [9, 9, 9]]


@row(
    12, "A box with zero or negative size, NaN, null, text, huge values, or other than four values",
    "No crop, and a warning with the number of such boxes; an error with `strict`; the evaluation includes the person",
)  # fmt: skip
@pytest.mark.parametrize("bad", BAD_BOXES, ids=str)
def test_boxes_without_a_size_are_left_out_and_counted(mended, bad):
    read, told = mended(changed("annotations", 1, "bbox", bad))
    assert read.persons.has_box.tolist() == [True, False, True] and "(annotation ids 1)" in told
    assert training_persons(read)["index"].tolist() == [0] and len(read.persons.ids) == 3


@row(13, "A box partly or completely outside of its image", "Clipped for training; skipped if completely outside")
def test_boxes_are_clipped_to_their_picture(mended):
    data = changed("annotations", 1, "bbox", [900, 9, 9, 9])
    data["annotations"][0]["bbox"] = [-5, 100, 300, 50]
    read, told = mended(data)
    assert training_persons(read)["boxes_image_xywh"].tolist() == [[0, 100, 159, 19]]
    assert "Boxes outside their image (annotation ids 1)" in told


@row(
    14, "A labelled keypoint outside of the image", "Weight 0 in training, and a note with the number of such keypoints"
)
def test_keypoints_outside_have_no_weight(load):
    read = load(changed("annotations", 0, "keypoints", keypoints_with(0, 170.0)))
    assert training_persons(read)["visibility"][0, :3].tolist() == [0, 2, 1]
    assert note(read, "Labelled keypoints outside").count == 1


@row(15, "A visibility that is not 0, 1 or 2", "Error that names the values")
@pytest.mark.parametrize("bad", [3, -1, 0.5, NAN])
def test_other_visibilities_are_refused(load, bad):
    message = refusal(load, changed("annotations", 1, "keypoints", keypoints_with(2, bad)))
    shown = float(bad) if bad == bad else None  # NaN is read as null
    assert f"a visibility of [{shown}] (annotation ids 1)" in message


@row(16, "No person with labelled keypoints", "A note; an error in training; metrics are n/a instead of -1")
def test_nobody_labelled_is_said_so(load, tmp_path, capsys):
    data = content()
    for person in data["annotations"]:
        person.update(keypoints=[0] * 51, num_keypoints=0)
    read = load(data)
    assert note(read, "No annotation has a labelled keypoint")
    assert "no labelled person to train on" in refusal(training_persons, read)
    poses = write(tmp_path, [result()], "results.json")
    code, out, _ = command(capsys, "evaluate", "--annotations", read.path, "--results", poses)
    assert code == 0 and "n/a (no ground truth in range)" in out


@row(17, "Annotations with iscrowd", "Excluded from training; in the evaluation, poses on them are ignored")
def test_crowds_are_ignored(load, tmp_path):
    from kpzoo.evaluation.metrics import average_precision

    crowd = np.reshape(annotation()["keypoints"], (K, 3)) + [60, 60, 0]
    crowd = np.where(crowd[:, 2:] > 0, crowd, 0).ravel().tolist()
    read = load(content() | dict(annotations=[annotation(1), annotation(2, iscrowd=1, keypoints=crowd)]))
    assert training_persons(read)["index"].tolist() == [0]
    poses = write(tmp_path, [result(keypoints=crowd, score=0.9), result(score=0.8)], "results.json")
    assert average_precision(read, read_results(poses, read)).values["AP"] == pytest.approx(1.0)


@row(18, "Two categories with different keypoints", "Error until one category is selected; never merged")
def test_of_two_categories_one_must_be_chosen(load):
    message = refusal(load, two_categories())
    assert "{'person': 17, 'hand': 3}. Choose one, such as `category='person'`" in message


@row(
    19,
    "A category without keypoint names; a skeleton that counts from 0 or exceeds K",
    "Error; read as counted from 0 or ignored, with a warning",
)
def test_categories_are_understood_or_refused(load, mended):
    assert "has no `keypoints`, the list of their names" in refusal(load, changed("categories", 0, "keypoints", del_))
    names = list("abcdefghijklmnopq")
    sides = dict(id=1, keypoints=names, flip_pairs=[])
    read, told = mended(changed("categories", 0, dict(**sides, skeleton=[[0, 1], [1, 16]])))
    assert "numbers keypoints from 0" in told and read.skeleton.links == (("a", "b"), ("b", "q"))
    read, told = mended(changed("categories", 0, dict(**sides, skeleton=[[1, 18]])))
    assert "numbers from 1 to 17" in told and read.skeleton.links == ()


@row(
    20,
    "Left and right keypoints that do not form pairs",
    "Error on reading, since flipped images would have wrong labels",
)
def test_sides_must_be_pairs(load):
    message = refusal(load, changed("categories", 0, "keypoints", ["nose", "left_eye"]))
    assert "no mirror image of the other side: ['left_eye']" in message
    config = kpzoo.skeletons.COCO17.to_config() | {"flip_pairs": [["left_eye", "nose"], ["nose", "right_eye"]]}
    assert "name a keypoint twice" in refusal(kpzoo.skeletons.Skeleton.from_config, config)


@row(
    21, "JSON of a gigabyte, or with deep nesting",
    "Read in parts, with little more memory than the text; error above 4 GiB; error for deep nesting",
    "Compared on a small file with reading it in one part; the test lowers the limit.",
)  # fmt: skip
def test_large_and_deep_files_are_bounded(tmp_path, monkeypatch):
    path = write(tmp_path, content() | dict(annotations=[annotation(i) for i in range(1, 3001)]))
    monkeypatch.setattr(json_file, "CHUNK", 100)
    monkeypatch.setattr(json_file, "PIECE", 10_000)
    peaks = []
    for read, arguments in ((json_file.read_object, ["annotations", lambda rows: None]), (json_file.read_json, [])):
        tracemalloc.start()
        kept = read(path, *arguments)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del kept
    assert peaks[0] < 3 * path.stat().st_size < peaks[1]
    monkeypatch.setattr(json_file, "MAX_BYTES", 1000)
    assert "Split it" in refusal(read_annotations, path)
    monkeypatch.undo()
    for text in ('{"annotations": ' + "[" * 200_000, '{"a": ' + "[" * 200_000):
        assert "nested too deeply" in refusal(read_annotations, write(tmp_path, text))


@row(22, "File names that are absolute or contain ..", "Error; `allow_outside` accepts them")
@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../b", "/etc/passwd", "C:\\a.jpg", "a\\..\\..\\b", "~/a"])
def test_file_names_stay_in_their_folder(load, name):
    assert "outside the image folder" in refusal(load, changed("images", 0, "file_name", name))
    assert load(changed("images", 0, "file_name", name), allow_outside=True).file_names[0] == name


@row(23, "A missing crowdIndex, or one above 1", "A note; the value in the file determines easy, medium or hard")
def test_crowd_indices_are_used_as_they_are(load):
    read = load(changed("images", 0, "crowdIndex", 3.02))
    assert note(read, "`crowdIndex` is not in 0 … 1").count == 1 and note(read, "without `crowdIndex`").count == 1
    assert read.crowd_index[0] == 3.02


# Pictures


def check_bad_picture(model, folder: Path, data: bytes, reason: str):
    """Training leaves the file out and names it, a prediction too, and all others are answered."""
    (folder / "bad.jpg").write_bytes(data)
    cv2.imwrite(str(folder / "good.jpg"), noise())
    found = files.undecodable([str(folder / "bad.jpg"), str(folder / "good.jpg")])
    assert list(found) == [str(folder / "bad.jpg")] and re.search(reason, found[str(folder / "bad.jpg")])
    assert re.search(f"bad.jpg': .*{reason}", refusal(poses_of, model, folder / "bad.jpg"))
    with pytest.warns(UserWarning, match=f"bad.jpg': .*{reason}"):
        found = {one.picture.name: one for one in kpzoo.stream(model, folder, BOX, flip=False)}
    assert list(found) == ["bad.jpg", "good.jpg"] and len(found["good.jpg"].poses) == 1
    assert found["bad.jpg"].picture.problem and not len(found["bad.jpg"].poses)


@row(24, "An image file of 0 bytes", "Skipped with a message, in training and prediction; the other images are used")
def test_an_empty_picture_is_left_out(model, tmp_path):
    check_bad_picture(model, tmp_path, b"", "0 bytes")


@row(25, "A web page saved as .jpg", "Skipped with a message that names a web page")
def test_a_web_page_is_no_picture(model, tmp_path):
    check_bad_picture(model, tmp_path, WEB_PAGE, "a web page")


@row(26, "A truncated JPEG", "Skipped with a message; missing pixels are never filled with grey")
def test_a_picture_that_was_cut_off_is_left_out(model, tmp_path):
    check_bad_picture(model, tmp_path, encoded(".jpg", noise(200, 200))[:3000], "(incomplete or damaged|JPEG|jpeg)")


@row(27, "GIF, animated GIF and WebP", "The first frame is used, in training and prediction")
def test_animations_give_their_first_frame(model, tmp_path):
    import tensorflow as tf

    from kpzoo import crops

    animation = cv2.Animation()
    animation.frames = [np.full((10, 12, 4), grey, np.uint8) for grey in (255, 0)]
    animation.durations = np.array([100, 100], np.int32)
    cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    (tmp_path / "b.webp").write_bytes(encoded(".webp", np.full((10, 12, 3), 255, np.uint8)))
    paths = [str(tmp_path / name) for name in ("a.gif", "b.webp")]
    assert files.decoded(paths) == dict.fromkeys(paths, (10, 12))
    for path in paths:
        assert images.read_image(path).min() >= 252  # of a palette
        crop = crops.decode_crop(tf.io.read_file(path), np.float32([[1, 0, 0], [0, 1, 0]]), (8, 8), (0, 0, 0))
        assert crop.shape == (8, 8, 3) and crop.numpy().min() >= 252


@row(28, "An image with an EXIF orientation", "Applied in prediction; data sets use the stored pixels")
def test_exif_turns_predictions_and_not_data_sets(tmp_path):
    from kpzoo.inference import pictures

    path = tmp_path / "a.jpg"
    path.write_bytes(with_exif(encoded(".jpg"), 6))
    (picture,) = pictures.open_source(path)
    assert picture.image.shape == (64, 32, 3)
    assert files.decoded([str(path)]) == {str(path): (32, 64)}


OTHER_PIXELS = {
    "grey": (encoded(".png", np.full((3, 4), 77, np.uint8)), (77, 77, 77)),
    "grey of 16 bits": (encoded(".png", np.full((3, 4), 0x4DFF, np.uint16)), (77, 77, 77)),  # the lower 8 go
    "colours of 16 bits": (encoded(".png", np.full((3, 4, 3), (0x0AFF, 0x1400, 0x1EC0), np.uint16)), (10, 20, 30)),
    "transparent": (encoded(".png", np.full((3, 4, 4), (10, 20, 30, 0), np.uint8)), (10, 20, 30)),
    "grey JPEG": (encoded(".jpg", np.full((8, 8), 77, np.uint8)), (77, 77, 77)),
}


@row(29, "Grey, CMYK, transparent and 16-bit images", "Converted to three channels of 0 … 255; alpha is ignored")
def test_other_pixels_become_rgb_bytes(tmp_path):
    for kind, (data, expected) in OTHER_PIXELS.items():
        (tmp_path / "a").write_bytes(data)
        assert (images.read_image(tmp_path / "a") == expected).all(), kind
    (tmp_path / "a.jpg").write_bytes(CMYK_JPEG)
    image = images.read_image(tmp_path / "a.jpg").astype(int)
    np.testing.assert_allclose(image[:, :4].mean((0, 1)), (0, 190, 190), atol=4)  # the colours that Pillow gives
    np.testing.assert_allclose(image[:, 4:].mean((0, 1)), (254, 1, 1), atol=4)


@row(
    30,
    "A small file with a header of 60,000 x 60,000 or 20,000 x 20,000 pixels",
    "Error from the header, before decoding",
)
@pytest.mark.parametrize("side", [60_000, 20_000])
def test_decompression_bombs_are_refused_before_decoding(tmp_path, monkeypatch, side):
    import tensorflow as tf

    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(side, side))
    decoders = []
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoders.append("cv2"))
    monkeypatch.setattr(tf.io, "decode_image", lambda *args, **kwargs: decoders.append("tf"))
    assert "more than 200 megapixels" in refusal(images.read_image, path)
    assert "more than 200 megapixels" in files.undecodable([str(path)])[str(path)]
    assert decoders == []


@row(31, "TIFF and HEIC", "Error that lists the supported formats")
@pytest.mark.parametrize("data", [b"II*\0" + bytes(40), b"\0\0\0\x18ftypheic" + bytes(40)], ids=["tiff", "heic"])
def test_other_formats_are_named_with_those_that_can_be_read(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    assert "kpzoo reads JPEG, PNG, BMP, GIF and WebP" in refusal(images.read_image, tmp_path / "a.jpg")
    assert "kpzoo reads JPEG" in str(files.undecodable([str(tmp_path / "a.jpg")]))


@row(32, "Images of 1 x 1, 10 x 10,000 and 5,000 x 1 pixels", "Processed like any other image")
@pytest.mark.parametrize("size_hw", [(1, 1), (10, 10_000), (5000, 1)])
def test_pictures_of_extreme_shapes_are_answered(model, size_hw, tmp_path):
    path = images.write_image(tmp_path / "a.png", noise(*size_hw))
    assert images.size_of(path) == size_hw and files.decoded([str(path)]) == {str(path): size_hw}
    poses = poses_of(model, path, [[0, 0, size_hw[1], size_hw[0]]])
    assert len(poses) == 1 and np.isfinite(poses.keypoints_xy).all()


@row(
    33, "Arrays with values 0 … 1, another axis order, NaN or another dtype; BGR",
    "Error with the line of code that fixes it; BGR is not detectable, the documentation requires RGB",
)  # fmt: skip
@pytest.mark.parametrize(
    ("array", "fix"),
    [
        (scene() / 255, "pass `image * 255`"),
        (scene() / 127.5 - 1, "undo the normalization"),
        (scene().transpose(2, 0, 1), "channels first: pass `image.transpose(1, 2, 0)`"),
        (scene()[None], "a batch"),
        (scene()[..., 0], "a greyscale image: pass `np.repeat"),
        (np.where(np.arange(24).reshape(2, 4, 3) == 13, np.nan, 9.0), "NaN or infinity at [1, 0, 1]"),
        (np.full((2, 2, 3), 40_000, np.uint16), "image >> 8"),
        (np.ones((2, 2, 3), bool), "dtype bool"),
    ],
)
def test_arrays_that_are_no_picture_are_refused_with_the_fix(model, array, fix):
    assert fix in refusal(poses_of, model, array)
    assert "BGR" in images.as_image.__doc__


@row(
    34, "A file without read permission, a folder named .jpg, a broken link; names in any alphabet",
    "Error with path and reason; all names are accepted", "Missing permissions are simulated.",
)  # fmt: skip
def test_files_that_cannot_be_opened_are_named(tmp_path, monkeypatch):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    assert "it is a folder" in refusal(images.read_image, tmp_path / "folder.jpg")
    assert "the link points to 'gone.jpg'" in refusal(images.read_image, tmp_path / "link.jpg")
    path = images.write_image(tmp_path / "ein Bild äöü 写真.png", scene())
    np.testing.assert_array_equal(images.read_image(path), scene())
    assert files.decoded([str(path)]) == {str(path): (32, 64)}

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "写真.png': Permission denied" in refusal(images.read_image, path)


def write_video(path, num_frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (80, 60))
    for number in range(num_frames):
        writer.write(np.roll(noise(), number, axis=1))
    writer.release()
    return path


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A weights file of the model."""
    return kpzoo.save_weights(model, tmp_path_factory.mktemp("weights") / "tiny.weights.h5")


@row(
    35, "A video without frames, a truncated one, an unknown codec; no webcam",
    "Error, or read up to the damage: results of all read frames, exit code 2, number of lost frames",
)  # fmt: skip
def test_videos_are_read_as_far_as_they_go(saved, tmp_path, capsys):
    from kpzoo.inference import pictures

    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "none.avi").touch()
    for source, message in (("text.mp4", "no codec"), ("none.avi", "Cannot open"), ("gone.mp4", "There is no video")):
        assert message in refusal(pictures.open_source, tmp_path / source)
    assert "Is a camera connected?" in refusal(pictures.open_source, "webcam:99")
    whole = write_video(tmp_path / "v.avi", 20).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    arguments = ["--model", "cpn_tiny", "--weights", saved, "--image-size", "64x64", "--detector", "whole", "--no-flip"]
    code, _, told = command(capsys, "predict", tmp_path / "cut.avi", *arguments, "--out", tmp_path / "out")
    assert code == 2 and "of 20 frames could not be read" in told
    poses = json.loads((tmp_path / "out/results.json").read_text())
    assert 3 <= len({pose["image_id"] for pose in poses}) < 20


# Boxes


@row(36, "No boxes", "Empty results with the documented shapes; AP 0.0 if there are persons")
def test_no_boxes_give_no_poses(model, load, tmp_path):
    from kpzoo.evaluation.metrics import average_precision

    poses = poses_of(model, noise(), [])
    assert poses.keypoints_xy.shape == (0, K, 2) and poses.keypoint_scores.shape == (0, K) and len(poses) == 0
    read = load(content())
    empty = read_results(write(tmp_path, [], "results.json"), read)
    assert average_precision(read, empty).values["AP"] == 0.0
    assert read_boxes(write(tmp_path, [], "boxes.json"), read).boxes_image_xywh.shape == (0, 4)


@row(
    37,
    "Boxes given as two corners instead of a corner and a size",
    "A warning if the file appears to contain such boxes",
)
def test_two_corners_are_suspected(load, tmp_path, model):
    corners = [box(bbox=(100, 60, 150, 110)), box(7, bbox=(90, 20, 140, 115))]
    with pytest.warns(UserWarning, match="looks like two corners"):
        read_boxes(write(tmp_path, corners, "boxes.json"), load(content()))
    assert "not corners" in refusal(poses_of, model, noise(), [[50, 50, -20, 10]])


@row(38, "NaN, infinity or a negative size in a box", "Error with the index of the box")
@pytest.mark.parametrize("bad", [[NAN, 5, 9, 9], [5, 5, np.inf, 9], [5, 5, 9, -9], [5, 5, 0, 9]], ids=str)
def test_boxes_that_are_none_are_refused_by_index(model, bad):
    assert "Box 1 of `boxes_xywh=` must be finite" in refusal(poses_of, model, noise(), [BOX[0], bad])


@row(39, "A box completely outside of the image", "Skipped with a message; the other boxes are processed")
def test_boxes_outside_are_left_out_and_reported(model, load, tmp_path):
    with pytest.warns(UserWarning, match="outside"):
        poses = poses_of(model, noise(), [BOX[0], [500, 500, 40, 50]])
    np.testing.assert_array_equal(poses.boxes_xywh, BOX)
    read = read_boxes(write(tmp_path, [box(), box(7, (160, 5, 9, 9))], "boxes.json"), load(content()))
    assert len(read.scores) == 1 and "Boxes outside their image" in str(read.problems[0])


@row(
    40, "10,000 boxes in one image", "Processed in batches",
    "The network is replaced by one that only counts crops, since its outputs are not tested.",
)  # fmt: skip
def test_ten_thousand_boxes_go_batch_by_batch(model, monkeypatch):
    import tensorflow as tf

    from kpzoo.inference import batching, predictor

    rows = []

    def counting(model, flip, crops):
        rows.append(len(crops))
        return tf.zeros((len(crops), 1, K, 2)), tf.zeros((len(crops), 1, K))

    def blank(image, maps):
        return tf.zeros((len(maps), 64, 64, 3))

    monkeypatch.setattr(predictor, "decoded", counting)
    monkeypatch.setattr(batching, "cropper", lambda *args: blank)
    assert len(poses_of(model, noise(), np.repeat(BOX, 10_000, axis=0), batch_size=100)) == 10_000
    assert len(rows) >= 100 and max(rows) == 100


@row(41, "Boxes of one pixel, or larger than the image", "Finite keypoints")
def test_tiny_and_enormous_boxes_are_answered(model):
    poses = poses_of(model, noise(), [[10, 10, 1, 1], [10, 10, 0.01, 0.01], [-500, -500, 2000, 2000], [0, 0, 80, 0.5]])
    assert len(poses) == 4 and np.isfinite(poses.keypoints_xy).all() and np.isfinite(poses.scores).all()


@row(42, "Boxes with a missing score, a score above 1 or a NaN score", "Read as 1.0; error; error")
def test_scores_of_boxes_are_checked(load, tmp_path):
    read = load(content())
    without = {key: value for key, value in box().items() if key != "score"}
    assert read_boxes(write(tmp_path, [without], "boxes.json"), read).scores.tolist() == [1.0]
    for score, message in (
        (87.0, "not in 0 … 1 (entries 0)"),
        (NAN, "not finite numbers"),
        ("half", "not finite numbers"),
    ):
        assert message in refusal(read_boxes, write(tmp_path, [box(score=score)], "boxes.json"), read)


@row(43, "A box file of another data set", "Error before inference, instead of an AP of 0")
def test_boxes_of_other_data_are_refused(load, tmp_path):
    path = write(tmp_path, [box(5), box(6)], "boxes.json")
    assert "boxes.json belongs to another data set" in refusal(read_boxes, path, load(content()))


@row(44, "Two boxes of the same person", "OKS-NMS keeps one pose")
def test_a_person_found_twice_is_one_pose(model):
    twice = SimpleNamespace(detect=lambda images, ids: ([np.repeat(BOX, 2, axis=0)], [np.array([0.9, 0.8])]))
    poses = kpzoo.predict(model, noise(), detector=twice, flip=False)
    assert len(poses) == 1
    assert len(kpzoo.predict(model, noise(), detector=twice, flip=False, nms=None)) == 2


# Weights and checkpoints


def build_with(path, name="cpn_tiny", **options):
    return kpzoo.build(name, image_hw=(64, 64), weights=path, **options)


def arrays_of(model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy() for variable in model.variables}


def check_refused_and_unchanged(model, path, message: str, **options):
    """A file that does not fit is refused with a message that ends, and the model keeps what it had."""
    before = arrays_of(model)
    assert re.search(message, refusal(kpzoo.load_weights, model, path, **options))
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, before[name])


@row(
    45,
    "A weights file that does not exist",
    "Error with the path; for an unknown tag, an error that lists the published tags",
)
def test_weights_that_are_not_there_are_named(tmp_path):
    assert "No weights file" in refusal(build_with, tmp_path / "gone.weights.h5")


@row(
    46,
    "A weights file with invalid content",
    "Error that lists the supported formats and explains how to convert older ones",
)
def test_junk_is_no_weights_file(tmp_path):
    for data, message in ((b"some text", "none of .safetensors"), (b"\x89HDF\r\n\x1a\n" + bytes(50), "not a readable")):
        (tmp_path / "junk.weights.h5").write_bytes(data)
        assert message in refusal(build_with, tmp_path / "junk.weights.h5")


@row(47, "A truncated weights file", "Error: download it again")
@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors", ".npz"])
def test_weights_that_were_cut_off_are_refused(model, tmp_path, suffix):
    path = kpzoo.save_weights(model, tmp_path / f"cut{suffix}")
    for share in (0.2, 0.9):
        (tmp_path / f"part{suffix}").write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        check_refused_and_unchanged(model, tmp_path / f"part{suffix}", "Download it again")


@row(48, "A weights file of 0 bytes", "Error: download it again")
def test_an_empty_weights_file_is_refused(tmp_path):
    (tmp_path / "empty.weights.h5").touch()
    assert "is empty. Download it again" in refusal(build_with, tmp_path / "empty.weights.h5")


@row(49, "A web page saved as a weights file", "Error: the download needs a confirmation or a login")
def test_a_web_page_is_no_weights_file(tmp_path):
    (tmp_path / "page.weights.h5").write_bytes(WEB_PAGE)
    assert "is a web page, not weights" in refusal(build_with, tmp_path / "page.weights.h5")


TAG = "cpn_tiny.noise_64x64_v1"


@pytest.fixture
def cached(saved, tmp_path, monkeypatch):
    """A published row whose file lies on this machine; returns where its copy is kept."""
    import hashlib

    digest = hashlib.sha256(saved.read_bytes()).hexdigest()
    options = dict(image_hw=(64, 64), skeleton="coco17", options={}, license="-", origin="-", recipe="-", metrics="-")
    published_row = published.Weights(model="cpn_tiny", url=saved.as_uri(), sha256=digest, **options)
    monkeypatch.setitem(published.ROWS, TAG, published_row)
    monkeypatch.setenv("KPZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KPZOO_OFFLINE", raising=False)
    return tmp_path / "home/tiny.weights.h5"


@row(50, "A cached file with a SHA-256 other than the published one", "Deleted before it is read, and downloaded again")
def test_a_cached_file_that_was_changed_is_removed(cached, saved, monkeypatch, capsys):
    published.fetch(TAG)
    data = bytearray(cached.read_bytes())
    data[1000] ^= 1
    cached.write_bytes(data)
    assert published.fetch(TAG).read_bytes() == saved.read_bytes()
    assert "Removed " in capsys.readouterr().err
    cached.write_bytes(data)
    monkeypatch.setenv("KPZOO_OFFLINE", "1")
    monkeypatch.setattr("kpzoo.weights.files.read_state", lambda path: pytest.fail("it was read"))
    message = refusal(build_with, TAG)
    assert not cached.exists() and cached.name in message and published.ROWS[TAG].sha256 in message


@row(51, "Weights for another number of keypoints", "A short error that suggests `head='new'`, which accepts them")
def test_other_keypoints_need_a_new_head(saved):
    other = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton="crowdpose14")
    check_refused_and_unchanged(other, saved, "head='new'|build with that skeleton")
    assert kpzoo.load_weights(other, saved, head="new").fresh


@row(52, "Weights of another architecture", "Error; the model is unchanged")
def test_weights_of_another_network_are_refused(saved):
    check_refused_and_unchanged(kpzoo.build("hrnet_tiny", image_hw=(64, 64)), saved, "do not fit model 'hrnet_tiny'")


def change(arrays, name, array):
    return {**arrays, name: array}


@row(53, "A weights file with unexpected tensors", "Error that names the tensor")
def test_a_tensor_too_many_is_refused(model, tmp_path):
    np.savez(tmp_path / "more.npz", **arrays_of(model), surplus_conv_kernel=np.ones(3, np.float32))
    check_refused_and_unchanged(model, tmp_path / "more.npz", "1 tensors of the file are not in the model: surplus")


@row(54, "A weights file with renamed layers", "Error: tensors are never loaded by position only")
def test_renamed_layers_are_refused(model, tmp_path):
    arrays = arrays_of(model)
    name = [name for name in arrays if name.endswith("kernel")][40]
    arrays["renamed_conv/kernel"] = arrays.pop(name)
    np.savez(tmp_path / "renamed.npz", **arrays)
    check_refused_and_unchanged(
        model, tmp_path / "renamed.npz", "1 of .* variables are not in the file.* not in the model"
    )


@row(55, "Weights with NaN or infinity", "Error that names the tensor")
@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, bad):
    arrays = arrays_of(model)
    name = next(name for name in arrays if name.endswith("gamma"))
    arrays[name] = np.full_like(arrays[name], bad)
    np.savez(tmp_path / "bad.npz", **arrays)
    check_refused_and_unchanged(model, tmp_path / "bad.npz", f"NaN or infinity, or are not floats: {name}")


class Command:
    """What a hostile pickle holds."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@row(56, "A .pth file with a pickle that runs code", "Error; no code is run, tensors are read without pickle's imports")
def test_a_pickle_that_runs_code_is_refused_and_not_run(model, tmp_path):
    ran = tmp_path / "ran"
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": Command(ran)}, protocol=2))
        archive.writestr("archive/version", "3")
    check_refused_and_unchanged(model, tmp_path / "evil.pth", "calls .*system, .*was blocked")
    assert not ran.exists()


@row(
    57,
    "A complete model as .keras or .h5",
    "Error: models may contain code; the message explains how to save only the weights",
)
def test_whole_models_are_refused(model, tmp_path):
    import h5py

    model.save(tmp_path / "model.keras")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = "{}"
    for name in ("model.keras", "model.h5"):
        check_refused_and_unchanged(model, tmp_path / name, "is a whole Keras model")


@row(58, "An .h5 file with links to other files or with huge array shapes", "Error before any data is read")
def test_h5_files_stay_in_their_bounds(model, tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "outside.weights.h5", "w") as file:
        file.create_dataset("a/vars/0", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with h5py.File(tmp_path / "linked.weights.h5", "w") as file:
        file["a"] = h5py.ExternalLink(str(tmp_path / "outside.weights.h5"), "a")
    with h5py.File(tmp_path / "bomb.weights.h5", "w") as file:
        file.create_dataset("a/vars/0", (1 << 40,), "f4", chunks=(1024,))
    for name, message in (("outside", "to other files"), ("linked", "no weights|to other"), ("bomb", "more values")):
        check_refused_and_unchanged(model, tmp_path / f"{name}.weights.h5", message)


@row(59, "Weights of a mixed-precision model loaded into a float32 model, and vice versa", "Bitwise equal")
def test_mixed_precision_weights_are_the_same_numbers(model, saved, tmp_path):
    import keras

    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        mixed = build_with(saved)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    back = build_with(kpzoo.save_weights(mixed, tmp_path / "mixed.weights.h5"))
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(arrays_of(mixed)[name], value)
        np.testing.assert_array_equal(arrays_of(back)[name], value)


@pytest.fixture(scope="module")
def compiled():
    from kpzoo import training
    from kpzoo.losses import CPNLoss

    model = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    model.compile(training.AdamL2(1e-3), CPNLoss())
    model.optimizer.build(model.trainable_variables)
    return model


@row(
    60, "A process killed while it writes a checkpoint, or a truncated checkpoint", "The previous checkpoint is loaded",
    "Simulated by an exception during writing; test_faults.py kills processes.",
)  # fmt: skip
def test_a_checkpoint_that_was_not_finished_costs_one_epoch(compiled, tmp_path, monkeypatch, capsys):
    from kpzoo import training
    from kpzoo.training import keras_callbacks

    checkpoint = keras_callbacks.Checkpoint(tmp_path)
    checkpoint.set_model(compiled)
    checkpoint.on_train_batch_end(2)
    for epoch in (0, 1):
        checkpoint.on_epoch_end(epoch, {"loss": 1.0})

    def killed(path, overwrite=True):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.on_epoch_end(2, {"loss": 1.0})
    assert training.resume(compiled, tmp_path, {}) == 6
    newest = tmp_path / "checkpoints/step-000000006.weights.h5"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert training.resume(compiled, tmp_path, {}) == 3
    assert "step-000000006.weights.h5 cannot be read" in capsys.readouterr().err


@row(61, "A run resumed with another batch size, data set, recipe or N", "Error with both values")
def test_a_run_with_other_settings_is_refused(compiled, tmp_path):
    from kpzoo import training
    from kpzoo.losses import HeatmapLoss

    training.resume(compiled, tmp_path, {"batch_size": 8, "num_persons": 100})
    for changes, message in (
        ({"batch_size": 16, "num_persons": 100}, "batch_size=8. Received: 16"),
        ({"batch_size": 8, "num_persons": 99}, "num_persons=100. Received: 99"),
    ):
        assert message in refusal(training.resume, compiled, tmp_path, changes)
    other = kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton="crowdpose14")
    other.compile(training.AdamL2(1e-3), HeatmapLoss())
    assert "preset" in refusal(training.resume, other, tmp_path, {"batch_size": 8, "num_persons": 100})[:400]


def no_space():
    raise OSError(28, "No space left on device")


@row(
    62, "A full disk, a folder without write permission",
    "Error with the path; no partial files, existing files are kept; a training fails before it starts",
    "Simulated by the kernel's limit on file sizes; for .h5 files by an exception.",
)  # fmt: skip
def test_a_full_disk_leaves_nothing_half(model, compiled, small_folder, tmp_path, capsys, monkeypatch):
    from kpzoo import export, training

    (tmp_path / "file").touch()
    out = tmp_path / "full"
    out.mkdir()
    with full_disk(20_000):
        for path in (out / "tiny.safetensors", out / "tiny.npz"):
            assert path.name in refusal(kpzoo.save_weights, model, path)
        assert "big.json" in refusal(write_json, out / "big.json", list(range(20_000)))
        assert "big.png" in refusal(images.write_image, out / "big.png", noise(200, 200))
    with monkeypatch.context() as patch:
        patch.setattr(model, "save_weights", lambda path: Path(path).write_bytes(b"half") and no_space())
        assert "No space left on device" in refusal(kpzoo.save_weights, model, out / "tiny.weights.h5")
    assert list(out.iterdir()) == []
    assert "Cannot write" in refusal(export.to_onnx, model, tmp_path / "file/model.onnx")
    arguments = ["--model", "cpn_tiny", "--image-size", "64x64", "--data", small_folder, "--val-split", ""]
    assert "file" in refused_command(capsys, "train", *arguments, "--out", tmp_path / "file/run")
    assert "file" in refusal(training.resume, compiled, tmp_path / "file/run", {})


@row(
    63, "Two processes that download the same weights", "One downloads, the other waits",
    "Tested with three threads, which use the same file lock; test_weights.py tests two processes.",
)  # fmt: skip
def test_two_processes_share_one_download(cached, monkeypatch):
    copied = []

    def slow_download(url, part, name, download=fetching.download):
        copied.append(name)
        threading.Event().wait(0.2)
        return download(url, part, name)

    monkeypatch.setattr(fetching, "download", slow_download)
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(published.fetch(TAG))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == 1 and paths == [cached] * 3


@row(
    64, "No network, and weights that are not cached", "Error with file name, URL and the folder for a manual download"
)
def test_without_a_network_the_place_for_the_file_is_told(cached, monkeypatch, model):
    from dataclasses import replace

    def blocked(*args, **kwargs):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", blocked)
    monkeypatch.setattr(socket, "create_connection", blocked)
    monkeypatch.setattr(fetching, "DELAYS", ())
    url = "https://weights.invalid/tiny.weights.h5"
    monkeypatch.setitem(published.ROWS, TAG, replace(published.ROWS[TAG], url=url))
    message = refusal(published.fetch, TAG)
    assert url in message and str(cached) in message and "SHA-256" in message
    assert [path for path in cached.parent.iterdir() if not path.name.endswith(".lock")] == []
    assert len(poses_of(model, noise())) == 1  # nothing else needs a network


# Commands and exports


@row(65, "A misspelt model name", "Error with the closest names")
def test_a_misspelt_model_is_answered_with_the_nearest(capsys, tmp_path):
    arguments = ["--untrained", "--out", tmp_path / "x"]
    line = refused_command(capsys, "export", "--model", "cpn_res5O", *arguments)
    assert "Received: 'cpn_res5O'. Did you mean" in line and "'cpn_res50'" in line


@row(
    66,
    "A batch size of 0, -1 or 1e9, an image size that is not a multiple of 32, N of 0, OHKM with 99 keypoints",
    "Error with the valid range",
)
def test_numbers_out_of_range_are_refused(capsys, tmp_path, compiled):
    from kpzoo.losses import CPNLoss

    common = ["predict", tmp_path, "--model", "cpn_tiny", "--weights", "x", "--out", tmp_path / "out"]
    for batch in ("0", "-1", "1e9", "1000000000"):
        assert "--batch-size: expected a whole number" in refused_command(capsys, *common, "--batch-size", batch)
    export = ["export", "--model", "cpn_tiny", "--untrained", "--out", tmp_path / "x"]
    line = refused_command(capsys, *export, "--image-size", "250x190")
    assert "multiples of 32" in line and "(224, 160) or (256, 192)" in line
    for count, wanted in ((0, "a positive integer"), (1, "at least 2")):
        assert wanted in refusal(kpzoo.build, "mipnet_tiny", image_hw=(64, 64), num_instances=count)
    maps, ones = np.zeros((1, 4, 4, 3), np.float32), np.ones((1, 3), np.float32)
    targets = {"heatmaps": maps, "weights": ones, "global_heatmaps": maps[:, None], "global_weights": ones[:, None]}
    outputs = {name: targets[name] for name in ("heatmaps", "global_heatmaps")}
    assert "at most 3, the number of keypoints" in refusal(CPNLoss(top_k=99), targets, outputs)


@row(67, "An output path that exists or is a folder", "Error unless overwriting is enabled")
def test_what_exists_is_not_replaced_unasked(capsys, tmp_path, model):
    from kpzoo import export

    (tmp_path / "mine").write_text("mine")
    assert "exists" in refused_command(capsys, "convert", "x", tmp_path / "mine", "--model", "cpn_tiny")
    assert "exists already" in refusal(export.to_onnx, model, tmp_path / "mine")
    assert "is a folder" in refusal(export.to_onnx, model, tmp_path)
    assert "exists already" in refusal(export.to_savedmodel, model, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["mine"]


@row(
    68, "More GPUs requested than available", "Error with the number of GPUs; without a GPU, the CPU is used",
    "A machine with one GPU is simulated. A machine without one splits its CPU; no option requires a GPU.",
)  # fmt: skip
def test_more_gpus_than_there_are_is_refused(monkeypatch):
    import tensorflow as tf

    from kpzoo import training

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"] if kind == "GPU" else ["cpu"])
    assert "This machine has 1 GPUs. Received: 2 devices" in refusal(training.make_strategy, 2)


@row(
    69,
    "An unknown option or a value of the wrong type",
    "Error with the closest name; there are no configuration files",
)
def test_unknown_options_are_named(capsys, tmp_path):
    assert "Did you mean 'width'" in refusal(kpzoo.build, "cpn_tiny", image_hw=(64, 64), wdth=3)
    arguments = ["convert", "x", tmp_path / "y.npz", "--model", "cpn_tiny", "--option"]
    assert "NAME=VALUE" in refused_command(capsys, *arguments, "width")
    assert "unrecognized arguments: --imagesize" in refused_command(capsys, "models", "--imagesize", "3")
    assert "`image_hw=` must be (height, width)" in refusal(kpzoo.build, "cpn_tiny", image_hw="256x192")


@row(70, "Ctrl-C, or SIGTERM from a scheduler", "Clean exit with code 130; a training keeps its last checkpoint")
def test_a_signal_is_a_clean_stop(monkeypatch, capsys, tmp_path, hears_ctrl_c):
    from kpzoo.scenes import drawn

    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("no handler for SIGTERM"))
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            monkeypatch.setattr(
                drawn, "write_drawn", lambda *args, number=number, **kwargs: signal.raise_signal(number)
            )
            code, _, told = command(capsys, "data", "make", tmp_path / "scenes")
            assert code == 130 and told == "kpzoo: stopped\n"
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@row(71, "A pipe closed early, for example by head", "Exit without a message")
def test_a_closed_pipe_is_quiet(small_folder):
    code = "import sys; from kpzoo import cli; sys.exit(cli.main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", code, "data", "check", small_folder, "--no-images"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, timeout=300)
    finally:
        os.close(writer)
    assert done.stderr == b"" and done.returncode == 0


@row(72, "Results with NaN, NumPy numbers or ids as strings", "Error; written as numbers; read as numbers")
def test_results_hold_numbers(load, tmp_path):
    from kpzoo.data.results import Results

    read = load(content())
    assert "NaN or infinity (entries 0)" in refusal(
        read_results, write(tmp_path, [result(keypoints=keypoints_with(1, NAN))], "r.json"), read
    )
    assert read_results(write(tmp_path, [result("7")], "r.json"), read).image_ids.tolist() == [7]
    assert "without `score`" in refusal(read_results, write(tmp_path, [result(score=None)], "r.json"), read)
    poses = np.ones((1, K, 2), np.float32), np.ones((1, K), np.float16), np.ones(1, np.float32)
    path = write_results(tmp_path / "r.json", Results(np.array([7], np.int32), *poses))
    assert read_results(path, read).scores.tolist() == [1.0]
    assert "not finite" in refusal(Results, np.array([7]), poses[0] * np.nan, *poses[1:])


@row(
    73,
    "ONNX export with an unsupported opset, dynamic image sizes or mixed precision",
    "Error that explains the alternative",
)
def test_exports_that_cannot_be_are_explained(model, tmp_path):
    import keras

    from kpzoo import export

    assert "must be 13 to 18. Received: 25" in refusal(export.to_onnx, model, tmp_path / "a.onnx", opset=25)
    assert "`image_hw=` must be (height, width)" in refusal(kpzoo.build, "cpn_tiny", image_hw=(None, None))
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        mixed = kpzoo.build("cpn_tiny", image_hw=(64, 64))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert "require float32" in refusal(export.to_onnx, mixed, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@row(74, "A damaged ONNX file or SavedModel", "Error with the path")
def test_damaged_exports_are_refused(model, tmp_path):
    from kpzoo import export
    from kpzoo.inference import detectors

    (tmp_path / "bad.onnx").write_bytes(b"junk")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/saved_model.pb").write_bytes(b"junk")
    assert "bad.onnx' is not an ONNX file" in refusal(export.compare, model, tmp_path / "bad.onnx")
    assert "bad' is not a SavedModel" in refusal(export.compare, model, tmp_path / "bad")
    detector = detectors.OnnxDetector(tmp_path / "bad.onnx")
    assert "not an ONNX model that onnxruntime can load" in refusal(detector.detect, [noise()])


# Packs


@pytest.fixture(scope="module")
def packed(small_folder, tmp_path_factory):
    """A pack of three shards."""
    from kpzoo.data import packing

    folder = tmp_path_factory.mktemp("packs") / "small"
    return packing.write_pack(loading.load(small_folder, "train"), folder, image_hw=(64, 64), num_shards=3)


@row(
    75, "A pack of TFRecords that is truncated, has changed bytes, shards of another pack or another version",
    "Error with the file name before the first batch; trainings and models reject packs of other data or crops",
    "Changes single bytes at seeded positions of every file. Later damage stops the training with the file name.",
)  # fmt: skip
def test_damaged_packs_are_refused_by_the_file(packed, small_folder, model, tmp_path):
    from kpzoo.data import batches, pack, packing

    whole, rng = loading.load(packed), np.random.default_rng(0)
    folder = tmp_path / "pack"

    def opened(name, data):
        """The message about a copy of the pack with other bytes in one of its files; None if it is as good."""
        (folder / name).write_bytes(data)
        try:
            found = loading.load(folder)
            pack.check_shards(found)
        except UserError as error:
            assert "\n" not in str(error) and name in str(error) or "in version" in str(error)
            return str(error)
        finally:
            (folder / name).write_bytes((packed / name).read_bytes())
        assert (found.crc32, found.shards, found.skeleton) == (whole.crc32, whole.shards, whole.skeleton)
        return None

    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for path in sorted(packed.iterdir()):
        data = path.read_bytes()
        for place in rng.integers(0, len(data), 60).tolist():
            flipped = bytearray(data)
            flipped[place] ^= int(rng.integers(1, 256))
            refused = opened(path.name, bytes(flipped))
            assert refused or path.name == pack.INDEX  # where one kind of space for another changes nothing
            assert "damaged" in opened(path.name, data[:place])
    names = [shard.name for shard in whole.shards]
    other = packing.write_pack(loading.load(small_folder, "train"), tmp_path / "other", image_hw=(64, 64), num_shards=2)
    assert "damaged" in opened(names[0], (packed / names[1]).read_bytes())
    assert "damaged" in opened(names[0], next(other.glob("*-00000-*")).read_bytes())
    index = json.loads((packed / pack.INDEX).read_text())
    assert "in version 3 of the format" in opened(pack.INDEX, json.dumps(index | {"version": 3}).encode())
    assert "not the index of a pack" in opened(pack.INDEX, b"[]")
    for wrong in ({"shards": 3}, {"shards": [{}]}, {"skeleton": None}, {"image_hw": 5}):
        content = index | wrong
        content["crc32"] = pack.checksum(content)
        assert "damaged" in opened(pack.INDEX, json.dumps(content).encode())
    (folder / names[1]).unlink()
    assert f"{names[1]}' of a pack cannot be read" in refusal(loading.load, folder)
    (folder / names[1]).write_bytes(bytes(whole.shards[1].num_bytes))
    found = loading.load(folder)
    assert names[1] in refusal(batches.make_dataset, found, model, 2)
    with pytest.raises(UserError, match=names[1]), pack.naming_damaged_shard(found):
        list(batches.make_dataset(found, model, 2, check_images=False).take(10))


@row(
    76, "A process killed while it writes a pack; two processes that write the same pack",
    "No pack exists under its name, the next process starts again; error",
    "Simulated by an exception before the last step; test_faults.py kills processes.",
)  # fmt: skip
def test_a_pack_that_was_not_finished_does_not_exist(packed, small_folder, tmp_path, monkeypatch):
    from kpzoo.data import packing

    data, folder, how = loading.load(small_folder, "train"), tmp_path / "pack", dict(image_hw=(64, 64), num_shards=3)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(packing.shutil, "rmtree", lambda *args, **kwargs: None)  # who is killed cleans nothing up
        with pytest.raises(KeyboardInterrupt):
            packing.write_pack(data, folder, **how)
    assert [path.name for path in tmp_path.iterdir()] == [".pack.part"]
    (tmp_path / ".pack.part/persons-00009-of-00010.tfrecord").write_bytes(b"of another try")
    assert "annotation file" in refusal(loading.load, folder, "train")
    with packing._part_of(folder):
        assert "Another process is writing" in refusal(packing.write_pack, data, folder, **how)
    (folder / "of the other process").touch()
    assert "exists and is not a pack" in refusal(packing.write_pack, data, folder, **how)
    (folder / "of the other process").unlink()
    with full_disk(5_000):
        assert f"Cannot write the pack '{folder}'" in refusal(packing.write_pack, data, folder, **how)
    packing.write_pack(data, folder, **how)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


# The table itself


INTRODUCTION = """
Each row has a test in `tests/test_bad_inputs.py` or a file that it imports; `python tests/test_bad_inputs.py --write`
generates this page. Invalid input raises `kpzoo.errors.UserError` with a message of one line: what is wrong, where,
what was received and expected, and how to fix it. Commands print the message and exit with code 2. Exit code 1 is an
error in kpzoo, 130 means stopped by Ctrl-C or SIGTERM. Files are written under a temporary name and renamed when they
are complete; a killed process leaves at most a hidden `.part-…` file next to them (`tests/test_faults.py`).
[SECURITY.md](../SECURITY.md) describes the handling of malicious files.
"""


def page() -> str:
    """docs/reliability.md."""
    lines = ["# Handling of invalid input", "", *INTRODUCTION.strip().splitlines()]
    for one in sorted(ROWS):
        if one.number in SECTIONS:
            lines += ["", f"## {SECTIONS[one.number]}", "", "| | input | behaviour | test |"]
            lines += ["| --: | :-- | :-- | :-- |"]
        lines.append(f"| {one.number} | {one.given} | {one.outcome} | {one.remark} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_whole_and_its_page_up_to_date():
    numbers = sorted(one.number for one in ROWS)
    assert numbers == [*range(1, 101)]
    assert len({one.test for one in ROWS}) == len(numbers)
    assert PAGE.read_text() == page(), "run `python tests/test_bad_inputs.py --write`"


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    PAGE.write_text(page())
