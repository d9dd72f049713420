"""Encode, move in latent space, decode."""

from wm_pipelines.families.latent_dynamics.family import LatentDynamics, LatentDynamicsConfig

__all__ = ["LatentDynamics", "LatentDynamicsConfig"]
