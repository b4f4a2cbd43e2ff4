"""Codecs: encode keypoints as heatmaps, and decode heatmaps to keypoints, with their confidence."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Codec": "kpzoo.heatmaps.codecs",
        "CODECS": "kpzoo.heatmaps.codecs",
        "HEATMAP_STRIDE": "kpzoo.heatmaps.codecs",
        "VISIBILITY": "kpzoo.heatmaps.codecs",
        "visibility_thresholds": "kpzoo.heatmaps.codecs",
        "blur_matrix": "kpzoo.heatmaps.codecs",
        "Confidence": "kpzoo.heatmaps.confidence",
        "HIT_OKS": "kpzoo.heatmaps.confidence",
        "UNFITTED": "kpzoo.heatmaps.confidence",
        "encode": "kpzoo.heatmaps.encoding",
        "label_widths": "kpzoo.heatmaps.encoding",
        "PCK_RADIUS": "kpzoo.heatmaps.encoding",
        "peak_hits": "kpzoo.heatmaps.encoding",
        "decode": "kpzoo.heatmaps.decoding",
        "decode_with_covariance": "kpzoo.heatmaps.decoding",
        "spread": "kpzoo.heatmaps.decoding",
        "merge_flipped": "kpzoo.heatmaps.decoding",
        "RESCORING": "kpzoo.heatmaps.decoding",
        "pose_scores": "kpzoo.heatmaps.decoding",
    },
)
