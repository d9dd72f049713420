"""Kedro project settings."""

import os

# Kedro depends on its telemetry plugin; this project sends nothing anywhere.
os.environ.setdefault("DO_NOT_TRACK", "1")


from wm_pipelines.config_loader import ProjectConfigLoader
from wm_pipelines.hooks import ProjectHooks

DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
HOOKS = (ProjectHooks(),)
CONFIG_LOADER_CLASS = ProjectConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # A sparse overlay changes single keys deep inside a parameter file; the rest stays as in base.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
    "config_patterns": {"parameters": ["parameters*", "parameters*/**", "**/parameters*"]},
}
