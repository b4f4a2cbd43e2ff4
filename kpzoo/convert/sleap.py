"""Reads SLEAP projects (.slp) and analysis files (.h5), which are HDF5."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kpzoo.convert import hdf5, values
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Category, Embedded, Export, Frame, Person, Picture
from kpzoo.errors import UserError

PIXEL_CENTERS = 1.1  # `format_id` since which (0, 0) is the middle of the first pixel; before, its corner

Finder = Callable[[int], Any]  # from the index of a frame to its source


def read(source: Source) -> Export:
    """Reads all projects and analysis files."""
    export, paths = Export(), source.with_suffix(".slp", ".h5", ".hdf5")
    for path in paths:
        with hdf5.opened(path) as file:
            if "tracks" in file and "node_names" in file:
                _analysis(file, path, source, export)
            elif "metadata" in file and "instances" in file:
                _project(file, path, source, export)
    if not export.pictures:
        raise UserError(f"{str(source.source)!r} has no labelled frames in a .slp or analysis .h5 file of SLEAP.")
    return export


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{place} is not JSON. The file is damaged.") from None


# Projects


def _project(file: Any, path: Path, source: Source, export: Export) -> None:
    attributes = file["metadata"].attrs
    texts = hdf5.texts(np.asarray(attributes.get("json", "")))
    metadata = values.mapping(_json(texts[0], f"{path}: metadata"), f"{path}: metadata")
    format_id = float(np.asarray(attributes.get("format_id", 1.0)).ravel()[0])
    categories = _skeletons(metadata, path)
    videos = _videos(file, path, source, export)
    tables = {name: hdf5.array(file, name, path, 1) for name in ("frames", "instances", "points")}
    tables["pred_points"] = hdf5.array(file, "pred_points", path, 1) if "pred_points" in file else tables["points"][:0]
    tracks = len(hdf5.array(file, "tracks_json", path)) if "tracks_json" in file else 0
    instances = tables["instances"]
    for row in tables["frames"]:
        first, last = int(row["instance_id_start"]), int(row["instance_id_end"])
        place = f"{path}: frame {row['frame_idx']}"
        if not 0 <= first <= last <= len(instances):
            raise UserError(f"{place}: instances {first} to {last} of {len(instances)} are not in the file.")
        persons = []
        for instance in instances[first:last]:
            person = _instance(instance, categories, tables, place, 0.0 if format_id >= PIXEL_CENTERS else -0.5)
            if person is None:
                export.notes.add("instances without a point are not read", place)
                continue
            if 0 <= int(instance["track"]) < tracks:
                person.fields["track_id"] = int(instance["track"])
            persons.append(person)
        if persons:
            video = int(row["video"])
            if video not in videos:
                raise UserError(f"{place}: there is no video {video}. Expected one of {sorted(videos)}.")
            where = videos[video](int(row["frame_idx"]), place)
            if where is not None:
                export.pictures.append(Picture(_name_of(where), where, None, persons))
    predicted = sum("score" in person.fields for picture in export.pictures for person in picture.persons)
    if predicted:
        export.notes.add("persons were predicted, not labelled: they are read with their `score`", path.name, predicted)


def _name_of(where: Any) -> str:
    if isinstance(where, Frame):
        return f"{where.video.name} frame {where.index}"
    return where.name


def _skeletons(metadata: dict, path: Path) -> list[Category]:
    place = f"{path}: metadata"
    nodes = values.items(metadata.get("nodes"), f"{place}: nodes")
    names = [values.name(values.mapping(node, place).get("name"), f"{place}: node name") for node in nodes]
    categories = []
    for number, skeleton in enumerate(values.items(metadata.get("skeletons"), f"{place}: skeletons")):
        skeleton = values.mapping(skeleton, f"{place}: skeleton")
        own = values.items(skeleton.get("nodes"), f"{place}: skeleton nodes")
        ids = [_node(values.mapping(node, place).get("id"), len(names), place) for node in own]
        graph = skeleton.get("graph")
        label = graph.get("name") if type(graph) is dict else None
        label = label if type(label) is str and label.strip() else f"skeleton {number + 1}"
        links, pairs = _edges(skeleton.get("links"), names, set(ids), place)
        categories.append(Category(label, [names[k] for k in ids], links, pairs or None))
    return categories


def _node(value, count: int, place: str) -> int:
    """Returns the index of a node, which is written as a number or as an object with it."""
    value = value.get("id") if type(value) is dict else value
    return values.whole(value, f"{place}: node", 0, count - 1)


def _edges(links, names: list[str], own: set[int], place: str) -> tuple[list, list]:
    """Returns the links and the pairs of left and right. Kinds of edges are written once and referred to later."""
    body, mirrored, kinds = [], [], []
    for link in links if type(links) is list else []:
        link = values.mapping(link, f"{place}: link")
        ends = [_node(link.get(key), len(names), f"{place}: link") for key in ("source", "target")]
        kind = link.get("type")
        kind = kind if type(kind) is dict else {}
        if "py/reduce" in kind:
            values_of = [one.get("py/tuple") for one in kind["py/reduce"] or [] if type(one) is dict]
            kinds.append(next((one[0] for one in values_of if type(one) is list and one), 1))
            number = kinds[-1]
        else:
            index = kind.get("py/id")
            number = kinds[index - 1] if type(index) is int and 1 <= index <= len(kinds) else 1
        pair = (names[ends[0]], names[ends[1]])
        if set(ends) <= own and ends[0] != ends[1]:
            known = {frozenset(one) for one in mirrored}
            if number != 2:
                body.append(pair)
            elif frozenset(pair) not in known and not any(set(pair) & one for one in known):
                mirrored.append(pair)
    return body, mirrored


def _instance(instance, categories: list[Category], tables: dict, place: str, shift: float) -> Person | None:
    number, predicted = int(instance["skeleton"]), int(instance["instance_type"]) == 1
    if not number < len(categories):
        raise UserError(f"{place}: there is no skeleton {number}. Expected one of {len(categories)}.")
    category, points = categories[number], tables["pred_points" if predicted else "points"]
    first, last = int(instance["point_id_start"]), int(instance["point_id_end"])
    if not 0 <= first <= last <= len(points) or last - first != len(category.keypoints):
        expected = f"{len(category.keypoints)} points"
        raise UserError(f"{place}: points {first} to {last} of {len(points)} are not {expected} of the file.")
    rows = points[first:last]
    xy = np.stack([rows["x"], rows["y"]], axis=1).astype(np.float64) + shift
    labelled = np.isfinite(xy).all(axis=1)
    if not labelled.any():
        return None
    _check(xy[labelled], place)
    visibility = np.where(labelled, np.where(rows["visible"].astype(bool) | predicted, 2, 1), 0)
    keypoints = np.c_[np.where(labelled[:, None], xy, 0), visibility]
    scores, fields = None, {}
    if predicted:
        scores = np.nan_to_num(rows["score"].astype(np.float64)) if "score" in (rows.dtype.names or ()) else None
        score = float(instance["score"])
        fields["score"] = score if values.finite(score) else float(np.mean(scores)) if scores is not None else 1.0
    return Person(category, keypoints, None, scores, fields)


def _check(xy: np.ndarray, place: str) -> None:
    if np.abs(xy).max() > values.MAX_COORDINATE:
        raise UserError(f"{place}: a coordinate is no number of pixels. Received: {np.abs(xy).max():g}.")


def _videos(file: Any, path: Path, source: Source, export: Export) -> dict[int, Finder]:
    """Returns for each video a function of a frame's index and its place that returns where the frame is."""
    rows = hdf5.texts(hdf5.array(file, "videos_json", path)) if "videos_json" in file else []
    finders: dict[int, Finder] = {}
    for number, row in enumerate(rows):
        place = f"{path}: video {number}"
        row = values.mapping(_json(row, place), place)
        backend = values.mapping(row.get("backend", row), place)
        names = backend.get("filenames") or backend.get("filename") or ""
        dataset = backend.get("dataset") or f"video{number}/video"
        if type(dataset) is str and dataset in file:
            indices = _embedded_frames(file, dataset, path)
            finders[number] = partial(_embedded, path, dataset, indices)
        elif type(names) is list:
            finders[number] = partial(_listed, [values.text(name, place) for name in names], source, path)
        else:
            finders[number] = partial(_of_video, values.text(names, place), source, path)
    return finders


def _embedded_frames(file: Any, dataset: str, path: Path) -> dict[int, int]:
    """Returns the row of each frame that a project contains."""
    count = file[dataset].shape[0] if file[dataset].shape else 0
    group = dataset.rpartition("/")[0]
    numbers = hdf5.array(file, f"{group}/frame_numbers", path) if f"{group}/frame_numbers" in file else range(count)
    return {int(frame): row for row, frame in enumerate(numbers) if row < count}


def _embedded(path: Path, dataset: str, rows: dict[int, int], index: int, place: str) -> Embedded:
    if index not in rows:
        raise UserError(f"{place}: the project does not contain this frame. Save it with its pictures.")
    return Embedded(
        f"{path.stem.removesuffix('.pkg')}_{dataset.partition('/')[0]}_{index:06d}.png",
        partial(_pixels, path, dataset, rows[index]),
    )


def _pixels(path: Path, dataset: str, row: int) -> bytes | np.ndarray:
    with hdf5.opened(path) as file:
        value = np.asarray(file[dataset][row])
    if value.dtype == object or value.ndim == 1:
        return np.asarray(value.item() if value.ndim == 0 else value).astype(np.uint8).tobytes()
    if value.ndim == 2:
        return value.astype(np.uint8).tobytes() if value.shape[0] == 1 else np.repeat(value[..., None], 3, axis=2)
    return np.repeat(value[..., :1], 3, axis=2) if value.shape[-1] == 1 else value


def _listed(names: list[str], source: Source, path: Path, index: int, place: str) -> Path | None:
    if not 0 <= index < len(names):
        raise UserError(f"{place}: the video has {len(names)} pictures.")
    return source.picture(names[index], place, path.parent)


def _of_video(name: str, source: Source, path: Path, index: int, place: str) -> Frame | Path | None:
    found = source.picture(name, place, path.parent)
    return None if found is None else Frame(found, index)


# Analysis files


def _analysis(file: Any, path: Path, source: Source, export: Export) -> None:
    names = hdf5.texts(hdf5.array(file, "node_names", path))
    tracks = _by_frame(hdf5.floats(hdf5.array(file, "tracks", path, 4), "tracks", path), len(names), path)
    edges = hdf5.texts(hdf5.array(file, "edge_names", path)) if "edge_names" in file else []
    links = [pair for pair in zip(edges[::2], edges[1::2], strict=False) if set(pair) <= set(names)]
    category = Category("individual", names, links)
    count, num_tracks = tracks.shape[:2]
    scores = _scores(file, path, tracks.shape)
    totals = _totals(file, path, count, num_tracks)
    name = hdf5.scalar_text(file, "video_path") or f"{path.name.removesuffix('.analysis.h5')}.mp4"
    video = source.picture(name, str(path), path.parent)
    if video is None:
        return
    for index in range(count):
        persons = []
        for track in range(num_tracks):
            xy = tracks[index, track]
            labelled = np.isfinite(xy).all(axis=1)
            if not labelled.any():
                continue
            _check(xy[labelled], f"{path}: frame {index}")
            keypoints = np.c_[np.where(labelled[:, None], xy, 0), np.where(labelled, 2, 0)]
            person = Person(category, keypoints, fields={"track_id": track})
            if scores is not None and np.isfinite(scores[index, track]).any():
                person.scores = np.nan_to_num(scores[index, track])
            if totals is not None and values.finite(float(totals[index, track])):
                person.fields["score"] = float(totals[index, track])
            persons.append(person)
        if persons:
            export.pictures.append(Picture(f"{video.name} frame {index}", Frame(video, index), None, persons))


def _by_frame(tracks: np.ndarray, nodes: int, path: Path) -> np.ndarray:
    """Returns (frames, tracks, nodes, 2) from one of the two orders in which programs write them."""
    if tracks.shape[1:3] == (2, nodes):
        return tracks.transpose(3, 0, 2, 1)
    if tracks.shape[2:] == (nodes, 2):
        return tracks
    raise UserError(f"{path}: `tracks` must be (track, 2, {nodes} nodes, frame). Received the shape {tracks.shape}.")


def _scores(file: Any, path: Path, shape: tuple) -> np.ndarray | None:
    """Returns (frames, tracks, nodes) confidences; None if there are none."""
    if "point_scores" not in file:
        return None
    found = hdf5.floats(hdf5.array(file, "point_scores", path), "point_scores", path)
    if found.shape == shape[:3]:
        return found
    return found.transpose(2, 0, 1) if found.shape == (shape[1], shape[2], shape[0]) else None


def _totals(file: Any, path: Path, count: int, num_tracks: int) -> np.ndarray | None:
    """Returns (frames, tracks) scores of the instances; None if there are none."""
    if "instance_scores" not in file:
        return None
    found = hdf5.floats(hdf5.array(file, "instance_scores", path), "instance_scores", path)
    return found.T if found.shape == (num_tracks, count) else found if found.shape == (count, num_tracks) else None
