"""The script that draws the figures of all reports: the one file beside them."""

from __future__ import annotations

from importlib.resources import files

FIGURE_LIBRARY = "plotly.min.js"
"""Its name, beside the pages."""


def figure_library() -> str:
    """Its content, from the package that makes the figures."""
    # What plotly.offline.get_plotlyjs reads, without the notebook machinery that it imports.
    return files("plotly").joinpath("package_data", FIGURE_LIBRARY).read_text(encoding="utf-8")
