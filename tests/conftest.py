"""What all tests share: quiet TensorFlow, the reference data beside the project, golden files."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="record the golden files anew instead of comparing")


@pytest.fixture
def shared() -> Path:
    """The folder of photos, annotations and reference outputs that may lie beside the project."""
    return SHARED


@pytest.fixture
def accept(request) -> bool:
    return request.config.getoption("--accept")
