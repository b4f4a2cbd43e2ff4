"""EfficientNet-Lite0 against the PyTorch port that its ImageNet weights come from.

Weights are drawn from their names, so that neither side needs the other's files. Run as a script, this file records
what the port answers (`pip install torch efficientnet-lite-pytorch==0.1.0`).
"""

import json
import zlib
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).parent / "golden" / "efficientnet_lite0"
IMAGE_HW = (64, 64)
TAPS = {"c2": 2, "c3": 4, "c4": 10, "c5": 15}  # the last block of each stride
TOLERANCE = 5e-5  # of the reference output's standard deviation


def drawn(shapes):
    """Returns a state dict of the port: values that depend on names and shapes alone."""
    state = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif len(shape) > 1:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("weight", "running_var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.3, shape)
        state[name] = value if value.dtype == np.int64 else value.astype(np.float32)
    return state


def picture():
    """Returns (1, H, W, 3) normalised pixels."""
    return np.random.default_rng(20).normal(0, 1, (1, *IMAGE_HW, 3)).astype(np.float32)


def test_features_equal_those_of_the_port():
    import keras

    from kpzoo.models.counting import count_params
    from kpzoo.models.efficientnet_lite import efficientnet_lite
    from kpzoo.weights import load_weights

    shapes = json.loads(FIXTURE.with_suffix(".json").read_text())
    image = keras.Input((*IMAGE_HW, 3), name="image")
    model = keras.Model({"image": image}, efficientnet_lite(image))
    report = load_weights(model, drawn(shapes))
    assert report.source == "efficientnet-lite" and not report.fresh
    assert set(report.ignored.values()) == {"batch counter", "ImageNet classifier"}
    left = {name for name, reason in report.ignored.items() if reason == "ImageNet classifier"}
    trained = [name for name in shapes if name.endswith(("weight", "bias")) and name not in left]
    assert count_params(model) == sum(int(np.prod(shapes[name])) for name in trained)
    found = model({"image": picture()}, training=False)
    with np.load(FIXTURE.with_suffix(".npz")) as expected:
        assert set(expected.files) == set(TAPS)
        for name in expected.files:
            wanted = expected[name]
            assert found[name].shape == wanted.shape
            assert np.abs(found[name] - wanted).max() <= TOLERANCE * wanted.std(), name


def record():
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in drawn(shapes).items()})
    outputs = {}
    for name, index in TAPS.items():

        def keep(module, inputs, output, name=name):
            outputs[name] = output.numpy().transpose(0, 2, 3, 1)

        network._blocks[index].register_forward_hook(keep)
    with torch.no_grad():
        network(torch.from_numpy(picture().transpose(0, 3, 1, 2).copy()))
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(shape)}" for name, shape in shapes.items())
    FIXTURE.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n")
    np.savez_compressed(FIXTURE.with_suffix(".npz"), **outputs)


if __name__ == "__main__":
    record()
