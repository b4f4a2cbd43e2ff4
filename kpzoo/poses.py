"""The result of inference: the poses in one image, in image pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from kpzoo import drawing, images
from kpzoo.errors import UserError
from kpzoo.skeletons import Skeleton


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """The poses in one image. P is their number, and 0 if there are none.

    Args:
        keypoints_xy: (P, K, 2) in image pixels; 0.0 is the centre of the first pixel.
        keypoint_scores: (P, K) confidences of the keypoints.
        scores: (P,) confidences of the poses, by which they are ranked.
        boxes_xywh: (P, 4) person boxes that the poses were predicted in, in image pixels.
        instance: (P,) int index of the person in the box, λ in the MIPNet paper: 0 is the centred person. Always 0 for
            models with a single instance.
        skeleton: Names and links of the K keypoints.

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

    def __post_init__(self):
        num_poses, num_keypoints = len(self.keypoints_xy), self.skeleton.num_keypoints
        expected = {
            "keypoints_xy": (num_poses, num_keypoints, 2),
            "keypoint_scores": (num_poses, num_keypoints),
            "scores": (num_poses,),
            "boxes_xywh": (num_poses, 4),
            "instance": (num_poses,),
        }
        for name, shape in expected.items():
            array = np.asarray(getattr(self, name), int if name == "instance" else float)
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
        """Returns the poses of several results of the same image and skeleton, in order."""
        names = sorted({part.skeleton.name for part in parts})
        if len(names) != 1:
            received = f"Received: {len(parts)} parts of skeletons {names}"
            raise UserError(f"Only poses of the same skeleton can be concatenated. {received}.")
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS)
        return cls(*arrays, parts[0].skeleton)

    def __len__(self) -> int:
        return len(self.keypoints_xy)

    def __getitem__(self, keep: "int | slice | Sequence | np.ndarray") -> "Poses":
        """Returns the poses selected by an index, a slice, an array of indices or a (P,) boolean mask."""
        rows = np.atleast_1d(np.arange(len(self))[keep])
        return Poses(*(getattr(self, name)[rows] for name in _ARRAYS), self.skeleton)

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
        colour_by: str | tuple[int, int, int] = "side",
    ) -> drawing.Picture:
        """Returns the image with the poses drawn on it, which notebooks display, and writes it if `path` is given.

        Args:
            image: The image: a path, or an (H, W, 3) RGB array with values in [0, 255].
            path: File to write, ending in .jpg, .png, .bmp or .webp.
            min_score: Keypoints with a lower score are not drawn.
            boxes: Whether to draw the boxes and the scores of the poses.
            colour_by: What the colours show: "side" (left or right) or "instance" (index of the person in the box); or
                one RGB colour for all limbs.
        """
        picture = drawing.draw_poses(
            images.as_image(image),
            self.keypoints_xy,
            self.keypoint_scores,
            self.skeleton,
            boxes_xywh=self.boxes_xywh if boxes else None,
            instance=self.instance,
            scores=self.scores,
            min_score=min_score,
            colour_by=colour_by,
        )
        if path is not None:
            images.write_image(path, picture)
        return picture

    def to_coco(self, image_id: int | str, category_id: int = 1) -> list[dict]:
        """Returns COCO results, a dict per pose: `keypoints` [x, y, score] * K, `score`, `instance`, `box_image_xywh`.

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
        return [
            {**image, "keypoints": sum(joints, []), "score": score, "instance": instance, "box_image_xywh": box}
            for joints, score, box, instance in zip(*columns, strict=True)
        ]

    @staticmethod
    def csv_header(skeleton: Skeleton) -> list[str]:
        """Returns the column names of `to_csv`."""
        joints = [f"{name}_{what}" for name in skeleton.keypoints for what in ("x", "y", "score")]
        return ["image", "pose", "instance", "score", "box_x", "box_y", "box_width", "box_height", *joints]

    def to_csv(self, image: str | int) -> list[list]:
        """Returns one row per pose, in the columns of `csv_header`, for `csv.writer(file).writerows`."""
        poses = zip(self.to_coco(image), range(len(self)), strict=True)
        return [[image, index, p["instance"], p["score"], *p["box_image_xywh"], *p["keypoints"]] for p, index in poses]


_ARRAYS = [field.name for field in fields(Poses) if field.name != "skeleton"]
