"""Masked autoencoder."""

from wm_pipelines.families.mae.family import MAE, MAEConfig

__all__ = ["MAE", "MAEConfig"]
