"""Nodes of the data_ingestion pipeline."""

from __future__ import annotations

from typing import Any

from wm_pipelines.worlds.episodes import WorldConfig


def ingest_world(world: WorldConfig, *, world_name: str) -> dict[str, Any]:
    """Episodes of one world by split, simulated with their own seeds or read from the user's table."""
    from wm_pipelines.worlds.episodes import ingest

    return dict(ingest(world, world_name))
