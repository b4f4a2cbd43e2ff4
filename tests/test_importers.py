"""Published checkpoints load exactly, or are refused with a reason; no file is ever executed."""

import io
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

from kpzoo.errors import UserError
from kpzoo.models import build
from kpzoo.weights import SOURCES, build_arguments, detect, load_weights, read_description, save, save_weights
from kpzoo.weights.files import read_state

IMAGE_HW = (64, 64)
TOLERANCE = 5e-5  # of the reference's standard deviation, as for the full-size fixtures


def tiny(name="mipnet_tiny", **options):
    return build(name, image_hw=IMAGE_HW, normalization=None, **options)


def inputs_for(model, batch=2):
    inputs = {"image": np.random.default_rng(0).standard_normal((batch, *IMAGE_HW, 3)).astype("float32")}
    if "instance" in model.input:
        inputs["instance"] = np.repeat(np.eye(2, dtype="float32")[None], batch, axis=0)
    return inputs


def heatmaps_of(model):
    return model(inputs_for(model))["heatmaps"].numpy()


def values_of(model):
    return {variable.path: variable.numpy() for variable in model.variables}


def assert_same_values(model, expected):
    ours, theirs = values_of(model), values_of(expected)
    assert list(ours) == list(theirs)
    assert [path for path in ours if not np.array_equal(ours[path], theirs[path])] == []


@pytest.fixture(scope="module")
def state():
    return reference.mipnet_tiny_state()


# Against an independent implementation, and with mistakes in it


def difference(model, state):
    """The worst deviation of both instances' heatmaps from the NumPy reference, in its standard deviations."""
    image = inputs_for(model)["image"].transpose(0, 3, 1, 2).astype("float64")
    network, heatmaps, worst = reference.Network(state), heatmaps_of(model), 0.0
    for index in range(2):
        expected = network(image, np.repeat(np.eye(2)[[index]], len(image), axis=0)).transpose(0, 2, 3, 1)
        worst = max(worst, np.abs(heatmaps[:, index] - expected).max() / expected.std())
    return worst


def test_imported_weights_answer_as_the_reference_does(state):
    model = tiny()
    report = load_weights(model, state)
    assert report.source == "mipnet" and not report.fresh and not report.ignored
    assert len(report.filled) == len(model.variables)
    assert difference(model, state) <= TOLERANCE


def swap_instances(model):
    for name in ("c4_mimb_0", "c5_mimb_0"):
        kernel = model.get_layer(name).instance_squeeze.kernel
        kernel.assign(kernel.numpy()[::-1])


def use_keras_epsilon(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-3


def pad_as_same_does(model):
    for layer in model.layers:
        if isinstance(layer, keras.layers.ZeroPadding2D):
            layer.padding = ((layer.padding[0][0] - 1, layer.padding[0][1]),) * 2


def transpose_a_square_kernel(model):
    kernel = model.get_layer("c2_0_first_conv").kernel
    kernel.assign(kernel.numpy().swapaxes(2, 3))


def flip_a_deconvolution(model):
    kernel = model.get_layer("deconv0_conv").kernel
    kernel.assign(kernel.numpy()[::-1, ::-1])


def swap_scale_and_shift(model):
    layer = model.get_layer("stem_bn")
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    layer.gamma.assign(beta)
    layer.beta.assign(gamma)


@pytest.mark.parametrize(
    "mistake",
    [
        swap_instances,
        use_keras_epsilon,
        pad_as_same_does,
        transpose_a_square_kernel,
        flip_a_deconvolution,
        swap_scale_and_shift,
    ],
)
def test_the_comparison_notices(mistake, state):
    model = tiny()
    load_weights(model, state)
    mistake(model)
    assert difference(model, state) > 4 * TOLERANCE


# Every source


def published(model, source):
    """What a checkpoint of that source would hold for the model's present values."""
    row, arrays = SOURCES[source], {}
    for variable in model.variables:
        value = variable.numpy()
        if row.to_keras is not np.asarray:
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        arrays[row.key_of(variable.path)] = value
    return arrays


def with_random_values(model, seed=1):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        low = 0.5 if "variance" in variable.path else -0.5
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


@pytest.mark.parametrize(
    "name, options, source",
    [
        ("cpn_tiny", {"flavour": "official"}, "tf-cpn"),
        ("cpn_tiny", {"flavour": "pytorch"}, "pytorch-cpn"),
        ("simplebaseline_tiny", {}, "hrnet"),
        ("hrnet_tiny", {}, "hrnet"),
        ("mipnet_tiny", {}, "mipnet"),
        ("mipnet_hrnet_tiny", {}, "mipnet"),
        ("hourglass_tiny", {}, "hourglass"),
        ("simplebaseline_tiny", {}, "mmpose"),
        ("hrnet_tiny", {}, "mmpose"),
        ("hourglass_corner_tiny", {}, "mmpose"),
        *((name, {}, "kpzoo") for name in ("cpn_tiny", "hrnet_tiny", "mipnet_tiny", "hourglass_corner_tiny")),
    ],
)
def test_every_variable_has_its_own_key_in_every_source(name, options, source):
    model = with_random_values(tiny(name, **options))
    arrays = published(model, source)
    assert None not in arrays and len(arrays) == len(model.variables)
    assert detect(arrays) == source
    again = tiny(name, **options)
    load_weights(again, arrays)
    assert_same_values(again, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: f"module.{key}",
        lambda key: key.replace("head.", "keypoint_head."),  # mmpose before 1.0
        lambda key: f"module.{key.replace('head.', 'keypoint_head.')}",
    ],
)
def test_prefixes_of_other_versions_are_understood(change):
    model = with_random_values(tiny("simplebaseline_tiny"))
    arrays = {change(key): value for key, value in published(model, "mmpose").items()}
    arrays["data_preprocessor.mean"] = np.zeros((3, 1, 1), "float32")
    report = load_weights(tiny("simplebaseline_tiny"), arrays)
    assert report.source == "mmpose" and report.ignored == {"data_preprocessor.mean": "pixel statistics"}


def test_a_tf_cpn_checkpoint_of_any_depth_loads_without_its_optimizer():
    model = with_random_values(tiny("cpn_tiny"))
    arrays = {key.replace("resnet_v1/", "resnet_v1_101/"): value for key, value in published(model, "tf-cpn").items()}
    arrays |= {f"{key}/Adam": value for key, value in arrays.items()} | {"beta1_power": np.float32(0.5)}
    report = load_weights(tiny("cpn_tiny"), arrays)
    assert report.filled["stem_conv/kernel"] == "resnet_v1_101/conv1/weights"
    assert set(report.ignored.values()) == {"optimizer state"} and "optimizer state" in str(report)


def test_imagenet_weights_fill_the_trunk_and_nothing_else():
    model = tiny("cpn_tiny")
    before = values_of(model)
    trunk = {key: value for key, value in published(with_random_values(tiny("simplebaseline_tiny")), "hrnet").items()}
    trunk = {key: value for key, value in trunk.items() if not key.startswith(("deconv", "final"))}
    trunk |= {"fc.weight": np.zeros((1000, 16), "float32"), "bn1.num_batches_tracked": np.int64(7)}
    report = load_weights(model, trunk)
    assert report.source == "torchvision"
    assert set(report.ignored) == {"fc.weight", "bn1.num_batches_tracked"}
    assert all(path.startswith(("c", "stem")) for path in report.filled)
    assert all(path.startswith(("global", "refine")) for path in report.fresh)
    changed = {path for path, value in values_of(model).items() if (value != before[path]).any()}
    assert changed == set(report.filled)


def test_imagenet_weights_say_which_pixels_they_expect():
    model = build("cpn_tiny", image_hw=IMAGE_HW)
    trunk = with_random_values(tiny("simplebaseline_tiny"))
    arrays = {k: v for k, v in published(trunk, "hrnet").items() if not k.startswith(("deconv", "final"))}
    report = load_weights(model, arrays)
    assert "'imagenet_rgb'" in report.remarks[0] and "'cpn_rgb'" in str(report)


def test_a_single_person_checkpoint_fills_a_mipnet_but_for_its_mimbs():
    for single, multiple in [("hrnet_tiny", "mipnet_hrnet_tiny"), ("simplebaseline_tiny", "mipnet_tiny")]:
        twin, model = with_random_values(tiny(single)), tiny(multiple)
        for source in ("hrnet", "kpzoo"):
            report = load_weights(model, published(twin, source))
            assert report.source == source
            assert len(report.filled) == len(twin.variables)
            assert report.fresh and all("_mimb_" in path for path in report.fresh)


def test_half_of_the_mimbs_is_not_enough(state):
    arrays = {key: value for key, value in state.items() if not key.startswith("layer4_se")}
    with pytest.raises(UserError, match=r"variables are not in the file: c5_mimb_0.* same `mimb_stages=`"):
        load_weights(tiny(), arrays)


def test_keras_resnets_fill_trunks_and_equal_them_up_to_c2():
    theirs = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(*IMAGE_HW, 3))
    rng = np.random.default_rng(0)
    for variable in theirs.variables:
        if not variable.path.endswith("kernel"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))  # biases too: they move into the statistics
    ours = build("simplebaseline_res50", image_hw=IMAGE_HW, normalization=None)
    report = load_weights(ours, {variable.path: variable.numpy() for variable in theirs.variables})
    assert report.source == "keras" and "From c3 on" in report.remarks[0]
    assert all(path.startswith(("deconv", "head")) for path in report.fresh)
    image = inputs_for(ours)["image"]
    expected = keras.Model(theirs.input, theirs.get_layer("conv2_block3_out").output)(image).numpy()
    features = keras.Model(ours.input, ours.get_layer("c2_2_relu").output)({"image": image}).numpy()
    assert np.abs(features - expected).max() <= TOLERANCE * expected.std()


# Strictness


def drop_one(arrays):
    del arrays["layer2.0.conv2.weight"]


def add_one(arrays):
    arrays["layer9.conv.weight"] = np.zeros(3, "float32")


def spoil_one(arrays):
    arrays["bn1.bias"] = np.array(arrays["bn1.bias"]) * np.nan


def negate_a_variance(arrays):
    arrays["bn1.running_var"] = -arrays["bn1.running_var"]


def widen_one(arrays):
    arrays["layer1.0.conv1.weight"] = np.zeros((9, 8, 3, 3), "float32")


def transpose_one(arrays):
    arrays["conv1.weight"] = arrays["conv1.weight"].transpose(2, 3, 1, 0)


def round_one(arrays):
    arrays["bn1.weight"] = np.arange(8)


@pytest.mark.parametrize(
    "mistake, message",
    [
        (drop_one, r"1 of 97 variables are not in the file: c3_0_second_conv/kernel \(layer2.0.conv2.weight\)"),
        (add_one, "1 tensors of the file are not in the model: layer9.conv.weight"),
        (spoil_one, "1 tensors contain NaN or infinity, or are not floats: stem_bn/beta"),
        (round_one, "1 tensors contain NaN or infinity, or are not floats: stem_bn/gamma"),
        (negate_a_variance, "1 variances are negative: stem_bn/moving_variance"),
        (widen_one, r"1 shapes differ: c2_0_first_conv/kernel has \(3, 3, 8, 8\), in the file \(3, 3, 8, 9\)"),
        (transpose_one, "1 shapes differ: stem_conv/kernel"),
    ],
)
def test_a_wrong_checkpoint_is_refused_and_changes_nothing(mistake, message, state):
    model, arrays = tiny(), dict(state)
    before = values_of(model)
    mistake(arrays)
    with pytest.raises(UserError, match=message):
        load_weights(model, arrays)
    assert all((value == before[path]).all() for path, value in values_of(model).items())


@pytest.mark.parametrize("name", ["cpn_tiny", "hrnet_tiny", "hourglass_tiny", "simplebaseline_tiny"])
def test_the_weights_of_another_network_are_refused(name, state):
    with pytest.raises(UserError, match=f"do not fit model '{name}'"):
        load_weights(tiny(name), state)


def test_flavours_of_cpn_do_not_mix():
    arrays = published(tiny("cpn_tiny", flavour="pytorch"), "pytorch-cpn")
    with pytest.raises(UserError, match="Build a CPN with `flavour='pytorch'`"):
        load_weights(tiny("cpn_tiny", flavour="official"), arrays)


def test_imagenet_weights_of_a_resnet_are_nothing_to_an_hrnet():
    arrays = {k: v for k, v in published(tiny("simplebaseline_tiny"), "hrnet").items() if k.startswith("layer")}
    with pytest.raises(
        UserError, match="no variable of the model has a counterpart|are not in the file|are not in the model"
    ):
        load_weights(tiny("hrnet_tiny"), arrays, source="torchvision")


def test_another_number_of_keypoints_needs_a_new_head():
    arrays = reference.mipnet_tiny_state(num_keypoints=14)
    model = tiny()
    before = values_of(model)
    with pytest.raises(UserError, match=r"2 shapes differ: head_conv/kernel .* pass `head='new'`"):
        load_weights(model, arrays)
    report = load_weights(model, arrays, head="new")
    assert set(report.fresh) == {"head_conv/kernel", "head_conv/bias"}
    assert report.ignored == {"final_layer.weight": "other heatmap heads", "final_layer.bias": "other heatmap heads"}
    assert (values_of(model)["head_conv/kernel"] == before["head_conv/kernel"]).all()


@pytest.mark.parametrize("name, source", [("cpn_tiny", "tf-cpn"), ("hourglass_tiny", "hourglass")])
def test_a_new_head_is_new_on_every_level(name, source):
    arrays = published(tiny(name, skeleton="crowdpose14"), source)
    report = load_weights(tiny(name), arrays, head="new")
    heads = {"cpn_tiny": 5 * 5, "hourglass_tiny": 2 * 2 + 2}[name]  # with what leads back from scores to features
    assert len(report.fresh) == heads and len(report.ignored) == heads


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(source="mipnett"), "Unknown source. .* Did you mean 'mipnet'"),
        (dict(head="fresh"), "Unknown head"),
        (dict(weights={"a": np.zeros(3)}), "match no known source: .* Received 1 tensors such as"),
        (dict(weights="nowhere.pth"), "No weights file 'nowhere.pth'"),
    ],
)
def test_mistakes_in_the_call_are_refused(arguments, message, state):
    with pytest.raises(UserError, match=message):
        load_weights(tiny(), **{"weights": state, **arguments})


# Files of PyTorch, written without it


class Fake:
    """Stands for a tensor while it is pickled as PyTorch would."""

    def __init__(self, array, kind="FloatStorage"):
        self.array, self.kind = np.ascontiguousarray(array), kind


class TorchPickler(pickle.Pickler):
    def __init__(self, file, torch):
        super().__init__(file, protocol=2)
        self.torch, self.storages = torch, []

    def persistent_id(self, item):
        if isinstance(item, tuple) and item and isinstance(item[0], Fake):
            fake, key = item
            return "storage", getattr(self.torch, fake.kind), key, "cpu", fake.array.size, *self.torch.extra
        return None

    def reducer_override(self, item):
        if not isinstance(item, Fake):
            return NotImplemented
        key = str(len(self.storages))
        self.storages.append((key, item))
        strides = tuple(step // item.array.itemsize for step in item.array.strides)
        rebuild = self.torch._utils._rebuild_tensor_v2
        return rebuild, ((item, key), 0, item.array.shape, strides, False, OrderedDict())


@pytest.fixture
def torch(monkeypatch):
    """Empty classes and functions under PyTorch's names, so that pickle can write those names."""
    module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in ("FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage", "LongStorage"):
        setattr(module, kind, type(kind, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise RuntimeError("the importer ran what the file named")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    module._utils, module.extra = utils, ()
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return module


def write_zip(path, content, torch):
    """PyTorch 1.6 and newer."""
    file = io.BytesIO()
    pickler = TorchPickler(file, torch)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, fake in pickler.storages:
            archive.writestr(f"archive/data/{key}", fake.array.tobytes())


def write_legacy(path, content, torch):
    """PyTorch before 1.6, in which HRNet's authors published."""
    torch.extra = (None,)
    with open(path, "wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
            pickle.dump(value, file, protocol=2)
        pickler = TorchPickler(file, torch)
        pickler.dump(content)
        pickle.dump([key for key, _ in pickler.storages], file, protocol=2)
        for _, fake in pickler.storages:
            file.write(fake.array.size.to_bytes(8, "little") + fake.array.tobytes())


WRITERS = [write_zip, write_legacy]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 210},
        lambda state: {"model": "pose_resnet", "latest_state_dict": state, "optimizer": {"state": {0: {"step": 1}}}},
        lambda state: {"model": state},
    ],
)
def test_pytorch_files_load_bit_for_bit(write, wrapped, state, torch, tmp_path):
    content = OrderedDict((key, Fake(value)) for key, value in state.items())
    content["bn1.num_batches_tracked"] = Fake(np.array(7), "LongStorage")
    write(tmp_path / "published.pth", wrapped(content), torch)
    report = load_weights(model := tiny(), tmp_path / "published.pth")
    assert set(report.ignored.values()) == {"batch counter"}
    assert (model.get_layer("stem_conv").kernel.numpy() == state["conv1.weight"].transpose(2, 3, 1, 0)).all()
    assert difference(model, state) <= TOLERANCE


@pytest.mark.parametrize("write", WRITERS)
def test_small_floats_of_pytorch_become_float32(write, torch, tmp_path):
    values = np.float32([1.0, -0.15625, 3.5])
    halves = values.astype("float16")
    brains = (values.view(np.uint32) >> 16).astype(np.uint16)
    content = {"half": Fake(halves, "HalfStorage"), "brain": Fake(brains, "BFloat16Storage")}
    content["double"] = Fake(values.astype("float64"), "DoubleStorage")
    write(tmp_path / "small.pt", content, torch)
    for value in read_state(tmp_path / "small.pt").arrays.values():
        assert value.dtype == np.float32 and (value == values).all()


class Attack:
    """What a hostile pickle looks like: unpickled by pickle itself, it makes the marker."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("place", ["beside", "inside", "instead"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(write, place, state, torch, tmp_path):
    marker, attack = tmp_path / "it_ran", Attack(tmp_path / "it_ran")
    content = {key: Fake(value) for key, value in state.items()}
    content = {
        "beside": {"state_dict": content, "optimizer": attack},
        "inside": {**content, "bn1.weight": attack},
        "instead": attack,
    }[place]
    write(tmp_path / "evil.pth", content, torch)
    with pytest.raises(UserError, match=r"calls (posix|nt|os)\.mkdir.* was blocked"):
        load_weights(tiny(), tmp_path / "evil.pth")
    assert not marker.exists()
    with pytest.raises(FileExistsError):  # the file is a real attack: pickle itself falls for it, twice
        for _ in range(2):
            pickle.loads(pickle.dumps(attack))


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "subprocess.Popen", "kpzoo.models.build"])
def test_no_function_outside_the_table_is_looked_up(name, tmp_path):
    module, _, function = name.rpartition(".")
    program = f"\x80\x02c{module}\n{function}\n(X\x01\x00\x00\x001tR.".encode("latin-1")
    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", program)
    with pytest.raises(UserError, match=f"calls {name}"):
        read_state(tmp_path / "evil.pth")


@pytest.mark.parametrize("write", WRITERS)
def test_bookkeeping_of_other_packages_is_passed_over(write, state, torch, tmp_path):
    import argparse

    content = {"state_dict": {key: Fake(value) for key, value in state.items()}}
    content |= {"args": argparse.Namespace(lr=0.1, names=["a"]), "perf": np.float64(0.7), "when": Path("run")}
    write(tmp_path / "run.pth", content, torch)
    assert len(load_weights(tiny(), tmp_path / "run.pth").filled) == len(state)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(torch, tmp_path):
    fake = Fake(np.zeros(6, "float32"))
    write_zip(tmp_path / "short.pth", {"a": fake}, torch)
    with zipfile.ZipFile(tmp_path / "short.pth") as archive:
        pickled = archive.read("archive/data.pkl")
    with zipfile.ZipFile(tmp_path / "short.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", b"\0" * 8)
    with pytest.raises(UserError, match="exceeds its storage of 2 values"):
        read_state(tmp_path / "short.pth")


# Other formats


def test_npz_files_load(state, tmp_path):
    np.savez(tmp_path / "weights.npz", **state)
    assert load_weights(tiny(), tmp_path / "weights.npz").source == "mipnet"


def test_npz_files_with_objects_are_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="not a readable weights file"):
        read_state(tmp_path / "weights.npz")


def safetensors_file(path, tensors, metadata=None):
    header, body = {"__metadata__": metadata or {}}, b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_safetensors_files_load_in_every_precision(tmp_path):
    values = np.float32([[1.0, -0.15625, 3.5]])
    brains = (values.view(np.uint32) >> 16).astype(np.uint16)
    tensors = {"f": ("F32", values), "h": ("F16", values.astype("float16")), "b": ("BF16", brains)}
    safetensors_file(tmp_path / "weights.safetensors", tensors, {"format": "pt"})
    read = read_state(tmp_path / "weights.safetensors")
    assert read.metadata == {"format": "pt"}
    assert all(value.dtype == np.float32 and (value == values).all() for value in read.arrays.values())


@pytest.mark.parametrize(
    "offsets, shape", [([0, 99], [3]), ([0, 8], [3]), ([8, 0], [0]), ([-4, 8], [3]), ([0, 12], [1 << 40, 1 << 40])]
)
def test_safetensors_that_point_elsewhere_are_refused(offsets, shape, tmp_path):
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode()
    (tmp_path / "bad.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 12)
    with pytest.raises(UserError, match="ends before tensor 'a' does"):
        read_state(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    "header, message",
    [
        ({"a": ("U8", [2], [0, 2]), "b": ("U8", [2], [1, 3])}, "overlap, or bytes belong to none"),
        ({"a": ("U8", [2], [1, 3])}, "overlap, or bytes belong to none"),
        ({"a": ("U8", [2], [0, 2])}, "overlap, or bytes belong to none"),
        ({"a": ("F8_E4M3", [3], [0, 3])}, "unsupported dtype 'F8_E4M3'"),
        ({"__metadata__": {"kpzoo_version": 1}, "a": ("U8", [3], [0, 3])}, "must map strings to strings"),
        ({"__metadata__": [], "a": ("U8", [3], [0, 3])}, "must map strings to strings"),
        ([], "not a readable weights file"),
    ],
)
def test_safetensors_of_three_bytes_that_break_the_format_are_refused(header, message, tmp_path):
    if isinstance(header, dict):
        keys = ("dtype", "shape", "data_offsets")
        header = {
            name: dict(zip(keys, row, strict=True)) if isinstance(row, tuple) else row for name, row in header.items()
        }
    text = json.dumps(header).encode() + b" "
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 3)
    with pytest.raises(UserError, match=message if isinstance(header, dict) else "none of .safetensors|readable"):
        read_state(path)


def test_the_same_weights_give_the_same_safetensors_file(tmp_path):
    model = with_random_values(tiny())
    first, second = (save_weights(model, tmp_path / f"{name}.safetensors").read_bytes() for name in "ab")
    assert first == second


def test_tensorflow_1_checkpoints_load_by_prefix_or_any_file(tmp_path):
    model = with_random_values(tiny("cpn_tiny"))
    arrays = published(model, "tf-cpn")
    arrays = {key.replace("resnet_v1/", "resnet_v1_50/"): value for key, value in arrays.items()}
    arrays |= {"refine_out/weights/Adam": arrays["refine_out/weights"], "global_step": np.int64(9)}
    prefix = str(tmp_path / "snapshot_350.ckpt")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=list(arrays.values())
    )
    for name in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        again = tiny("cpn_tiny")
        report = load_weights(again, name)
        assert report.source == "tf-cpn" and len(report.ignored) == 2
        assert_same_values(again, model)


def test_the_old_h5_files_of_keras_are_read_by_layer_and_variable(tmp_path):
    import h5py

    with h5py.File(tmp_path / "resnet50_notop.h5", "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.ones((7, 7, 3, 8), "float32")
        file["conv1_bn/conv1_bn/gamma:0"] = np.ones(8, "float32")
    assert set(read_state(tmp_path / "resnet50_notop.h5").arrays) == {"conv1_conv/kernel", "conv1_bn/gamma"}


# Our own files


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors", ".npz"])
@pytest.mark.parametrize("name", ["mipnet_tiny", "cpn_tiny"])
def test_own_weights_come_back_whole(name, suffix, tmp_path):
    model = with_random_values(tiny(name))
    path = save_weights(model, tmp_path / f"own{suffix}")
    assert os.listdir(tmp_path) == [path.name]
    report = load_weights(again := tiny(name), path)
    assert report.source == "kpzoo" and not report.remarks
    assert_same_values(again, model)


def test_own_weights_of_a_compiled_model_leave_the_optimizer_out(tmp_path):
    model = tiny("simplebaseline_tiny")
    model.compile(keras.optimizers.Adam())
    model.optimizer.build(model.trainable_variables)
    path = save_weights(model, tmp_path / "own.weights.h5")
    assert len(load_weights(tiny("simplebaseline_tiny"), path).filled) == len(model.variables)


def test_build_loads_own_h5_files(tmp_path):
    model = with_random_values(tiny())
    path = save_weights(model, tmp_path / "own.weights.h5")
    again = build("mipnet_tiny", image_hw=IMAGE_HW, normalization=None, weights=path)
    assert_same_values(again, model)


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_own_files_say_whose_they_are(suffix, tmp_path):
    path = save_weights(tiny("simplebaseline_tiny"), tmp_path / f"own{suffix}")
    metadata = read_state(path).metadata
    assert (metadata["kpzoo_model"], metadata["kpzoo_skeleton"]) == ("simplebaseline_tiny", "coco17")
    report = load_weights(tiny("mipnet_tiny"), path)
    assert report.remarks == ("The weights were trained with model 'simplebaseline_tiny'.",)


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
@pytest.mark.parametrize(
    "says, message",
    [
        ({"kpzoo_version": "999.0.0"}, "written by kpzoo 999.0.0, which is newer than .*: update kpzoo"),
        ({"kpzoo_model": "simplebaseline_nano"}, "written by model 'simplebaseline_nano', not 'mipnet_tiny'"),
        ({"kpzoo_keypoints": "nose,left_knee"}, "its keypoints are nose,left_knee, the model's are nose,left_eye"),
    ],
)
def test_own_files_of_another_model_version_or_skeleton_are_refused(suffix, says, message, tmp_path, monkeypatch):
    model = with_random_values(tiny())
    monkeypatch.setattr(save, "describe", lambda model, described=save.describe: {**described(model), **says})
    path = save_weights(model, tmp_path / f"own{suffix}")
    target = tiny()
    before = target.get_weights()
    with pytest.raises(UserError, match=message):
        load_weights(target, path)
    for value, kept in zip(target.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_options_that_shapes_do_not_show_are_told(tmp_path):
    small = dict(image_hw=IMAGE_HW)
    path = save_weights(build("dilated_tiny", **small, trunk_stride=8), tmp_path / "own.weights.h5")
    (remark,) = load_weights(build("dilated_tiny", **small, trunk_stride=16), path).remarks
    assert remark.endswith('options {"trunk_stride": 8}, but the model has {"trunk_stride": 16}.')


@pytest.mark.parametrize("suffix", [".weights.h5", ".safetensors"])
def test_an_own_file_tells_all_that_its_model_was_built_as(suffix, tmp_path):
    model = build("cpn_tiny", image_hw=(64, 96), skeleton="crowdpose14", flavour="pytorch", levels=("c2", "c3"))
    path = save_weights(model, tmp_path / f"own{suffix}")
    assert read_description(path) == read_state(path).metadata == save.describe(model)
    assert build("cpn_tiny", **build_arguments(read_description(path))).preset == model.preset


@pytest.mark.parametrize(
    "says",
    [
        {"kpzoo_options": '{"weights": "other.pth"}'},
        {"kpzoo_options": "[1]"},
        {"kpzoo_image_hw": "64"},
        {"kpzoo_skeleton_config": '{"name": "x"}'},
        {"kpzoo_skeleton_config": "{"},
        {"kpzoo_normalization": "[]"},
    ],
)
def test_a_description_that_makes_no_model_is_refused(says):
    with pytest.raises(UserError, match="metadata of the weights file are invalid"):
        build_arguments(says)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        b"\x89HDF\r\n\x1a\n" + b"\0" * 50,
        b"PK\x03\x04" + b"\0" * 50,
        b"\0" * 8 + b"{}",
        b"\xff" * 8 + b"{}",
        b"\x02" + b"\0" * 7 + b"{}",
        b"\x12" + b"\0" * 7 + b'{"__metadata__":[]}',
    ],
)
def test_other_files_tell_nothing_of_a_model(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert read_description(tmp_path / "file") == {}
    assert read_description(tmp_path / "missing") == {}


def test_another_image_size_and_normalization_are_told(tmp_path):
    path = save_weights(tiny("simplebaseline_tiny"), tmp_path / "own.safetensors")
    model = build("simplebaseline_tiny", image_hw=(64, 96), normalization="imagenet_rgb")
    size, pixels = load_weights(model, path).remarks
    assert size.endswith("image size 64x64, but the model has 64x96.")
    assert pixels.endswith('normalization null, but the model has "imagenet_rgb".')


def test_arrays_of_text_are_refused(tmp_path):
    model = tiny("simplebaseline_tiny")
    arrays = values_of(model)
    name = next(name for name in arrays if name.endswith("moving_variance"))
    with pytest.raises(UserError, match=f"1 arrays are not numeric: {name}"):
        load_weights(model, {**arrays, name: np.array("some text")})


@pytest.mark.parametrize("name", ["own.h5", "own.pth", "missing/own.npz"])
def test_weights_are_only_written_where_and_as_they_can_be_read(name, tmp_path):
    with pytest.raises(UserError, match="name of a weights file must end in|does not exist"):
        save_weights(tiny("simplebaseline_tiny"), tmp_path / name)
    assert not list(tmp_path.iterdir())


# Files that are no weights


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"some text that is no weights file", "none of .safetensors, .npz"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "not a readable weights file"),
        (b"PK\x03\x04" + b"\0" * 50, "not a readable weights file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", "announces a header of"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "not a readable weights file"),
        (b"\x80\x04\x95K.", "none of .safetensors, .npz"),
    ],
)
def test_files_that_are_no_weights_are_named_for_what_they_are(content, message, tmp_path):
    (tmp_path / "download.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state(tmp_path / "download.pth")


def test_a_whole_keras_model_is_refused(tmp_path):
    tiny("simplebaseline_tiny").save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="is a whole Keras model"):
        read_state(tmp_path / "model.keras")


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * 5_000_000)
    with pytest.raises(UserError, match="more than weights can compress"):
        read_state(tmp_path / "bomb.npz")


def test_an_h5_file_that_points_elsewhere_or_promises_too_much_is_refused(tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(b"\0" * 64)
    with h5py.File(tmp_path / "outside.weights.h5", "w") as file:
        file.create_dataset("a/vars/0", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(UserError, match="points to other files"):
        read_state(tmp_path / "outside.weights.h5")
    with h5py.File(tmp_path / "bomb.weights.h5", "w") as file:
        file.create_dataset("a/vars/0", (1 << 30,), "f4", chunks=(1024,))
    with pytest.raises(UserError, match="more values than its size allows"):
        read_state(tmp_path / "bomb.weights.h5")


@pytest.fixture(params=[".weights.h5", ".safetensors", ".npz", ".zip.pth", ".legacy.pth"])
def weights_file(request, state, torch, tmp_path):
    """A valid weights file of each format."""
    path = tmp_path / f"weights{request.param}"
    if request.param.endswith(".pth"):
        content = {key: Fake(value) for key, value in state.items()}
        (write_zip if "zip" in request.param else write_legacy)(path, content, torch)
    else:
        save_weights(tiny("simplebaseline_tiny"), path)
    return path


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_cut_short_is_refused(weights_file, share):
    weights_file.write_bytes(weights_file.read_bytes()[: int(share * weights_file.stat().st_size)])
    with pytest.raises(UserError, match="not a readable weights file|Download it again"):
        read_state(weights_file)


def test_flipped_bytes_end_in_a_clear_error_or_in_numbers(weights_file):
    whole, rng = weights_file.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 4000), 3):
            broken[place] ^= int(rng.integers(1, 256))
        weights_file.write_bytes(broken)
        try:
            arrays = read_state(weights_file).arrays
        except UserError:
            continue
        assert all(isinstance(value, np.ndarray) for value in arrays.values())
