import json
import math

import numpy as np
import pytest
from conftest import SHARED

from kpzoo import nms
from kpzoo.errors import UserError
from kpzoo.skeletons import COCO17, CROWDPOSE14

SIGMAS = np.array(COCO17.sigmas)


def crowd(num_poses, num_keypoints=17, seed=0, spread=3.0):
    """Poses in clusters, so that many are nearly the same."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(50, 400, (max(1, num_poses // 3), num_keypoints, 2))
    keypoints_xy = centres[rng.integers(len(centres), size=num_poses)]
    keypoints_xy = keypoints_xy + rng.normal(0, spread, keypoints_xy.shape)
    return keypoints_xy, rng.random(num_poses), rng.uniform(2e3, 2e4, num_poses), rng.random((num_poses, num_keypoints))


def loop_oks(a, b, area_a, area_b, sigmas, visible=None):
    total, count = 0.0, 0
    for k, sigma in enumerate(sigmas):
        if visible is None or visible[k]:
            squared = (a[k][0] - b[k][0]) ** 2 + (a[k][1] - b[k][1]) ** 2
            total += math.exp(-squared / (2 * (2 * sigma) ** 2 * ((area_a + area_b) / 2 + 2**-52)))
            count += 1
    return total / count if count else 0.0


def loop_nms(order, similarity, threshold):
    kept, order = [], list(order)
    while order:
        best = order.pop(0)
        kept.append(best)
        order = [other for other in order if similarity(best, other) <= threshold]
    return kept


def loop_iou(a, b):
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    union = a[2] * a[3] + b[2] * b[3] - width * height
    return width * height / union if union else 0.0


def test_nothing_in_gives_nothing_out():
    no_poses = np.empty((0, 17, 2)), np.empty(0), np.empty(0), SIGMAS
    assert nms.oks_nms(*no_poses).shape == (0,)
    assert [part.shape for part in nms.soft_oks_nms(*no_poses)] == [(0,), (0,)]
    assert nms.box_nms(np.empty((0, 4)), np.empty(0)).shape == (0,)
    assert [part.shape for part in nms.soft_box_nms(np.empty((0, 4)), np.empty(0))] == [(0,), (0,)]
    assert nms.oks_matrix(np.empty((0, 17, 2)), np.empty(0), SIGMAS).shape == (0, 0)
    assert nms.iou_matrix(np.empty((0, 4)), np.empty((3, 4))).shape == (0, 3)


def test_oks_of_one_offset_keypoint_is_the_formula_worked_out_by_hand():
    pose = np.zeros((17, 2))
    other = pose.copy()
    other[0] = 3, 4
    expected = (16 + math.exp(-25 / (2 * (2 * 0.026) ** 2 * 5000))) / 17
    assert nms.oks(pose, np.stack([pose, other]), 5000.0, SIGMAS) == pytest.approx([1.0, expected], abs=1e-12)


@pytest.mark.parametrize("visible", [False, True])
def test_oks_matrix_equals_a_plain_loop(visible):
    keypoints_xy, _, areas, keypoint_scores = crowd(9)
    seen = keypoint_scores > 0.6
    seen[4] = False
    matrix = nms.oks_matrix(keypoints_xy, areas, SIGMAS, visible=seen if visible else None)
    for i in range(9):
        for j in range(9):
            expected = loop_oks(
                keypoints_xy[i], keypoints_xy[j], areas[i], areas[j], SIGMAS, seen[j] if visible else None
            )
            assert matrix[i, j] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_poses", [1, 2, 30, 60])
@pytest.mark.parametrize("threshold", [0.9, 0.5, 0.1])
@pytest.mark.parametrize("block", [nms.BLOCK, 7])
def test_oks_nms_equals_a_plain_loop_in_blocks_of_any_size(num_poses, threshold, block, monkeypatch):
    monkeypatch.setattr(nms, "BLOCK", block)
    keypoints_xy, scores, areas, _ = crowd(num_poses, seed=num_poses, spread=6.0)
    kept = nms.oks_nms(keypoints_xy, scores, areas, SIGMAS, threshold)
    expected = loop_nms(
        sorted(range(num_poses), key=lambda i: -scores[i]),
        lambda i, j: loop_oks(keypoints_xy[i], keypoints_xy[j], areas[i], areas[j], SIGMAS),
        threshold,
    )
    assert kept.tolist() == expected


def test_oks_nms_keeps_everything_when_nothing_overlaps_best_first():
    keypoints_xy = np.arange(4.0)[:, None, None] * 1000 + np.zeros((4, 17, 2))
    kept = nms.oks_nms(keypoints_xy, np.array([0.1, 0.9, 0.5, 0.7]), np.full(4, 1e3), SIGMAS, 0.01)
    assert kept.tolist() == [1, 3, 2, 0]


def test_oks_nms_keeps_the_first_of_equal_poses_with_equal_scores():
    keypoints_xy = np.zeros((3, 17, 2))
    assert nms.oks_nms(keypoints_xy, np.full(3, 0.5), np.full(3, 1e3), SIGMAS).tolist() == [0]


def test_a_pose_exactly_at_the_threshold_stays():
    keypoints_xy = np.zeros((2, 17, 2))
    assert nms.oks_nms(keypoints_xy, np.array([0.9, 0.8]), np.full(2, 1e3), SIGMAS, threshold=1.0).tolist() == [0, 1]


def test_keypoints_hidden_in_the_worse_pose_do_not_count():
    better, worse = np.zeros((17, 2)), np.zeros((17, 2))
    worse[:9] = 1000.0
    worse_scores = np.r_[np.zeros(9), np.ones(8)]
    poses = np.stack([better, worse]), np.array([0.9, 0.8]), np.full(2, 1e3), SIGMAS, 0.9
    shown = np.stack([np.zeros(17), worse_scores])
    assert nms.oks_nms(*poses).tolist() == [0, 1]
    assert nms.oks_nms(*poses, keypoint_scores=shown, min_keypoint_score=0.2).tolist() == [0]
    assert nms.oks_nms(*poses, keypoint_scores=shown * 0, min_keypoint_score=0.2).tolist() == [0, 1]


@pytest.mark.skipif(not SHARED.exists(), reason="needs the reference data beside the project")
def test_oks_nms_keeps_what_the_reference_keeps(shared):
    cases = json.loads((shared / "data/eval_reference/oks_nms/cases.json").read_text())["cases"]
    assert len(cases) == 18
    for case in cases:
        triples = np.array([pose["keypoints"] for pose in case["poses"]], float).reshape(-1, case["num_joints"], 3)
        scores = np.array([pose["score"] for pose in case["poses"]])
        areas = np.array([pose["area"] for pose in case["poses"]])
        sigmas, min_score = np.array(case["sigmas"]), case["in_vis_thre"]
        for threshold, expected in case["keep"].items():
            kept = nms.oks_nms(
                triples[..., :2],
                scores,
                areas,
                sigmas,
                float(threshold),
                keypoint_scores=triples[..., 2],
                min_keypoint_score=min_score,
            )
            assert kept.tolist() == expected
        if "oks" in case:
            visible = None if min_score is None else triples[..., 2] > min_score
            matrix = nms.oks_matrix(triples[..., :2], areas, sigmas, visible=visible)
            np.testing.assert_allclose(matrix, np.array(case["oks"]), rtol=0, atol=1e-12)


def test_soft_oks_nms_equals_a_plain_loop():
    keypoints_xy, scores, areas, _ = crowd(25, seed=3)
    kept, lowered = nms.soft_oks_nms(keypoints_xy, scores, areas, SIGMAS, 0.9)
    left, expected = dict(enumerate(scores)), []
    while left and len(expected) < 20:
        best = max(left, key=left.get)
        expected.append((best, left.pop(best)))
        for i in left:
            similarity = loop_oks(keypoints_xy[best], keypoints_xy[i], areas[best], areas[i], SIGMAS)
            left[i] *= math.exp(-(similarity**2) / 0.9)
    assert kept.tolist() == [index for index, _ in expected]
    assert lowered == pytest.approx([score for _, score in expected], abs=1e-12)


def test_soft_oks_nms_leaves_single_poses_their_score_and_the_input_unchanged():
    keypoints_xy = np.arange(2.0)[:, None, None] * 1000 + np.zeros((2, 14, 2))
    scores = np.array([0.4, 0.6])
    kept, lowered = nms.soft_oks_nms(keypoints_xy, scores, np.full(2, 1e3), np.array(CROWDPOSE14.sigmas))
    assert kept.tolist() == [1, 0] and lowered.tolist() == [0.6, 0.4] and scores.tolist() == [0.4, 0.6]
    assert len(nms.soft_oks_nms(keypoints_xy, scores, np.full(2, 1e3), np.full(14, 0.05), max_poses=1)[0]) == 1


def boxes(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.c_[rng.uniform(0, 60, (count, 2)), rng.uniform(5, 50, (count, 2))], rng.random(count)


def test_iou_matrix_equals_a_plain_loop_and_is_zero_for_flat_boxes():
    first, second = boxes(12)[0], boxes(9, seed=1)[0]
    first[3, 2:] = 0
    second[4, 2:] = 0
    matrix = nms.iou_matrix(first, second)
    assert matrix == pytest.approx(np.array([[loop_iou(a, b) for b in second] for a in first]), abs=1e-12)
    assert matrix[3, 4] == 0


@pytest.mark.parametrize("block", [nms.BLOCK, 5])
def test_box_nms_equals_a_plain_loop(block, monkeypatch):
    monkeypatch.setattr(nms, "BLOCK", block)
    boxes_xywh, scores = boxes(40)
    for threshold in (0.7, 0.5, 0.3, 0.0):
        expected = loop_nms(
            sorted(range(40), key=lambda i: -scores[i]), lambda i, j: loop_iou(boxes_xywh[i], boxes_xywh[j]), threshold
        )
        assert nms.box_nms(boxes_xywh, scores, threshold).tolist() == expected


@pytest.mark.parametrize(
    ("method", "decay"),
    [("linear", lambda iou: 1 - iou if iou > 0.3 else 1), ("gaussian", lambda iou: math.exp(-(iou**2) / 0.5))],
)
def test_soft_box_nms_equals_a_plain_loop(method, decay):
    boxes_xywh, scores = boxes(40)
    kept, lowered = nms.soft_box_nms(boxes_xywh, scores, method, min_score=0.05)
    left, expected = dict(enumerate(scores)), []
    while left and max(left.values()) >= 0.05:
        best = max(left, key=left.get)
        expected.append((best, left.pop(best)))
        left = {i: score * decay(loop_iou(boxes_xywh[best], boxes_xywh[i])) for i, score in left.items()}
    assert 0 < len(expected) < 40
    assert kept.tolist() == [index for index, _ in expected]
    assert lowered == pytest.approx([score for _, score in expected], abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_box_suppression_equals_that_of_tensorflow(seed):
    """TensorFlow halves the exponent of the Gaussian, so its sigma is half of ours, and it counts corners y, x."""
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    boxes_xywh = np.c_[rng.uniform(0, 60, (50, 2)), rng.uniform(10, 50, (50, 2))].astype(np.float32)
    scores = rng.permutation(np.linspace(0.1, 1, 50)).astype(np.float32)
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)[:, [1, 0, 3, 2]]
    suppress = tf.image.non_max_suppression_with_scores
    for threshold in (0.3, 0.5, 0.7):
        kept, _ = suppress(corners, scores, 50, iou_threshold=threshold)
        assert nms.box_nms(boxes_xywh, scores, threshold).tolist() == kept.numpy().tolist()
    for sigma in (0.3, 0.5):
        kept, lowered = suppress(corners, scores, 50, iou_threshold=1.0, score_threshold=0.05, soft_nms_sigma=sigma / 2)
        ours, ours_lowered = nms.soft_box_nms(boxes_xywh, scores, "gaussian", sigma=sigma, min_score=0.05)
        assert ours.tolist() == kept.numpy().tolist()
        assert 5 < len(ours) < 50
        np.testing.assert_allclose(ours_lowered, lowered, rtol=1e-5)


POSES = dict(keypoints_xy=np.zeros((2, 17, 2)), scores=np.ones(2), areas=np.ones(2), sigmas=SIGMAS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(scores=np.array([1.0, np.nan])), "`scores` must be finite. Received: nan at index 1"),
        (dict(areas=np.array([1.0, -2.0])), "`areas` must not be negative. Received: -2.0 at index 1"),
        (
            dict(keypoints_xy=np.zeros((2, 14, 2))),
            r"`keypoints_xy` must have shape \(2, 17, 2\). Received: \(2, 14, 2\)",
        ),
        (dict(min_keypoint_score=0.2), "needs `keypoint_scores` of shape"),
    ],
)
def test_oks_nms_names_what_is_wrong_with_its_input(change, message):
    with pytest.raises(UserError, match=message):
        nms.oks_nms(**{**POSES, **change})


def test_box_nms_names_the_negative_box_and_the_unknown_method():
    with pytest.raises(UserError, match="at index 1"):
        nms.box_nms(np.array([[0, 0, 1, 1], [0, 0, -1, 1]]), np.ones(2))
    with pytest.raises(UserError, match="'linear'"):
        nms.soft_box_nms(np.zeros((1, 4)), np.ones(1), "linea")
