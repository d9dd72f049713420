"""Particle graph network that conserves linear and angular momentum."""

from wm_pipelines.families.momentum_gnn.family import MomentumGNN

__all__ = ["MomentumGNN"]
