"""Physics-informed networks: perceptrons trained on the residual of their equation."""

from wm_pipelines.families.pinn.family import PINN as PINN
