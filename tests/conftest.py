"""What all tests share: quiet TensorFlow, the reference data beside the project, golden files."""

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from kpzoo.skeletons import COCO17  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"
# Come first: xdist alone would begin with the files of most tests, not with those that take longest.
LONGEST = ("test_training.py", "test_faults.py", "test_multi_worker.py", "test_export.py")

settings.register_profile(
    "bounded",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("bounded")


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first, so that no process works on one alone at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="record the golden files anew instead of comparing")


@pytest.fixture
def shared() -> Path:
    """The folder of photos, annotations and reference outputs that may lie beside the project."""
    return SHARED


@pytest.fixture
def unoptimized_graphs():
    """Runs graphs as they are traced: to optimize that of a tiny network takes longer than many steps of it.

    For tests of training and its bookkeeping. Optimized graphs are tested with exports, accelerated models and the
    programs of the documentation.
    """
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def hears_ctrl_c():
    """What a job in the background is deaf to is heard, as in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def full_disk(num_bytes: int):
    """Lets no file grow beyond a size: the kernel refuses the write, as it does on a full disk."""
    resource = pytest.importorskip("resource", reason="limits on the size of files are those of POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="session")
def shipped_model():
    """The default model of `kpzoo predict` with its weights, for tests that need real poses and leave it unchanged."""
    import kpzoo
    from kpzoo.commands.predict import DEFAULT_MODEL

    return kpzoo.build(DEFAULT_MODEL, weights=kpzoo.info(DEFAULT_MODEL).weights[-1])


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> list[str]:
    """Options of commands for a tiny model with CrowdPose's 14 keypoints, from a file of drawn weights."""
    from test_export import lively

    import kpzoo

    model = lively(kpzoo.build("cpn_tiny", image_hw=(64, 64), skeleton="crowdpose14"))
    path = tmp_path_factory.mktemp("tiny") / "cpn_tiny.safetensors"
    return ["--model", model.name, "--weights", str(kpzoo.save_weights(model, path))]


@pytest.fixture
def accept(request) -> bool:
    return request.config.getoption("--accept")


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A COCO-format folder of six noise pictures with ten persons, the split "train"."""
    root = tmp_path_factory.mktemp("small")
    write_small_folder(root)
    return root


def write_small_folder(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "images/train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for image_id in range(1, 7):
        pixels = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"images/train/{image_id}.jpg"), pixels)
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": 120, "width": 160})
        for _ in range(1 + image_id % 3 if image_id < 6 else 2):
            x, y, width, height = rng.uniform((0, 0, 30, 50), (90, 50, 60, 70)).round(1).tolist()
            points = rng.uniform((x, y), (x + width, y + height), (17, 2)).round(1)
            visibility = rng.integers(0, 3, 17)
            points[visibility == 0] = 0
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [x, y, width, height],
                    "area": width * height * 0.6,
                    "num_keypoints": int((visibility > 0).sum()),
                    "keypoints": np.column_stack([points, visibility]).ravel().tolist(),
                }
            )
    skeleton = [[a + 1, b + 1] for a, b in COCO17.link_indices.tolist()]
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.keypoints), "skeleton": skeleton}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "annotations/person_keypoints_train.json").write_text(json.dumps(content))
