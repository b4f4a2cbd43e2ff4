"""Networks against the reference implementations: the same numbers in, the same heatmaps out."""

import importlib.util
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHARED

import kpzoo.models
from kpzoo.importers.fill import fill
from kpzoo.models.counting import count_macs, count_params
from kpzoo.models.resnet import RESNET_BLOCKS, resnet

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


# fixture: how to build the model, the source's name in `kpzoo.importers`, our outputs under the fixture's names
CASES = {
    "resnet50_backbone": (backbone, {}, "torchvision", dict),
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
    return sorted(path.stem for path in PARITY.glob("*.json") if path.stem in CASES)


@needs_shared
@pytest.mark.parametrize("name", manifests())
def test_outputs_parameters_and_macs_equal_those_of_the_reference(name):
    recipe, options, source, named = CASES[name]
    manifest, expected = filler().load(str(PARITY / f"{name}.json"))
    image = nhwc(filler().make_input(manifest["input"]), manifest["input"]["layout"])
    model = built(recipe, image.shape[1:3], options)

    assert count_params(model) == manifest["param_count"]
    assert count_macs(model) / 1e9 == pytest.approx(manifest["gmacs"], abs=1e-9)

    fill(model, filler().state(manifest), source)
    outputs = named(tf.function(model)({"image": tf.constant(image)}, training=False))
    worst = {}
    for key, reference in expected.items():
        reference = nhwc(reference, manifest["output_layout"])
        assert outputs[key].shape == reference.shape, key
        worst[key] = float(np.abs(outputs[key] - reference).max() / reference.std())
    print(name, json.dumps(worst))
    assert max(worst.values()) <= TOLERANCE, worst
