"""The next state by conditional flow matching: noise carried to the data along paths that are straight in training."""

from wm_pipelines.families.flow.family import Flow, FlowConfig

__all__ = ["Flow", "FlowConfig"]
