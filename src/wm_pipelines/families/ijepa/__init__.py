"""Image JEPA."""

from wm_pipelines.families.ijepa.family import IJEPA, IJEPAConfig

__all__ = ["IJEPA", "IJEPAConfig"]
