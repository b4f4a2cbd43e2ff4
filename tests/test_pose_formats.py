"""Poses in the formats of other tools, and back."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from test_poses import some_poses

from kpzoo.errors import UserError
from kpzoo.pose_formats import BODY_25
from kpzoo.poses import Poses
from kpzoo.skeletons import COCO17, CROWDPOSE14, Skeleton


def with_identities(poses: Poses, ids) -> Poses:
    return Poses(**{**vars(poses), "track_ids": ids})


@pytest.mark.parametrize("ids", [None, [4, -1, 2]])
@pytest.mark.parametrize("skeleton", [COCO17, CROWDPOSE14], ids=lambda skeleton: skeleton.name)
def test_poses_come_back_from_coco_exactly(skeleton, ids):
    poses = with_identities(some_poses(3, skeleton), ids)
    back = Poses.from_coco(json.loads(json.dumps(poses.to_coco(7))), skeleton)
    for name, array in vars(poses).items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(getattr(back, name), array)
    assert (back.track_ids is None) == (ids is None)
    assert len(Poses.from_coco([], skeleton)) == 0


def test_annotations_become_poses_with_their_boxes():
    joints = [[10, 20, 2]] * 16 + [[30, 60, 1]]
    row = {"image_id": 1, "keypoints": sum(joints, []), "bbox": [1, 2, 3, 4]}
    poses = Poses.from_coco([row], COCO17)
    assert poses.boxes_xywh.tolist() == [[1, 2, 3, 4]] and poses.scores.tolist() == [1.0]
    row.pop("bbox")
    assert Poses.from_coco([row], COCO17).boxes_xywh.tolist() == [[10, 20, 20, 40]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"keypoints": [1, 2, 3]}], "Row 0 needs `keypoints` of 51 numbers.*Received: 3 numbers"),
        ([{}], "Received: 0 numbers"),
        ([{"image_id": 1, "keypoints": [0] * 51}, {"image_id": 2, "keypoints": [0] * 51}], "rows of 2 images"),
    ],
)
def test_rows_that_are_no_poses_are_refused(rows, message):
    with pytest.raises(UserError, match=message):
        Poses.from_coco(rows, COCO17)


def test_identities_are_part_of_every_form():
    poses = with_identities(some_poses(), [4, -1, 2])
    assert [row["track_id"] for row in poses.to_coco(1)] == [4, None, 2]
    header = Poses.csv_header(COCO17, tracked=True)
    assert [row[header.index("track_id")] for row in poses.to_csv(1)] == [4, None, 2]
    assert poses[[2, 0]].track_ids.tolist() == [2, 4]
    assert Poses.concatenate([poses, some_poses(1)]).track_ids.tolist() == [4, -1, 2, -1]
    image = np.zeros((100, 100, 3), np.uint8)
    assert (poses.draw(image) != poses.draw(image, colour_by="side")).any()
    np.testing.assert_array_equal(poses.draw(image), poses.draw(image, colour_by="track"))
    with pytest.raises(UserError, match="Unknown meaning of colours"):
        some_poses().draw(image, colour_by="track")


def test_fiftyone_labels_are_shares_of_the_image():
    poses = with_identities(some_poses(), [4, -1, 2])
    poses.keypoints_xy[0, 0] = (99.5, 49.5)
    poses.keypoints_xy[0, 1] = np.nan
    label = json.loads(json.dumps(poses.to_fiftyone((100, 200))))
    assert label["_cls"] == "Keypoints" and [one["_cls"] for one in label["keypoints"]] == ["Keypoint"] * 3
    first = label["keypoints"][0]
    assert first["points"][0] == [0.5, 0.5] and np.isnan(first["points"][1]).all()
    assert len(first["points"]) == len(first["confidence"]) == 17 and first["label"] == "person"
    assert [one.get("index") for one in label["keypoints"]] == [4, None, 2]
    with pytest.raises(UserError, match="in pixels. Received: "):
        poses.to_fiftyone((0, 200))


def test_openpose_files_have_25_keypoints_in_its_order():
    poses = some_poses()
    content = json.loads(json.dumps(poses.to_openpose()))
    joints = np.array(content["people"][1]["pose_keypoints_2d"]).reshape(25, 3)
    assert content["version"] == 1.3 and len(content["people"]) == 3 and content["people"][0]["person_id"] == [-1]
    for place, name in ((0, "nose"), (2, "right_shoulder"), (14, "left_ankle"), (16, "left_eye"), (17, "right_ear")):
        assert BODY_25[place] == name
        k = COCO17.keypoints.index(name)
        assert joints[place].tolist() == [*poses.keypoints_xy[1, k], poses.keypoint_scores[1, k]]
    for place, joint in ((1, "shoulder"), (8, "hip")):
        both = [COCO17.keypoints.index(f"{side}_{joint}") for side in ("left", "right")]
        np.testing.assert_allclose(joints[place, :2], poses.keypoints_xy[1, both].mean(0))
        assert joints[place, 2] == poses.keypoint_scores[1, both].min()
    assert (joints[19:] == 0).all()
    crowd = np.array(some_poses(1, CROWDPOSE14).to_openpose()["people"][0]["pose_keypoints_2d"]).reshape(25, 3)
    assert (crowd[[0, 15, 16, 17, 18]] == 0).all() and (crowd[1] > 0).all()
    face = Skeleton("face", ("nose", "chin"), (), (0.1, 0.1), ())
    with pytest.raises(UserError, match="needs shoulders and hips"):
        Poses.empty(face).to_openpose()


def with_covariances(poses: Poses) -> Poses:
    return Poses(**{**vars(poses), "covariance_xy": np.tile(9 * np.eye(2), (len(poses), 17, 1, 1))})


def test_supervision_gets_what_its_class_takes(monkeypatch):
    """By a stand-in with the fields of both generations of the class. The older takes no arrays without rows."""
    for name, more in (("confidence", {}), ("keypoint_confidence", {"detection_confidence": 0})):
        module = ModuleType("supervision")
        module.KeyPoints = type("KeyPoints", (SimpleNamespace,), {"__dataclass_fields__": {"xy": 0, name: 0, **more}})
        module.KeyPoints.empty = classmethod(lambda cls: cls(xy=np.empty((0, 0, 2), np.float32)))
        monkeypatch.setitem(sys.modules, "supervision", module)
        poses = with_covariances(with_identities(some_poses(), [4, -1, 2]))
        found = poses.to_supervision()
        np.testing.assert_allclose(found.xy, poses.keypoints_xy, rtol=1e-6)
        np.testing.assert_allclose(getattr(found, name), poses.keypoint_scores, rtol=1e-6)
        assert found.data["track_id"].tolist() == [4, -1, 2] and found.class_id.tolist() == [0, 0, 0]
        np.testing.assert_array_equal(found.data["covariance"], poses.covariance_xy)
        if more:
            np.testing.assert_allclose(found.detection_confidence, poses.scores, rtol=1e-6)
        nobody = poses[[]].to_supervision()
        assert nobody.xy.shape == (0, 17 if more else 0, 2) and nobody.data.keys() == found.data.keys()


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tracked", [False, True])
def test_supervision_draws_and_selects_poses(count, tracked):
    sv = pytest.importorskip("supervision", minversion="0.29")
    poses = with_covariances(some_poses(count))
    poses = with_identities(poses, np.arange(count)) if tracked else poses
    poses.keypoints_xy[:, 0] = np.nan
    found, photo = poses.to_supervision(), np.full((100, 100, 3), 128, np.uint8)
    edges = [tuple(COCO17.keypoints.index(name) + 1 for name in link) for link in COCO17.links]
    annotators = [sv.VertexAnnotator(), sv.EdgeAnnotator(edges=edges), sv.VertexLabelAnnotator()]
    annotators += [sv.VertexEllipseAreaAnnotator(), sv.VertexEllipseOutlineAnnotator(), sv.VertexEllipseHaloAnnotator()]
    for annotator in annotators:
        assert (annotator.annotate(photo.copy(), found) != photo).any() == (count > 0)
    boxes = found.as_detections()
    assert len(boxes) == count and (boxes.xyxy > 0).all()
    np.testing.assert_allclose(boxes.confidence, poses.scores, rtol=1e-6)
    first = found[np.arange(count) < 1]
    assert len(first) == min(count, 1) and first.data["covariance"].shape == (len(first), 17, 2, 2)


@pytest.mark.parametrize("name", ["supervision", "pandas"])
def test_a_missing_library_is_named_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"Run `pip install {name}`"):
        getattr(some_poses(), f"to_{name}")()


def test_pandas_tables_have_the_columns_of_csv_files():
    import pandas

    poses = with_identities(some_poses(), [4, -1, 2])
    table = poses.to_pandas("a.jpg")
    assert list(table.columns) == Poses.csv_header(COCO17, tracked=True) and len(table) == 3
    assert table["track_id"].tolist()[::2] == [4, 2] and pandas.isna(table["track_id"][1])
    assert "track_id" not in some_poses().to_pandas()
    for image in ("a.jpg", 7):
        kinds = poses.to_pandas(image).dtypes
        assert poses[[]].to_pandas(image).dtypes.equals(kinds) and kinds["nose_x"] == "float64"
