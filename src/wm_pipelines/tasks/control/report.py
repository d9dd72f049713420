"""The page of control: scores, then tables and learning curves."""

from __future__ import annotations

from wm_pipelines.reporting.tables import page as tables
from wm_pipelines.tasks.base import Results


def page(results: Results) -> str:
    """Tables and learning curves."""
    r = results
    return tables("control", "Control", r.scores, r.summary, r.curves, r.not_applicable, r.provenance)
