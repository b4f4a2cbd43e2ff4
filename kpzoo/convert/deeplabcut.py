"""Reads DeepLabCut's labels and poses: tables of pictures by scorer, individual, body part and coordinate."""

import csv
import io
import re
from pathlib import Path

import numpy as np

from kpzoo.convert import dataframes, hdf5, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Export, Frame, Person, Picture
from kpzoo.errors import UserError

MAX_FRAME = 10**9

Column = tuple[str, str, str]  # individual or "", body part, coordinate


def read(source: Source) -> Export:
    """Reads all tables. Of a table that is there as csv and h5 the csv counts."""
    tables = [path for path in source.with_suffix(".csv") if _is_table(path)]
    have = {path.with_suffix("") for path in tables}
    hdf = [path for path in source.with_suffix(".h5", ".hdf5") if path.with_suffix("") not in have]
    tables += [path for path in hdf if hdf5.kind(path) == "deeplabcut"]
    if not tables:
        raise UserError(f"{str(source.source)!r} has no table of DeepLabCut: csv files begin with 'scorer,'.")
    export, parts = Export(), []
    read_tables = []
    for path in sorted(tables):
        columns, index, table = _csv(path) if path.suffix.lower() == ".csv" else dataframes.read(path)
        parts += [part for _, part, _ in columns]
        read_tables.append((path, columns, index, table))
    category = Category("individual", values.unique(parts), _links(source))
    for path, columns, index, table in read_tables:
        _pictures(path, columns, index, table, category, source, export)
    return export


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf").startswith(b"scorer,")


def _links(source: Source) -> list[tuple[str, str]]:
    """Returns the links of the project's configuration, if it is there."""
    for folder in (source.root, *source.root.parents[:2]):
        path = folder / "config.yaml"
        if path.is_file():
            content = values.read_yaml(path)
            pairs = content.get("skeleton") if type(content) is dict else None
            pairs = pairs if type(pairs) is list else []
            return [tuple(map(str, pair)) for pair in pairs if type(pair) is list and len(pair) == 2]
    return []


def _csv(path: Path) -> tuple[list[Column], list[str], np.ndarray]:
    """Returns the columns, the picture of each row, and the (rows, columns) numbers, NaN for empty cells."""
    try:
        rows = [row for row in csv.reader(io.StringIO(values.text_of(path)), strict=True) if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a table of comma-separated values: {error}.") from None
    heads = {}
    while rows and rows[0][0] in ("scorer", "individuals", "bodyparts", "coords"):
        row = rows.pop(0)
        heads[row[0]] = row
    if not {"scorer", "bodyparts", "coords"} <= heads.keys():
        raise UserError(f"{path} needs the rows scorer, bodyparts and coords. Received: {sorted(heads)}.")
    coords = heads["coords"]
    width = next((k for k, text in enumerate(coords[1:], 1) if text), len(coords))  # 1 or 3 columns name the picture
    lengths = {len(row) for row in heads.values()}
    if len(lengths) > 1 or width == len(coords):
        raise UserError(f"{path}: the rows above the numbers must have as many cells. Received: {sorted(lengths)}.")
    individuals = heads.get("individuals", [""] * len(coords))
    columns = list(zip(individuals[width:], heads["bodyparts"][width:], coords[width:], strict=True))
    index, table = [], np.full((len(rows), len(columns)), np.nan)
    for number, row in enumerate(rows):
        place = f"{path}: row {number + len(heads) + 1}"
        if len(row) > width + len(columns):
            raise UserError(f"{place} has {len(row)} cells. Expected at most {width + len(columns)}.")
        index.append("/".join(row[:width]))
        for column, cell in enumerate(row[width:]):  # rows may end early
            if cell.strip().lower() not in ("", "nan"):
                table[number, column] = values.parsed(cell, place)
    return columns, index, table


def _pictures(path: Path, columns: list[Column], index: list[str], table, category: Category, source, export) -> None:
    individuals = values.unique([one for one, _, _ in columns])
    places = {column: k for k, column in enumerate(columns)}
    if len(places) != len(columns):
        raise UserError(f"{path}: two columns have the same individual, body part and coordinate.")
    if not {"x", "y"} <= {coord for _, _, coord in columns}:
        raise UserError(f"{path}: the row coords needs x and y. Received: {sorted({c for _, _, c in columns})[:5]}.")
    is_frames = all(re.fullmatch(r"\d+(\.0)?", one) for one in index) and "likelihood" in {c for _, _, c in columns}
    video = _video(path, source) if is_frames and index else None
    if is_frames and video is None:
        return
    picks = [(one, _picks(one, category, places)) for one in individuals]
    for name, numbers in zip(index, table, strict=True):
        persons = [_person(category, pick, numbers, one, export) for one, pick in picks]
        persons = [person for person in persons if person is not None]
        if video is not None:
            if persons:
                number = int(float(name))
                export.pictures.append(Picture(f"{video.name} frame {number}", Frame(video, number), None, persons))
            continue
        found = source.picture(name, str(path), path.parent)
        if found is not None:
            export.pictures.append(Picture(name, found, None, persons))


def _picks(individual: str, category: Category, places: dict[Column, int]) -> np.ndarray:
    """Returns (K, 3) columns of x, y and likelihood, -1 for those that the table does not have."""
    coords = ("x", "y", "likelihood")
    return np.array(
        [[places.get((individual, part, coord), -1) for coord in coords] for part in category.keypoints], int
    )


def _person(
    category: Category, pick: np.ndarray, numbers: np.ndarray, individual: str, export: Export
) -> Person | None:
    found = np.append(numbers, np.nan)[pick]  # (K, 3)
    labelled = np.isfinite(found[:, :2]).all(axis=1)
    half = np.isfinite(found[:, :2]).any(axis=1) & ~labelled
    if half.any():
        export.notes.add("points have only one coordinate: they are not read", individual, int(half.sum()))
    if not labelled.any():
        return None
    keypoints = np.c_[np.where(labelled[:, None], found[:, :2], 0), np.where(labelled, 2, 0)]
    scores = np.nan_to_num(found[:, 2]) if np.isfinite(found[:, 2]).any() else None
    return Person(category, keypoints, None, scores)


def _video(path: Path, source: Source) -> Path | None:
    """Returns the video of a table of poses, whose name begins with that of the video."""
    stem = path.stem
    fitting = [one for one in source.videos() if stem == one.stem or stem.startswith(f"{one.stem}DLC")]
    fitting = fitting or [one for one in source.videos() if stem.startswith(one.stem)]
    if fitting:
        return max(fitting, key=lambda one: (len(one.stem), one.parent == path.parent))
    source.missing(f"{stem.partition('DLC')[0]}.mp4", str(path))
    return None
