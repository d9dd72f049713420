"""Actions found in unlabelled videos: an inverse model, a codebook, dynamics under its codes."""

from wm_pipelines.families.latent_action.family import LatentAction, LatentActionConfig

__all__ = ["LatentAction", "LatentActionConfig"]
