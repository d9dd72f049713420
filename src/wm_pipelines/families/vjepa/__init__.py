"""Video JEPA."""

from wm_pipelines.families.vjepa.family import VJEPA, VJEPAConfig

__all__ = ["VJEPA", "VJEPAConfig"]
