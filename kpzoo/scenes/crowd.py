"""Composed scenes as an augmentation: only the crop of a scene is computed, never the scene."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from kpzoo.data.files import PoseData
from kpzoo.errors import UserError
from kpzoo.scenes.composed import arranged, checked
from kpzoo.scenes.cutout_folder import StoredCutouts
from kpzoo.scenes.layers import occlusion_of
from kpzoo.scenes.rendering import overlaid


@dataclass(frozen=True, eq=False)
class Crowd:
    """Crowds of the people of several photos: the `crowd` of `kpzoo.data.make_dataset` and `training.run`.

    The crops are those of the scenes of `compose_scene`, with people and photo interpolated once instead of twice. The
    people are cut out of the photos before the first crop.

    Args:
        data: Data set of the people and photos.
        share: Share of the crops that show a composed scene, 0 … 1.
        crowding: See `compose_scene`.
        people: See `compose_scene`.
        folder: Folder to keep the cut-outs in for later runs, see `StoredCutouts`. None for a temporary one.

    Raises:
        UserError: If an argument is invalid.
    """

    data: PoseData
    share: float = 0.5
    crowding: float = 0.7
    people: tuple[int, int] = (2, 3)
    folder: str | Path | None = field(default=None, kw_only=True)

    def __post_init__(self):
        checked(self.crowding, self.people)
        if not 0 <= self.share <= 1:
            raise UserError(f"The share of composed crops must be in [0, 1]. Received: {self.share}.")
        _ = self.data.annotations  # a pack has none, and says so

    def settings(self) -> dict:
        """Returns the settings as JSON values."""
        return {"share": self.share, "crowding": self.crowding, "people": list(self.people)}

    @cached_property
    def source(self) -> StoredCutouts:
        """The cut-outs, which are made at the first use."""
        return StoredCutouts(self.data, self.folder, progress=True)

    def prepare(self) -> None:
        """Makes the cut-outs, before threads use them.

        Raises:
            UserError: If no person can be cut out, or the folder holds something else.
        """
        _ = self.source

    def plan(self, seed: int, count: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """Returns the people of the scene of a crop, which depends only on the arguments.

        Returns:
            A person of the background photo; the persons of the scene from back to front, (L,); their (L, 2, 3) maps
            from pixels of their photos to scene pixels, NaN for people of the background photo; and of the persons that
            are shown, boxes (P, 4), labels (P, K, 4) and the index of the person of the crop. Labels are x and y in
            pixels, visibility, and weight in the loss.
        """
        host, layers = arranged((seed, count, 1), self.source, self.crowding, self.people)
        boxes, labels, image_hw = [], [], self.source.sizes_hw[host].tolist()
        for place, layer in enumerate(layers):
            hidden, shown = occlusion_of(place, layers, image_hw)
            low, high = layer.box_xyxy[:2], layer.box_xyxy[2:]
            if shown and layer.visibility.any() and (high > low).all():
                visibility = np.where(hidden, np.minimum(layer.visibility, 1), layer.visibility)
                boxes.append([*low, *(high - low)])
                labels.append(np.column_stack([layer.keypoints_xy, visibility, layer.weights]))
        chosen = int(np.random.default_rng((seed, count, 2)).integers(len(boxes)))
        persons = np.array([layer.person for layer in layers])
        unmoved = np.full((2, 3), np.nan)
        maps = np.array([layer.to_scene if layer.moved else unmoved for layer in layers])
        return host, persons, maps, np.array(boxes, np.float32), np.array(labels, np.float32), chosen

    def overlay(
        self, crop: np.ndarray, crop_to_scene: np.ndarray, host: int, persons: Sequence[int], maps: np.ndarray
    ) -> np.ndarray:
        """Returns the (h, w, 3) float32 crop of a planned scene, from the same crop of its background photo.

        Args:
            crop: (h, w, 3) float32 crop of the photo, 0 … 255.
            crop_to_scene: (2, 3) map from crop pixels to scene pixels.
            host: See `plan`.
            persons: See `plan`.
            maps: See `plan`.
        """
        return overlaid(crop, crop_to_scene, self.source, host, persons, maps)
