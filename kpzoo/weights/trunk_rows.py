"""Networks trained on ImageNet, whose trunks are a start for training."""

from collections.abc import Mapping

from kpzoo.weights.rows import Trunk

_RESNET = dict(stem=64, widths=(64, 128, 256, 512))
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _torchvision(depth: int, prefix: str) -> Trunk:
    return Trunk(
        trunk=f"resnet{depth}",
        options={**_RESNET, "blocks": _BLOCKS[depth], "bottlenecks": depth >= 50},
        url=f"https://download.pytorch.org/models/resnet{depth}-{prefix}.pth",
        sha256=prefix,
        source="torchvision",
        license="BSD-3-Clause; trained on ImageNet-1k (research use of its photos)",
        origin="torchvision, ImageNet-1k",
        normalization="imagenet_rgb",
    )


def _keras(depth: int, md5: str) -> Trunk:
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    return Trunk(
        trunk=f"resnet{depth}",
        options={**_RESNET, "blocks": _BLOCKS[depth], "bottlenecks": True},
        url=f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{name}",
        sha256="",
        md5=md5,
        source="keras",
        license="Apache-2.0; trained on ImageNet-1k (research use of its photos)",
        origin="keras.applications, ImageNet-1k",
        normalization="caffe_bgr",
    )


# Tag -> row.
ROWS: Mapping[str, Trunk] = {
    "resnet18.torchvision_imagenet_v1": _torchvision(18, "f37072fd"),
    "resnet34.torchvision_imagenet_v1": _torchvision(34, "b627a593"),
    "resnet50.torchvision_imagenet_v1": _torchvision(50, "0676ba61"),
    "resnet101.torchvision_imagenet_v1": _torchvision(101, "63fe2227"),
    "resnet152.torchvision_imagenet_v1": _torchvision(152, "394f9c45"),
    "resnet50.keras_imagenet_v1": _keras(50, "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101.keras_imagenet_v1": _keras(101, "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152.keras_imagenet_v1": _keras(152, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
}
