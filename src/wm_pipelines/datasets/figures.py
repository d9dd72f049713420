"""Figures that kedro viz shows."""

from __future__ import annotations

from kedro_datasets.plotly import JSONDataset as KedroPlotlyDataset

from wm_pipelines.datasets.atomic import Atomic


class PlotlyDataset(Atomic, KedroPlotlyDataset):
    """`kedro_datasets.plotly.JSONDataset`, atomic."""
