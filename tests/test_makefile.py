"""What `make clean` removes, and what it leaves."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPUTED = (
    "data/03_primary/pendulum/train.arrow", "data/06_models/a", "data/08_reporting/index.html", "data/checkpoints/a",
    "data/tuning/a.db", "data/own/08_reporting/index.html", "data/smoke/03_primary/a",
    "docs/_build/html/index.html",
)  # fmt: skip
KEPT = (
    "data/01_raw/own.csv", "conf/own/globals.yml", "conf/smoke/globals.yml", "data/notes.txt", "docs/index.md",
    "benchmarks/a.py",
)  # fmt: skip


def test_clean_removes_what_was_computed_in_every_environment_and_nothing_else(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*COMPUTED, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    numbers = tmp_path / "data/08_reporting/metrics.json"  # stands in git
    numbers.write_text("{}")

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    git("add", str(numbers))
    git("commit", "-q", "-m", "numbers")
    numbers.write_text('{"of": "another run"}')
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [name for name in COMPUTED if (tmp_path / name).exists()] == []
    assert [name for name in KEPT if not (tmp_path / name).exists()] == []
    assert numbers.read_text() == "{}"
