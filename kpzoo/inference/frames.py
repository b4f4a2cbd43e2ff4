"""The loop over the frames of a video: detection in some of them, boxes that follow poses, identities, interpolation.

A video file is processed in segments that depend only on the options. After each, everything that the next depends on
is a `state`, from which an interrupted run goes on with equal results.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np

from kpzoo.errors import UserError
from kpzoo.inference import batching, box_poses
from kpzoo.inference.batching import BoxedPicture
from kpzoo.inference.interpolation import between
from kpzoo.inference.pictures import Picture, Video
from kpzoo.inference.prediction import Prediction
from kpzoo.inference.smoothing import Smoother
from kpzoo.inference.tracking import Tracker
from kpzoo.nms import iou_matrix
from kpzoo.pose_model import Preset
from kpzoo.poses import Poses

SEGMENT = 64  # frames, at least
_SAME = 0.5  # IoU from which two boxes are of one person


@dataclass(frozen=True)
class Options:
    """How a video is processed, see `Predictor.stream`. `smooth` and `interpolate` include `track`.

    Args:
        every: Run the detector on every N-th frame.
        track: Whether to give people identities.
        smooth: Whether to smooth the joints of tracked people.
        interpolate: Whether to run the networks on every N-th frame only.

    Raises:
        UserError: If `every` is below 1, or there is nothing to interpolate.
    """

    every: int = 1
    track: bool = False
    smooth: bool = False
    interpolate: bool = False

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"`every=` must be 1 or more. Received: {self.every}.")
        if self.interpolate and self.every == 1:
            raise UserError(
                "`interpolate=True` leaves the networks out between every N-th frame.", "Add `every=` of 2 or more."
            )
        object.__setattr__(self, "track", self.track or self.smooth or self.interpolate)

    def check_pictures(self, state: Mapping | None) -> None:
        """Raises an error for options that only videos have."""
        if self.every > 1:
            raise UserError(
                f"`every=` must be 1 for images: only frames of a video share boxes. Received: {self.every}."
            )
        if self.track or state is not None:
            name = "smooth" if self.smooth else "track" if self.track else "state"
            raise UserError(f"`{name}=` is for videos: images have no order in time. Pass a video, or drop it.")

    @property
    def segment(self) -> int:
        """Number of frames of a segment, a multiple of `every`."""
        return self.every * -(-SEGMENT // self.every)


PLAIN = Options()


@dataclass(frozen=True)
class Networks:
    """What turns images into poses.

    Args:
        start: Starts the pose network on crops, see `box_poses.run_boxes`.
        preset: That of the pose model.
        detect: The detector.
        nms: OKS of OKS-NMS, None without.
        batch_size: Crops per batch.
    """

    start: Callable
    preset: Preset
    detect: batching.Detect
    nms: float | None
    batch_size: int

    def run(self, boxed: Iterable[BoxedPicture], live: bool = False, ahead: bool = True) -> Iterator[BoxedPicture]:
        """See `box_poses.run_boxes`."""
        return box_poses.run_boxes(self.start, self.preset, boxed, self.batch_size, live, ahead)

    def selected(self, one: BoxedPicture) -> tuple[Poses, Poses, np.ndarray]:
        """Returns the poses that OKS-NMS keeps, those that it removes, and the scores of the boxes of the kept ones."""
        poses = box_poses.poses_of(one, self.preset)
        everyone = np.arange(len(poses))
        plain = self.nms is None or not len(poses)
        kept = everyone if plain else box_poses.suppress(poses, self.preset, self.nms)
        box_scores = np.repeat(one.box_scores, self.preset.num_instances)[kept]
        return poses[kept], poses[np.setdiff1d(everyone, kept)], box_scores


def predictions(
    video: Video, boxes_xywh, networks: Networks, options: Options, state: Mapping | None = None
) -> Iterator[Prediction]:
    """Yields the results of the frames of a video that are left.

    Args:
        video: The video, of which the frames that are done have been read.
        boxes_xywh: (P, 4) boxes for every frame; None to detect them.
        networks: The detector and the pose network.
        options: How the video is processed.
        state: The `state` of the result of the last frame that is done; None at the beginning.
    """
    loop = _Loop(batching.shared_boxes(boxes_xywh), networks, options, state)
    return loop.run(video)


class _Loop:
    """The loop over frames, with all that it carries from one to the next."""

    def __init__(self, boxes_xywh: np.ndarray | None, networks: Networks, options: Options, state: Mapping | None):
        self.given, self.networks, self.options = boxes_xywh, networks, options
        self.follows = options.every > 1 and not options.interpolate and boxes_xywh is None
        self.tracker, self.smoother = Tracker(), Smoother()
        self.num_frames, self.box_scores, self.carried, self.key, self.waiting = 0, {}, [], None, []
        self.asked = 0
        if state is not None:
            self._restore(state)

    def run(self, video: Video) -> Iterator[Prediction]:
        frames = batching.prefetched(video)
        frames = _with_last(frames) if self.options.interpolate else ((frame, False) for frame in frames)
        if video.live:
            yield from self._segment(frames, live=True)
            return
        while True:
            # The first frame is a segment of its own with every N-th frame after it: segments end with such a frame.
            length = self.options.segment + (1 if self.num_frames == 0 else 0)
            done, held = self.num_frames, None
            for one in self._segment(islice(frames, length), live=False):
                if held is not None:
                    yield held
                held = one
            if held is None:
                return
            yield replace(held, state=self._state())
            if self.num_frames - done < length:
                return

    def _segment(self, frames: Iterable[tuple[Picture, bool]], live: bool) -> Iterator[Prediction]:
        live, ahead = live or self.follows, not self.follows
        self.asked = self.num_frames
        for one in self.networks.run(self._boxed(frames), live, ahead):
            yield from self._results(one)

    def _boxed(self, frames: Iterable[tuple[Picture, bool]]) -> Iterator[BoxedPicture]:
        for picture, is_last in frames:
            index, self.asked = self.asked, self.asked + 1
            is_key = index % self.options.every == 0 or (self.options.interpolate and is_last)
            if self.options.interpolate and not is_key:
                yield _Resting(picture, *batching.NO_BOXES)
            elif self.given is not None:
                boxes = batching.inside(self.given, picture)
                yield BoxedPicture(picture, boxes, np.ones(len(boxes)))
            elif is_key or not self.follows:
                yield BoxedPicture(picture, *self.networks.detect(picture.image, picture.key))
            else:
                yield BoxedPicture(picture, *self._followed(picture))

    def _followed(self, picture: Picture) -> batching.Boxes:
        """Returns boxes around the poses that tracked people should have by now, and the last boxes of other people."""
        height, width = picture.image.shape[:2]
        boxes, scores = [np.array(box) for *box, _ in self.carried], [score for *_, score in self.carried]
        for track in self.tracker.tracks:
            if track.track_id in self.box_scores:
                x, y, w, h = track.box_xywh(picture.seconds)
                low, high = np.clip([x, y], 0, (width, height)), np.clip([x + w, y + h], 0, (width, height))
                if (high - low >= 1).all():
                    boxes.append(np.concatenate([low, high - low]))
                    scores.append(self.box_scores[track.track_id])
        return np.array(boxes).reshape(-1, 4), np.array(scores)

    def _results(self, one: BoxedPicture) -> list[Prediction]:
        """Returns the results that are complete with a frame."""
        self.num_frames += 1
        if isinstance(one, _Resting):
            self.waiting.append(one.picture)
            return []
        poses, dropped, box_scores = self.networks.selected(one)
        tracked = poses
        if self.options.track or self.follows:
            tracked = self.tracker.update(poses, one.picture.seconds, one.picture.image)
            self._remember(tracked, box_scores, (self.num_frames - 1) % self.options.every == 0)
        key = Prediction(one.picture, tracked if self.options.track else poses, dropped)
        waiting, self.waiting = self.waiting, []
        results = [Prediction(*pair) for pair in between(self.key, waiting, key)] if waiting else []
        if self.options.interpolate:
            self.key = replace(key, picture=replace(key.picture, image=None))
        return [self._smoothed(result) for result in [*results, key]]

    def _remember(self, tracked: Poses, box_scores: np.ndarray, is_key: bool) -> None:
        """Keeps what the next boxes need: scores of the boxes of identities, and boxes of people without identity."""
        seen = zip(tracked.track_ids.tolist(), box_scores.tolist(), strict=True)
        before = {} if is_key else self.box_scores
        self.box_scores = {**before, **{track_id: score for track_id, score in seen if track_id >= 0}}
        alone, known = (tracked.track_ids < 0) & (tracked.instance == 0), tracked.track_ids >= 0
        overlaps = iou_matrix(tracked.boxes_xywh, tracked.boxes_xywh[known]).max(axis=1, initial=0)
        rows = np.flatnonzero(alone & (overlaps < _SAME))
        self.carried = [[*tracked.boxes_xywh[row].tolist(), float(box_scores[row])] for row in rows]

    def _smoothed(self, result: Prediction) -> Prediction:
        if not self.options.smooth:
            return result
        return replace(result, poses=self.smoother.update(result.poses, result.picture.seconds))

    def _state(self) -> dict:
        state = {"num_frames": self.num_frames, "tracker": self.tracker.state(), "smoother": self.smoother.state()}
        state["box_scores"] = {str(key): score for key, score in self.box_scores.items()}
        state["carried"] = self.carried
        if self.key is not None:
            number = self.key.picture.image_id
            state["key"] = {"seconds": self.key.picture.seconds, "poses": self.key.poses.to_coco(number)}
        return state

    def _restore(self, state: Mapping) -> None:
        self.num_frames, self.tracker = state["num_frames"], Tracker.from_state(state["tracker"])
        self.smoother.restore(state["smoother"])
        self.box_scores = {int(key): score for key, score in state["box_scores"].items()}
        self.carried = state["carried"]
        if "key" in state:
            skeleton = self.networks.preset.skeleton
            poses = Poses.from_coco(state["key"]["poses"], skeleton)
            poses = replace(poses, track_ids=np.zeros(0)) if poses.track_ids is None else poses  # nobody
            picture = Picture("", 0, 0, seconds=state["key"]["seconds"])
            self.key = Prediction(picture, poses, Poses.empty(skeleton))


class _Resting(BoxedPicture):
    """A frame in which the networks do not run."""


def _with_last(frames: Iterable[Picture]) -> Iterator[tuple[Picture, bool]]:
    """Yields the frames, each with whether it is the last."""
    end, iterator = object(), iter(frames)
    before = next(iterator, end)
    for frame in chain(iterator, [end]):
        if before is not end:
            yield before, frame is end
        before = frame
