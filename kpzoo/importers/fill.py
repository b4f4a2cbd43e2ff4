"""Puts a checkpoint's arrays into a model's variables."""

from collections.abc import Mapping
from functools import partial

import keras
import numpy as np

from kpzoo.errors import UserError
from kpzoo.importers import keys

# How a source names our variables: path -> key, and the move from its layout to Keras'.
SOURCES = {
    "torchvision": (partial(keys.torch_key, module_of=keys.resnet_module), keys.from_torch),
    "pytorch-cpn": (partial(keys.torch_key, module_of=keys.pytorch_cpn_module), keys.from_torch),
    "hrnet": (partial(keys.torch_key, module_of=keys.hrnet_module), keys.from_torch),
    "mipnet": (partial(keys.torch_key, module_of=keys.mipnet_module), keys.from_torch),
    "mmpose": (partial(keys.torch_key, module_of=keys.mmpose_module), keys.from_torch),
    "mmpose-hourglass": (partial(keys.torch_key, module_of=keys.mmpose_hourglass_module), keys.from_torch),
    "hourglass": (partial(keys.torch_key, module_of=keys.hourglass_module), keys.from_torch),
    "tf-cpn": (partial(keys.slim_key, module_of=keys.tf_cpn_module), np.asarray),
}


def fill(model: keras.Model, state: Mapping[str, np.ndarray], source: str) -> None:
    """Assigns every variable of the model from `state`."""
    key_of, to_keras = SOURCES[source]
    for variable in model.variables:
        key = key_of(variable.path)
        if key not in state:
            raise UserError(f"The checkpoint has no {key!r}, which variable {variable.path!r} needs.")
        variable.assign(to_keras(state[key]))
