"""Kedro's configuration loader, and the one thing this project adds to it."""

from __future__ import annotations

from typing import Any

from kedro.config import OmegaConfigLoader

from wm_pipelines.pipelines.combinations import use_environment


class ProjectConfigLoader(OmegaConfigLoader):
    """Tells the pipelines which environment they are built for.

    The lists of worlds and families belong to an environment, and Kedro hands none to `register_pipelines`. The loader
    is made first of all, by every command (hooks are not run by `kedro viz`).
    """

    def __init__(self, conf_source: str, env: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(conf_source, env, *args, **kwargs)
        use_environment(conf_source, env)
