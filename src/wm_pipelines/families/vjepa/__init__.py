"""Video JEPA."""

from wm_pipelines.families.vjepa.config import VJEPAConfig
from wm_pipelines.families.vjepa.family import VJEPA

__all__ = ["VJEPA", "VJEPAConfig"]
