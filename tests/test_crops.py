"""Crops made in the graph against OpenCV, and points that travel with them."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from kpzoo import crops, geometry
from kpzoo.data import augment
from kpzoo.skeletons import COCO17

IMAGE_HW = (64, 48)
VIEWS = {  # centre x, centre y, width, height; scale; rotation; mirrored
    "inside": ((60.0, 50.0, 45.0, 60.0), 1.0, 0.0, False),
    "mirrored": ((60.0, 50.0, 45.0, 60.0), 1.0, 0.0, True),
    "turned": ((70.0, 45.0, 60.0, 80.0), 1.2, 0.6, False),
    "turned and mirrored": ((70.0, 45.0, 60.0, 80.0), 0.8, -0.7, True),
    "over the border": ((5.0, 95.0, 90.0, 120.0), 1.0, 0.2, False),
    "outside": ((-500.0, 900.0, 45.0, 60.0), 1.0, 0.0, False),
    "far outside": ((1e9, 1e9, 45.0, 60.0), 1.0, 0.0, False),
}


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def matrix_of(case):
    view, scale, rotation, mirrored = VIEWS[case]
    return crops.view_matrix(tf.constant(view), scale, tf.constant(rotation), tf.constant(mirrored), IMAGE_HW)


def plain_crop(image, crop_to_image, fill):
    """Float64 bilinear mixing, pixel by pixel."""
    height, width = IMAGE_HW
    padded = np.full((image.shape[0] + 2, image.shape[1] + 2, 3), fill, np.float64)
    padded[1:-1, 1:-1] = image
    result = np.full((height, width, 3), fill, np.float64)
    for y in range(height):
        for x in range(width):
            sx, sy = crop_to_image @ [x, y, 1] + 1
            if 0 <= sx < padded.shape[1] - 1 and 0 <= sy < padded.shape[0] - 1:
                i, j, a, b = int(sx), int(sy), sx - int(sx), sy - int(sy)
                top = padded[j, i] * (1 - a) + padded[j, i + 1] * a
                bottom = padded[j + 1, i] * (1 - a) + padded[j + 1, i + 1] * a
                result[y, x] = top * (1 - b) + bottom * b
    return result


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("fill", [(0.0, 0.0, 0.0), (120.0, 60.0, 200.0)])
def test_a_crop_equals_bilinear_mixing_by_hand(image, case, fill):
    crop_to_image = matrix_of(case)
    found = crops.crop(tf.constant(image), crop_to_image, IMAGE_HW, fill)
    np.testing.assert_allclose(found, plain_crop(image, crop_to_image.numpy(), fill), atol=0.05)


@pytest.mark.parametrize("case", [case for case in VIEWS if case != "far outside"])
def test_a_crop_equals_opencvs_warp_to_its_rounding(image, case):
    crop_to_image = matrix_of(case).numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, crop_to_image.astype(np.float64), IMAGE_HW[::-1], flags=flags)
    found = crops.crop(tf.constant(image), crop_to_image, IMAGE_HW, (0.0, 0.0, 0.0)).numpy()
    # OpenCV before 5 places samples on a grid of 1/32 pixel: the mean shows the agreement, the maximum its grid.
    assert np.abs(found - expected).mean() < 1.0
    assert np.abs(found - expected).max() < 12.0


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_decoding_only_the_window_gives_the_same_crop(image, case, kind):
    contents = cv2.imencode(kind, image[..., ::-1])[1].tobytes()
    whole = cv2.imdecode(np.frombuffer(contents, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    expected = crops.crop(tf.constant(whole.copy()), matrix_of(case), IMAGE_HW, (9.0, 9.0, 9.0))
    inside_map = tf.data.Dataset.from_tensors(matrix_of(case)).map(
        lambda matrix: crops.decode_crop(tf.constant(contents), matrix, IMAGE_HW, (9.0, 9.0, 9.0))
    )
    eagerly = crops.decode_crop(tf.constant(contents), matrix_of(case), IMAGE_HW, (9.0, 9.0, 9.0))
    np.testing.assert_allclose(eagerly, expected, atol=0.01)
    np.testing.assert_array_equal(next(iter(inside_map)), eagerly)


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("corner_yx", [(0, 0), (20, 10)])
def test_the_compiled_warp_equals_bilinear_mixing_by_hand(image, case, corner_yx):
    fill, (top, left) = (120.0, 60.0, 200.0), corner_yx
    found = crops._warp_compiled(image[top:, left:], tf.constant(corner_yx), matrix_of(case), IMAGE_HW, fill)
    to_window = matrix_of(case).numpy() - [[0, 0, left], [0, 0, top]]
    np.testing.assert_allclose(found, plain_crop(image[top:, left:], to_window, fill), atol=0.05)


def test_grey_pictures_become_rgb():
    grey = np.random.default_rng(0).integers(0, 256, (100, 130), np.uint8)
    contents = cv2.imencode(".png", grey)[1].tobytes()
    found = crops.decode_crop(tf.constant(contents), matrix_of("inside"), IMAGE_HW, (0.0, 0.0, 0.0)).numpy()
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("case", [case for case in VIEWS if case != "far outside"])
def test_points_go_to_the_crop_and_back(case):
    points = np.random.default_rng(1).uniform(0, 130, (17, 2)).astype(np.float32)
    there = crops.to_crop(matrix_of(case), tf.constant(points))
    back = crops.to_image(matrix_of(case)[None], there[None])[0]
    np.testing.assert_allclose(back, points, atol=2e-3)


def test_a_marked_pixel_lands_where_its_point_says():
    for case in ("inside", "mirrored", "turned", "turned and mirrored"):
        marked = np.zeros((100, 130, 3), np.uint8)
        marked[52, 63] = 255
        found = crops.crop(tf.constant(marked), matrix_of(case), IMAGE_HW, (0.0, 0.0, 0.0)).numpy()[..., 0]
        weights = found / found.sum()
        centre = [(weights.sum(0) * np.arange(48)).sum(), (weights.sum(1) * np.arange(64)).sum()]
        np.testing.assert_allclose(crops.to_crop(matrix_of(case), tf.constant([63.0, 52.0])), centre, atol=0.6)


def test_a_mirrored_view_is_the_view_with_its_columns_reversed(image):
    pair = [crops.crop(tf.constant(image), matrix_of(case), IMAGE_HW, (0.0,) * 3) for case in ("inside", "mirrored")]
    np.testing.assert_allclose(pair[0], pair[1][:, ::-1], atol=0.01)


def test_the_graphs_plain_view_is_the_one_of_geometry():
    views = geometry.views(np.array([[10.0, 20.0, 40.0, 90.0]]), geometry.CROP_RULES["hrnet"], IMAGE_HW)
    np.testing.assert_allclose(
        crops.view_matrix(tf.constant(views[0]), 1.0, tf.constant(0.0), tf.constant(False), IMAGE_HW),
        geometry.crop_to_image(views, IMAGE_HW)[0],
        atol=1e-5,
    )


@pytest.mark.parametrize("rule", geometry.CROP_RULES)
@pytest.mark.parametrize("box", [(10.0, 20.0, 40.0, 90.0), (0.0, 0.0, 300.0, 10.0), (5.0, 5.0, 0.0, 0.0)])
def test_views_hold_the_grown_box_and_have_the_crops_aspect(rule, box):
    rule = geometry.CROP_RULES[rule]
    x, y, width, height = geometry.views(np.array([box]), rule, (256, 192))[0]
    assert (x, y) == (box[0] + box[2] / 2, box[1] + box[3] / 2)
    assert width / height == pytest.approx(0.75)
    grown = np.maximum(box[2:], 1) * np.array(rule.grow_xy) * rule.padding
    assert width >= grown[0] * 0.9999
    assert height >= grown[1] * 0.9999
    assert width == pytest.approx(grown[0], rel=1e-5) or height == pytest.approx(grown[1], rel=1e-5)


@pytest.mark.parametrize("rule", geometry.CROP_RULES.values())
def test_the_graph_grows_boxes_as_geometry_does(rule):
    boxes = np.random.default_rng(0).uniform(0, 300, (20, 4))
    boxes[0, 2:] = 0
    found = crops.views_in_graph(tf.constant(boxes, tf.float32), rule, (256, 192))
    np.testing.assert_allclose(found, geometry.views(boxes, rule, (256, 192)), rtol=1e-5)


def test_affine_maps_invert():
    matrices = geometry.crop_to_image(np.array([[60.0, 50.0, 45.0, 60.0], [9.0, 9.0, 3.0, 4.0]]), IMAGE_HW)
    points = np.random.default_rng(0).uniform(0, 60, (2, 5, 2))
    back = geometry.transform(geometry.invert(matrices), geometry.transform(matrices, points))
    np.testing.assert_allclose(back, points)


BOX = tf.constant([50.0, 60.0, 75.0, 100.0])
PERSON = augment.Person(tf.zeros((17, 2)), tf.zeros(17), COCO17.is_lower)


def given(**numbers):
    """The draws of a crop as they are given, by name."""

    def draws(name, size):
        assert len(numbers[name]) == size
        return tf.constant(numbers[name], tf.float32)

    return draws


def test_augmentation_stays_in_its_range():
    rule = augment.AUGMENTS["cpn"]
    views = [augment.augmented_view(rule, BOX, PERSON, augment.draws_of(0, np.int64(count))) for count in range(500)]
    scale, rotation, mirrored = (np.array([getattr(v, name) for v in views]) for name in augment.View._fields[1:])
    assert 0.7 <= scale.min() < 0.75 < 1.3 < scale.max() <= 1.35
    assert np.degrees(np.abs(rotation)).max() <= 45.0
    assert 0.4 < (rotation == 0).mean() < 0.6
    assert 0.4 < mirrored.mean() < 0.6


def test_another_augmentation_changes_no_numbers_of_the_others(monkeypatch):
    rule, image = augment.Augment((0.7, 1.3), 40.0, 0.6, 0.5, (0.8, 1.2)), tf.fill((*IMAGE_HW, 3), 100.0)

    def moved(view, rule, draws, person):
        return view._replace(box=view.box + tf.concat([draws("move", 2), [0.0, 0.0]], axis=0))

    def darkened(image, rule, draws, fill_rgb):
        return image * draws("dark", 1)

    def crop(count):
        draws = augment.draws_of(3, np.int64(count))
        return *augment.augmented_view(rule, BOX, PERSON, draws), augment.augmented_pixels(
            rule, image, draws, (0, 0, 0)
        )

    before = [crop(count) for count in range(20)]
    monkeypatch.setattr(augment, "VIEW_STEPS", (moved, *augment.VIEW_STEPS))
    monkeypatch.setattr(augment, "PIXEL_STEPS", (darkened, *augment.PIXEL_STEPS))
    for (box, *same, pixels), (box_after, *same_after, pixels_after) in zip(
        before, (crop(count) for count in range(20)), strict=True
    ):
        np.testing.assert_array_equal(same, same_after)
        assert (box != box_after).numpy()[:2].all()
        factors = (pixels_after / pixels).numpy()
        np.testing.assert_allclose(factors, factors[0, 0, 0], rtol=1e-5)


def test_names_seeds_and_crops_have_their_own_random_numbers():
    streams = {
        (seed, name, count): tuple(augment.draws_of(seed, np.int64(count))(name, 2).numpy().tolist())
        for seed in (0, 1)
        for name in ("scale", "flip", "erase")
        for count in range(50)
    }
    assert len(set(streams.values())) == len(streams)
    numbers = np.array(list(streams.values()))
    assert 0 <= numbers.min() < numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.05


def test_erasing_hides_one_rectangle_and_as_often_as_asked():
    image, fill = tf.ones((*IMAGE_HW, 3)), (7.0, 8.0, 9.0)
    rule, rng, shares = augment.Augment(erase_probability=0.5), np.random.default_rng(5), []
    for _ in range(200):
        draws = rng.random(5).astype(np.float32)
        found = augment.erased(image, rule, given(erase=draws), fill).numpy()
        hidden = (found == fill).all(axis=-1)
        assert (found[~hidden] == 1).all()
        assert hidden.any() == (draws[0] < 0.5)
        rows, columns = hidden.any(axis=1), hidden.any(axis=0)
        np.testing.assert_array_equal(hidden, rows[:, None] & columns)
        if hidden.any():
            height, width = rows.sum(), columns.sum()
            side = np.sqrt((0.02 + 0.18 * draws[1]) * hidden.size)
            assert height <= side * 2 ** (draws[2] - 0.5) + 1 and width <= side / 2 ** (draws[2] - 0.5) + 1
            assert hidden[int(draws[3] * IMAGE_HW[0]), int(draws[4] * IMAGE_HW[1])]
            shares.append(hidden.mean())
    assert max(shares) < 0.21 and np.mean(shares) > 0.05


def half_body_by_hand(view, points, visibility, lower, draws, probability, image_hw):
    labelled = [k for k in range(len(points)) if visibility[k] > 0]
    upper_half, lower_half = ([k for k in labelled if bool(lower[k]) == side] for side in (False, True))
    if draws[0] >= probability or len(labelled) <= 8:
        return view
    first, second = (upper_half, lower_half) if draws[1] < 0.69 else (lower_half, upper_half)
    chosen = first if len(first) > 2 else second
    if len(chosen) < 2:
        return view
    x, y = np.mean([points[k] for k in chosen], axis=0)
    width, height = np.ptp([points[k] for k in chosen], axis=0)
    width = 1.5 * max(width, height * image_hw[1] / image_hw[0], 1)
    return [x, y, width, width * image_hw[0] / image_hw[1]]


@pytest.mark.parametrize("share_labelled", [0.3, 0.6, 1.0])
def test_half_bodies_are_those_of_the_rule(share_labelled):
    rng = np.random.default_rng(3)
    rule, view = augment.Augment(half_body_probability=0.5), augment.View(BOX, 1.0, 0.0, False)
    changed = 0
    for _ in range(60):
        points = rng.uniform(0, 100, (17, 2)).astype(np.float32)
        visibility = (rng.random(17) < share_labelled) * rng.integers(1, 3, 17)
        draws = rng.random(2).astype(np.float32)
        person = augment.Person(points, visibility, COCO17.is_lower)
        found = augment.half_body(view, rule, given(half_body=draws), person)
        expected = half_body_by_hand(BOX.numpy(), points, visibility, COCO17.is_lower, draws, 0.5, IMAGE_HW)
        np.testing.assert_allclose(found.box, expected, rtol=1e-5)
        changed += not np.allclose(expected, BOX)
    assert (changed > 10) == (share_labelled > 0.5)
