"""Identities and smoothing: who is who over frames, gaps, crossings, and what a filter leaves of jitter and motion."""

import json
from itertools import pairwise

import numpy as np
import pytest

import kpzoo
from kpzoo.errors import UserError
from kpzoo.evaluation import identities
from kpzoo.files import write_json
from kpzoo.inference import Smoother, Tracker
from kpzoo.inference.appearance import clothes
from kpzoo.inference.tracking import KEPT_SECONDS
from kpzoo.poses import Poses
from kpzoo.scenes import draw_video, write_drawn_video
from kpzoo.skeletons import COCO17, Skeleton

FPS = 25
SHAPE = np.random.default_rng(0).uniform(0, 1, (17, 2)) * (60, 160)


def people(*places_xy, instance=None, scores=None) -> Poses:
    count = len(places_xy)
    keypoints = np.array([SHAPE + place for place in places_xy]).reshape(-1, 17, 2)
    boxes = np.array([(*place, 60, 160) for place in places_xy], float).reshape(-1, 4)
    instance = np.zeros(count, int) if instance is None else instance
    scores = np.ones(count) if scores is None else scores
    return Poses(keypoints, np.ones((count, 17)), scores, boxes, instance, COCO17)


def tracked(frames, tracker=None) -> list[list[int]]:
    tracker = tracker or Tracker()
    return [tracker.update(poses, number / FPS).track_ids.tolist() for number, poses in enumerate(frames)]


def test_nobody_is_tracked_in_empty_frames():
    assert tracked([Poses.empty(COCO17)] * 3) == [[], [], []]


def test_identities_do_not_depend_on_the_order_of_the_poses():
    frames = [people((0, 0), (200, 0)), people((203, 0), (3, 0)), people((6, 0), (206, 0))]
    assert tracked(frames) == [[1, 2], [2, 1], [1, 2]]


@pytest.mark.parametrize(("seconds", "same"), [(1.9, True), (2.2, False)])
def test_who_is_away_for_up_to_two_seconds_keeps_the_identity(seconds, same):
    """A person walks 2 pixels a frame, also while hidden."""
    assert KEPT_SECONDS == 2.0
    seen, away = 30, round(seconds * FPS)
    frames = [people((2 * number, 0)) for number in range(seen)] + [people()] * away
    frames += [people((2 * (seen + away), 0))]
    assert tracked(frames)[-1] == ([1] if same else [2])


def test_people_who_cross_behind_each_other_keep_their_identities():
    """The one behind is not found while the boxes overlap by more than half."""
    frames = []
    for number in range(80):
        first, second = (5 * number, 0), (400 - 5 * number, 6)
        frames.append(people(first, second) if abs(first[0] - second[0]) > 40 else people(first))
    ids = tracked(frames)
    assert ids[-1] == [1, 2] and {one for frame in ids for one in frame} == {1, 2}


def test_nobody_takes_over_the_person_in_front():
    """A second look at the person in front, such as of a box that holds both, is not the hidden person."""
    ids = tracked([people((0, 0), (100, 0))] * 10 + [people((0, 0), (2, 1))] * 3 + [people((0, 0), (100, 0))])
    assert ids[9] == [1, 2] and ids[10:13] == [[1, -1]] * 3 and ids[13] == [1, 2]


def test_second_answers_continue_identities_and_begin_none():
    both, lost = np.array([0, 0]), np.array([0, 1])
    frames = [people((0, 0), (80, 0), instance=both)] * 5 + [people((0, 0), (80, 0), instance=lost)] * 3
    assert tracked(frames)[5:] == [[1, 2]] * 3
    assert tracked([people((0, 0), (80, 0), instance=lost)] * 3) == [[1, -1]] * 3


def test_a_tracker_goes_on_from_its_state():
    rng, frames = np.random.default_rng(1), []
    for number in range(40):
        places = [(3 * number, 0), (200 - 3 * number, 10), (100, 40)]
        frames.append(people(*(place for place in places if rng.random() > 0.2)))
    whole, tracker = tracked(frames), Tracker()
    first = [tracker.update(poses, number / FPS).track_ids.tolist() for number, poses in enumerate(frames[:17])]
    again = Tracker.from_state(json.loads(json.dumps(tracker.state())))
    rest = [again.update(poses, number / FPS).track_ids.tolist() for number, poses in enumerate(frames[17:], 17)]
    assert first + rest == whole
    assert Tracker.from_state(json.loads(json.dumps(Tracker().state()))).state() == Tracker().state()


@pytest.mark.parametrize(("with_images", "expected"), [(False, [2, 1]), (True, [1, 2])])
def test_the_colours_of_clothes_tell_who_comes_back(with_images, expected):
    """Two people meet, are not found for a moment, and turn back. By their motion they would have walked on."""
    approach = [(4 * number, 300 - 4 * number) for number in range(34)]
    tracker = Tracker()
    for number, (first_x, second_x) in enumerate([*approach, *approach[::-1]]):
        image = np.full((200, 500, 3), 90, np.uint8)
        image[:, second_x : second_x + 60] = (200, 30, 30)
        image[:, first_x : first_x + 60] = (30, 30, 220)
        poses = people((first_x, 0), (second_x, 0)) if second_x - first_x > 90 else people()
        found = tracker.update(poses, number / FPS, image if with_images else None)
    assert found.track_ids.tolist() == expected


def striped(*places) -> np.ndarray:
    """An image with a colour at the place of each person, given as (x, colour), the first in front."""
    image = np.full((200, 500, 3), 90, np.uint8)
    for x, colour in places[::-1]:
        image[:, max(x, 0) : x + 60] = colour
    return image


RED, BLUE = (200, 30, 30), (30, 30, 220)


def meeting(last: Poses, last_image: np.ndarray) -> list[list[int]]:
    """Two people, 1 in red and 2 in blue, walk towards each other until both would be at x = 140."""
    tracker, ids = Tracker(), []
    for number in range(35):
        poses = people((4 * number, 0), (280 - 4 * number, 0)) if number < 20 else people((4 * number, 0))
        image = striped((4 * number, RED), (280 - 4 * number, BLUE))
        ids.append(tracker.update(poses, number / FPS, image).track_ids.tolist())
    return [*ids, tracker.update(last, 35 / FPS, last_image).track_ids.tolist()]


@pytest.mark.parametrize(("rows", "expected"), [((RED, RED), [1]), ((BLUE, BLUE), [2]), ((RED, BLUE), [-1])])
def test_a_pose_between_two_people_who_meet_has_the_identity_of_its_clothes_or_none(rows, expected):
    image = striped((140, rows[0]))
    image[::2] = striped((140, rows[1]))[::2]
    ids = meeting(people((140, 0)), image)
    assert ids[:-1] == [[1, 2]] * 20 + [[1]] * 15
    assert ids[-1] == expected


def test_an_unsure_pose_behind_another_does_not_have_the_colours_of_the_one_in_front():
    """Both poses have the pixels of the red person. The other one is behind, with half of its score."""
    last = people((146, 0), (134, 0))
    last.keypoint_scores[1] = 0.5
    assert meeting(last, striped((134, RED), (146, RED)))[-1] == [1, 2]


def test_clothes_are_alike_by_their_colours():
    red, blue = (np.full((200, 100, 3), colour, np.uint8) for colour in ((220, 30, 30), (30, 30, 220)))
    first, second = (clothes(people((10, 10)), image)[0] for image in (red, blue))
    assert first @ first == pytest.approx(1) and first @ second == 0
    assert clothes(Poses.empty(COCO17), red).shape == (0, first.size)
    face = Skeleton("face", ("nose", "chin"), (), (0.1, 0.1), ())
    nobody = Poses(np.ones((1, 2, 2)), np.ones((1, 2)), np.ones(1), np.ones((1, 4)), np.zeros(1), face)
    assert (clothes(nobody, red) == 0).all()


def test_frames_come_in_their_order():
    tracker = Tracker()
    tracker.update(people((0, 0)), 1.0)
    with pytest.raises(UserError, match="Received: 1.0 s after 1.0 s"):
        tracker.update(people((0, 0)), 1.0)


# Smoothing ------------------------------------------------------------------------------------------------------------


def smoothed(positions, fps=FPS) -> np.ndarray:
    """(N, 17, 2) of a person at N positions (17, 2)."""
    smoother, found = Smoother(), []
    for number, keypoints in enumerate(positions):
        poses = Poses(keypoints[None], np.ones((1, 17)), np.ones(1), np.ones((1, 4)), np.zeros(1), COCO17, np.ones(1))
        found.append(smoother.update(poses, number / fps).keypoints_xy[0])
    return np.array(found)


def jitter(positions: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=-1).mean())


@pytest.mark.parametrize("fps", [15, 25, 60])
@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_smoothing_halves_the_jitter_of_still_joints(noise, fps):
    raw = SHAPE + np.random.default_rng(0).normal(0, noise, (300, 17, 2))
    smooth = smoothed(raw, fps)
    assert jitter(smooth[50:]) < 0.5 * jitter(raw[50:])
    assert np.abs(smooth[50:].mean(0) - SHAPE).max() < 4 * noise / np.sqrt(10)


@pytest.mark.parametrize("fps", [15, 25, 60])
@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0, 2.0])
def test_smoothing_adds_less_than_two_frames_of_lag(speed, fps):
    """Speed in sizes of the person per second."""
    step = speed * 160 / fps
    raw = SHAPE + np.arange(200)[:, None, None] * np.array([step, 0.0])
    raw += np.random.default_rng(0).normal(0, 1, raw.shape)
    lag = (raw - smoothed(raw, fps))[60:, :, 0].mean() / step
    assert 0 <= lag < 2


def test_people_are_smoothed_apart_and_begin_anew_after_a_gap():
    smoother = Smoother()
    first = smoother.update(_pose(SHAPE, 1), 0.0)
    np.testing.assert_array_equal(first.keypoints_xy[0], SHAPE)
    other = smoother.update(_pose(SHAPE + 50, 2), 0.04)
    np.testing.assert_array_equal(other.keypoints_xy[0], SHAPE + 50)
    moved = smoother.update(_pose(SHAPE + 8, 1), 0.08).keypoints_xy[0]
    assert (moved > SHAPE).all() and (moved < SHAPE + 8).all()
    np.testing.assert_array_equal(smoother.update(_pose(SHAPE + 90, 1), 3.0).keypoints_xy[0], SHAPE + 90)
    nobody = _pose(SHAPE, -1)
    np.testing.assert_array_equal(smoother.update(nobody, 3.04).keypoints_xy, nobody.keypoints_xy)


def _pose(keypoints, track_id) -> Poses:
    ones = (np.ones((1, 17)), np.ones(1), np.ones((1, 4)), np.zeros(1))
    return Poses(keypoints[None], *ones, COCO17, np.array([track_id]))


@pytest.mark.parametrize("options", [{"min_cutoff": 0}, {"speed_cutoff": -1}, {"min_cutoff": float("nan")}])
def test_cutoffs_without_meaning_are_refused(options):
    with pytest.raises(UserError, match="`min_cutoff=` must be above 0"):
        Smoother(**options)


# Drawn videos and scores ----------------------------------------------------------------------------------------------


def test_a_drawn_video_depends_on_its_seed_and_people_walk_smoothly():
    frames, again = (list(draw_video(3, 5, people=2, image_hw=(120, 160))) for _ in range(2))
    for (image, persons), (other, others) in zip(frames, again, strict=True):
        np.testing.assert_array_equal(image, other)
        assert persons == others
    places = [{one["track_id"]: np.array(one["keypoints"]).reshape(17, 3) for one in persons} for _, persons in frames]
    for before, now in pairwise(places):
        for track_id in before.keys() & now.keys():
            labelled = (before[track_id][:, 2] > 0) & (now[track_id][:, 2] > 0)
            assert np.abs((before[track_id] - now[track_id])[labelled][:, :2]).max() < 12


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_drawn_video(tmp_path_factory.mktemp("video") / "walk.mp4", 30, people=3, image_hw=(120, 160), seed=2)


def test_a_drawn_video_has_annotations_that_kpzoo_reads(video):
    read = identities.read_annotations(video.with_suffix(".json"))
    assert read.image_ids.tolist() == list(range(30)) and read.skeleton.name == "coco17"
    content = json.loads(video.with_suffix(".json").read_text())
    assert {row["track_id"] for row in content["annotations"]} == {1, 2, 3}
    with pytest.raises(UserError, match="exists. Choose another name"):
        write_drawn_video(video, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("v.avi", {}, "must end in .mp4"),
        ("v.mp4", {"num_frames": 0}, "at least one frame"),
        ("v.mp4", {"people": 0}, "must be 1 to 20"),
        ("v.mp4", {"image_hw": (121, 160)}, "even sides"),
        ("v.mp4", {"fps": 0}, "must be 1 to 240"),
    ],
)
def test_drawn_videos_without_meaning_are_refused(name, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_drawn_video(tmp_path / name, **{"num_frames": 2, **options})
    assert not list(tmp_path.iterdir())


def truth_and_results(video) -> tuple[dict, list]:
    content = json.loads(video.with_suffix(".json").read_text())
    return content, [{**row, "score": 1.0} for row in content["annotations"]]


def test_switches_and_fragments_are_those_of_a_pencil(video):
    content, results = truth_and_results(video)
    annotations = video.with_suffix(".json")
    exact = kpzoo.score_tracks(annotations, results)
    assert (exact.num_people, exact.num_switches, exact.num_found) == (3, 0, len(content["annotations"]))
    frames = [row["image_id"] for row in content["annotations"] if row["track_id"] == 3]
    assert exact.fragments[3] == sum(b - a > 1 for a, b in pairwise(frames))
    changed = [dict(row) for row in results]
    for row in changed:
        if row["track_id"] == 3 and row["image_id"] >= 10:
            row["track_id"] = 7 if row["image_id"] < 20 else 3  # away from 3 and back
    assert kpzoo.score_tracks(annotations, changed).switches == {1: 0, 2: 0, 3: 2}
    gone = [row for row in results if not (row["track_id"] == 3 and 10 <= row["image_id"] < 15)]
    lost = kpzoo.score_tracks(annotations, gone)
    assert lost.num_switches == 0 and lost.fragments[3] == exact.fragments[3] + 1
    assert "0 switches (0.00 per person)" in str(exact)


def test_scores_of_identities_need_identities(video, tmp_path):
    content, results = truth_and_results(video)
    for row in results:
        row.pop("track_id")
    with pytest.raises(UserError, match="have no `track_id`"):
        kpzoo.score_tracks(video.with_suffix(".json"), results)
    for row in content["annotations"]:
        row.pop("track_id")
    path = write_json(tmp_path / "a.json", content)
    with pytest.raises(UserError, match="people without `track_id`"):
        kpzoo.score_tracks(path, results)
    with pytest.raises(UserError, match="5 keypoints, of an unknown skeleton"):
        kpzoo.score_tracks(video.with_suffix(".json"), [{"image_id": 0, "track_id": 1, "keypoints": [0] * 15}])
