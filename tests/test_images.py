"""Pictures in and out: every kind that is read, every reason why one cannot be."""

import base64
import os
import struct

import cv2
import numpy as np
import pytest
from conftest import SHARED

from kpzoo.errors import UserError
from kpzoo.images import as_image, list_images, read_image, size_of, write_image

# 8 x 8 CMYK JPEG: 4 columns of cyan with a quarter of black, 4 columns of magenta plus yellow (made with Pillow).
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwANCQoLCggNCwoLDg4NDxMgFRMSEhMnHB4XIC4pMTAuKS0sMzpKPjM2RjcsLUBXQUZMTlJTUjI+WmFaUGBK"
    "UVJP/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABUAAQEAAAAAAAAAAAAAAAAAAAAG/8QAHBAAAQQDAQAAAAAAAAAAAAAAAAdFg8MFQ4LB/9oADgRD"
    "AE0AWQBLAAA/ACMPMFgWdmnrCzs09ZdYXdz6f//Z"
)


def scene() -> np.ndarray:
    """A red left half, a blue right half, a green band on top."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32, 0], image[:, 32:, 2] = 200, 220
    image[:16] = (0, 255, 0)
    return image


def worst_difference(image: np.ndarray) -> int:
    """The largest difference to the scene away from its edges, where lossy formats mix the colours."""
    difference = np.abs(image.astype(int) - scene())
    return max(difference[area].max() for area in (np.s_[:12], np.s_[20:, :28], np.s_[20:, 36:]))


def encoded(suffix, image=None, params=()) -> bytes:
    image = scene() if image is None else image
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(image.shape[2] if image.ndim == 3 else 1)
    return cv2.imencode(suffix, image if order is None else cv2.cvtColor(image, order), list(params))[1].tobytes()


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IH HHIHH I", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]


def png_that_claims(height, width) -> bytes:
    data = encoded(".png")
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def os2_bmp() -> bytes:
    rows = scene()[::-1, :, ::-1].tobytes()  # 64 * 3 bytes a row: no padding
    return b"BM" + struct.pack("<IIIIHHHH", 26 + len(rows), 0, 26, 12, 64, 32, 1, 24) + rows


def top_down_bmp() -> bytes:
    data = encoded(".bmp", scene()[::-1])
    return data[:22] + struct.pack("<i", -32) + data[26:]


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encoded(".png"), 0),
        (encoded(".bmp"), 0),
        (top_down_bmp(), 0),
        (os2_bmp(), 0),
        (encoded(".gif"), 60),  # OpenCV writes a coarse palette
        (encoded(".jpg", params=(cv2.IMWRITE_JPEG_QUALITY, 100)), 8),
        (with_exif(encoded(".jpg", params=(cv2.IMWRITE_JPEG_QUALITY, 100)), 1), 8),
        (encoded(".jpg", params=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)), 8),
        (encoded(".webp", params=(cv2.IMWRITE_WEBP_QUALITY, 101)), 0),
        (encoded(".webp", params=(cv2.IMWRITE_WEBP_QUALITY, 95)), 8),
        (encoded(".webp", np.dstack([scene(), np.full((32, 64), 99, np.uint8)]), (cv2.IMWRITE_WEBP_QUALITY, 95)), 8),
    ],
    ids="png bmp bmp-top-down bmp-os2 gif jpeg jpeg-exif jpeg-progressive webp-lossless webp webp-extended".split(),
)
def test_every_kind_of_file_is_read_as_rgb_and_measured_from_its_header(tmp_path, data, tolerance):
    path = tmp_path / "no suffix needed"
    path.write_bytes(data)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == (32, 64, 3)
    assert worst_difference(image) <= tolerance
    assert size_of(path) == (32, 64)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_exif_orientation_turns_the_picture_only_if_asked(tmp_path, orientation, upright):
    (tmp_path / "a.jpg").write_bytes(with_exif(encoded(".jpg"), orientation))
    stored = read_image(tmp_path / "a.jpg", apply_exif=False)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), upright(stored))
    assert size_of(tmp_path / "a.jpg") == stored.shape[:2] == (32, 64)


@pytest.mark.parametrize("name", ["ein Bild mit Umlauten äöü.png", "写真.png", "photo[1].png"])
def test_names_of_any_alphabet_are_written_listed_and_read(tmp_path, name):
    write_image(tmp_path / name, scene())
    assert list_images(tmp_path / name) == list_images(tmp_path) == [tmp_path / name]
    np.testing.assert_array_equal(read_image(str(tmp_path / name)), scene())


JPEG, WEB_PAGE = encoded(".jpg"), b"\n<!DOCTYPE html><html><body>404</body></html>"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"empty \(0 bytes\)"),
        (WEB_PAGE, "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"II*\0" + bytes(40), "a TIFF file. kpzoo reads JPEG, PNG, BMP, GIF and WebP"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC, AVIF or MP4 file"),
        (b"hello", "begins with b'hello'"),
        (JPEG[: len(JPEG) * 9 // 10], "are incomplete or damaged"),
        (JPEG[:12], "header is incomplete"),
        (JPEG[:4] + b"\0\0" + JPEG[6:], "header is incomplete"),
        (encoded(".png")[:60], "are incomplete or damaged"),
        (encoded(".png")[:15], "header is incomplete"),
        (encoded(".webp")[:40], "are incomplete or damaged"),
        (b"RIFF\0\0\0\0WAVEfmt " + bytes(20), "header is incomplete"),
        (png_that_claims(60_000, 60_000), "declares 60000 x 60000 pixels, more than 200 megapixels"),
        (png_that_claims(1, 2**31 - 1), "more than 200 megapixels"),
    ],
)
def test_an_unreadable_file_is_named_with_its_reason(tmp_path, data, reason):
    path = tmp_path / "the picture.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"the picture.jpg': .*{reason}"):
        read_image(path)


def test_damaged_bytes_raise_nothing_but_user_errors(tmp_path):
    path, random = tmp_path / "a", np.random.default_rng(0)
    files = [encoded(suffix) for suffix in (".jpg", ".png", ".bmp", ".gif", ".webp")] + [with_exif(JPEG, 6), CMYK_JPEG]
    read = 0
    for _ in range(30):
        for data in files:
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[random.integers(0, min(len(data), 400), 3)] = random.integers(0, 256, 3)
            path.write_bytes(damaged[: random.integers(1, len(data) + 1)].tobytes())
            try:
                read += read_image(path).ndim == 3
            except UserError:
                pass
    assert read > 0


def test_what_is_no_file_is_named_with_its_reason(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in [
        ("folder.jpg", "it is a folder"),
        ("link.jpg", "the link points to 'gone.jpg': no such file"),
        ("pipe.jpg", "a pipe or device"),
        ("missing.jpg", "there is no such file"),
        ("x" * 300 + ".jpg", "File name too long"),
        ("nul\0.jpg", "null byte"),
    ]:
        with pytest.raises(UserError, match=reason):
            read_image(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    write_image(tmp_path / "a.png", scene()).chmod(0)
    with pytest.raises(UserError, match="a.png': Permission denied"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".webp"])
def test_written_pictures_are_read_back_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / "new folder" / f"a{suffix}"
    write_image(path, np.zeros((5, 6, 3), np.uint8))
    write_image(path, scene())
    assert worst_difference(read_image(path)) <= 8
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_older_file_and_no_part(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", scene())
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="a.png': No space left on device"):
        write_image(path, np.zeros((5, 6, 3), np.uint8))
    np.testing.assert_array_equal(read_image(path), scene())
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for name, image, reason in [
        ("a.tif", scene(), "must end in one of .jpg"),
        ("a", scene(), "Received the suffix ''"),
        ("folder.png", scene(), "Is a directory"),
        ("file/a.png", scene(), "a.png': (File exists|Not a directory)"),
        ("a.webp", np.zeros((1, 17_000, 3), np.uint8), "16,383 in WebP"),
        ("a.png", scene() / 255, r"image \* 255"),
    ]:
        with pytest.raises(UserError, match=reason):
            write_image(tmp_path / name, image)


def test_folders_and_globs_list_pictures_sorted(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/c.webp", "x.heic", "note.txt", ".hidden.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()

    def names(source):
        return [str(path.relative_to(tmp_path)) for path in list_images(source)]

    assert names(tmp_path) == ["a.jpg", "b.PNG", "x.heic"]
    assert names(tmp_path / "**" / "*") == ["a.jpg", "b.PNG", "sub/c.webp", "x.heic"]
    assert names(f"{tmp_path}/?.*") == ["a.jpg", "b.PNG", "x.heic"]
    assert names(tmp_path / "missing.jpg") == ["missing.jpg"]  # reading tells what is wrong with it
    for source in (tmp_path / "folder.jpg", tmp_path / "*.txt"):
        with pytest.raises(UserError, match="No images in"):
            list_images(source)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float32, np.float64])
def test_arrays_of_any_real_type_become_bytes(dtype):
    np.testing.assert_array_equal(as_image(scene().astype(dtype)), scene())


def test_a_path_is_read_and_floats_are_rounded(tmp_path):
    np.testing.assert_array_equal(as_image(write_image(tmp_path / "a.png", scene())), scene())
    assert as_image(np.full((2, 2, 3), 254.6)).tolist() == np.full((2, 2, 3), 255).tolist()
    assert as_image(np.zeros((2, 2, 3))).max() == 0


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (scene()[..., 0], r"shape \(32, 64\), a greyscale image: pass `np.repeat"),
        (scene().transpose(2, 0, 1), r"shape \(3, 32, 64\), channels first: pass `image.transpose\(1, 2, 0\)`"),
        (scene()[None], "a batch"),
        (np.zeros((32, 64, 4), np.uint8), "alpha channel"),
        (np.zeros((32, 64, 2), np.uint8), r"Received shape \(32, 64, 2\)"),
        (np.zeros((0, 64, 3), np.uint8), r"Received shape \(0, 64, 3\)"),
        (np.zeros(7), r"Received shape \(7,\)"),
        (scene() / 255, r"from 0.0 to 1.0: pass `image \* 255`"),
        (scene() / 127.5 - 1, "undo the normalization"),
        (np.full((2, 2, 3), 40_000, np.uint16), "image >> 8"),
        (np.where(np.arange(24).reshape(2, 4, 3) == 13, np.nan, 9.0), r"NaN or infinity at \[1, 0, 1\]"),
        (np.full((2, 2, 3), np.inf), "NaN or infinity"),
        (np.ones((2, 2, 3), bool), "dtype bool"),
        (np.full((2, 2, 3), "a"), "dtype <U1"),
    ],
)
def test_arrays_that_are_no_picture_are_refused_with_the_fix(array, reason):
    with pytest.raises(UserError, match=reason):
        as_image(array)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
def test_headers_of_real_photos_agree_with_their_pixels():
    paths = list_images(SHARED / "data/coco_real/images/val")
    assert len(paths) == 50
    for path in paths:
        assert size_of(path) == read_image(path, apply_exif=False).shape[:2]
