"""Figures that kedro viz shows."""

from __future__ import annotations

from typing import Any

from wm_pipelines.datasets.local import FolderDataset


class FiguresDataset(FolderDataset):
    """Plotly figures by name, ``<name>.json``, replaced as one; kedro viz previews the first."""

    index, made_by = "figures.json", "reporting"

    def save(self, data: dict[str, Any]) -> None:
        """Replace all figures. Raises UserError where they cannot be written."""
        from plotly.io import to_json

        self.write({f"{name}.json": to_json(figure, engine="json").encode() for name, figure in data.items()})

    def load(self) -> dict[str, Any]:
        """Read all figures.

        Raises:
            UserError: missing, damaged or replaced files.
        """
        from plotly.io import from_json

        with self.read() as stored:
            return {n.removesuffix(".json"): from_json(stored[n].read_text(encoding="utf-8")) for n in stored.files}

    def preview(self) -> Any:
        """The first figure, for kedro viz."""
        import json

        from kedro_datasets._typing import PlotlyPreview

        return PlotlyPreview(json.loads(next(iter(self.load().values())).to_json())) if self._exists() else None
