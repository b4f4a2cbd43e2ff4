"""Drawn videos of people who walk to and fro and cross behind each other, with exact poses and identities.

video = write_drawn_video("walk.mp4", num_frames=300, people=6)   # and walk.json with the poses of each frame
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpzoo.errors import UserError
from kpzoo.files import write_json, written_whole
from kpzoo.scenes import drawn
from kpzoo.scenes.figures.clothes import Look, sample_look
from kpzoo.scenes.figures.people import Figure, draw_figure
from kpzoo.scenes.figures.postures import Body, Build, Posture, pose_body, project, sample_build
from kpzoo.scenes.figures.scenery import draw_backdrop, photograph
from kpzoo.scenes.folder import content
from kpzoo.skeletons import COCO17
from kpzoo.video_file import VideoFile

GENERATOR = "kpzoo.scenes.drawn_video 1"  # the version increases if a seed gives other videos

_MARGIN = 0.1  # of the width, where people turn
_TURN = 220.0  # degrees per second
_STRIDE = 0.75  # body heights per double step, times 2: the way of a whole cycle of the legs
_TILT = 6.0  # degrees that the camera looks down


@dataclass
class Walker:
    """A person who walks to and fro at one distance from the camera.

    Args:
        build: Proportions.
        look: Skin, hair and clothes.
        height: Pixels that the person measures standing.
        ground_y: Where the feet are, in image pixels.
        speed: Body heights per second.
        x: Middle of the hips, in image pixels.
        yaw: Direction in degrees: 90 walks to the right, -90 to the left, 0 faces the viewer.
        target: The direction to turn to.
        phase: Of the legs, in radians.
    """

    build: Build
    look: Look
    height: float
    ground_y: float
    speed: float
    x: float
    yaw: float
    target: float
    phase: float

    def step(self, seconds: float, width: int) -> None:
        """Walks on, and turns near the edges of an image of `width` pixels."""
        if self.x > (1 - _MARGIN) * width:
            self.target = -abs(self.target)
        elif self.x < _MARGIN * width:
            self.target = abs(self.target)
        self.yaw += float(np.clip(self.target - self.yaw, -_TURN * seconds, _TURN * seconds))
        way = self.speed * seconds
        self.x += way * self.height * np.sin(np.radians(self.yaw))
        self.phase += np.pi * way / _STRIDE

    @property
    def body(self) -> Body:
        left, right = _leg(self.phase), _leg(self.phase + np.pi)
        arms = np.array([_arm(self.phase + np.pi), _arm(self.phase)])
        twist = 5 * np.sin(self.phase)
        posture = Posture("walk", 4.0, 0.0, twist, 0.0, (5.0, 0.0, 0.0), arms, np.array([left, right]))
        return pose_body(self.build, posture, self.yaw, _TILT)

    def figure(self, image_hw: tuple[int, int], light_xy: np.ndarray) -> Figure:
        body = self.body
        points, _ = project(np.stack(list(body.points.values())))
        hips_xy = np.array([self.x, self.ground_y - self.height * points[:, 1].max()])
        return draw_figure(body, self.look, self.height, hips_xy, image_hw, light_xy)


def _leg(phase: float) -> tuple[float, float, float, float]:
    """Returns flexion, abduction, twist and knee of a leg; the knee bends while the leg swings forward."""
    return 4 + 24 * np.sin(phase), 2.0, 2.0, 6 + 42 * max(0.0, np.cos(phase))


def _arm(phase: float) -> tuple[float, float, float, float]:
    return 22 * np.sin(phase), 8.0, 0.0, 24 + 8 * np.sin(phase)


def draw_video(
    seed: int, num_frames: int, *, people: int = 6, image_hw: tuple[int, int] = (432, 960), fps: float = 25.0
) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """Yields the frames of a video, which depends only on the arguments, with the poses of the people in view.

    Args:
        seed: Seed of the video.
        num_frames: Number of frames.
        people: Number of people. They stay in the image and hide each other.
        image_hw: (height, width) of the frames in pixels.
        fps: Frames per second.

    Yields:
        A frame, (H, W, 3) uint8 RGB, and an annotation as that of `draw_scene` for each person with at least three
        visible joints and a fifth of the body visible, with `track_id`, 1 for the person who is farthest away.

    Raises:
        UserError: If an argument is invalid.

    >>> frames = list(draw_video(0, 2, people=3))
    >>> len(frames), frames[0][0].shape, [person["track_id"] for person in frames[0][1]]
    (2, (432, 960, 3), [1, 2, 3])
    """
    _check(num_frames, people, image_hw, fps)
    return _frames(np.random.default_rng(seed), num_frames, people, image_hw, fps)


def _frames(rng: np.random.Generator, num_frames: int, people: int, image_hw, fps: float):
    backdrop, _ = draw_backdrop(rng, image_hw)
    walkers, camera = _walkers(rng, people, image_hw), int(rng.integers(2**31))
    light_xy = np.array([0.4, -0.5])
    for _ in range(num_frames):
        figures = [walker.figure(image_hw, light_xy) for walker in walkers]
        owner_map, image = drawn.owners(figures, [], image_hw), backdrop.copy()
        for figure in figures:
            drawn.paint_figure(image, figure)
        persons = []
        for index, figure in enumerate(figures):
            mask = owner_map == index
            if drawn.shown(figure, mask) >= drawn.LEAST_SHOWN:
                persons.append({**drawn.annotation(figure, mask), "track_id": index + 1})
        yield photograph(np.random.default_rng(camera), image), persons
        for walker in walkers:
            walker.step(1 / fps, image_hw[1])


def _walkers(rng: np.random.Generator, people: int, image_hw: tuple[int, int]) -> list[Walker]:
    """Returns people at distances that differ, farthest first: apart at first, half of them in each direction."""
    height, width = image_hw
    nearness = np.linspace(0, 1, people) if people > 1 else np.array([0.5])
    places = rng.permutation(np.linspace(0.12, 0.88, people)) if people > 1 else np.array([0.5])
    sides = rng.permutation(np.arange(people) % 2 * 2 - 1)
    walkers = []
    for near, place, side in zip(nearness, places, sides, strict=True):
        size = height * (0.4 + 0.2 * near) * rng.uniform(0.95, 1.05)
        ground = height * (0.7 + 0.25 * near)
        target = float(rng.uniform(60, 90) * side)
        x, phase = float(width * place), rng.uniform(0, 2 * np.pi)
        look, build = sample_look(rng), sample_build(rng)
        walkers.append(Walker(build, look, size, ground, rng.uniform(0.4, 0.75), x, target, target, phase))
    return walkers


def write_drawn_video(
    path: str | Path,
    num_frames: int,
    *,
    seed: int = 0,
    people: int = 6,
    image_hw: tuple[int, int] = (432, 960),
    fps: float = 25.0,
    overwrite: bool = False,
) -> Path:
    """Writes a drawn video, and its poses beside it as COCO annotations with `track_id`, in a file ending in .json.

    The images of the annotations are the frames: their ids count from 0, and their names are these numbers, as in the
    results of `kpzoo predict`, so that `kpzoo evaluate` and `kpzoo.score_tracks` score these results.

    Args:
        path: The video, ending in .mp4.
        num_frames, seed, people, image_hw, fps: See `draw_video`.
        overwrite: Whether to replace existing files.

    Returns:
        The path of the video.

    Raises:
        UserError: If an argument is invalid, a file exists, or cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".mp4":
        raise UserError(f"The name of a drawn video must end in .mp4. Received: {path.name!r}.")
    _check(num_frames, people, image_hw, fps)
    annotations = path.with_suffix(".json")
    for file in (path, annotations):
        if file.exists() and not overwrite:
            raise UserError(f"{str(file)!r} exists. Choose another name.", "Or replace it with `overwrite=True`.")
    info = {"description": "Drawn people, not photographs", "generator": GENERATOR, "seed": seed, "fps": fps}
    table = content(info, COCO17)
    with written_whole(path) as part:
        video = VideoFile(part, fps)
        for number, (image, persons) in enumerate(
            draw_video(seed, num_frames, people=people, image_hw=image_hw, fps=fps)
        ):
            video.add(image)
            size = {"height": image_hw[0], "width": image_hw[1]}
            table["images"].append({"id": number, "file_name": str(number), **size})
            for person in persons:
                table["annotations"].append({"id": len(table["annotations"]) + 1, "image_id": number, **person})
        video.close()
        write_json(annotations, table)
    return path


def _check(num_frames: int, people: int, image_hw: tuple[int, int], fps: float) -> None:
    if num_frames < 1:
        raise UserError(f"A video needs at least one frame. Received: {num_frames}.")
    if not 1 <= people <= 20:
        raise UserError(f"`people=` must be 1 to 20. Received: {people}.")
    if min(image_hw) < 96 or max(image_hw) > 2048 or any(side % 2 for side in image_hw):
        raise UserError(f"`image_hw=` must be (height, width), even sides of 96 to 2048. Received: {tuple(image_hw)}.")
    if not 1 <= fps <= 240:
        raise UserError(f"`fps=` must be 1 to 240. Received: {fps}.")
