"""One transformer over text and images (Transfusion): text by the next token, images by diffusion."""

from wm_pipelines.families.transfusion.family import Transfusion, TransfusionConfig

__all__ = ["Transfusion", "TransfusionConfig"]
