"""Training decodes what prediction decodes: every format to the same pixels; images are known by their content."""

import io
import os
import warnings
import wave

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_small_folder
from PIL import Image
from reliability_rows import row
from test_images import CMYK_JPEG, JPEG, encoded, with_exif

import kpzoo
from kpzoo import cli, crops, images
from kpzoo.data import files, loading
from kpzoo.errors import UserError

RNG = np.random.default_rng(3)
PIXELS = np.kron(RNG.integers(0, 256, (4, 6, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
ALPHA = np.linspace(0, 255, PIXELS.shape[0] * PIXELS.shape[1]).astype(np.uint8).reshape(PIXELS.shape[:2])


def written(image, suffix, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def formats() -> dict[str, bytes]:
    opaque, clear = Image.fromarray(PIXELS), Image.fromarray(np.dstack([PIXELS, ALPHA]))
    frames = dict(save_all=True, append_images=[opaque.transpose(Image.Transpose.ROTATE_180)])
    see_through = dict(save_all=True, append_images=[clear.transpose(Image.Transpose.ROTATE_180)])
    palette = opaque.quantize(16)
    turns = dict(save_all=True, append_images=[palette.transpose(Image.Transpose.ROTATE_180)])
    deep = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    return {
        "webp": written(opaque, "WEBP"),
        "webp lossless": written(opaque, "WEBP", lossless=True),
        "webp transparent": written(clear, "WEBP"),
        "webp transparent, lossless": written(clear, "WEBP", lossless=True),
        "webp animated": written(opaque, "WEBP", **frames),
        "webp animated, transparent": written(clear, "WEBP", **see_through),
        "bmp": written(opaque, "BMP"),
        "bmp transparent": written(clear, "BMP"),
        "bmp with a palette": written(palette, "BMP"),
        "bmp grey": written(opaque.convert("L"), "BMP"),
        "bmp of two colours": written(opaque.convert("1"), "BMP"),
        "gif": written(palette, "GIF"),
        "gif transparent": written(palette, "GIF", transparency=1),
        "gif animated": written(palette, "GIF", **turns),
        "png": written(opaque, "PNG"),
        "png transparent": written(clear, "PNG"),
        "png grey, transparent": written(clear.convert("LA"), "PNG"),
        "png with a palette": written(palette, "PNG", transparency=1),
        "png of two colours": written(opaque.convert("1"), "PNG"),
        "png of 16 bits": written(deep, "PNG"),
        "png animated": written(opaque, "PNG", **frames),
        "jpeg": written(opaque, "JPEG"),
        "jpeg progressive": written(opaque, "JPEG", progressive=True),
        "jpeg grey": written(opaque.convert("L"), "JPEG"),
        "jpeg with EXIF": with_exif(JPEG, 6),
        "jpeg in CMYK": CMYK_JPEG,
        "mpo": written(opaque, "MPO", save_all=True, append_images=[opaque]),
    }


FORMATS = formats()


@row(
    84,
    "Transparent, animated, greyscale, 16-bit and CMYK images of all formats",
    "The same pixels in training and prediction: the first frame, without transparency",
)
@pytest.mark.parametrize("name", FORMATS)
def test_training_and_prediction_decode_a_file_to_the_same_pixels(tmp_path, name):
    path = tmp_path / "image"
    path.write_bytes(FORMATS[name])
    predicted = images.read_image(path, apply_exif=False)
    checked = files.decode(str(path))
    assert not isinstance(checked, files.Undecodable), checked
    np.testing.assert_array_equal(np.asarray(checked), predicted)
    height, width = predicted.shape[:2]
    assert images.size_of(path) == (height, width)
    whole = np.float32([[1, 0, 0], [0, 1, 0]])

    def cut(contents):
        return crops.decode_crop(contents, tf.constant(whole), (height, width), (0.0, 0.0, 0.0))

    contents = tf.constant(FORMATS[name])
    (in_graph,) = tf.data.Dataset.from_tensors(contents).map(cut)
    for crop in (cut(contents), in_graph):
        np.testing.assert_allclose(crop.numpy(), predicted, atol=1e-3)


def test_data_of_any_format_is_trained_on_and_evaluated(tmp_path, capsys):
    write_small_folder(tmp_path)
    folder = tmp_path / "images/train"
    first, second = sorted(folder.iterdir())[:2]
    image = Image.fromarray(images.read_image(first))
    image.putalpha(128)
    first.write_bytes(written(image, "WEBP", lossless=True))
    image = Image.fromarray(images.read_image(second))
    second.write_bytes(written(image, "WEBP", lossless=True, save_all=True, append_images=[image]))
    data, model = loading.load(tmp_path, "train"), kpzoo.build("cpn_tiny", image_hw=(64, 64))
    next(iter(kpzoo.data.make_dataset(data, model, 4)))
    assert "left out" not in capsys.readouterr().err
    kpzoo.evaluate(model, data, flip=False)
    assert cli.main(["data", "check", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["webp", "gif", "bmp", "png", "jpeg"])
def test_a_damaged_file_is_named_and_not_trained_on(tmp_path, name):
    path = tmp_path / "image"
    path.write_bytes(FORMATS[name][: len(FORMATS[name]) // 3])
    assert isinstance(files.decode(str(path)), files.Undecodable)
    with pytest.raises(UserError, match="Cannot read the image"):
        images.read_image(path)


@pytest.mark.parametrize("suffix", ["", ".jfif", ".jpe", ".mpo", ".JFIF", ".dat", ".tmp", ".webp~", ".1"])
@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp", "webp transparent"])
def test_an_image_in_a_folder_is_found_by_its_content_whatever_it_is_called(tmp_path, name, suffix):
    (tmp_path / f"b{suffix}").write_bytes(FORMATS[name])
    (tmp_path / "a.jpg").write_bytes(FORMATS["jpeg"])
    for source in (tmp_path, tmp_path / "*"):
        assert [path.name for path in images.list_images(source)] == ["a.jpg", f"b{suffix}"]


@row(
    80,
    "A folder with JPEG files of another suffix, such as .jfif, and with other files",
    "Images are recognized by their content; a warning with the number and names of the other files",
)
def test_files_that_are_no_images_are_counted_and_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(FORMATS["jpeg"])
    others = {"notes.txt": b"BMW, and others", "results.json": b"[]", "sound": b"", "Thumbs.db": b"\xd0\xcf\x11\xe0"}
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    with wave.open(str(tmp_path / "sound"), "wb") as file:  # RIFF, as WebP is
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(40))
    os.mkfifo(tmp_path / "pipe")  # is not waited for
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder").mkdir()
    told = r"5 files in '.*' are not images and are skipped: Thumbs.db, notes.txt, pipe, …"
    with pytest.warns(UserWarning, match=told):
        assert [path.name for path in images.list_images(tmp_path)] == ["a.jpg"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(images.list_images(tmp_path / "*.jpg")) == 1


def test_the_command_predicts_on_all_images_of_a_folder_and_tells_what_it_skips(tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jfif"):
        (folder / name).write_bytes(encoded(".jpg", np.full((40, 40, 3), 90, np.uint8)))
    (folder / "list.txt").write_text("a.jpg")
    arguments = ["predict", str(folder), "--detector", "whole", "--no-pictures", "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().err
    assert "2/2 pictures" in told and "1 files in" in told and "skipped: list.txt" in told
