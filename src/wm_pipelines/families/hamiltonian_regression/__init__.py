"""Closed-form relative of the Hamiltonian neural network."""

from wm_pipelines.families.hamiltonian_regression.family import HamiltonianRegression

__all__ = ["HamiltonianRegression"]
