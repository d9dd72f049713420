"""Results of models from outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wm_pipelines.datasets.bundle import BundleDataset
from wm_pipelines.datasets.local import LocalDataset

_PARTS = {"scores": "parquet", "arrays": "safetensors", "facts": "json"}


class OutsideDataset(LocalDataset):
    """Results by name and world, each a bundle ``<name>/<world>/results``; saving adds to those that there are."""

    def save(self, data: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Replace the results of these names on these worlds."""
        for (name, world), results in data.items():
            self._bundle(name, world).save(results)

    def load(self) -> dict[str, dict[str, Any]]:
        """All results, ``"<name>/<world>"`` -> parts; empty where nothing was submitted.

        Raises:
            UserError: some are damaged.
        """
        places = sorted(path.parent for path in self.path.glob("*/*/results") if path.is_dir())
        return {f"{p.parent.name}/{p.name}": self._bundle(p.parent.name, p.name).load() for p in places}

    def _bundle(self, name: str, world: str) -> BundleDataset:
        place = f"{self._filepath}/{name}/{world}/results"
        return BundleDataset(parts=_PARTS, made_by="submission", belongs_to=4, filepath=place)
