"""A MIPNet over a ResNet of basic blocks in NumPy, by the reference's own names: nothing of kpzoo or TensorFlow.

Arrays are (B, C, h, w) in float64, as PyTorch counts.
"""

import zlib

import numpy as np

EPSILON = 1e-5


class Network:
    """Runs MIPNet's ResNet from a state dict such as its repository saves."""

    def __init__(self, state, stages=4):
        self.state = {key: np.asarray(value, np.float64) for key, value in state.items()}
        self.stages = stages

    def conv(self, x, name, strides=1, padding=0):
        weight = self.state[f"{name}.weight"]
        size, (batch, _, height, width) = weight.shape[-1], x.shape
        x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
        rows, columns = ((side + 2 * padding - size) // strides + 1 for side in (height, width))
        y = np.zeros((batch, len(weight), rows, columns))
        for i in range(size):
            for j in range(size):
                window = x[:, :, i : i + strides * rows : strides, j : j + strides * columns : strides]
                y += np.einsum("bchw,oc->bohw", window, weight[:, :, i, j])
        bias = self.state.get(f"{name}.bias")
        return y if bias is None else y + bias[:, None, None]

    def deconv(self, x, name, strides=2, padding=1):
        weight = self.state[f"{name}.weight"]  # (I, O, kh, kw)
        size, (batch, _, height, width) = weight.shape[-1], x.shape
        y = np.zeros((batch, weight.shape[1], (height - 1) * strides + size, (width - 1) * strides + size))
        for i in range(height):
            for j in range(width):
                patch = np.einsum("bc,cokl->bokl", x[:, :, i, j], weight)
                y[:, :, i * strides : i * strides + size, j * strides : j * strides + size] += patch
        return y[:, :, padding:-padding, padding:-padding]

    def norm(self, x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        shape = (-1,) + (1,) * (x.ndim - 2)
        mean, variance, gamma, beta = (self.state[f"{name}.{key}"].reshape(shape) for key in keys)
        return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)

    def block(self, x, name, strides):
        y = np.maximum(self.norm(self.conv(x, f"{name}.conv1", strides, 1), f"{name}.bn1"), 0)
        y = self.norm(self.conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in self.state:
            x = self.norm(self.conv(x, f"{name}.downsample.0", strides), f"{name}.downsample.1")
        return np.maximum(y + x, 0)

    def modulate(self, x, name, instance):
        if f"{name}.fc.0.weight" not in self.state:
            return x
        image = sigmoid(self.linear(np.maximum(self.linear(x.mean((2, 3)), f"{name}.fc.0"), 0), f"{name}.fc.2"))
        code = self.norm(self.linear(instance, f"{name}.fc_lambda.0"), f"{name}.fc_lambda.1")
        gate = image * sigmoid(self.linear(np.maximum(code, 0), f"{name}.fc_lambda.3"))
        return x * gate[:, :, None, None]

    def __call__(self, image, instance):
        """Returns heatmaps (B, K, h, w) of an image (B, 3, H, W) for the instance codes (B, 2)."""
        x = np.maximum(self.norm(self.conv(image, "conv1", 2, 3), "bn1"), 0)
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        x = np.max(
            [padded[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)], axis=0
        )
        for stage in range(1, self.stages + 1):
            x = self.modulate(x, f"layer{stage}_se.se_layers.0", instance)
            x = self.block(x, f"layer{stage}.0", 1 if stage == 1 else 2)
        for index in (0, 3, 6):
            x = self.deconv(x, f"deconv_layers.{index}")
            x = np.maximum(self.norm(x, f"deconv_layers.{index + 1}"), 0)
        return self.conv(x, "final_layer")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter that depends on its name alone, of a size that keeps signals alive."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) == 1:
        return (0.75 * key.endswith(".weight") + 0.1 * rng.standard_normal(shape)).astype("float32")
    fan_in = np.prod(shape[1:])
    return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype("float32")


def mipnet_tiny_state(num_keypoints: int = 17) -> dict[str, np.ndarray]:
    """The state dict of `mipnet_tiny` under the names of MIPNet's repository, written out by hand."""
    shapes = {"conv1.weight": (8, 3, 7, 7), **_norm("bn1", 8)}
    for stage, (width_in, width) in enumerate([(8, 8), (8, 8), (8, 12), (12, 16)], start=1):
        name = f"layer{stage}.0"
        shapes |= {f"{name}.conv1.weight": (width, width_in, 3, 3), **_norm(f"{name}.bn1", width)}
        shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **_norm(f"{name}.bn2", width)}
        if stage > 1:
            shapes |= {f"{name}.downsample.0.weight": (width, width_in, 1, 1), **_norm(f"{name}.downsample.1", width)}
    for stage, width in ((3, 8), (4, 12)):
        name, hidden = f"layer{stage}_se.se_layers.0", width // 4
        shapes |= {f"{name}.fc.0.weight": (hidden, width), f"{name}.fc.2.weight": (width, hidden)}
        shapes |= {f"{name}.fc_lambda.0.weight": (hidden, 2), f"{name}.fc_lambda.0.bias": (hidden,)}
        shapes |= {**_norm(f"{name}.fc_lambda.1", hidden)}
        shapes |= {f"{name}.fc_lambda.3.weight": (width, hidden), f"{name}.fc_lambda.3.bias": (width,)}
    for index, width_in in ((0, 16), (3, 8), (6, 8)):
        shapes |= {f"deconv_layers.{index}.weight": (width_in, 8, 4, 4), **_norm(f"deconv_layers.{index + 1}", 8)}
    shapes |= {"final_layer.weight": (num_keypoints, 8, 1, 1), "final_layer.bias": (num_keypoints,)}
    return {key: drawn(key, shape) for key, shape in shapes.items()}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
