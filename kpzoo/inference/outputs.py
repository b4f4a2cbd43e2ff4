"""The output folder of `predict_to_folder`: results as JSON and CSV, drawings or a video, and progress.

OUT/progress.jsonl   one line per image, appended when the image is done, from which an interrupted run resumes; for a
                     video, which resumes after them, also lines with the state of the loop over its frames
OUT/results.json     a list of COCO results, each with the `file_name` of its image
OUT/poses.csv        one row per pose, see `Poses.csv_header`
OUT/openpose/…       an OpenPose JSON file for each image or frame, optional
OUT/gallery.html     a page of thumbnails and scores, optional
OUT/pictures/…       the images with their poses, under the same names; OUT/NAME.mp4 for a video
OUT/nms/…            the poses before and after OKS-NMS, optional; OUT/NAME_nms.mp4 for a video
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kpzoo import files, images
from kpzoo.errors import UserError
from kpzoo.files import naming, writing
from kpzoo.poses import Poses, csv_row
from kpzoo.skeletons import Skeleton

REPLACE = "Or replace its contents with `overwrite=True`."
PROGRESS, RESULTS, TABLE, PICTURES, NMS = "progress.jsonl", "results.json", "poses.csv", "pictures", "nms"
_STATE, _ROW = b'{"state":', b'{"file_name":'  # starts of lines


class OutputFolder:
    """The output folder of one run, locked against other runs.

    Results of an earlier run with the same settings are kept.

    Args:
        path: A folder, which is created if it does not exist. Else it must be empty or contain an earlier run.
        skeleton: The skeleton of all poses.
        settings: Everything that the poses depend on, as values that JSON can represent.
        video: Whether the images are frames, which come in order: an earlier run is kept up to the last `state`.
        tracked: Whether the poses have identities.
        covariance: Whether the poses have covariances.
        resume: Whether to keep the results of an earlier run.
        overwrite: Whether to start again whatever the folder contains.

    Raises:
        UserError: If the folder has other contents, results of other settings or damaged files, cannot be written, or
            another run is writing to it.
    """

    def __init__(
        self,
        path: str | Path,
        skeleton: Skeleton,
        settings: Mapping[str, Any],
        *,
        video: bool = False,
        tracked: bool = False,
        covariance: bool = False,
        resume: bool = True,
        overwrite: bool = False,
    ):
        self.path, self.skeleton = Path(path).expanduser(), skeleton
        self.video, self.tracked, self.covariance, self.state = video, tracked, covariance, None
        self._progress = self.path / PROGRESS
        foreign = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if foreign and not overwrite and not self._progress.exists():
            raise UserError(f"{self.path} exists without an earlier run in it. Choose another folder.", REPLACE)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._file = self._progress.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"Cannot write to {self.path}: {error.strerror or error}.") from None
        try:
            with naming(self._progress):
                self._begin(json.loads(json.dumps(settings)), resume, overwrite)
        except BaseException:
            with suppress(OSError):  # closing flushes, which fails for the same reason
                self._file.close()
            raise

    def _begin(self, settings: dict, resume: bool, overwrite: bool) -> None:
        if not files.hold(self._file, wait=False):
            raise UserError(f"Another run is writing to {self.path}. Wait until it ends, or choose another folder.")
        files.remove_parts(self.path)
        if not overwrite:
            self._check(settings)
        kept = self._kept() if resume and not overwrite else 0
        os.truncate(self._progress, kept)
        if not kept:
            self._file.write(json.dumps({"settings": settings}) + "\n")
            self._file.flush()
        self._stamps = {} if self.video else {row["file_name"]: row["stamp"] for row in self._latest()}

    def _kept(self) -> int:
        """Returns the bytes of the lines to keep: all whole lines, or those of a video up to its last state."""
        position = kept = 0
        with self._progress.open("rb") as file:
            for line in file:
                position += len(line)
                if not line.endswith(b"\n"):  # an incomplete last line
                    break
                if not self.video:
                    kept = position
                elif line.startswith(_STATE):
                    kept, self.state = position, json.loads(line)["state"]
        return kept

    def _check(self, settings: dict) -> None:
        with self._progress.open("rb") as file:
            line = file.readline()
        try:
            before = json.loads(line)["settings"] if line.endswith(b"\n") else settings
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self._progress} is damaged. Choose another folder.", REPLACE) from None
        changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if changed:
            changes = ", ".join(f"{key}: {before.get(key)} before, {settings.get(key)} now" for key in sorted(changed))
            raise UserError(
                f"The poses in {self.path} have other settings ({changes}). Choose another folder.", REPLACE
            )

    def picture_path(self, name: str, kind: str = PICTURES) -> Path:
        """Returns the file of an image's drawing, a PNG if the image's format cannot be written."""
        path = self.path / kind / files.system_name(name)
        return path if path.suffix.lower() in images.WRITABLE else path.with_name(path.name + ".png")

    def is_done(self, name: str, file: str | Path, kinds: Sequence[str]) -> bool:
        """Returns whether an image has poses and drawings, and has not changed since."""
        known = self._stamps.get(name)
        drawn = all(self.picture_path(name, kind).exists() for kind in kinds)
        return known is not None and known == stamp(file) and drawn

    def add(self, name: str, image_id: int, poses: Poses, file: str | Path | None = None) -> None:
        """Adds the poses of an image and marks it as done; call it after the drawings are written."""
        row = {"file_name": name, "image_id": image_id, "stamp": stamp(file) if file is not None else None}
        row["poses"] = poses.to_coco(image_id)
        self._append(row)

    def mark(self, state: Mapping[str, Any]) -> None:
        """Adds the state after which a run of the video can resume."""
        self._append({"state": state})

    def _append(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
        with naming(self._progress):
            self._file.write(line)
            self._file.flush()

    def rows(self) -> Iterator[dict]:
        """Yields what `add` wrote for each image or frame: `file_name`, `image_id` and `poses`, as COCO results."""
        if not self.video:
            yield from self._latest()
            return
        with self._progress.open("rb") as file:
            for line in file:
                if line.startswith(_ROW):
                    yield json.loads(line)

    def finish(self) -> None:
        """Writes the results and the table of all images that are done."""
        with naming(self._progress):
            self._file.flush()
        with writing(self.path / RESULTS) as results, writing(self.path / TABLE) as table:
            writer = csv.writer(table)
            writer.writerow(Poses.csv_header(self.skeleton, self.tracked, self.covariance))
            separator = "[\n"
            for row in self.rows():
                for index, pose in enumerate(row["poses"]):
                    pose = {"file_name": row["file_name"], **pose}
                    results.write(separator + json.dumps(pose, separators=(",", ":")))
                    writer.writerow(csv_row(row["file_name"], index, pose))
                    separator = ",\n"
            results.write("[]\n" if separator == "[\n" else "\n]\n")

    def close(self) -> None:
        with naming(self._progress):
            self._file.close()

    def _latest(self) -> Iterator[dict]:
        """Yields the rows by ascending image id, with the last row of each image only."""
        places, position = {}, 0
        with self._progress.open("rb") as file:
            for number, line in enumerate(file):
                if number:
                    row = json.loads(line)
                    places[row["file_name"]] = (row["image_id"], position)
                position += len(line)
            for _, place in sorted(places.values()):
                file.seek(place)
                yield json.loads(file.readline())


def has_run(path: str | Path) -> bool:
    """Returns whether a folder has an earlier run."""
    return (Path(path).expanduser() / PROGRESS).is_file()


def stamp(file: str | Path) -> list[int]:
    """Returns the size of a file in bytes and its modification time in nanoseconds."""
    status = os.stat(Path(file).expanduser())
    return [status.st_size, status.st_mtime_ns]
