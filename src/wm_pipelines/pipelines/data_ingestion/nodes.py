"""Nodes of the data_ingestion pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wm_pipelines.worlds.episodes import WorldConfig


def ingest_node(name: str) -> Callable[[WorldConfig], dict[str, Any]]:
    """The node function that makes one world's episodes."""

    def ingest_world(world: WorldConfig) -> dict[str, Any]:
        """Episodes of one world by split, simulated with their own seeds or read from the user's table."""
        from wm_pipelines.worlds.episodes import ingest

        return dict(ingest(world, name))

    return ingest_world
