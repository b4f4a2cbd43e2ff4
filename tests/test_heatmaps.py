"""Labels against OpenCV and plain loops, and the round trip from keypoints to heatmaps and back."""

import cv2
import numpy as np
import pytest
import tensorflow as tf

from kpzoo import heatmaps
from kpzoo.heatmaps import CODECS, VISIBILITY
from kpzoo.skeletons import COCO17

SIZES = [(64, 64), (128, 96), (256, 192), (384, 288), (256, 256)]


def blurred_by_opencv(cell_xy, heatmap_hw, kernel):
    image = np.zeros(heatmap_hw, np.float64)
    image[cell_xy[1], cell_xy[0]] = 1
    image = cv2.GaussianBlur(image, (kernel, kernel), 0)
    return image / image.max() * 255


@pytest.mark.parametrize("cell_xy", [(20, 30), (0, 0), (47, 63), (1, 62), (5, 3)])
@pytest.mark.parametrize(("name", "kernels"), [("cpn_pytorch", (15, 11, 9, 7)), ("cpn_official", (7, 9, 11, 15))])
def test_blurred_labels_are_opencvs_gaussian_blur_of_a_one(name, kernels, cell_xy):
    keypoint = np.array([[[4 * cell_xy[0] + 1.7, 4 * cell_xy[1] + 3.2]]], np.float32)
    targets = heatmaps.encode(CODECS[name], keypoint, np.array([[2]]), (256, 192), num_levels=4)
    for level, kernel in enumerate(kernels):
        expected = blurred_by_opencv(cell_xy, (64, 48), kernel)
        np.testing.assert_allclose(targets["global_heatmaps"][0, level, :, :, 0], expected, atol=2e-4)
    np.testing.assert_allclose(targets["heatmaps"][0, :, :, 0], blurred_by_opencv(cell_xy, (64, 48), 7), atol=2e-4)


@pytest.mark.parametrize(("image_hw", "sigma"), [((256, 192), 2), ((384, 288), 3)])
@pytest.mark.parametrize("keypoint_xy", [(100.0, 90.0), (0.0, 0.0), (-6.5, 3.0), (191.0, 255.0), (93.9, 130.1)])
def test_gaussian_labels_equal_a_plain_loop(image_hw, sigma, keypoint_xy):
    height, width = image_hw[0] // 4, image_hw[1] // 4
    centre_x, centre_y = (int(value / 4 + 0.5) for value in keypoint_xy)
    expected = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            if abs(x - centre_x) <= 3 * sigma and abs(y - centre_y) <= 3 * sigma:
                expected[y, x] = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * sigma**2))
    targets = heatmaps.encode(CODECS["hrnet"], np.array([[keypoint_xy]], np.float32), np.array([[1]]), image_hw)
    np.testing.assert_allclose(targets["heatmaps"][0, :, :, 0], expected, atol=1e-6)
    assert targets["weights"].numpy().tolist() == [[1.0]]


@pytest.mark.parametrize("name", CODECS)
def test_a_keypoint_far_outside_draws_nothing_and_counts_nothing(name):
    far = np.array([[[-300.0, 40.0], [50.0, 5000.0]]], np.float32)
    targets = heatmaps.encode(CODECS[name], far, np.array([[2, 2]]), (256, 192))
    assert targets["weights"].numpy().tolist() == [[0.0, 0.0]]
    assert not targets["heatmaps"].numpy().any()


# rule -> for v = 0, 1, 2: is a label drawn in the final and in the level maps, and does the loss count them
RULES = {
    "labelled": ([0, 1, 1], [0, 1, 1], [0, 1, 1], [0, 1, 1]),
    "cpn": ([0, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]),
    "visible": ([0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]),
    "hidden_empty": ([0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 1]),
}


@pytest.mark.parametrize("rule", VISIBILITY)
def test_visibility_rules_draw_and_count_what_they_say(rule):
    points = np.full((1, 3, 2), 60.0, np.float32)
    codec = CODECS["cpn_pytorch"]
    targets = heatmaps.encode(codec, points, np.array([[0, 1, 2]]), (128, 96), 4, visibility_rule=rule)
    found = (
        (targets["heatmaps"].numpy().max(axis=(1, 2)) > 0)[0].astype(int).tolist(),
        targets["weights"].numpy()[0].astype(int).tolist(),
        (targets["global_heatmaps"].numpy().max(axis=(2, 3)) > 0)[0, 0].astype(int).tolist(),
        targets["global_weights"].numpy()[0, 3].astype(int).tolist(),
    )
    assert found == RULES[rule]


@pytest.mark.parametrize("image_hw", SIZES)
@pytest.mark.parametrize("name", CODECS)
def test_decoding_a_label_gives_the_keypoint_back_within_half_a_cell(name, image_hw):
    codec = CODECS[name]
    margin = 24
    points = np.random.default_rng(1).uniform(margin, np.array(image_hw[::-1]) - margin, (50, 17, 2)).astype(np.float32)
    targets = heatmaps.encode(codec, points, np.full((50, 17), 2), image_hw)
    decoded, scores = heatmaps.decode(codec, targets["heatmaps"])
    # Half a cell of quantisation (2 pixels) and, for CPN, the quarter cell (1 pixel) that its decoder always moves.
    assert np.abs(decoded - points).max() <= 2.0 + (1.0 if codec.decoder == "second_peak" else 0.01)
    np.testing.assert_allclose(scores, 1.0, atol=1e-6 if codec.decoder == "sign" else 0.4)


@pytest.mark.parametrize("image_hw", SIZES)
def test_the_exact_codec_is_exact_to_a_tenth_of_a_cell(image_hw):
    points = np.random.default_rng(2).uniform(16, np.array(image_hw[::-1]) - 16, (50, 17, 2)).astype(np.float32)
    codec = CODECS["cpn_exact"]
    decoded, scores = heatmaps.decode(codec, heatmaps.encode(codec, points, np.full((50, 17), 2), image_hw)["heatmaps"])
    assert np.abs(decoded - points).max() < 0.4
    assert scores.numpy().min() > 0.6, "the value at the nearest cell"


def test_the_log_quadratic_decoder_finds_the_top_of_a_turned_gaussian():
    covariance, top = np.array([[9.0, 3.0], [3.0, 5.0]]), np.array([12.3, 15.8])
    offsets = np.stack(np.meshgrid(np.arange(24), np.arange(32)), axis=-1) - top
    maps = 200 * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", offsets, np.linalg.inv(covariance), offsets))
    decoded, _ = heatmaps.decode(CODECS["cpn_exact"], maps[None, :, :, None].astype(np.float32))
    np.testing.assert_allclose(decoded[0, 0], 4 * top + 2, atol=0.05)
    saddle = np.full((1, 32, 24, 1), 1.0, np.float32)
    saddle[0, 10, 10:13, 0] = saddle[0, 9:12, 11, 0] = 2.0
    decoded, _ = heatmaps.decode(CODECS["cpn_exact"], saddle)
    np.testing.assert_allclose(decoded[0, 0], [4 * 11 + 2, 4 * 10 + 2], atol=1e-4)


def test_sure_keypoints_count_more_in_the_score_of_an_exact_pose():
    found = heatmaps.pose_scores(CODECS["cpn_exact"], np.array([[0.8, 0.2], [0.5, 0.5], [0.0, 0.0]]), np.ones(3))
    np.testing.assert_allclose(found, [0.68, 0.5, 0.0])


def test_the_sign_decoder_moves_a_quarter_cell_towards_the_higher_neighbour():
    maps = np.zeros((1, 16, 12, 1), np.float32)
    maps[0, 8, 6, 0], maps[0, 8, 7, 0], maps[0, 7, 6, 0] = 1.0, 0.6, 0.3
    decoded, scores = heatmaps.decode(CODECS["hrnet"], maps)
    np.testing.assert_allclose(decoded[0, 0], [4 * 6.25, 4 * 7.75])
    np.testing.assert_allclose(scores, [[1.0]])


def test_the_second_peak_decoder_follows_the_blurred_map_of_opencv():
    rng = np.random.default_rng(3)
    smooth = cv2.GaussianBlur(rng.random((64, 48)).astype(np.float32), (9, 9), 0)[None, :, :, None] * 255
    decoded, scores = heatmaps.decode(CODECS["cpn_official"], smooth)
    padded = cv2.GaussianBlur(np.pad(smooth[0, :, :, 0], 10), (21, 21), 0)[10:-10, 10:-10]
    first = np.unravel_index(padded.argmax(), padded.shape)
    padded[first] = 0
    second = np.unravel_index(padded.argmax(), padded.shape)
    step = np.array(second) - first
    place = np.clip(np.array(first) + 0.25 * step / np.linalg.norm(step), 0, (63, 47))
    np.testing.assert_allclose(decoded[0, 0], 4 * place[::-1] + 2, atol=1e-4)
    row, column = np.round(place).astype(int)
    np.testing.assert_allclose(scores[0, 0], smooth[0, row, column, 0] / 255, rtol=1e-6)


def test_empty_heatmaps_decode_to_the_corner_with_score_zero():
    for codec in CODECS.values():
        decoded, scores = heatmaps.decode(codec, np.zeros((2, 16, 12, 3), np.float32))
        assert np.isfinite(decoded).all()
        assert not scores.numpy().any()


def test_leading_axes_are_kept():
    decoded, scores = heatmaps.decode(CODECS["hrnet"], np.random.default_rng(0).random((2, 3, 16, 12, 5)))
    assert decoded.shape == (2, 3, 5, 2)
    assert scores.shape == (2, 3, 5)


@pytest.mark.parametrize("name", CODECS)
def test_flipping_twice_is_the_identity(name):
    codec = CODECS[name]
    maps = tf.random.stateless_uniform((2, 16, 12, 17), (0, 1))
    back = maps
    for _ in range(2):
        zeros = tf.zeros_like(back)
        back = 2 * heatmaps.merge_flipped(codec, zeros, back, COCO17.flip_order)
    if codec.flip_shift:  # each turn moves by one cell, in opposite directions of the picture
        np.testing.assert_allclose(back[:, :, 1:-1], maps[:, :, 1:-1])
    else:
        np.testing.assert_allclose(back, maps)


@pytest.mark.parametrize("name", CODECS)
def test_the_flip_test_of_a_mirrored_label_lands_on_the_label(name):
    """A perfect answer for the mirrored crop may move a keypoint by its quantisation to cells, and not by more."""
    codec = CODECS[name]
    width = 192
    points = np.random.default_rng(2).uniform(40, 150, (8, 17, 2)).astype(np.float32)
    mirrored = points[:, COCO17.flip_order] * [-1, 1] + [width - 1, 0]
    labels, of_mirrored = (
        heatmaps.encode(codec, p.astype(np.float32), np.full((8, 17), 2), (256, width))["heatmaps"]
        for p in (points, mirrored)
    )
    turned = 2 * heatmaps.merge_flipped(codec, tf.zeros_like(labels), of_mirrored, COCO17.flip_order)
    moved = heatmaps.decode(codec, turned)[0] - heatmaps.decode(codec, labels)[0]
    assert np.abs(moved).max() <= 4.0
    assert abs(np.mean(moved)) < 1.0


def test_pose_scores_follow_each_school():
    keypoint_scores = np.array([[0.1, 0.5, 0.9], [0.0, 0.1, 0.2]])
    boxes = np.array([0.5, 1.0])
    np.testing.assert_allclose(
        heatmaps.pose_scores(CODECS["hrnet"], keypoint_scores, boxes), [0.5 * (0.5 + 0.9) / 2, 0.0]
    )
    np.testing.assert_allclose(
        heatmaps.pose_scores(CODECS["cpn_official"], keypoint_scores, boxes), [0.5 * 1.0 / 1.5, 0.6 / 1.5]
    )


def test_an_unknown_visibility_rule_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'hidden_empty'"):
        heatmaps.encode(CODECS["hrnet"], np.zeros((1, 1, 2)), np.ones((1, 1)), (64, 48), visibility_rule="hidden_emty")
