"""The next state as a place of low energy: ``p(z' | z, a) ∝ exp(-E(z, a, z'))``."""

from wm_pipelines.families.energy_based.family import EnergyBased, EnergyBasedConfig

__all__ = ["EnergyBased", "EnergyBasedConfig"]
