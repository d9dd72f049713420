"""Frames from sentences by conditional flow matching: noise is carried to a scene that a caption describes."""

from wm_pipelines.families.text_flow.family import TextFlow, TextFlowConfig

__all__ = ["TextFlow", "TextFlowConfig"]
