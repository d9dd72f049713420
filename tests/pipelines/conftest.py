"""A project folder of one's own: the configuration copied, the package as installed, nothing else shared."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
# Wall-clock measurements: the only numbers that two runs of one seed may differ in.
MEASURED = ("train_seconds", "step_ms", "peak_memory_mb")


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("conf", "data/01_raw"):
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
        (folder / "src").mkdir()  # Kedro asks for it; the package itself is the installed one
        for name in ("pyproject.toml", "dvc.yaml"):
            shutil.copy(ROOT / name, folder / name)

    @property
    def data(self) -> Path:
        return self.folder / "data" / "smoke"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "kedro", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def kedro(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = self.kedro("run", "--env=smoke", "--pipeline=physics_eval", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    def hashes(self) -> dict[str, str]:
        """Hashes of everything the run made, but for wall-clock measurements."""
        found = {}
        for path in sorted(self.data.rglob("*")):
            name = str(path.relative_to(self.data))
            if path.is_dir() or name.startswith("checkpoints"):
                continue
            found[name] = content_hash(path)
        return {name: digest for name, digest in found.items() if digest}


def content_hash(path: Path) -> str:
    if path.suffix == ".parquet" and "metric" in (table := pd.read_parquet(path)):
        return hashlib.sha256(table[~table["metric"].isin(MEASURED)].to_csv().encode()).hexdigest()
    if path.name in ("leaderboard.csv", "summary.csv"):
        table = pd.read_csv(path)
        return hashlib.sha256(table[~table["metric"].isin(MEASURED)].to_csv().encode()).hexdigest()
    if path.name.endswith("_cost.json") or path.name in ("index.html", "summary.txt", "summary.md"):
        return ""  # show measurements among other things
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on which the smoke run went through once."""
    project = Project(tmp_path_factory.mktemp("finished"))
    project.log = project.run()
    return project
