"""Cut-outs of all people of a data set, made once and memory-mapped: composing crops neither reads photos nor waits."""

import json
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import cv2
import numpy as np

from kpzoo import files
from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.progress import Progress
from kpzoo.scenes.cutouts import Cutout, Cutouts, Light, cut_out, light_of

FORMAT = "kpzoo.cutouts 1"
INDEX, TABLE, PIXELS = "cutouts.json", "table.npz", "pixels.bin"
_FINEST = 384.0  # height in pixels of a person in upright posture; larger cut-outs are made smaller


class StoredCutouts(Cutouts):
    """`Cutouts` whose masks and pixels are read from a folder. Threads can share it.

    Args:
        data: Data set, see `kpzoo.data.load`.
        folder: Folder to keep the cut-outs in for later runs. It is written if it does not exist. None for a temporary
            one.
        progress: Whether to print progress on stderr while they are made.

    Raises:
        UserError: If no person can be cut out, or the folder holds something else.
    """

    def __init__(self, data: PoseData, folder: str | Path | None = None, *, progress: bool = False):
        super().__init__(data)
        if folder is None:
            folder = Path(mkdtemp(prefix="kpzoo-cutouts-"))
            weakref.finalize(self, files.remove, folder)
            _write(self, folder, progress)
        elif not (folder := Path(folder).expanduser()).exists():
            with files.written_whole(folder) as part:
                part.mkdir()
                _write(self, part, progress)
        index = _index_of(folder, data)
        with np.load(folder / TABLE, allow_pickle=False) as table:
            self._table = dict(table)
        self._bytes = np.memmap(folder / PIXELS, np.uint8, "r", shape=(index["bytes"],))
        self._places = {int(person): place for place, person in enumerate(self._table["person"])}
        known = np.zeros(len(self.boxes_xyxy), bool)
        known[self._table["person"]] = True
        self.hosts, self.movable = self.hosts[known[self.hosts]], self.movable[known[self.movable]]
        if not len(self.hosts) or not len(self.movable):
            raise UserError(f"No picture in {str(data.image_folder)!r} of people to cut out can be read.")

    def readable(self, person: int) -> bool:
        return person in self._places

    def cut(self, person: int) -> Cutout:
        if person not in self._cutouts:
            row = {name: values[self._places[person]] for name, values in self._table.items()}
            height, width = row["size_hw"].tolist()
            alpha = self._bytes[row["start"] : row["start"] + height * width].reshape(height, width)
            light = Light(row["mean_rgb"], float(row["contrast"]), bool(row["is_grey"]))
            samples = row["samples_xy"][: row["num_samples"]]
            self._cutouts[person] = Cutout(np.asarray(alpha), row["window_xywh"], samples, light)
        return self._cutouts[person]

    def pixels(self, person: int) -> np.ndarray:
        place = self._places[person]
        height, width = self._table["size_hw"][place].tolist()
        start = int(self._table["start"][place]) + height * width
        return np.asarray(self._bytes[start : start + 3 * height * width].reshape(height, width, 3))


def _index_of(folder: Path, data: PoseData) -> dict:
    """Returns the index of a folder of cut-outs, or raises an error if they are not those of the data."""
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        size = (folder / PIXELS).stat().st_size
        found = (index["format"], index["annotations_crc32"], index["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{str(folder)!r} is not a folder of cut-outs. Pass one that does not exist yet.") from None
    if found != (FORMAT, data.crc32, size):
        raise UserError(
            f"The cut-outs in {str(folder)!r} are incomplete, or of other annotations than {data.annotations.path}. "
            "Remove the folder, or pass another one."
        )
    return index


def _write(source: Cutouts, folder: Path, progress: bool) -> None:
    rows, start = [], 0
    with files.naming(folder), (folder / PIXELS).open("wb") as file:
        for person, cutout, pixels in _made(source, progress):
            rows.append((person, start, cutout))
            parts = [cutout.alpha] if pixels is None else [cutout.alpha, pixels]
            start += sum(file.write(np.ascontiguousarray(part).tobytes()) for part in parts)
        most = max([len(cutout.samples_xy) for _, _, cutout in rows], default=0)
        samples = [np.pad(one.samples_xy, ((0, most - len(one.samples_xy)), (0, 0))) for _, _, one in rows]
        np.savez(
            folder / TABLE,
            person=np.array([person for person, _, _ in rows], np.int64),
            start=np.array([first for _, first, _ in rows], np.int64),
            size_hw=np.array([one.alpha.shape for _, _, one in rows], np.int64).reshape(-1, 2),
            window_xywh=np.array([one.window_xywh for _, _, one in rows], np.int64).reshape(-1, 4),
            samples_xy=np.array(samples, np.float32).reshape(len(rows), most, 2),
            num_samples=np.array([len(one.samples_xy) for _, _, one in rows], np.int64),
            mean_rgb=np.array([one.light.mean_rgb for _, _, one in rows]).reshape(-1, 3),
            contrast=np.array([one.light.contrast for _, _, one in rows]),
            is_grey=np.array([one.light.is_grey for _, _, one in rows], bool),
        )
        index = {"format": FORMAT, "annotations_crc32": source.data.crc32, "bytes": start}
        (folder / INDEX).write_text(json.dumps(index), "utf-8")


def _made(source: Cutouts, progress: bool) -> Iterator[tuple[int, Cutout, np.ndarray | None]]:
    """Yields the people of all photos that can be a background, with the pixels of those that can be moved."""
    persons, movable = source.data.annotations.persons, set(source.movable.tolist())
    boxed = np.flatnonzero(persons.has_box & np.isin(persons.image_index, persons.image_index[source.hosts]))
    order = boxed[np.argsort(persons.image_index[boxed], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(persons.image_index[order])) + 1)

    def people_of(group):
        photo = source.read(int(group[0]))
        if photo is None:
            return []
        light = light_of(photo)
        return [_smaller(source, person, photo, light, person in movable) for person in group.tolist()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        with Progress(len(groups), "photos", "cut people out of", shown=progress) as told:
            for people in pool.map(people_of, groups):
                yield from people
                told.step()


def _smaller(source: Cutouts, person: int, photo: np.ndarray, light: Light, movable: bool):
    """Returns the person, its cut-out of at most `_FINEST` pixels, and its pixels if it can be moved."""
    cutout = cut_out(source, person, photo, light)
    x, y, width, height = cutout.window_xywh.tolist()
    pixels = photo[y : y + height, x : x + width] if movable else None
    zoom = _FINEST / source.heights[person]
    if zoom < 1:  # False for NaN
        size = max(round(width * zoom), 1), max(round(height * zoom), 1)
        cutout = replace(cutout, alpha=cv2.resize(cutout.alpha, size, interpolation=cv2.INTER_AREA))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if movable else None
    return person, cutout, pixels
