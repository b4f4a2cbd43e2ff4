"""The result of inference: the poses in one image, in image pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from kpzoo import drawing, images, pose_formats
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """The poses in one image. P is their number, and 0 if there are none.

    Args:
        keypoints_xy: (P, K, 2) in image pixels; 0.0 is the centre of the first pixel.
        keypoint_scores: (P, K) confidences of the keypoints. Those of models with a `preset.confidence` are calibrated:
            the share of such keypoints that lie within the distance of OKS 0.5 of the true ones. Else they are the
            values of the heatmaps.
        scores: (P,) confidences of the poses, by which they are ranked.
        boxes_xywh: (P, 4) person boxes that the poses were predicted in, in image pixels.
        instance: (P,) int index of the person in the box, λ in the MIPNet paper: 0 is the centred person. Always 0 for
            models with a single instance.
        skeleton: Names and links of the K keypoints.
        track_ids: (P,) int identities of the people in a video, -1 for a pose without one; None if nobody was tracked.
        covariance_xy: (P, K, 2, 2) covariances of the keypoints in image pixels², NaN for a pose without; None if they
            are unknown, for models without a `preset.confidence`. See `ellipses`.

    >>> from kpzoo.skeletons import COCO17
    >>> poses = Poses.empty(COCO17)
    >>> poses, poses.keypoints_xy.shape
    (Poses(0 of coco17, 17 keypoints), (0, 17, 2))
    """

    keypoints_xy: np.ndarray
    keypoint_scores: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    instance: np.ndarray
    skeleton: Skeleton
    track_ids: np.ndarray | None = None
    covariance_xy: np.ndarray | None = None

    def __post_init__(self):
        num_poses, num_keypoints = len(self.keypoints_xy), self.skeleton.num_keypoints
        expected = {
            "keypoints_xy": (num_poses, num_keypoints, 2),
            "keypoint_scores": (num_poses, num_keypoints),
            "scores": (num_poses,),
            "boxes_xywh": (num_poses, 4),
            "instance": (num_poses,),
        }
        expected |= {} if self.track_ids is None else {"track_ids": (num_poses,)}
        expected |= {} if self.covariance_xy is None else {"covariance_xy": (num_poses, num_keypoints, 2, 2)}
        for name, shape in expected.items():
            array = np.asarray(getattr(self, name), int if name in _WHOLE else float)
            if array.shape != shape:
                raise UserError(
                    f"Poses of skeleton {self.skeleton.name!r} need {name} of shape {shape} for keypoints_xy of "
                    f"shape {np.shape(self.keypoints_xy)}. Received: {array.shape}.",
                    "For no poses use `kpzoo.Poses.empty(skeleton)`.",
                )
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, skeleton: Skeleton) -> "Poses":
        """Returns a result without poses."""
        num_keypoints = skeleton.num_keypoints
        return cls(*(np.zeros((0, *shape)) for shape in [(num_keypoints, 2), (num_keypoints,), (), (4,), ()]), skeleton)

    @classmethod
    def concatenate(cls, parts: Sequence["Poses"]) -> "Poses":
        """Returns the poses of several results of the same image and skeleton, in order.

        If only some of them were tracked, the poses of the others have the identity -1. If only some of them have
        covariances, those of the others are NaN.
        """
        names = sorted({part.skeleton.name for part in parts})
        if len(names) != 1:
            received = f"Received: {len(parts)} parts of skeletons {names}"
            raise UserError(f"Only poses of the same skeleton can be concatenated. {received}.")
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS)
        optional = {name: _joined(parts, name) for name in _OPTIONAL}
        return cls(*arrays, parts[0].skeleton, **optional)

    def __len__(self) -> int:
        return len(self.keypoints_xy)

    def __getitem__(self, keep: "int | slice | Sequence | np.ndarray") -> "Poses":
        """Returns the poses selected by an index, a slice, an array of indices or a (P,) boolean mask."""
        rows = np.atleast_1d(np.arange(len(self))[keep])
        optional = {name: getattr(self, name) for name in _OPTIONAL}
        optional = {name: None if array is None else array[rows] for name, array in optional.items()}
        return Poses(*(getattr(self, name)[rows] for name in _ARRAYS), self.skeleton, **optional)

    def __repr__(self) -> str:
        mean = f", mean score {self.scores.mean():.2f}" if len(self) else ""
        return f"Poses({len(self)} of {self.skeleton.name}, {self.skeleton.num_keypoints} keypoints{mean})"

    def draw(
        self,
        image: str | Path | np.ndarray,
        path: str | Path | None = None,
        *,
        min_score: float = 0.2,
        boxes: bool = True,
        colour_by: str | tuple[int, int, int] | None = None,
        ellipses: bool = False,
    ) -> drawing.Picture:
        """Returns the image with the poses drawn on it, which notebooks display, and writes it if `path` is given.

        Args:
            image: The image: a path, or an (H, W, 3) RGB array with values in [0, 255].
            path: File to write, ending in .jpg, .png, .bmp or .webp.
            min_score: Keypoints with a lower score are not drawn.
            boxes: Whether to draw the boxes and the scores of the poses.
            colour_by: What the colours show: "side" (left or right), "instance" (index of the person in the box) or
                "track" (identity in a video); or one RGB colour for all limbs. Default: "track" for poses with
                identities, else "side".
            ellipses: Whether to draw the ellipse around each keypoint that holds the true one with 90 % probability.

        Raises:
            UserError: If `ellipses` is True and the covariances are unknown.
        """
        if ellipses and self.covariance_xy is None:
            raise UserError(
                "These poses have no covariances, so no ellipses can be drawn.",
                "Fit the confidence of the model with `kpzoo.evaluation.fit_confidence`.",
            )
        if colour_by is None:
            colour_by = "side" if self.track_ids is None else "track"
        picture = drawing.draw_poses(
            images.as_image(image),
            self.keypoints_xy,
            self.keypoint_scores,
            self.skeleton,
            boxes_xywh=self.boxes_xywh if boxes else None,
            instance=self.instance,
            scores=self.scores,
            track_ids=self.track_ids,
            min_score=min_score,
            colour_by=colour_by,
            covariance_xy=self.covariance_xy if ellipses else None,
        )
        if path is not None:
            images.write_image(path, picture)
        return picture

    def to_coco(self, image_id: int | str, category_id: int = 1) -> list[dict]:
        """Returns COCO results, a dict per pose: `keypoints` [x, y, score] * K, `score`, `instance`, `box_image_xywh`.

        Poses of a tracked video also have `track_id`, which is None for a pose without an identity. Poses with
        covariances also have `covariance_xy`, [xx, xy, yy] * K in image pixels², which is None for a pose without.
        There is no `bbox`: COCO's tools would use its area for the pose instead of that of the keypoints, and APM and
        APL would differ from those of `kpzoo.evaluate`.
        """
        keypoints = np.concatenate([self.keypoints_xy, self.keypoint_scores[..., None]], axis=-1)
        for name, array in (("keypoints", keypoints), ("scores", self.scores), ("boxes", self.boxes_xywh)):
            if not np.isfinite(array).all():
                first = np.argwhere(~np.isfinite(array))[0][0]
                raise UserError(
                    f"Pose {first} of image {image_id!r} has {name} that are not finite. "
                    "Check the weights of the model for NaN."
                )
        columns = [array.tolist() for array in (keypoints, self.scores, self.boxes_xywh, self.instance)]
        image = dict(image_id=image_id, category_id=category_id)
        rows = [
            {**image, "keypoints": sum(joints, []), "score": score, "instance": instance, "box_image_xywh": box}
            for joints, score, box, instance in zip(*columns, strict=True)
        ]
        if self.track_ids is not None:
            for row, track_id in zip(rows, self.track_ids.tolist(), strict=True):
                row["track_id"] = None if track_id < 0 else track_id
        if self.covariance_xy is not None:
            for row, numbers in zip(rows, pose_formats.upper_triangles(self.covariance_xy), strict=True):
                row["covariance_xy"] = numbers.tolist() if np.isfinite(numbers).all() else None
        return rows

    @classmethod
    def from_coco(cls, rows: Sequence[Mapping], skeleton: Skeleton) -> "Poses":
        """Returns the poses of one image from COCO results or annotations, such as those of `to_coco`.

        Args:
            rows: Dicts with `keypoints` [x, y, score] * K and, optionally, `score`, `instance`, `track_id`,
                `covariance_xy` [xx, xy, yy] * K and the box, `box_image_xywh` or `bbox`. The default box is the extent
                of the keypoints.
            skeleton: Skeleton of the K keypoints.

        Raises:
            UserError: If the rows are of several images, or have another number of keypoints.
        """
        return cls(**pose_formats.from_coco(rows, skeleton))

    def to_supervision(self):
        """Returns `supervision.KeyPoints`, with the class 0, "person".

        Its `data` has `class_name`, `score`, `instance`, `box_xywh`, `track_id` of poses with identities, and
        `covariance` of poses with covariances, which `supervision.VertexEllipseAreaAnnotator` draws. Keypoints whose
        position is not finite are (0, 0), which its annotators leave out.

        Raises:
            UserError: If supervision is not installed.
        """
        return pose_formats.to_supervision(self)

    def to_pandas(self, image: str | int = ""):
        """Returns a `pandas.DataFrame` with the columns of `csv_header` and a row per pose.

        Args:
            image: Name or number of the image, for the first column.

        Raises:
            UserError: If pandas is not installed.
        """
        return pose_formats.to_pandas(self, image)

    def to_fiftyone(self, image_hw: tuple[int, int], label: str = "person") -> dict:
        """Returns the JSON of a `fiftyone.Keypoints` label: `fiftyone.Keypoints.from_dict(label)` reads it.

        Args:
            image_hw: (height, width) of the image in pixels: FiftyOne's positions are shares of them.
            label: Label of each person. The `index` of a person is the identity in a video.
        """
        return pose_formats.to_fiftyone(self, image_hw, label)

    def to_openpose(self) -> dict:
        """Returns the content of an OpenPose JSON file with the 25 keypoints of BODY_25, for tools that read these.

        Keypoints that the skeleton lacks, such as those of the feet, are 0, 0, 0. The neck is the middle of the
        shoulders, as in OpenPose. `person_id` is the identity in a video, else -1.

        Raises:
            UserError: If the skeleton has no shoulders or hips.
        """
        return pose_formats.to_openpose(self)

    @staticmethod
    def csv_header(skeleton: Skeleton, tracked: bool = False, covariance: bool = False) -> list[str]:
        """Returns the column names of `to_csv`, with `track_id` for poses of a tracked video, and with covariances."""
        joints = [f"{name}_{what}" for name in skeleton.keypoints for what in ("x", "y", "score")]
        ids = ["track_id"] if tracked else []
        joints += [f"{name}_{what}" for name in skeleton.keypoints for what in ("xx", "xy", "yy")] * covariance
        return ["image", "pose", "instance", *ids, "score", "box_x", "box_y", "box_width", "box_height", *joints]

    def to_csv(self, image: str | int) -> list[list]:
        """Returns one row per pose, in the columns of `csv_header`, for `csv.writer(file).writerows`.

        The `track_id` of a pose without an identity is empty.
        """
        return [csv_row(image, index, row) for index, row in enumerate(self.to_coco(image))]


def csv_row(image: str | int, index: int, row: dict) -> list:
    """Returns the row of a table for one of the results of `Poses.to_coco`."""
    ids = [row["track_id"]] if "track_id" in row else []
    joints = row["keypoints"]
    if "covariance_xy" in row:
        joints = [*joints, *(row["covariance_xy"] or [None] * len(joints))]
    return [image, index, row["instance"], *ids, row["score"], *row["box_image_xywh"], *joints]


def _joined(parts: Sequence[Poses], name: str) -> np.ndarray | None:
    """Returns an optional array of all parts, with the value for unknown in parts without it; None if none has it."""
    known = [getattr(part, name) for part in parts]
    shape = next((one.shape[1:] for one in known if one is not None), None)
    if shape is None:
        return None
    filled = (np.full((len(part), *shape), _OPTIONAL[name]) for part in parts)
    return np.concatenate([fill if one is None else one for one, fill in zip(known, filled, strict=True)])


_WHOLE = ("instance", "track_ids")
_OPTIONAL = {"track_ids": -1, "covariance_xy": np.nan}  # the values for unknown
_ARRAYS = [field.name for field in fields(Poses) if field.name not in ("skeleton", *_OPTIONAL)]
