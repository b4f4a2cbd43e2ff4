"""Reads joints.mat of Leeds Sports Pose and of its extended training set."""

import numpy as np

from kpzoo.convert import layouts, matlab
from kpzoo.convert.finding import Source
from kpzoo.convert.model import Export, Person, Picture
from kpzoo.convert.values import MAX_COORDINATE
from kpzoo.errors import UserError


def read(source: Source) -> Export:
    """Reads all files. The third value is 1 for hidden joints in the first set, and for labelled ones in the second."""
    export, category = Export(upright=False), layouts.category(layouts.LSP14)
    for path in source.with_suffix(".mat"):
        content = matlab.load(path)
        joints = content.get("joints")
        if joints is None and not source.is_file:
            continue
        if not isinstance(joints, np.ndarray) or joints.ndim != 3 or joints.dtype.kind not in "fiu":
            raise UserError(f"{path} has no array `joints` with three axes. Found: {sorted(content)[:10]}.")
        extended = joints.shape[:2] == (14, 3)
        if not extended and joints.shape[:2] not in ((3, 14), (2, 14)):
            raise UserError(f"{path}: `joints` must be (3, 14, N) or (14, 3, N). Received the shape {joints.shape}.")
        joints = (joints.transpose(2, 0, 1) if extended else joints.transpose(2, 1, 0)).astype(np.float64)
        if not np.isfinite(joints).all() or np.abs(joints).max(initial=0) > MAX_COORDINATE:
            raise UserError(f"{path}: `joints` has numbers that are no coordinates, such as NaN.")
        for number, one in enumerate(joints, 1):
            name = f"im{number:05d}.jpg" if extended else f"im{number:04d}.jpg"
            found = source.picture(name, str(path), path.parent)
            flags = one[:, 2] if one.shape[1] == 3 else np.zeros(len(one))
            visibility = np.where(flags > 0, 2, 0) if extended else np.where(flags > 0, 1, 2)
            if found is not None:
                person = Person(category, np.c_[one[:, :2], visibility])
                export.pictures.append(Picture(name, found, None, [person], source.split_of(found)))
    return export
