"""``dvc.yaml`` from ``globals.yml`` and the code's own imports: ``python -m wm_pipelines.pipelines.stages``.

Five kinds of stages (ingest, fit, report, board, and per world or task what they need): one stage is one ``kedro
run``. Each depends on what decides its result: its parameters, its data, and the source files that its modules import.
With ``--behind`` it says instead which stages of ``dvc.lock`` were made by other code or parameters than there are
now.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.pipelines.combinations import Combinations, combinations
from wm_pipelines.provenance import import_closure
from wm_pipelines.registry import tasks
from wm_pipelines.yaml_files import read_yaml

_SOURCE = Path(__file__).parents[1]
_ROOT = _SOURCE.parents[1]
_HEAD = """\
# Written by `make stages` from conf/base/globals.yml and the imports of the code; change those, not this file.
# One stage is one `kedro run`. A stage depends on its parameters, its data and the source files behind it.
"""


def stages() -> dict[str, Any]:
    """The content of ``dvc.yaml``."""
    known = combinations()
    worlds = list(dict.fromkeys(world for c in known.values() for world in c.worlds))
    found: dict[str, Any] = {f"ingest_{kind}": stage for kind, stage in _ingestions(worlds)}
    for c in known.values():
        found |= {f"fit_{c.task}_{family}": _fit(c, family) for family in c.families}
        found[f"report_{c.task}"] = _report(c)
    found["board"] = _board(list(known))
    plots = [
        {
            "data/08_reporting/summary.csv": {
                "x": "value",
                "y": "model",
                "template": "bar_horizontal",
                "title": "Results",
            }
        }
    ]
    return {"stages": found, "plots": plots}


def judging_modules(task: str) -> list[str]:
    """The modules that decide what a task measures; its report is none of them."""
    own = f"wm_pipelines.tasks.{task}"
    judge = f"{own}.judge" if (_SOURCE / "tasks" / task / "judge.py").is_file() else own
    return [judge, "wm_pipelines.tasks.base", "wm_pipelines.tasks.judgement", "wm_pipelines.pipelines.judging"]


def _ingestions(worlds: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One stage per kind of world, over the worlds of that kind."""
    kinds: dict[str, list[str]] = {}
    for world in worlds:
        kinds.setdefault(_kind(world), []).append(world)
    for kind, own in kinds.items():
        yield (
            kind,
            {
                "foreach": own,
                "do": {
                    "desc": "Simulate or read one world into episodes.",
                    "cmd": "kedro run --pipeline=data_ingestion --namespaces=${item}",
                    "params": [{"conf/base/parameters_${item}.yml": ["${item}"]}],
                    "deps": _files(f"wm_pipelines.worlds.{kind}", "wm_pipelines.worlds.making"),
                    "outs": ["data/03_primary/${item}"],
                },
            },
        )


def _fit(c: Combinations, family: str) -> dict[str, Any]:
    """Train one family on every world of a task, and judge it."""
    name, at = f"{c.task}.{family}", "${key}"
    judged = [*judging_modules(c.task), f"wm_pipelines.families.{family}", "wm_pipelines.learning.fitting"]
    laws = {path for world in c.worlds for path in _files(f"wm_pipelines.worlds.{_kind(world)}")}
    own = {f"src/wm_pipelines/worlds/{_kind(world)}.py" for world in c.worlds}
    return {
        "foreach": {world: {"laws": f"src/wm_pipelines/worlds/{_kind(world)}.py"} for world in c.worlds},
        "do": {
            "desc": "Train one family on one world with all seeds, and judge it on held-out episodes.",
            "cmd": f"kedro run --pipeline={tasks.get(c.task).pipeline} --nodes={name}.train_{at},{name}.evaluate_{at}",
            "params": [
                {"conf/base/globals.yml": [f"tasks.{c.task}.seeds", f"tasks.{c.task}.learning"]},
                {f"conf/base/parameters_{c.task}.yml": [c.task]},
                {f"conf/base/parameters_{family}.yml": [family]},
            ],
            "deps": [f"data/03_primary/{at}", "${item.laws}", *sorted({*_files(*judged), *laws} - own)],
            "outs": [f"data/06_models/{c.task}/{family}/{at}", f"data/07_model_output/{c.task}/{family}/{at}"],
        },
    }


def _report(c: Combinations) -> dict[str, Any]:
    """One task's part of the leaderboard and its page."""
    task = tasks.get(c.task)
    jury = [f"data/06_models/{c.task}/{task.jury}"] if task.jury in c.families else []
    jury += [f"data/03_primary/{world}" for world in c.worlds if jury]
    made = "data/08_reporting"
    return {
        "desc": "Gather one task's results into its part of the leaderboard and its page.",
        "cmd": f"kedro run --pipeline={task.pipeline} --nodes={c.task}.leaderboard.gather,{c.task}.report.report",
        "params": [{"conf/base/globals.yml": [f"tasks.{c.task}.worlds", f"tasks.{c.task}.families"]}],
        "deps": [
            f"data/07_model_output/{c.task}",
            *jury,
            *_files(f"wm_pipelines.tasks.{c.task}", "wm_pipelines.pipelines.gathering"),
            "src/wm_pipelines/reporting/templates",
        ],
        "outs": [
            f"{made}/leaderboard_parts/{c.task}.parquet",
            f"{made}/leaderboard_parts/{c.task}.json",
            f"{made}/{c.task}.html",
            f"{made}/{c.task}_summary.txt",
            f"{made}/figures/{c.task}",
        ],
    }


def _board(names: list[str]) -> dict[str, Any]:
    made = "data/08_reporting"
    return {
        "desc": "Unite the parts into the leaderboard and the first page.",
        "cmd": "kedro run --nodes=board.leaderboard,board.first_page",
        "deps": [
            *(f"{made}/leaderboard_parts/{name}.{kind}" for name in names for kind in ("parquet", "json")),
            *_files("wm_pipelines.reporting.board", "wm_pipelines.pipelines.gathering"),
            "src/wm_pipelines/reporting/templates",
        ],
        "outs": [f"{made}/{name}" for name in ("leaderboard.parquet", "leaderboard.csv", "index.html", "summary.md")]
        + [{f"{made}/summary.csv": {"cache": False}}],
        "metrics": [{f"{made}/metrics.json": {"cache": False}}],
    }


def _kind(world: str) -> str:
    """Which kind of world an entry of the parameter files is."""
    return str(read_yaml(_ROOT / "conf" / "base" / f"parameters_{world}.yml")[world]["world"])


def _files(*modules: str) -> list[str]:
    """The source files behind modules, from the project's root."""
    return [path.relative_to(_ROOT).as_posix() for path in import_closure(*modules)]


def behind(lock: Path) -> dict[str, list[str]]:
    """Stages of a lock file whose source files are others now, and which; those that the lock lacks have no files."""
    locked = (read_yaml(lock) or {}).get("stages", {})
    found: dict[str, list[str]] = {}
    for name in _stage_names():
        if name not in locked:
            found[name] = []
        elif changed := [
            d["path"] for d in locked[name].get("deps", []) if d["path"].startswith("src/") and _changed(d)
        ]:
            found[name] = changed
    return found


def _stage_names() -> Iterator[str]:
    for name, stage in stages()["stages"].items():
        yield from (f"{name}@{item}" for item in stage["foreach"]) if "foreach" in stage else (name,)


def _changed(dependency: dict[str, Any]) -> bool:
    path = _ROOT / dependency["path"]
    if path.is_dir():  # DVC hashes folders in a way of its own: told by the files' number and size
        files = [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return (len(files), sum(p.stat().st_size for p in files)) != (dependency["nfiles"], dependency["size"])
    return not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != dependency["md5"]


def main(arguments: list[str]) -> None:
    """Write ``dvc.yaml``, or say what has fallen behind."""
    if "--behind" not in arguments:
        text = _HEAD + yaml.safe_dump(stages(), sort_keys=False, width=120, allow_unicode=True)
        (_ROOT / "dvc.yaml").write_text(text, encoding="utf-8")
        return
    found, total = behind(_ROOT / "dvc.lock"), len(list(_stage_names()))
    for name, changed in found.items():
        print(f"{name}: {', '.join(changed) or 'never run'}")
    print(f"{len(found)} of {total} stages have fallen behind since dvc.lock was written.")


if __name__ == "__main__":
    main(sys.argv[1:])
