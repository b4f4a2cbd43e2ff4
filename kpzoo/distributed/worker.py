"""Turns the pictures of a chunk into a part, with a model that is loaded once in each process."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

from kpzoo import images, stores
from kpzoo.data import parts
from kpzoo.distributed.chunks import Chunk
from kpzoo.errors import UserError
from kpzoo.images import UnreadablePicture
from kpzoo.inference.pictures import Picture

RECORD = "run.json"
READS = 16  # pictures of a store that are read at the same time


@dataclass(frozen=True)
class Job:
    """What workers need, in a form that is sent to other processes.

    Args:
        make_model: Returns the model.
        make_detector: Returns the detector; None with `boxes_xywh`.
        boxes_xywh: (P, 4) boxes of every picture; None to detect them.
        out: The output folder, local or in a store.
        options: Of `Predictor`.
        threads: Threads of TensorFlow; None for its default.
    """

    make_model: Callable
    make_detector: Callable | None
    boxes_xywh: list | None
    out: str
    options: dict = field(default_factory=dict)
    threads: int | None = None


class StoredPictures:
    """Pictures of a chunk, decoded one at a time. Those of a store are read ahead."""

    def __init__(self, chunk: Chunk):
        self.chunk = chunk

    def __len__(self) -> int:
        return len(self.chunk.paths)

    def __iter__(self) -> Iterator[Picture]:
        for index, (path, name, source) in enumerate(self._sources()):
            listed = Picture(name, index + 1, path)
            try:
                yield replace(listed, image=images.read_image(source if isinstance(source, str) else source()))
            except stores.Unreachable:
                raise
            except FileNotFoundError:
                yield replace(listed, problem=UnreadablePicture(path, "there is no such file."))
            except UnreadablePicture as error:
                yield replace(listed, problem=UnreadablePicture(path, error.reason))
            except UserError as error:
                yield replace(listed, problem=UnreadablePicture(path, str(error)))

    def _sources(self) -> Iterator[tuple[str, str, str | Callable[[], bytes]]]:
        """Yields path, name, and the path again or a function that waits for the bytes."""
        waiting, listed = deque(), iter(zip(self.chunk.paths, self.chunk.names, strict=True))
        with ThreadPoolExecutor(READS) as pool:
            while True:
                for path, name in islice(listed, READS - len(waiting)):
                    source = pool.submit(stores.read, path).result if stores.scheme_of(path) else path
                    waiting.append((path, name, source))
                if not waiting:
                    return
                yield waiting.popleft()


class Worker:
    """Predicts chunks. The model is loaded for the first, and settings are compared with those of the folder.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job):
        self.job, self._predictor, self._settings = job, None, None

    def __call__(self, chunk: Chunk) -> dict:
        """Returns the counts of a chunk after its part is written: `pictures`, `poses`, `problems`, `skipped`."""
        predictor = self._loaded()
        path = stores.joined(self.job.out, parts.FOLDER, parts.part_name(chunk.number))
        digest = {"pictures": chunk.digest, "settings": self._settings}
        found = parts.description_of(path)
        if found and found.get("digest") == digest:
            return {**found["counts"], "skipped": True}
        results = predictor.predictions(StoredPictures(chunk), self.job.boxes_xywh)
        rows = [_row(one) for one in results]
        problems = [f"{row['file_name']}: {row['problem']}" for row in rows if row["problem"]]
        counts = {"pictures": len(rows), "poses": sum(len(row["poses"]) for row in rows), "problems": problems}
        parts.write_part(path, rows, {"digest": digest, "counts": counts})
        return {**counts, "skipped": False}

    def _loaded(self):
        if self._predictor is None:
            from kpzoo.inference import bulk
            from kpzoo.inference.predictor import Predictor, as_model

            if self.job.threads:
                limit_threads(self.job.threads)
            model = as_model(self.job.make_model())
            detector = self.job.make_detector and self.job.make_detector()
            boxes = self.job.boxes_xywh
            settings = bulk.settings_of(model, boxes, detector, self.job.options)
            self._settings = check_record(self.job.out, settings)
            self._predictor = Predictor(model, detector=detector, **self.job.options)
        return self._predictor


def check_record(out: str, settings: dict) -> dict:
    """Returns settings as JSON has them, after comparing them with those of an earlier run in the folder.

    Raises:
        UserError: If they differ.
    """
    settings, path = json.loads(json.dumps(settings)), stores.joined(out, RECORD)
    try:
        before = json.loads(stores.read(path))["settings"]
    except FileNotFoundError:
        stores.write(path, json.dumps({"settings": settings}, indent=1).encode())
        return settings
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path!r} is damaged. Choose another folder.") from None
    changed = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if changed:
        changes = ", ".join(f"{key}: {before.get(key)} before, {settings.get(key)} now" for key in sorted(changed))
        raise UserError(
            f"The poses in {out} have other settings ({changes}). Choose another folder.",
            "Or replace its contents with `overwrite=True`.",
        )
    return settings


def limit_threads(count: int) -> None:
    """Gives TensorFlow the share of the cores that Ray gives its process."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError:  # a process that has used TensorFlow before
        return


def _row(one) -> dict:
    picture = one.picture
    problem = None if picture.problem is None else getattr(picture.problem, "reason", str(picture.problem))
    height, width = (None, None) if picture.image is None else picture.image.shape[:2]
    keys = ("keypoints", "score", "instance", "box_image_xywh", "covariance_xy")
    poses = [{key: pose.get(key) for key in keys} for pose in one.poses.to_coco(picture.image_id)]
    return {"file_name": picture.name, "problem": problem, "height": height, "width": width, "poses": poses}
