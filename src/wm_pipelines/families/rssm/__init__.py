"""The recurrent state-space model, and a policy learned in its imagination."""

from wm_pipelines.families.rssm.family import Rssm, RssmConfig

__all__ = ["Rssm", "RssmConfig"]
