"""Evaluation of models and results files: AP and other metrics, reports and contact sheets."""

from kpzoo import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "evaluate": "kpzoo.evaluation.evaluator",
        "fit_confidence": "kpzoo.evaluation.confidence",
        "of_shared_keypoints": "kpzoo.evaluation.evaluator",
        "KEPT_IOUS": "kpzoo.evaluation.evaluator",
        "score": "kpzoo.evaluation.scoring",
        "score_boxes": "kpzoo.evaluation.box_scoring",
        "score_tracks": "kpzoo.evaluation.identities",
        "prediction_sheet": "kpzoo.evaluation.sheets",
        "heatmap_sheet": "kpzoo.evaluation.sheets",
        "progress_sheet": "kpzoo.evaluation.sheets",
        "annotation_sheet": "kpzoo.evaluation.sheets",
    },
)
