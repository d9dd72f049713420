"""A vision-language model that decodes tokens: the reference beside VL-JEPA."""

from wm_pipelines.families.token_vlm.family import TokenVLM, TokenVLMConfig

__all__ = ["TokenVLM", "TokenVLMConfig"]
