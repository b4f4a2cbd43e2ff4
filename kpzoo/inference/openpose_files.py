"""OpenPose JSON files, one for each image or frame, of what an output folder holds."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from kpzoo.files import system_name, write_json, written_whole
from kpzoo.poses import Poses
from kpzoo.skeletons import Skeleton

FOLDER = "openpose"


def write(folder: Path, rows: Iterable[Mapping], skeleton: Skeleton, video: str | None = None) -> Path:
    """Writes `openpose/` in an output folder, in one step, under OpenPose's names.

    These are `NAME_keypoints.json` for an image, with its suffix if another has the same name, and
    `VIDEO_000000000012_keypoints.json` for frame 12 of a video.

    Args:
        folder: The output folder.
        rows: Dicts with `file_name`, `image_id` and `poses`, as COCO results, for each image or frame.
        skeleton: Skeleton of the poses.
        video: Name of the video; None for images.

    Returns:
        The path of the folder with the files.
    """
    with written_whole(folder / FOLDER) as part:
        part.mkdir()
        for row in rows:
            name = f"{video}_{row['image_id']:012d}" if video else PurePosixPath(row["file_name"]).with_suffix("")
            path = part / system_name(f"{name}_keypoints.json")
            if path.exists():  # of a.jpg, beside a.png
                path = part / system_name(f"{row['file_name']}_keypoints.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, Poses.from_coco(row["poses"], skeleton).to_openpose())
    return folder / FOLDER
