"""Random-feature collocation: fields that are linear in their coefficients, solved for in closed form."""

from wm_pipelines.families.random_feature_collocation.family import RandomFeatureCollocation as RandomFeatureCollocation
