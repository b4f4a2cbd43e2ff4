"""Poses: shapes, choosing, and the way to pictures, COCO results and tables."""

import csv
import io
import json

import numpy as np
import pytest

from kpzoo.errors import UserError
from kpzoo.images import read_image, write_image
from kpzoo.poses import Poses
from kpzoo.skeletons import COCO17, CROWDPOSE14


def some_poses(num_poses=3, skeleton=COCO17) -> Poses:
    random = np.random.default_rng(num_poses)
    return Poses(
        keypoints_xy=random.uniform(20, 80, (num_poses, skeleton.num_keypoints, 2)),
        keypoint_scores=random.uniform(0.5, 1, (num_poses, skeleton.num_keypoints)),
        scores=random.uniform(0, 1, num_poses),
        boxes_xywh=np.tile([20.0, 20.0, 60.0, 60.0], (num_poses, 1)),
        instance=np.arange(num_poses) % 2,
        skeleton=skeleton,
    )


@pytest.mark.parametrize("skeleton", [COCO17, CROWDPOSE14], ids=lambda skeleton: skeleton.name)
def test_no_poses_keep_their_shapes_and_pass_everything(skeleton):
    empty, image = Poses.empty(skeleton), np.full((50, 60, 3), 7, np.uint8)
    assert len(empty) == 0 and empty.keypoints_xy.shape == (0, skeleton.num_keypoints, 2)
    assert empty.boxes_xywh.shape == (0, 4) and empty.instance.dtype.kind == "i"
    assert empty.to_coco(1) == empty.to_csv("a.jpg") == []
    np.testing.assert_array_equal(empty.draw(image), image)
    assert len(Poses.concatenate([empty, empty])) == len(empty[[]]) == 0
    assert repr(empty) == f"Poses(0 of {skeleton.name}, {skeleton.num_keypoints} keypoints)"


@pytest.mark.parametrize(
    ("keep", "rows"),
    [
        (np.array([True, False, True]), [0, 2]),
        ([False, False, False], []),
        ([], []),
        ([2, 0, 0], [2, 0, 0]),
        (slice(1, None), [1, 2]),
        (-1, [2]),
        (np.int64(1), [1]),
    ],
)
def test_poses_are_chosen_by_mask_indices_slice_or_index(keep, rows):
    poses = some_poses()
    chosen = poses[keep]
    assert len(chosen) == len(rows) and chosen.skeleton == COCO17
    for name in ("keypoints_xy", "keypoint_scores", "scores", "boxes_xywh", "instance"):
        expected = [getattr(poses, name)[row].tolist() for row in rows]
        assert getattr(chosen, name).tolist() == expected


def test_poses_are_iterated_one_by_one_and_put_together_again():
    poses = some_poses()
    parts = list(poses)
    assert [len(part) for part in parts] == [1, 1, 1]
    np.testing.assert_array_equal(Poses.concatenate(parts).keypoints_xy, poses.keypoints_xy)


def test_what_does_not_fit_together_is_refused():
    for parts, received in [([], "0 parts"), ([some_poses(), some_poses(1, CROWDPOSE14)], "coco17', 'crowdpose14")]:
        with pytest.raises(UserError, match=received):
            Poses.concatenate(parts)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("keypoints_xy", np.zeros((3, 14, 2)), r"keypoints_xy of shape \(3, 17, 2\).*Received: \(3, 14, 2\)"),
        ("keypoints_xy", np.zeros((0,)), "Poses.empty"),
        ("keypoint_scores", np.zeros((3, 17, 1)), r"keypoint_scores of shape \(3, 17\)"),
        ("scores", np.zeros((2,)), r"scores of shape \(3,\)"),
        ("boxes_xywh", np.zeros((3, 5)), r"boxes_xywh of shape \(3, 4\)"),
        ("instance", np.zeros((3, 2)), r"instance of shape \(3,\)"),
    ],
)
def test_wrong_shapes_are_refused(name, array, reason):
    poses = some_poses()
    with pytest.raises(UserError, match=reason):
        Poses(**{**vars(poses), name: array})


def test_repr_names_count_skeleton_and_mean_score():
    poses = some_poses()
    assert repr(poses) == f"Poses(3 of coco17, 17 keypoints, mean score {sum(poses.scores) / 3:.2f})"


def test_coco_results_hold_every_number_exactly():
    poses = some_poses()
    results = json.loads(json.dumps(poses.to_coco(139, category_id=2), allow_nan=False))
    assert len(results) == 3
    for p, result in enumerate(results):
        assert (result["image_id"], result["category_id"], result["instance"]) == (139, 2, p % 2)
        assert result["score"] == poses.scores[p] and result["box_image_xywh"] == [20, 20, 60, 60]
        assert "bbox" not in result  # tools would measure the pose by it
        for k in range(17):
            x, y, score = result["keypoints"][3 * k : 3 * k + 3]
            assert [x, y] == poses.keypoints_xy[p, k].tolist() and score == poses.keypoint_scores[p, k]


@pytest.mark.parametrize(
    ("name", "at", "told"),
    [("keypoints_xy", (1, 4, 0), "keypoints"), ("scores", (1,), "scores"), ("boxes_xywh", (1, 3), "boxes")],
)
def test_numbers_that_json_cannot_hold_are_refused(name, at, told):
    poses = some_poses()
    getattr(poses, name)[at] = np.nan
    with pytest.raises(UserError, match=f"Pose 1 of image 'a.jpg' has {told} that are not finite"):
        poses.to_coco("a.jpg")


def test_csv_rows_fit_their_header():
    poses, file = some_poses(), io.StringIO()
    writer = csv.writer(file)
    writer.writerow(Poses.csv_header(COCO17))
    writer.writerows(poses.to_csv("a, b.jpg"))
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [row["image"] for row in rows] == ["a, b.jpg"] * 3
    assert [(row["pose"], row["instance"]) for row in rows] == [("0", "0"), ("1", "1"), ("2", "0")]
    assert float(rows[2]["right_ankle_y"]) == poses.keypoints_xy[2, 16, 1]
    assert float(rows[2]["nose_score"]) == poses.keypoint_scores[2, 0]
    assert None not in rows[0] and None not in rows[0].values()


def test_drawing_takes_files_and_arrays_and_writes_what_it_returns(tmp_path):
    photo = write_image(tmp_path / "photo.png", np.full((100, 100, 3), 90, np.uint8))
    picture = some_poses().draw(photo, tmp_path / "out.png")
    assert (picture != 90).any()
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), picture)
    np.testing.assert_array_equal(some_poses().draw(read_image(photo).astype(np.float32)), picture)
    assert (read_image(photo) == 90).all()


def test_boxes_and_joints_of_little_confidence_can_be_left_out():
    poses, image = some_poses(), np.full((100, 100, 3), 90, np.uint8)
    assert (poses.draw(image, boxes=False)[20, 20:80] != poses.draw(image)[20, 20:80]).any()
    np.testing.assert_array_equal(poses.draw(image, boxes=False, min_score=1.1), image)
