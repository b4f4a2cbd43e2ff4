"""Networks against the reference implementations: the same numbers in, the same heatmaps out."""

import importlib.util
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED

import kpzoo.models
from kpzoo.models.counting import count_macs, count_params
from kpzoo.models.resnet import RESNET_BLOCKS, resnet
from kpzoo.weights import detect, load_weights

TOLERANCE = 5e-5  # of the reference output's standard deviation; the smallest known mistake makes 8e-5

PARITY = SHARED / "parity"
needs_shared = pytest.mark.skipif(not PARITY.exists(), reason="needs the reference data beside the project")


def cpn_outputs(names):
    return lambda outputs: (
        {"refine": outputs["heatmaps"]}
        | {name: outputs["global_heatmaps"][:, level] for level, name in enumerate(names)}
    )


def backbone(image_hw, **options):
    image = keras.Input((*image_hw, 3), name="image")
    return keras.Model({"image": image}, resnet(image, RESNET_BLOCKS[50], **options))


def heatmaps_as(*names):
    """Outputs of a model whose heatmaps are (B, …) for one name, (B, M, …) for several."""
    if len(names) == 1:
        return lambda outputs: {names[0]: outputs["heatmaps"]}
    return lambda outputs: {name: outputs["heatmaps"][:, index] for index, name in enumerate(names)}


def two_stacks(outputs):
    return {"stack_0": outputs["global_heatmaps"][:, 0], "stack_1": outputs["heatmaps"]}


DILATED = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))

# fixture: how to build the model, the source's name in `kpzoo.weights`, our outputs under the fixture's names
CASES = {
    "resnet50_backbone": (backbone, {}, "torchvision", dict),
    "resnet50_dilated_os8": (backbone, DILATED, "mmpose", dict),
    "cpn_res50_256x192": (
        "cpn_res50",
        {"flavour": "pytorch"},
        "pytorch-cpn",
        cpn_outputs(["global_0", "global_1", "global_2", "global_3"]),
    ),
    "tfcpn_res50_256x192": (
        "cpn_res50",
        {"flavour": "official"},
        "tf-cpn",
        cpn_outputs(["global_res5", "global_res4", "global_res3", "global_res2"]),
    ),
    "simplebaseline_res50_256x192": ("simplebaseline_res50", {}, "hrnet", heatmaps_as("heatmap")),
    "simplebaseline_res101_256x192": ("simplebaseline_res101", {}, "hrnet", heatmaps_as("heatmap")),
    "hrnet_w32_256x192": ("hrnet_w32", {}, "hrnet", heatmaps_as("heatmap")),
    "mipnet_res50_256x192": ("mipnet_res50", {}, "mipnet", heatmaps_as("heatmap_l10", "heatmap_l01")),
    "mipnet_hrnet_w32_256x192": ("mipnet_hrnet_w32", {}, "mipnet", heatmaps_as("heatmap_l10", "heatmap_l01")),
    "hourglass_newell_2stack_256x256": ("hourglass_2", {}, "hourglass", two_stacks),
    "hourglass_mmpose_2stack_256x256": (
        "hourglass_corner_1",
        {"num_stacks": 2, "widths": (256,) * 5, "blocks": (1,) * 5},
        "mmpose",
        two_stacks,
    ),
}


def filler():
    spec = importlib.util.spec_from_file_location("fill", PARITY / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nhwc(array, layout):
    return array.transpose(0, 2, 3, 1) if layout == "NCHW" else array


def built(recipe, image_hw, options):
    if callable(recipe):
        return recipe(image_hw, **options)
    return kpzoo.models.build(recipe, image_hw=image_hw, normalization=None, **options)


def manifests():
    return sorted(path.stem for path in PARITY.glob("*.json"))


def case_by_name(name, manifest, expected):
    """A fixture that has no row above: the zoo's model that it is named after, and the source that its keys tell."""
    models = [model for model in kpzoo.list_models() if name.startswith(f"{model}_")]
    assert models, f"{name} begins with no model of the zoo: name it after one, or give it a row in CASES"
    return max(models, key=len), {}, detect(key for key, *_ in manifest["keys"]), heatmaps_as(*expected)


@needs_shared
@pytest.mark.parametrize("name", manifests())
def test_outputs_parameters_and_macs_equal_those_of_the_reference(name):
    manifest, expected = filler().load(str(PARITY / f"{name}.json"))
    recipe, options, source, named = CASES.get(name) or case_by_name(name, manifest, expected)
    image = nhwc(filler().make_input(manifest["input"]), manifest["input"]["layout"])
    model = built(recipe, image.shape[1:3], options)

    assert count_params(model) == manifest["param_count"]
    assert count_macs(model) / 1e9 == pytest.approx(manifest["gmacs"], abs=1e-9)

    report = load_weights(model, filler().state(manifest), source)
    assert not report.fresh and set(report.ignored.values()) <= {"batch counter"}
    assert detect(key for key, *_ in manifest["keys"]) == source
    inputs = {"image": tf.constant(image)}
    if "instance" in model.input:
        inputs["instance"] = tf.eye(2, batch_shape=[len(image)])
    outputs = named(tf.function(model)(inputs, training=False))
    worst = {}
    for key, reference in expected.items():
        reference = nhwc(reference, manifest["output_layout"])
        assert outputs[key].shape == reference.shape, key
        worst[key] = float(np.abs(outputs[key] - reference).max() / reference.std())
    print(name, json.dumps(worst))
    assert max(worst.values()) <= TOLERANCE, worst


@needs_shared
def test_a_new_fixture_is_tested_by_its_name():
    manifest, expected = filler().load(str(PARITY / "mipnet_hrnet_w32_256x192.json"))
    model, options, source, named = case_by_name("mipnet_hrnet_w32_256x192", manifest, expected)
    assert (model, options, source) == ("mipnet_hrnet_w32", {}, "mipnet")
    assert set(named({"heatmaps": np.zeros((1, 2, 4, 4, 17))})) == set(expected)
