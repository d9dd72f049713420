"""VL-JEPA: predict the meaning of a text, not its tokens."""

from wm_pipelines.families.vljepa.family import VLJEPA, VLJEPAConfig

__all__ = ["VLJEPA", "VLJEPAConfig"]
