"""What can be passed as one image: each object gives poses, or an error at once."""

import io
import types

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reliability_rows import row

import kpzoo
from kpzoo import images
from kpzoo.errors import UserError

BOX = [[5.0, 5, 40, 50]]
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return kpzoo.build("cpn_tiny", image_hw=(64, 64))


def png(pixels=PIXELS) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


class Tensor:
    """An array of another library."""

    def __init__(self, pixels=PIXELS, error=None):
        self.pixels, self.error = pixels, error

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.pixels


ACCEPTED = {
    "array": lambda: PIXELS,
    "floats": lambda: PIXELS.astype("float32"),
    "tensor": lambda: tf.constant(PIXELS),
    "variable": lambda: tf.Variable(PIXELS),
    "array of another library": Tensor,
    "PIL image": lambda: Image.fromarray(PIXELS),
    "PIL image with transparency": lambda: Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])),
    "lazy PIL image": lambda: Image.open(io.BytesIO(png())),
    "bytes": png,
    "bytearray": lambda: bytearray(png()),
    "memoryview": lambda: memoryview(png()),
    "file": lambda: io.BytesIO(png()),
}
cut = png()[:200]
REFUSED = {
    "None": (lambda: None, "Received: NoneType"),
    "number": (lambda: 7, "Received: int"),
    "dict": (lambda: {"image": PIXELS}, "Received: dict"),
    "list": (lambda: [PIXELS], "Received: list"),
    "generator": (lambda: (one for one in [PIXELS]), "Received: generator"),
    "module": (lambda: types, "Received: module"),
    "grey PIL image of 16 bits": (lambda: Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "a greyscale image"),
    "batch": (lambda: tf.constant(PIXELS[None]), "a batch"),
    "channels first": (lambda: Tensor(PIXELS.transpose(2, 0, 1)), "channels first"),
    "tensor on a GPU": (lambda: Tensor(error=TypeError("can't convert cuda tensor")), "Tensor. can't convert cuda"),
    "text bytes": (lambda: b"hello", "<bytes>.*begins with b'hello'"),
    "no bytes": (lambda: b"", "<bytes>.*empty"),
    "file that was read": (lambda: (file := io.BytesIO(png())).read() and file, "read to its end: call `seek"),
    "cut bytes": (lambda: cut, "<bytes>.*incomplete or damaged"),
    "text file": (lambda: io.StringIO("hello"), "open in text mode"),
    "cut PIL image": (lambda: Image.open(io.BytesIO(cut)), "Cannot convert the image"),
    "URL": (lambda: "https://host/photo.jpg", "the URL"),
}


@row(
    100,
    "An image as PIL image, tensor, bytes or file object; None, dicts, tensors on a GPU",
    "Read; an immediate error with the received type",
)
@pytest.mark.parametrize("kind", ACCEPTED)
def test_an_image_can_be_any_object_that_holds_one(model, kind):
    expected = kpzoo.predict(model, PIXELS, BOX, flip=False)
    np.testing.assert_array_equal(images.as_image(ACCEPTED[kind]()), PIXELS)
    found = kpzoo.predict(model, ACCEPTED[kind](), BOX, flip=False)
    np.testing.assert_array_equal(found.keypoints_xy, expected.keypoints_xy)
    if "PIL" not in kind and "floats" not in kind:
        (one,) = kpzoo.stream(model, [ACCEPTED[kind]()], BOX, flip=False)
        assert one.picture.problem is None and len(one.poses) == 1
    found.draw(ACCEPTED[kind]())


@pytest.mark.parametrize("kind", REFUSED)
def test_what_holds_no_image_is_refused_at_once(model, kind):
    make, message = REFUSED[kind]
    with pytest.raises(UserError, match=message):
        kpzoo.predict(model, make(), BOX)


@pytest.mark.parametrize(
    "source", [None, 7, 1.5, [None], [3], object(), [{}], {}, {"image": PIXELS}, PIXELS[None], np.array(3)]
)
def test_a_source_of_many_images_is_refused_at_once(model, source):
    with pytest.raises(UserError, match="Received"):
        kpzoo.stream(model, source, BOX)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.integers(0, len(png())).map(lambda end: png()[:end])))
def test_any_bytes_are_an_image_or_one_error(data):
    for source in (data, io.BytesIO(data), bytearray(data)):
        try:
            assert images.as_image(source).shape == PIXELS.shape
        except UserError as error:
            assert "\n" not in str(error)


def test_an_image_of_pil_is_taken_as_it_is_and_a_file_is_turned_upright():
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(buffer, "JPEG", exif=exif)
    assert images.as_image(Image.open(buffer)).shape == (60, 80, 3)
    assert images.as_image(buffer.getvalue()).shape == (80, 60, 3)


def test_an_image_of_pil_in_other_colors_is_converted():
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    np.testing.assert_array_equal(images.as_image(Image.fromarray(grey).convert("HSV")), grey)
