"""Installs kpzoo: `pip install .`, or `pip install '.[test]'` with what its tests need."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "kpzoo/__init__.py").read_text(encoding="utf-8")).group(1)

OPENVINO = ["openvino>=2025.0"]
INT8 = [*OPENVINO, "nncf>=2.16"]
ONNX = ["tf2onnx>=1.17", "onnx>=1.16", "onnxruntime>=1.20"]
CONVERT = ["pyyaml>=6"]
PARTS = ["pyarrow>=16"]
S3 = [*PARTS, "s3fs>=2025.2", "aiohttp>=3.9"]
RAY = [*PARTS, "ray[data,serve]>=2.51,<2.64"]

setup(
    name="kpzoo",
    version=VERSION,
    description="Top-down 2D human pose models in Keras 3: CPN, MIPNet and what they compare with",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["kpzoo", "kpzoo.*"]),
    package_data={"kpzoo": ["models/*.json", "shipped/*.safetensors"]},
    install_requires=[
        "tensorflow>=2.18",
        "keras>=3.13.2",  # the first without the advisories that SECURITY.md lists
        "numpy>=1.26",
        "opencv-python-headless>=4.10",
        "pycocotools>=2.0.11",
        "tensorboard>=2.18",
        "requests>=2.31",  # TensorFlow needs it, too
    ],
    extras_require={
        "onnx": ONNX,
        "openvino": OPENVINO,
        "int8": INT8,
        "completion": ["argcomplete>=3"],
        "convert": CONVERT,
        "parts": PARTS,
        "ray": RAY,
        "s3": S3,
        "gs": [*PARTS, "gcsfs>=2025.2"],
        "az": [*PARTS, "adlfs>=2024.12"],
        "detectors": ["keras-hub>=0.23"],
        "test": [
            *ONNX,
            *CONVERT,
            "pandas>=2",
            "scipy>=1.11",
            *INT8,
            *RAY,
            *S3,
            "moto[server]>=5",
            "argcomplete>=3",
            "pillow>=10",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "hypothesis>=6",
            "ruff>=0.14",
        ],
    },
    entry_points={"console_scripts": ["kpzoo = kpzoo.cli:main"]},
)
