"""The result for one image or frame."""

from collections.abc import Mapping
from dataclasses import dataclass

from kpzoo import drawing
from kpzoo.inference.pictures import Picture
from kpzoo.poses import Poses


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result for one image of a stream.

    Args:
        picture: The image with its name; `picture.problem` is the error if it could not be read, else None.
        poses: The poses that OKS-NMS kept, best first, or all poses in the order of the boxes if it did not run.
        dropped: The poses that OKS-NMS removed.
        state: After some frames of a video file, what `Predictor.stream(state=)` needs to go on with the next frame, as
            values that JSON can represent; else None.
    """

    picture: Picture
    poses: Poses
    dropped: Poses
    state: Mapping | None = None

    def draw_nms(self) -> drawing.Picture:
        """Returns two drawings side by side: all poses, those that OKS-NMS removed in one color, and those it kept."""
        dropped = self.dropped.draw(self.picture.image, boxes=False, colour_by=drawing.ACCENTS[1])
        before, after = (self.poses.draw(image, boxes=False) for image in (dropped, self.picture.image))
        count = len(self.poses)
        return drawing.before_after(before, after, (f"{count + len(self.dropped)} poses", f"{count} after OKS-NMS"))
