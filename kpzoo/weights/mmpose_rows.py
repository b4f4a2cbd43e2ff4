"""Pose checkpoints of MMPose that fit the models: addresses, and the metrics that the authors state.

All were trained on crops of the box times 1.25, with labels of sigma 2 (256 rows) or 3 (384 rows), and are decoded with
the quarter offset: the codec "hrnet". The first 8 digits of a file's SHA-256 are part of its name.
"""

import re
from collections.abc import Mapping

from kpzoo.weights.rows import Weights

_BASE = "https://download.openmmlab.com/mmpose/"
_V1 = "v1/body_2d_keypoint/topdown_heatmap/coco/"
_COCO = "Apache-2.0; data: COCO keypoints (annotations CC BY 4.0, photos under Flickr's terms)"

_ON_COCO = dict(
    skeleton="coco17",
    license=_COCO,
    metric="COCO OKS AP, 0 to 1, with flip test",
    boxes="detections, human AP 56.4 on val2017",
)
# By the data set in the tag.
_DATA: Mapping[str, Mapping[str, str]] = {
    "coco": _ON_COCO,
    "coco_fp16": _ON_COCO,  # trained in float16, stored in float32
    "coco_aic": {**_ON_COCO, "license": f"{_COCO}; AI Challenger (research use)"},
    "aic": dict(
        skeleton="aic14",
        license="Apache-2.0; data: AI Challenger (research use)",
        metric="AI Challenger OKS AP, 0 to 1",
        boxes="annotated boxes",
    ),
    "crowdpose": dict(
        skeleton="crowdpose14",
        license="Apache-2.0; data: CrowdPose (no licence stated; research use)",
        metric="CrowdPose AP, 0 to 1",
        boxes="detections of YOLOv3, test set",
    ),
    "mpii": dict(
        skeleton="mpii16",
        license="Apache-2.0; data: MPII (non-commercial research)",
        metric="PCKh, mean over joints, 0 to 1",
        boxes="annotated centre and scale",
    ),
    "posetrack18": dict(
        skeleton="posetrack17",
        license="Apache-2.0; data: PoseTrack18 (research use)",
        metric="PoseTrack18 AP per joint, total, percent",
        boxes="annotated boxes",
    ),
}

# Tag -> (path of the file, name of the configuration, metrics that the authors state).
_FILES: Mapping[str, tuple[str, str, Mapping[str, float]]] = {
    "hrnet_w32.mmpose_aic_256x192_v1": (
        "top_down/hrnet/hrnet_w32_aic_256x192-30a4e465_20200826.pth",
        "td-hm_hrnet-w32_8xb64-210e_aic-256x192",
        {"AP": 0.323, "AP50": 0.761, "AP75": 0.218, "AR": 0.366, "AR50": 0.789},
    ),
    "simplebaseline_res101.mmpose_aic_256x192_v1": (
        "top_down/resnet/res101_aic_256x192-79b35445_20200826.pth",
        "td-hm_res101_8xb64-210e_aic-256x192",
        {"AP": 0.294, "AP50": 0.736, "AP75": 0.172, "AR": 0.337, "AR50": 0.762},
    ),
    "hourglass_corner_1.mmpose_coco_256x256_v1": (
        "top_down/hourglass/hourglass52_coco_256x256-4ec713ba_20200709.pth",
        "td-hm_hourglass52_8xb32-210e_coco-256x256",
        {"AP": 0.726, "AP50": 0.896, "AP75": 0.799, "AR": 0.78, "AR50": 0.934},
    ),
    "hourglass_corner_1.mmpose_coco_384x384_v1": (
        "top_down/hourglass/hourglass52_coco_384x384-be91ba2b_20200812.pth",
        "td-hm_hourglass52_8xb32-210e_coco-384x384",
        {"AP": 0.746, "AP50": 0.9, "AP75": 0.812, "AR": 0.797, "AR50": 0.939},
    ),
    "hrnet_w32.mmpose_coco_256x192_v1": (
        f"{_V1}td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
        "td-hm_hrnet-w32_8xb64-210e_coco-256x192",
        {"AP": 0.746, "AP50": 0.904, "AP75": 0.819, "AR": 0.799, "AR50": 0.942},
    ),
    "hrnet_w32.mmpose_coco_384x288_v1": (
        f"{_V1}td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth",
        "td-hm_hrnet-w32_8xb64-210e_coco-384x288",
        {"AP": 0.76, "AP50": 0.906, "AP75": 0.83, "AR": 0.81, "AR50": 0.943},
    ),
    "hrnet_w48.mmpose_coco_256x192_v1": (
        f"{_V1}td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
        "td-hm_hrnet-w48_8xb32-210e_coco-256x192",
        {"AP": 0.756, "AP50": 0.907, "AP75": 0.825, "AR": 0.806, "AR50": 0.942},
    ),
    "hrnet_w48.mmpose_coco_384x288_v1": (
        f"{_V1}td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth",
        "td-hm_hrnet-w48_8xb32-210e_coco-384x288",
        {"AP": 0.767, "AP50": 0.91, "AP75": 0.831, "AR": 0.816, "AR50": 0.946},
    ),
    "hrnet_w32.mmpose_coco_aic_256x192_v1": (
        f"{_V1}td-hm_hrnet-w32_8xb64-210e_coco-aic-256x192-merge-b05435b9_20221025.pth",
        "td-hm_hrnet-w32_8xb64-210e_coco-aic-256x192-merge",
        {"AP": 0.757, "AP50": 0.907, "AP75": 0.829, "AR": 0.809, "AR50": 0.944},
    ),
    "hrnet_w32.mmpose_coco_fp16_256x192_v1": (
        f"{_V1}td-hm_hrnet-w32_fp16-8xb64-210e_coco-256x192-f1e84e3b_20220914.pth",
        "td-hm_hrnet-w32_fp16-8xb64-210e_coco-256x192",
        {"AP": 0.749, "AP50": 0.907, "AP75": 0.822, "AR": 0.802, "AR50": 0.946},
    ),
    "simplebaseline_res50.mmpose_coco_256x192_v1": (
        f"{_V1}td-hm_res50_8xb64-210e_coco-256x192-04af38ce_20220923.pth",
        "td-hm_res50_8xb64-210e_coco-256x192",
        {"AP": 0.718, "AP50": 0.898, "AP75": 0.796, "AR": 0.774, "AR50": 0.934},
    ),
    "simplebaseline_res50.mmpose_coco_384x288_v1": (
        f"{_V1}td-hm_res50_8xb64-210e_coco-384x288-7b8db90e_20220923.pth",
        "td-hm_res50_8xb64-210e_coco-384x288",
        {"AP": 0.731, "AP50": 0.9, "AP75": 0.799, "AR": 0.782, "AR50": 0.937},
    ),
    "simplebaseline_res101.mmpose_coco_256x192_v1": (
        f"{_V1}td-hm_res101_8xb64-210e_coco-256x192-065d3625_20220926.pth",
        "td-hm_res101_8xb64-210e_coco-256x192",
        {"AP": 0.728, "AP50": 0.904, "AP75": 0.809, "AR": 0.783, "AR50": 0.942},
    ),
    "simplebaseline_res152.mmpose_coco_256x192_v1": (
        f"{_V1}td-hm_res152_8xb32-210e_coco-256x192-0345f330_20220928.pth",
        "td-hm_res152_8xb32-210e_coco-256x192",
        {"AP": 0.736, "AP50": 0.904, "AP75": 0.818, "AR": 0.791, "AR50": 0.942},
    ),
    "simplebaseline_res152.mmpose_coco_384x288_v1": (
        f"{_V1}td-hm_res152_8xb32-210e_coco-384x288-7fbb906f_20220927.pth",
        "td-hm_res152_8xb32-210e_coco-384x288",
        {"AP": 0.75, "AP50": 0.908, "AP75": 0.821, "AR": 0.8, "AR50": 0.942},
    ),
    "simplebaseline_res50.mmpose_coco_fp16_256x192_v1": (
        f"{_V1}td-hm_res50_fp16-8xb64-210e_coco-256x192-463da051_20220927.pth",
        "td-hm_res50_fp16-8xb64-210e_coco-256x192",
        {"AP": 0.716, "AP50": 0.898, "AP75": 0.798, "AR": 0.772, "AR50": 0.937},
    ),
    "hrnet_w32.mmpose_crowdpose_256x192_v1": (
        "top_down/hrnet/hrnet_w32_crowdpose_256x192-960be101_20201227.pth",
        "td-hm_hrnet-w32_8xb64-210e_crowdpose-256x192",
        {"AP": 0.675, "AP50": 0.825, "AP75": 0.729, "AP_easy": 0.77, "AP_medium": 0.687, "AP_hard": 0.553},
    ),
    "simplebaseline_res50.mmpose_crowdpose_256x192_v1": (
        "top_down/resnet/res50_crowdpose_256x192-c6a526b6_20201227.pth",
        "td-hm_res50_8xb64-210e_crowdpose-256x192",
        {"AP": 0.637, "AP50": 0.808, "AP75": 0.692, "AP_easy": 0.738, "AP_medium": 0.65, "AP_hard": 0.506},
    ),
    "simplebaseline_res101.mmpose_crowdpose_256x192_v1": (
        "top_down/resnet/res101_crowdpose_256x192-8f5870f4_20201227.pth",
        "td-hm_res101_8xb64-210e_crowdpose-256x192",
        {"AP": 0.647, "AP50": 0.81, "AP75": 0.703, "AP_easy": 0.745, "AP_medium": 0.658, "AP_hard": 0.521},
    ),
    "simplebaseline_res101.mmpose_crowdpose_320x256_v1": (
        "top_down/resnet/res101_crowdpose_320x256-c88c512a_20201227.pth",
        "td-hm_res101_8xb64-210e_crowdpose-320x256",
        {"AP": 0.661, "AP50": 0.821, "AP75": 0.714, "AP_easy": 0.759, "AP_medium": 0.672, "AP_hard": 0.534},
    ),
    "simplebaseline_res152.mmpose_crowdpose_256x192_v1": (
        "top_down/resnet/res152_crowdpose_256x192-dbd49aba_20201227.pth",
        "td-hm_res152_8xb64-210e_crowdpose-256x192",
        {"AP": 0.656, "AP50": 0.818, "AP75": 0.712, "AP_easy": 0.754, "AP_medium": 0.666, "AP_hard": 0.533},
    ),
    "hourglass_corner_1.mmpose_mpii_256x256_v1": (
        "top_down/hourglass/hourglass52_mpii_256x256-ae358435_20200812.pth",
        "td-hm_hourglass52_8xb64-210e_mpii-256x256",
        {"PCKh@0.5": 0.889, "PCKh@0.1": 0.317},
    ),
    "hourglass_corner_1.mmpose_mpii_384x384_v1": (
        "top_down/hourglass/hourglass52_mpii_384x384-04090bc3_20200812.pth",
        "td-hm_hourglass52_8xb32-210e_mpii-384x384",
        {"PCKh@0.5": 0.894, "PCKh@0.1": 0.367},
    ),
    "hrnet_w32.mmpose_mpii_256x256_v1": (
        "top_down/hrnet/hrnet_w32_mpii_256x256-6c4f923f_20200812.pth",
        "td-hm_hrnet-w32_8xb64-210e_mpii-256x256",
        {"PCKh@0.5": 0.9, "PCKh@0.1": 0.334},
    ),
    "hrnet_w48.mmpose_mpii_256x256_v1": (
        "top_down/hrnet/hrnet_w48_mpii_256x256-92cab7bd_20200812.pth",
        "td-hm_hrnet-w48_8xb64-210e_mpii-256x256",
        {"PCKh@0.5": 0.901, "PCKh@0.1": 0.337},
    ),
    "simplebaseline_res50.mmpose_mpii_256x256_v1": (
        "top_down/resnet/res50_mpii_256x256-418ffc88_20200812.pth",
        "td-hm_res50_8xb64-210e_mpii-256x256",
        {"PCKh@0.5": 0.882, "PCKh@0.1": 0.286},
    ),
    "simplebaseline_res101.mmpose_mpii_256x256_v1": (
        "top_down/resnet/res101_mpii_256x256-416f5d71_20200812.pth",
        "td-hm_res101_8xb64-210e_mpii-256x256",
        {"PCKh@0.5": 0.888, "PCKh@0.1": 0.29},
    ),
    "simplebaseline_res152.mmpose_mpii_256x256_v1": (
        "top_down/resnet/res152_mpii_256x256-3ecba29d_20200812.pth",
        "td-hm_res152_8xb32-210e_mpii-256x256",
        {"PCKh@0.5": 0.889, "PCKh@0.1": 0.303},
    ),
    "hrnet_w32.mmpose_posetrack18_256x192_v1": (
        "top_down/hrnet/hrnet_w32_posetrack18_256x192-1ee951c4_20201028.pth",
        "td-hm_hrnet-w32_8xb64-20e_posetrack18-256x192",
        {"AP_total": 83.4},
    ),
    "hrnet_w32.mmpose_posetrack18_384x288_v1": (
        "top_down/hrnet/hrnet_w32_posetrack18_384x288-806f00a3_20211130.pth",
        "td-hm_hrnet-w32_8xb64-20e_posetrack18-384x288",
        {"AP_total": 83.7},
    ),
    "hrnet_w48.mmpose_posetrack18_256x192_v1": (
        "top_down/hrnet/hrnet_w48_posetrack18_256x192-b5d9b3f1_20211130.pth",
        "td-hm_hrnet-w48_8xb64-20e_posetrack18-256x192",
        {"AP_total": 84.6},
    ),
    "hrnet_w48.mmpose_posetrack18_384x288_v1": (
        "top_down/hrnet/hrnet_w48_posetrack18_384x288-5fd6d3ff_20211130.pth",
        "td-hm_hrnet-w48_8xb64-20e_posetrack18-384x288",
        {"AP_total": 84.6},
    ),
    "simplebaseline_res50.mmpose_posetrack18_256x192_v1": (
        "top_down/resnet/res50_posetrack18_256x192-a62807c7_20201028.pth",
        "td-hm_res50_8xb64-20e_posetrack18-256x192",
        {"AP_total": 81.2},
    ),
}


def _row(tag: str, path: str, config: str, stated: Mapping[str, float]) -> Weights:
    """Returns a row. The tag contains the model, the data set and the size of crops."""
    model, data, height, width = re.fullmatch(r"(\w+)\.mmpose_(\w+)_(\d+)x(\d+)_v\d+", tag).groups()
    return Weights(
        model=model,
        url=_BASE + path,
        sha256=re.search(r"-([0-9a-f]{8})_\d{8}\.pth$", path)[1],
        image_hw=(int(height), int(width)),
        options={},
        origin="MMPose",
        recipe=config,
        metrics="",
        normalization="imagenet_rgb",
        codec="hrnet",
        stated=stated,
        **_DATA[data],
    )


ROWS: Mapping[str, Weights] = {tag: _row(tag, *file) for tag, file in _FILES.items()}
