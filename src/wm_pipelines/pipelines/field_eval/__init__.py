"""Fields that obey a differential equation: solved, coefficients found, judged by a reference and the law."""

from wm_pipelines.pipelines.field_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
