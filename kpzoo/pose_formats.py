"""Poses in the formats of other tools; the methods of `kpzoo.Poses` call these functions.

The tools themselves are imported only where their classes are returned, and are no requirements of kpzoo.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kpzoo.errors import UserError

# OpenPose's order of 25 keypoints (doc/02_output.md of CMU-Perceptual-Computing-Lab/openpose), by the names of the COCO
# keypoints. Its neck is the middle of the shoulders, its mid hip the middle of the hips; the last six are of the feet,
# which COCO does not label.
BODY_25 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye",
    "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel",
)  # fmt: skip
_MIDDLES = {"neck": ("left_shoulder", "right_shoulder"), "mid_hip": ("left_hip", "right_hip")}


def to_supervision(poses):
    """Returns `supervision.KeyPoints`: points without a position that is finite are (0, 0), as there."""
    try:
        import supervision
    except ImportError as error:
        raise UserError(f"`to_supervision` needs supervision ({error}). Run `pip install supervision`.") from None
    data = {"class_name": np.full(len(poses), "person"), "score": poses.scores}
    data |= {"instance": poses.instance, "box_xywh": poses.boxes_xywh}
    data |= {} if poses.track_ids is None else {"track_id": poses.track_ids}
    data |= {} if poses.covariance_xy is None else {"covariance": poses.covariance_xy}  # the name of its annotators
    known = {"class_id": np.zeros(len(poses), int), "data": data}
    known["xy"] = np.where(np.isfinite(poses.keypoints_xy), poses.keypoints_xy, 0.0).astype(np.float32)
    scores = poses.keypoint_scores.astype(np.float32)
    if "keypoint_confidence" in getattr(supervision.KeyPoints, "__dataclass_fields__", {}):
        known["detection_confidence"] = poses.scores.astype(np.float32)
        return supervision.KeyPoints(keypoint_confidence=scores, **known)
    if len(poses):  # until 0.28
        return supervision.KeyPoints(confidence=scores, **known)
    found = supervision.KeyPoints.empty()  # until 0.28, the class refuses other arrays without rows
    found.data = data
    return found


def to_pandas(poses, image: str | int):
    """Returns a `pandas.DataFrame` with the columns of `Poses.csv_header` and a row per pose."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(f"`to_pandas` needs pandas ({error}). Run `pip install pandas`.") from None
    header = poses.csv_header(poses.skeleton, poses.track_ids is not None, poses.covariance_xy is not None)
    table = pandas.DataFrame(poses.to_csv(image), columns=header)
    kinds = dict.fromkeys(header, "float64") | {"image": pandas.Series([image]).dtype, "pose": int, "instance": int}
    kinds |= {"track_id": "Int64"} if "track_id" in table else {}
    return table.astype(kinds)  # also without rows, which `pandas.concat` looks at


def from_coco(rows: Sequence[Mapping], skeleton) -> dict:
    """Returns the arguments of `Poses` for the results or the annotations of one image.

    Args:
        rows: Dicts with `keypoints` [x, y, score] * K. `score` is 1.0 if it is missing, `instance` 0. The box is
            `box_image_xywh`, else `bbox`, else the extent of the keypoints. `covariance_xy` is [xx, xy, yy] * K.
        skeleton: Skeleton of the K keypoints.
    """
    images = {row.get("image_id") for row in rows}
    if len(images) > 1:
        raise UserError(f"Poses are those of one image. Received: rows of {len(images)} images.")
    for number, row in enumerate(rows):
        count = len(row.get("keypoints", ()))
        if count != 3 * skeleton.num_keypoints:
            raise UserError(
                f"Row {number} needs `keypoints` of {3 * skeleton.num_keypoints} numbers, x, y and score of the "
                f"{skeleton.num_keypoints} keypoints of {skeleton.name!r}. Received: {count} numbers."
            )
    joints = np.array([row["keypoints"] for row in rows], float).reshape(-1, skeleton.num_keypoints, 3)
    boxes = [_box(row, points) for row, points in zip(rows, joints, strict=True)]
    ids = [row.get("track_id") for row in rows]
    known = any("track_id" in row for row in rows)
    return {
        "keypoints_xy": joints[..., :2],
        "keypoint_scores": joints[..., 2],
        "scores": np.array([row.get("score", 1.0) for row in rows], float),
        "boxes_xywh": np.array(boxes, float).reshape(-1, 4),
        "instance": np.array([row.get("instance", 0) for row in rows], int),
        "skeleton": skeleton,
        "track_ids": np.array([-1 if one is None else one for one in ids], int) if known else None,
        "covariance_xy": _covariances(rows, skeleton) if any("covariance_xy" in row for row in rows) else None,
    }


def _covariances(rows: Sequence[Mapping], skeleton) -> np.ndarray:
    """Returns (P, K, 2, 2) covariances, NaN for rows without."""
    count = 3 * skeleton.num_keypoints
    given = [row.get("covariance_xy") for row in rows]
    for number, numbers in enumerate(given):
        if numbers is not None and len(numbers) != count:
            raise UserError(
                f"Row {number} needs `covariance_xy` of {count} numbers, xx, xy and yy of the {skeleton.num_keypoints} "
                f"keypoints of {skeleton.name!r}. Received: {len(numbers)} numbers."
            )
    flat = np.array([[np.nan] * count if one is None else one for one in given], float)
    return flat.reshape(len(rows), -1, 3)[..., [[0, 1], [1, 2]]]


def upper_triangles(covariance_xy: np.ndarray) -> np.ndarray:
    """Returns (P, K * 3): xx, xy and yy of (P, K, 2, 2) covariances."""
    num_poses, num_keypoints = covariance_xy.shape[:2]
    return covariance_xy[..., [0, 0, 1], [0, 1, 1]].reshape(num_poses, 3 * num_keypoints)


def _box(row: Mapping, points: np.ndarray) -> Sequence[float]:
    if box := row.get("box_image_xywh") or row.get("bbox"):
        return box
    seen = points[points[:, 2] > 0] if (points[:, 2] > 0).any() else points
    low, high = seen[:, :2].min(0), seen[:, :2].max(0)
    return [*low, *(high - low)]


def to_fiftyone(poses, image_hw: tuple[int, int], label: str = "person") -> dict:
    """Returns a `fiftyone.Keypoints` label as JSON: positions are shares of the width and the height of the image."""
    height, width = image_hw
    if min(height, width) < 1:
        raise UserError(f"`image_hw=` must be the (height, width) of the image in pixels. Received: {image_hw}.")
    keypoints = []
    for row in range(len(poses)):
        finite = np.isfinite(poses.keypoints_xy[row]).all(-1, keepdims=True)
        points = np.where(finite, (poses.keypoints_xy[row] + 0.5) / (width, height), np.nan)  # 0 is a pixel's edge
        one = {"_cls": "Keypoint", "label": label, "tags": [], "points": points.tolist()}
        one["confidence"] = poses.keypoint_scores[row].tolist()
        if poses.track_ids is not None and poses.track_ids[row] >= 0:
            one["index"] = int(poses.track_ids[row])
        keypoints.append({**one, "score": float(poses.scores[row]), "instance": int(poses.instance[row])})
    return {"_cls": "Keypoints", "keypoints": keypoints}


def to_openpose(poses) -> dict:
    """Returns the content of an OpenPose JSON file, of the model BODY_25.

    Keypoints that the skeleton lacks are 0, 0, 0. Neck and middle of the hips are between the joints of both sides,
    with the lower of both scores.
    """
    names = {name: k for k, name in enumerate(poses.skeleton.keypoints)}
    if not {"left_shoulder", "right_shoulder", "left_hip", "right_hip"} <= set(names):
        raise UserError(f"OpenPose's format needs shoulders and hips. Received: poses of {poses.skeleton.name!r}.")
    people = []
    for row in range(len(poses)):
        joints = np.zeros((len(BODY_25), 3))
        known = np.concatenate([poses.keypoints_xy[row], poses.keypoint_scores[row][:, None]], axis=1)
        for place, name in enumerate(BODY_25):
            if name in _MIDDLES:
                both = known[[names[side] for side in _MIDDLES[name]]]
                joints[place] = *both[:, :2].mean(0), both[:, 2].min()
            elif name in names:
                joints[place] = known[names[name]]
        track_id = -1 if poses.track_ids is None else int(poses.track_ids[row])
        person = {"person_id": [track_id], "pose_keypoints_2d": joints.ravel().tolist()}
        empty = ("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "pose_keypoints_3d")
        empty += ("face_keypoints_3d", "hand_left_keypoints_3d", "hand_right_keypoints_3d")
        people.append({**person, **{name: [] for name in empty}})
    return {"version": 1.3, "people": people}
