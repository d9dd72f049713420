"""A project folder of one's own: the configuration copied, the package as installed, nothing else shared."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from filelock import FileLock
from kedro.framework.project import configure_project

from wm_pipelines.cli import cli
from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines import combinations

ROOT = Path(__file__).parents[2]
MEASURED = ("train_seconds", "step_ms", "decision_ms", "ms_per_answer", "ms_per_caption", "peak_memory_mb")
"""Wall-clock measurements: the only numbers that two runs of one seed may differ in."""


class Project:
    """A folder with the configuration of this project and data of its own."""

    def __init__(self, folder: Path, env: str = "smoke") -> None:
        self.folder, self.env = folder, env
        if not (folder / "conf").exists():
            shutil.copytree(ROOT / "conf", folder / "conf")
            (folder / "src").mkdir()  # Kedro asks for it; the package itself is the installed one
            (folder / "data").mkdir()
            (folder / "data/01_raw").symlink_to(ROOT / "data/01_raw")
            shutil.copy(ROOT / "pyproject.toml", folder)

    @property
    def data(self) -> Path:
        return self.folder / "data" / self.env

    @property
    def reports(self) -> Path:
        return self.data / "08_reporting"

    def configure(self, file: str, content: dict[str, Any]) -> None:
        """Merge settings into a file of this environment."""
        path = self.folder / "conf" / self.env / file
        before = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(deep_merge(before or {}, content)))

    def list_only(self, tasks: dict[str, Any]) -> None:
        """Of the tasks that the project ships, these alone run in this environment."""
        base = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())
        others = dict.fromkeys(set(base["tasks"]) - set(tasks))
        self.configure("globals.yml", {"data_root": f"data/{self.env}", "tasks": {**tasks, **others}})

    def kedro(self, command: str, *arguments: str) -> Result:
        """A command of this project in this process."""
        with self.here():
            configure_project("wm_pipelines", preserve_logging=True)
            return CliRunner().invoke(cli, [command, f"--env={self.env}", *arguments])

    def run(self, *arguments: str) -> Result:
        """A run that goes through."""
        done = self.kedro("run", *arguments)
        assert done.exit_code == 0, done.output[-3000:] if isinstance(done.exception, SystemExit) else done.exception
        return done

    def error_of(self, *arguments: str) -> str:
        """The one line that a run ends with."""
        done = self.kedro("run", *arguments)
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == 1
        lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, done.stderr[-2000:]
        return lines[0]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A run as a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "kedro", "run", f"--env={self.env}", *arguments],
            cwd=self.folder,
            env={**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Work in this project's folder; afterwards the pipelines are built for whom they were before."""
        before = dict(combinations._environment)
        with contextlib.chdir(self.folder):
            combinations._environment.clear()
            try:
                yield
            finally:
                combinations._environment.clear()
                combinations._environment.update(before)

    def leaderboard(self) -> pd.DataFrame:
        return pd.read_parquet(self.reports / "leaderboard.parquet")

    def hashes(self) -> dict[str, str]:
        """Hashes of everything a run made, wall-clock measurements and what shows them left out."""
        files = (p for p in self.data.rglob("*") if p.is_file() and "checkpoints" not in p.parts and p.name != ".lock")
        named = {str(path.relative_to(self.data)): path for path in files}
        return {name: hashlib.sha256(_lasting(path)).hexdigest() for name, path in sorted(named.items())}


def _lasting(path: Path) -> bytes:
    """A file's content without measurements."""
    shows_measurements = (".html", ".md", ".txt")
    if path.suffix in shows_measurements or path.name in ("metrics.json", "cost.json"):
        return b""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        if path.name == "results.json":  # hashes of the files beside it
            content = {"facts": content["facts"], "files": sorted(content["files"])}
        elif path.parent.name == "leaderboard_parts":  # hash of the table beside it
            content = {name: fact for name, fact in content.items() if name not in ("table", "made", "seconds")}
        elif path.name == "facts.json":
            content.pop("seconds", None)
        return json.dumps(content, sort_keys=True).encode()
    if path.suffix in (".parquet", ".csv"):
        data = path.read_bytes()
        table = pd.read_parquet(io.BytesIO(data)) if path.suffix == ".parquet" else pd.read_csv(io.BytesIO(data))
        return table[~table["metric"].isin(MEASURED)].to_csv().encode() if "metric" in table else data
    return path.read_bytes()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which everything ran once at smoke sizes; shared by all workers of pytest-xdist."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with FileLock(place / "finished.lock"):
        project = Project(place / "finished")
        said = project.folder / "said.txt"
        if not said.exists():
            said.write_text(project.run().stdout)
    return project
