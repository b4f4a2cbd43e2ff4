"""Identities, smoothing and speed on drawn videos of people who cross behind each other.

python benchmarks/tracking.py --write
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import measure
import numpy as np

import kpzoo
from kpzoo import nms
from kpzoo.data.coco import read_annotations
from kpzoo.data.files import PoseData
from kpzoo.data.json_file import read_json
from kpzoo.data.results import Results
from kpzoo.evaluation.evaluator import of_shared_keypoints
from kpzoo.inference import Smoother, Tracker
from kpzoo.inference.pictures import Video
from kpzoo.inference.predictor import as_model
from kpzoo.poses import Poses
from kpzoo.scenes import write_drawn_video
from kpzoo.skeletons import COCO17

FPS, MIN_IOU, EVERY = 25, 0.3, 5
NOISE, DROPPED = 0.02, 0.1  # of the height of a person, and the share of the poses, where poses are drawn ones


class IouTracker:
    """A plain tracker: each box continues the nearest box of the last frames, by IoU.

    Args:
        seconds: How long an identity waits at its last box.
    """

    def __init__(self, seconds: float):
        self.seconds, self.tracks, self.next_id = seconds, [], 1

    def update(self, poses: Poses, seconds: float, image_rgb=None) -> Poses:
        track_ids, single = np.full(len(poses), -1), poses.instance == 0
        ious = nms.iou_matrix(np.array([box for _, box, _ in self.tracks]).reshape(-1, 4), poses.boxes_xywh)
        ious[:, ~single] = 0
        places = set()
        for flat in np.argsort(-ious, axis=None, kind="stable"):
            place, index = divmod(int(flat), max(len(poses), 1))
            if ious[place, index] >= MIN_IOU and place not in places and track_ids[index] < 0:
                places.add(place)
                track_ids[index] = self.tracks[place][0]
                self.tracks[place] = (track_ids[index], poses.boxes_xywh[index], seconds)
        self.tracks = [one for one in self.tracks if one[2] == seconds or seconds - one[2] <= self.seconds]
        for index in np.flatnonzero((track_ids < 0) & single):
            track_ids[index] = self.next_id
            self.tracks.append((self.next_id, poses.boxes_xywh[index], seconds))
            self.next_id += 1
        return replace(poses, track_ids=track_ids)


TRACKERS: dict[str, Callable] = {
    "kpzoo": Tracker,
    "IoU, ends at once": lambda: IouTracker(0.0),
    "IoU, waits 2 s": lambda: IouTracker(2.0),
}


@dataclass
class Scene:
    """A drawn video: its file, its frames and its annotations."""

    path: Path

    @property
    def annotations(self) -> Path:
        return self.path.with_suffix(".json")

    def frames(self) -> Iterator[np.ndarray]:
        return (frame.image for frame in Video(self.path))


def drawn_poses(scene: Scene, num_frames: int, seed: int) -> list[Poses]:
    """Returns the annotated poses of each frame with noise, without some of them, in random order."""
    rng, rows = np.random.default_rng(seed), {}
    for row in read_json(scene.annotations)["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    found = []
    for number in range(num_frames):
        kept = []
        for row in rows.get(number, []):
            joints = np.array(row["keypoints"], float).reshape(-1, 3)
            joints[:, :2] += rng.normal(0, NOISE * row["bbox"][3], (17, 2))
            joints[:, 2] = np.array([0.0, 0.4, 0.9])[joints[:, 2].astype(int)]  # not labelled, hidden, visible
            if rng.random() >= DROPPED:
                kept.append({"keypoints": joints.ravel().tolist(), "score": 0.9, "bbox": row["bbox"]})
        rng.shuffle(kept)
        found.append(Poses.from_coco(kept, COCO17))
    return found


def tracked(scene: Scene, frames: Sequence[Poses], make: Callable) -> list[dict]:
    """Returns the results of a tracker for the poses of all frames."""
    tracker, rows = make(), []
    for number, (poses, image) in enumerate(zip(frames, scene.frames(), strict=True)):
        rows += tracker.update(poses, number / FPS, image).to_coco(number)
    return rows


def identities(scenes: Sequence[Scene], sources: dict[str, list[list[Poses]]]) -> list[dict]:
    """Returns a row for each source of poses and each tracker, summed over the videos."""
    table = []
    for source, by_scene in sources.items():
        for name, make in TRACKERS.items():
            line = {"poses": source, "tracker": name}
            for by in ("pose", "box"):
                scores = []
                for scene, frames in zip(scenes, by_scene, strict=True):
                    rows = tracked(scene, frames, make)
                    options = dict(skeleton=frames[0].skeleton, by=by)
                    scores.append(kpzoo.score_tracks(scene.annotations, rows, **options))
                people = sum(one.num_people for one in scores)
                counts = [one.num_switches for one in scores]
                line[f"switches by {by}"] = ", ".join(map(str, counts))
                line[f"median by {by}"] = float(np.median(counts))
                line[f"a person, {by}"] = sum(one.num_switches for one in scores) / people
                line[f"fragments, {by}"] = sum(one.num_fragments for one in scores) / people
                found = sum(one.num_found for one in scores) / sum(one.num_visible for one in scores)
                line[f"found, {by}"] = f"{found:.0%}"
            table.append(line)
    return table


def smoothing() -> dict[str, float]:
    """Returns the jitter that is left of still joints, and the lag of moving ones in frames, at worst."""
    rng, shape = np.random.default_rng(0), np.random.default_rng(1).uniform(0, 1, (17, 2)) * (60, 160)

    def smooth(positions):
        smoother, ones = Smoother(), (np.ones((1, 17)), np.ones(1), np.ones((1, 4)), np.zeros(1))
        poses = (Poses(points[None], *ones, COCO17, np.ones(1)) for points in positions)
        return np.array([smoother.update(one, number / FPS).keypoints_xy[0] for number, one in enumerate(poses)])

    def jitter(positions):
        return np.linalg.norm(np.diff(positions[50:], axis=0), axis=-1).mean()

    still = [shape + rng.normal(0, noise * 160, (400, 17, 2)) for noise in (0.005, 0.01, 0.02)]
    left = max(jitter(smooth(one)) / jitter(one) for one in still)
    lags = []
    for speed in (0.25, 0.5, 1.0, 2.0):  # sizes of the person per second
        step = speed * 160 / FPS
        moving = shape + np.arange(300)[:, None, None] * np.array([step, 0.0]) + rng.normal(0, 1.6, (300, 17, 2))
        lags.append((moving - smooth(moving))[60:, :, 0].mean() / step)
    return {"jitter": float(left), "lag": float(max(lags))}


WAYS = {
    "every frame": {},
    f"--every {EVERY}": {"every": EVERY},
    f"--every {EVERY} --interpolate": {"every": EVERY, "interpolate": True},
}


def speed(model, scene: Scene, rounds: int) -> tuple[list[dict], dict[str, float]]:
    """Returns frames per second and AP on the frames for each way through a video, and the speedups."""
    predictor, times, found = kpzoo.Predictor(model), {}, {}

    def run(name):
        found[name] = [(one.picture.image_id, one.poses) for one in predictor.stream(scene.path, **WAYS[name])]

    times = measure.interleaved({name: lambda name=name: run(name) for name in WAYS}, rounds, warm_up=1)
    first = next(iter(times.values())).median
    table = []
    for name, taken in times.items():
        values = ap(model, scene, found[name])
        frames_per_s = 1000 * len(found[name]) / taken.median
        ratio = f"{first / taken.median:.2f}x"
        table.append({"way": name, "frames/s": frames_per_s, "over the first": ratio, **values})
    return table, {name: first / taken.median for name, taken in times.items()}


def ap(model, scene: Scene, frames: Sequence[tuple[int, Poses]]) -> dict[str, float]:
    """Returns AP and AP50 over the keypoints that the model and the annotations share."""
    given = PoseData(read_annotations(scene.annotations), scene.path.parent)
    shared = of_shared_keypoints(given, model.preset)
    own, _ = model.preset.skeleton.shared_with(given.skeleton)
    ids = np.concatenate([[number] * len(poses) for number, poses in frames])
    joints = np.concatenate([poses.keypoints_xy for _, poses in frames])[:, own]
    scores = np.concatenate([poses.keypoint_scores for _, poses in frames])[:, own]
    results = Results(ids, joints, scores, np.concatenate([poses.scores for _, poses in frames]))
    values = kpzoo.score(shared.annotations, results).values
    return {name: values[name] for name in ("AP", "AP50")}


def first_count(line: dict) -> int:
    """Returns the switches of the first video, by pose."""
    return int(line["switches by pose"].split(",")[0])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--videos", type=int, default=6, help="number of videos")
    parser.add_argument("--models", nargs="+", default=["cpn_lite0", "mipnet_nano"], help="the first is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the result to benchmarks/results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        scenes = []
        for seed in range(args.videos):
            path = Path(folder) / f"{seed}.mp4"
            scenes.append(Scene(write_drawn_video(path, args.frames, seed=seed, people=args.people)))
        sources = {}
        for name in args.models:
            predictor = kpzoo.Predictor(name)
            sources[name] = [[one.poses for one in predictor.stream(scene.path)] for scene in scenes]
        noisy = [drawn_poses(scene, args.frames, seed) for seed, scene in enumerate(scenes)]
        sources[f"drawn, {NOISE:.0%} noise, {DROPPED:.0%} missing"] = noisy
        table = identities(scenes, sources)
        smooth = smoothing()
        timed, ratios = speed(as_model(args.models[0]), scenes[0], args.rounds)
    bars = [
        *(
            measure.bar(f"identity switches of the first video, poses: {line['poses']}", first_count(line), at_most=3)
            for line in table
            if line["tracker"] == "kpzoo"
        ),
        measure.bar("jitter of still joints that is left", smooth["jitter"], at_most=0.5),
        measure.bar("lag of moving joints", smooth["lag"], at_most=2, unit=" frames"),
        measure.bar(f"--every {EVERY} --interpolate, times as fast", list(ratios.values())[-1], at_least=2.5, unit="x"),
    ]
    measure.report(
        "tracking",
        "Videos: identities, smoothing, speed",
        f"python benchmarks/tracking.py --videos {args.videos} --models {' '.join(args.models)} --rounds {args.rounds} "
        "--write",
        {
            f"Identities of {args.people} people in {args.frames} frames, {args.videos} drawn videos": table,
            f"Speed with {args.models[0]} and the default detector, first video": timed,
        },
        bars,
        notes=[
            "Switches are those of each video, and their median; other columns are means over all people. By pose: a "
            "person is found by a pose with an OKS of at least 0.5. By box: by a box with an IoU of at least 0.5 with "
            "the visible part of the person.",
            "The networks were trained on photos. Drawn poses have known errors, so that they show the tracker alone.",
            "Drawn videos are much more crowded than most: people hide each other in most frames.",
            "Jitter and lag are the worst of several amounts of noise and speeds, at 25 frames per second.",
        ],
        folder=measure.RESULTS if args.write else None,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
