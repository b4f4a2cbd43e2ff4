"""Predicts the poses in any number of pictures: in one process or on a Ray cluster, from and to object stores."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kpzoo import stores
from kpzoo.data import parts
from kpzoo.distributed.chunks import chunks
from kpzoo.distributed.worker import RECORD, Job, Worker
from kpzoo.errors import UserError
from kpzoo.inference import detectors
from kpzoo.progress import Progress

PART_SIZE = 256  # pictures
RESULTS = "results.json"
_SHOWN = 100  # problems in a summary; the parts have all


@dataclass
class Summary:
    """Counts of a run.

    Args:
        num_pictures: Pictures that were processed, with those that cannot be read.
        num_skipped: Pictures of parts that an earlier run wrote.
        num_poses: Poses in all parts.
        num_problems: Pictures in all parts that cannot be read.
        num_parts: Parts of the folder.
        problems: One line for each of the first pictures that cannot be read.
    """

    num_pictures: int = 0
    num_skipped: int = 0
    num_poses: int = 0
    num_problems: int = 0
    num_parts: int = 0
    problems: tuple[str, ...] = ()

    def add(self, counts: dict) -> None:
        """Adds the counts of a part."""
        pictures, problems = int(counts["pictures"]), list(counts["problems"])
        self.num_skipped += pictures if counts["skipped"] else 0
        self.num_pictures += 0 if counts["skipped"] else pictures
        self.num_poses, self.num_problems = self.num_poses + int(counts["poses"]), self.num_problems + len(problems)
        self.num_parts, self.problems = self.num_parts + 1, (*self.problems, *problems)[:_SHOWN]


def predict(
    dataset,
    out: str | Path,
    boxes_xywh=None,
    *,
    model,
    detector=None,
    ray: str | None = None,
    workers: int = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    part_size: int = PART_SIZE,
    coco_json: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    **options,
) -> Summary:
    """Writes the poses in any number of pictures to Parquet parts, in one process or on a Ray cluster.

    Pictures are listed while others are predicted. A worker predicts the pictures of a part, with crops batched across
    pictures, and writes it whole under a name that depends on the listing only: a part is never there in half or twice,
    whichever worker dies. The same call goes on after an interruption: parts whose pictures have not changed are kept.
    A picture that cannot be read becomes a row with its `problem`. See `kpzoo.data.parts` for the columns. The poses
    are those of `Predictor`, with or without Ray.

    Args:
        dataset: A folder with its subfolders, a pattern, a picture, a .txt file with one picture in each line, or a
            list of pictures; local, or on s3://, gs://, az://, and pictures on http(s)://.
        out: The output folder, local or in a store: `parts/`, `run.json`, and `results.json` with `coco_json`.
        boxes_xywh: (P, 4) person boxes in image pixels, used for every picture; None runs the detector.
        model: The name of a model or a tag of published weights, which each worker loads; a function without arguments
            that returns a model, called by each worker; or a model, whose weights are sent to the workers.
        detector: See `Predictor`; or a function without arguments that returns a detector, called by each worker.
        ray: "auto" for the Ray cluster of this machine, or one of its own if there is none; "local" for one of its own;
            or the address of a cluster. None runs in this process.
        workers: Processes of the cluster that predict.
        num_cpus, num_gpus: CPUs and GPUs of a worker, fractions too.
        part_size: Pictures of a part. Workers cannot share a part.
        coco_json: Whether to also write `results.json`, a list of COCO results, each with the `file_name` of its image.
        overwrite: Whether to remove the results of an earlier run with other settings.
        resume: Whether to raise an error if there is no earlier run to resume.
        **options: `flip`, `nms`, `batch_size`, `precision` and `engine` of `Predictor`.

    Raises:
        UserError: If there are no pictures, a store cannot be reached, or the folder has results of other settings. The
            parts that are written are kept.

    >>> summary = kpzoo.distributed.predict("photos", "poses_in_parts", model="cpn_lite0", detector="whole")
    >>> summary.num_pictures, summary.num_problems
    (1, 0)
    >>> [len(row["poses"]) for row in kpzoo.distributed.read_rows("poses_in_parts")]
    [1]
    """
    parts.pyarrow()
    out = str(out) if stores.scheme_of(out) else os.path.abspath(Path(out).expanduser())
    _prepare(out, overwrite, resume)
    dataset = _absolute(dataset)
    boxes = None if boxes_xywh is None else np.asarray(boxes_xywh, float).reshape(-1, 4).tolist()
    threads = None if ray is None else max(1, round(num_cpus))
    job = Job(_maker(model), None if boxes else _detector_maker(detector), boxes, out, options, threads)
    if ray is None:
        counted = map(Worker(job), chunks(dataset, part_size))
    else:
        from kpzoo.distributed import ray_run

        counted = ray_run.run(job, dataset, part_size, ray, workers, num_cpus, num_gpus)
    summary = _counted(counted)
    _remove_others(out, summary.num_parts)
    if coco_json:
        write_coco(out)
    return summary


def write_coco(out: str | Path) -> str:
    """Writes `results.json` from the parts of a folder, and returns its path. One part is in memory at a time."""
    path = stores.joined(out, RESULTS)
    ids = image_ids(row["file_name"] for row in parts.read_rows(out))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RESULTS
        with file.open("w", encoding="utf-8") as written:
            separator = "[\n"
            for row, image_id in zip(parts.read_rows(out), ids, strict=True):
                for one in parts.results_of([row]):
                    written.write(separator + json.dumps({"image_id": image_id, **one}, separators=(",", ":")))
                    separator = ",\n"
            written.write("[]\n" if separator == "[\n" else "\n]\n")
        if stores.is_store(path):
            stores.upload(file, path)
        else:
            stores.write(path, file.read_bytes())
    return path


def image_ids(names) -> list[int]:
    """Returns the numbers in the file names if all are different numbers, as COCO's are, else 1, 2, …"""
    stems = [name.rpartition("/")[2].partition(".")[0] for name in names]
    if all(stem.isascii() and stem.isdigit() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return [int(stem) for stem in stems]
    return list(range(1, len(stems) + 1))


def _prepare(out: str, overwrite: bool, resume: bool) -> None:
    """Checks the folder, and removes an earlier run of it if it is to be replaced."""
    if stores.scheme_of(out) in stores.WEB:
        raise UserError(f"Nothing can be written to a web server. Received: `out={out}`.")
    has_run = stores.exists(stores.joined(out, RECORD))
    if resume and (overwrite or not has_run):
        raise UserError(f"Nothing can be resumed in {out}: there is no earlier run.", "Drop `resume=True`.")
    if not has_run and not stores.is_store(out) and os.path.isdir(out) and os.listdir(out) and not overwrite:
        raise UserError(
            f"{out} exists without an earlier run in it. Choose another folder.",
            "Or write to it with `overwrite=True`.",
        )
    if overwrite:
        stores.remove(stores.joined(out, RECORD))
        _remove_others(out, 0)


def _remove_others(out: str, num_parts: int) -> None:
    """Removes the parts after the last one, which a longer listing left."""
    folder = stores.joined(out, parts.FOLDER)
    kept = {parts.part_name(number) for number in range(num_parts)}
    for name in stores.names(folder):
        if name.endswith(parts.SUFFIX) and name not in kept:
            stores.remove(f"{folder}/{name}")


def _counted(counted: Iterator[dict]) -> Summary:
    summary, shown = Summary(), 0
    with Progress(0, "pictures") as progress:
        for counts in counted:
            summary.add(counts)
            for problem in summary.problems[shown:]:
                progress.say(f"kpzoo: {problem}")
            shown = len(summary.problems)
            progress.step(int(counts["poses"]), count=int(counts["pictures"]))
    return summary


def _absolute(dataset):
    """Returns the source with absolute paths: workers have another current folder."""
    if not isinstance(dataset, str | Path):
        return [_absolute(one) for one in dataset]
    return str(dataset) if stores.scheme_of(dataset) else os.path.abspath(Path(dataset).expanduser())


def _maker(model) -> Callable:
    """Returns a function that makes the model in any process."""
    if callable(model) and not hasattr(model, "preset"):
        return model
    if isinstance(model, str):
        return partial(_named, model)
    from kpzoo.inference.predictor import as_model

    as_model(model)
    from kpzoo import weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        weights.save_weights(model, path)
        return partial(_sent, model.preset.name, path.read_bytes())


def _named(name: str):
    from kpzoo.inference.predictor import as_model

    return as_model(name)


def _sent(name: str, data: bytes):
    """Returns a model from the bytes of its weights file."""
    from kpzoo import models, weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        arguments = weights.build_arguments(weights.read_description(str(path)))
        return models.build(name, weights=str(path), **arguments)


def _detector_maker(detector) -> Callable:
    if callable(detector):
        return detector
    return partial(detectors.get, detectors.DEFAULT if detector is None else detector)
