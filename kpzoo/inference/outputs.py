"""The output folder of `predict_to_folder`: results as JSON and CSV, drawings or a video, and progress.

OUT/progress.jsonl   one line per image, appended when the image is done, from which an interrupted run resumes
OUT/results.json     a list of COCO results, each with the `file_name` of its image
OUT/poses.csv        one row per pose, see `Poses.csv_header`
OUT/pictures/…       the images with their poses, under the same names; OUT/NAME.mp4 for a video
OUT/nms/…            the poses before and after OKS-NMS, optional; OUT/NAME_nms.mp4 for a video
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kpzoo import files, images
from kpzoo.errors import UserError
from kpzoo.files import naming, writing, written_whole
from kpzoo.poses import Poses
from kpzoo.skeletons import Skeleton

REPLACE = "Or replace its contents with `overwrite=True`."
PROGRESS, RESULTS, TABLE, PICTURES, NMS = "progress.jsonl", "results.json", "poses.csv", "pictures", "nms"


class OutputFolder:
    """The output folder of one run, locked against other runs.

    Results of an earlier run with the same settings are kept.

    Args:
        path: A folder, which is created if it does not exist. Else it must be empty or contain an earlier run.
        skeleton: The skeleton of all poses.
        settings: Everything that the poses depend on, as values that JSON can represent.
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
        resume: bool = True,
        overwrite: bool = False,
    ):
        self.path, self.skeleton = Path(path).expanduser(), skeleton
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
        lines = self._whole_lines() if resume and not overwrite else []
        os.truncate(self._progress, sum(map(len, lines)))  # removes an incomplete last line
        if not lines:
            self._file.write(json.dumps({"settings": settings}) + "\n")
            self._file.flush()
        self._stamps = {row["file_name"]: row["stamp"] for row in self._latest()}

    def _whole_lines(self) -> list[bytes]:
        lines = self._progress.read_bytes().splitlines(keepends=True)
        return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]

    def _check(self, settings: dict) -> None:
        lines = self._whole_lines()
        try:
            before = json.loads(lines[0])["settings"] if lines else settings
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
        line = json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
        with naming(self._progress):
            self._file.write(line)
            self._file.flush()

    def finish(self) -> None:
        """Writes the results and the table of all images that are done."""
        with naming(self._progress):
            self._file.flush()
        with writing(self.path / RESULTS) as results, writing(self.path / TABLE) as table:
            writer = csv.writer(table)
            writer.writerow(Poses.csv_header(self.skeleton))
            separator = "[\n"
            for row in self._latest():
                for index, pose in enumerate(row["poses"]):
                    pose = {"file_name": row["file_name"], **pose}
                    results.write(separator + json.dumps(pose, separators=(",", ":")))
                    box = pose["box_image_xywh"]
                    writer.writerow(
                        [row["file_name"], index, pose["instance"], pose["score"], *box, *pose["keypoints"]]
                    )
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


def stamp(file: str | Path) -> list[int]:
    """Returns the size of a file in bytes and its modification time in nanoseconds."""
    status = os.stat(Path(file).expanduser())
    return [status.st_size, status.st_mtime_ns]


class VideoFile:
    """An .mp4 file, which appears under its name when it is closed. All frames are resized to the size of the first.

    Args:
        path: The file, ending in .mp4.
        fps: Frames per second.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path, self.fps, self._writer, self._size = Path(path), fps, None, None
        self._stack = ExitStack()  # of `written_whole`

    def add(self, image_rgb: np.ndarray) -> None:
        """Writes one (H, W, 3) uint8 RGB frame."""
        if self._writer is None:
            height, width = (max(2, side - side % 2) for side in image_rgb.shape[:2])  # the codec subsamples color
            self._size, self._num_frames = (width, height), 0
            self._part = self._stack.enter_context(written_whole(self.path))
            self._writer = cv2.VideoWriter(
                files.utf8_path(self._part), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, self._size
            )
            if not self._writer.isOpened():
                self._writer = None
                with self._stack:
                    raise UserError(f"Cannot write {str(self.path)!r}: OpenCV has no encoder for {self._size}.")
        frame = np.asarray(image_rgb)[: self._size[1], : self._size[0]]
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(np.asarray(image_rgb), self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self._num_frames += 1

    def close(self) -> None:
        """Completes the file. Without frames no file is written; after an error an older file remains.

        Raises:
            UserError: If frames are missing in the written file.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        with self._stack:
            written = _num_frames(self._part)  # OpenCV does not report a full disk
            if written != self._num_frames:
                raise UserError(
                    f"Cannot write {str(self.path)!r}: {written} of {self._num_frames} frames were written. "
                    "Is the disk full?"
                )


def _num_frames(path: Path) -> int:
    """Returns the number of frames in the index at the end of a video; 0 without an index."""
    capture = cv2.VideoCapture(files.utf8_path(path))
    try:
        return round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()
