"""``dvc.yaml`` from ``globals.yml`` and the code's own imports: ``python -m wm_pipelines.pipelines.stages``.

Four kinds of stages, each one ``kedro run``: ingest a world, fit a family on a world, report a task, write the board;
one for the script that the pages share, and one for the page to play on.
Each depends on what decides its result: its parameters, its data, and the source files that its modules import. With
``--behind`` it says instead which stages of ``dvc.lock`` were made by other code or parameters than there are now.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.errors import UserError
from wm_pipelines.pipelines.combinations import Combinations, combinations, project_root, use_environment
from wm_pipelines.pipelines.play import listed
from wm_pipelines.provenance import REPORTS, import_closure, judging_modules, module_file
from wm_pipelines.registry import tasks
from wm_pipelines.yaml_files import read_yaml

_SOURCE = Path(__file__).parents[1]
_ROOT = _SOURCE.parents[1]
_REPORTS = "data/08_reporting"
_LIBRARY = f"{_REPORTS}/plotly.min.js"
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
        if tasks.get(c.task).has_manifest:
            found[f"manifest_{c.task}"] = _manifest(c)
        if tasks.get(c.task).has_doses:
            found[f"dose_{c.task}"] = _dose(c)
        found |= {f"fit_{c.task}_{family}": _fit(c, family) for family in c.families}
        found[f"report_{c.task}"] = _report(c)
    played = list(listed().values())
    found |= {"figure_library": _figure_library(), **({"play": _play(played)} if played else {})}
    found["board"] = _board(list(known), bool(played))
    results = {"x": "value", "y": "family", "template": "results", "title": "Results"}  # .dvc/plots/results.json
    return {"stages": found, "plots": [{"data/08_reporting/summary.csv": results}]}


def as_text() -> str:
    """``dvc.yaml``, to the letter."""
    return _HEAD + yaml.safe_dump(stages(), sort_keys=False, width=120, allow_unicode=True)


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


def _manifest(c: Combinations) -> dict[str, Any]:
    """Draw what every model of a world is judged on."""
    at = "${item}"
    code = {*_files(f"wm_pipelines.tasks.{c.task}", "wm_pipelines.control.manifest", without=REPORTS), *_worlds(c)}
    return {
        "foreach": list(c.worlds),
        "do": {
            "desc": "Draw starts and goals of one world, and let reference policies act from them.",
            "cmd": f"kedro run --pipeline={tasks.get(c.task).pipeline} --nodes={c.task}.manifest.draw_{at}",
            "params": [{f"conf/base/parameters_{c.task}.yml": [c.task]}],
            "deps": [f"data/03_primary/{at}", *sorted(code)],
            "outs": [_manifest_file(c, at)],
        },
    }


def _dose(c: Combinations) -> dict[str, Any]:
    """Let planners act that trust a wrong law."""
    at = "${item}"
    code = {*_files(f"wm_pipelines.tasks.{c.task}", "wm_pipelines.control.doses", without=REPORTS), *_worlds(c)}
    return {
        "foreach": list(c.worlds),
        "do": {
            "desc": "Plan in one world with simulators that are wrong by a known amount.",
            "cmd": f"kedro run --pipeline={tasks.get(c.task).pipeline} --nodes={c.task}.manifest.dose_{at}",
            "params": [{f"conf/base/parameters_{c.task}.yml": [c.task]}],
            "deps": [f"data/03_primary/{at}", _manifest_file(c, at), *sorted(code)],
            "outs": [_dose_file(c, at)],
        },
    }


def _dose_file(c: Combinations, world: str) -> str:
    return f"data/05_model_input/{c.task}/{world}_doses.json"


def _manifest_file(c: Combinations, world: str) -> str:
    return f"data/05_model_input/{c.task}/{world}_manifest.json"


def _fit(c: Combinations, family: str) -> dict[str, Any]:
    """Train one family on every world of a task, and judge it."""
    name, at = f"{c.task}.{family}", "${key}"
    judged = [*judging_modules(c.task), f"wm_pipelines.families.{family}", "wm_pipelines.learning.fitting"]
    drawn = [_manifest_file(c, at)] if tasks.get(c.task).has_manifest else []
    own = {world: _file(f"wm_pipelines.worlds.{_kind(world)}") for world in c.worlds}
    code = sorted({*_files(*judged, without=REPORTS), *_worlds(c)} - set(own.values()))
    return {
        "foreach": {world: {"laws": path} for world, path in own.items()},
        "do": {
            "desc": "Train one family on one world with all seeds, and judge it on held-out episodes.",
            "cmd": f"kedro run --pipeline={tasks.get(c.task).pipeline} --nodes={name}.train_{at},{name}.evaluate_{at}",
            "params": [
                {"conf/base/globals.yml": [f"tasks.{c.task}.seeds", f"tasks.{c.task}.learning"]},
                {f"conf/base/parameters_{c.task}.yml": [c.task]},
                {f"conf/base/parameters_{family}.yml": [family]},
            ],
            "deps": [f"data/03_primary/{at}", *drawn, "${item.laws}", *code],
            "outs": [f"data/06_models/{c.task}/{family}/{at}", f"data/07_model_output/{c.task}/{family}/{at}"],
        },
    }


def _report(c: Combinations) -> dict[str, Any]:
    """One task's part of the leaderboard and its page."""
    task = tasks.get(c.task)
    jury = [f"data/06_models/{c.task}/{task.jury}"] if task.jury in c.families else []
    jury += [f"data/03_primary/{world}" for world in c.worlds if jury]
    doses = [_dose_file(c, world) for world in c.worlds if task.has_doses]
    made = _REPORTS
    return {
        "desc": "Gather one task's results into its part of the leaderboard and its page.",
        "cmd": f"kedro run --pipeline={task.pipeline} --nodes={c.task}.leaderboard.gather,{c.task}.report.report",
        "params": [{"conf/base/globals.yml": [f"tasks.{c.task}.worlds", f"tasks.{c.task}.families"]}],
        "deps": [
            f"data/07_model_output/{c.task}",
            *jury,
            *doses,
            *sorted({*_files(f"wm_pipelines.tasks.{c.task}", "wm_pipelines.pipelines.gathering"), *_worlds(c)}),
            "src/wm_pipelines/reporting/templates",
            _LIBRARY,  # not read, but the page is without figures where it lacks
        ],
        "outs": [
            f"{made}/leaderboard_parts/{c.task}.parquet",
            f"{made}/leaderboard_parts/{c.task}.json",
            f"{made}/{c.task}.html",
            f"{made}/{c.task}_summary.txt",
            f"{made}/figures/{c.task}",
        ],
    }


def _figure_library() -> dict[str, Any]:
    return {
        "desc": "Put the script that draws figures beside the pages.",
        "cmd": "kedro run --nodes=board.figure_library",
        "deps": [_file("wm_pipelines.reporting.library"), "requirements.lock"],
        "outs": [_LIBRARY],
    }


def _play(played: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The page on which a person steers what was trained: of tasks, worlds and families."""
    worlds = list(dict.fromkeys(world for _, world, _ in played))
    read = [f"data/06_models/{task}/{family}/{world}" for task, world, family in played]
    modules = [f"wm_pipelines.families.{family}" for _, _, family in played]
    modules += [f"wm_pipelines.worlds.{_kind(world)}" for world in worlds]
    return {
        "desc": "Write the page on which a person steers learned worlds.",
        "cmd": "kedro run --pipeline=play --nodes=play.page",
        "params": [{"conf/base/parameters_play.yml": ["play"]}],
        "deps": [
            *(f"data/03_primary/{world}" for world in worlds),
            *dict.fromkeys(read),
            *_files(*dict.fromkeys(modules), "wm_pipelines.reporting.play", "wm_pipelines.learning.artifacts"),
            "src/wm_pipelines/reporting/templates",
        ],
        "outs": [f"{_REPORTS}/play.html"],
    }


def _board(names: list[str], played: bool) -> dict[str, Any]:
    made = _REPORTS
    return {
        "desc": "Unite the parts into the leaderboard and the first page.",
        "cmd": "kedro run --nodes=board.leaderboard,board.first_page",
        "deps": [
            *(f"{made}/leaderboard_parts/{name}.{kind}" for name in names for kind in ("parquet", "json")),
            *_files("wm_pipelines.reporting.board", "wm_pipelines.pipelines.gathering"),
            *(_file(f"wm_pipelines.tasks.{name}") for name in names),
            *([f"{made}/play.html"] if played else []),  # linked to
            "src/wm_pipelines/reporting/templates",
        ],
        "outs": [f"{made}/{name}" for name in ("leaderboard.parquet", "leaderboard.csv", "index.html", "summary.md")]
        + [{f"{made}/summary.csv": {"cache": False}}],
        "metrics": [{f"{made}/metrics.json": {"cache": False}}],
    }


def _kind(world: str) -> str:
    """Which kind of world an entry of the parameter files is."""
    return str(read_yaml(_ROOT / "conf" / "base" / f"parameters_{world}.yml")[world]["world"])


def _worlds(c: Combinations) -> set[str]:
    """The source files behind a task's worlds: judges ask them for their laws, reports draw them."""
    return {path for world in c.worlds for path in _files(f"wm_pipelines.worlds.{_kind(world)}")}


def _file(module: str) -> str:
    """A module's own source file, from the project's root."""
    path = module_file(module)
    assert path is not None, module
    return path.relative_to(_ROOT).as_posix()


def _files(*modules: str, without: Sequence[str] = ()) -> list[str]:
    """The source files behind modules, from the project's root."""
    return [path.relative_to(_ROOT).as_posix() for path in import_closure(*modules, without=without)]


def behind(lock: Path) -> dict[str, list[str]]:
    """Stages of a lock file whose source files or parameters are others now, and which; [] for those it lacks.

    Args:
        lock: ``dvc.lock``, in the project's root.
    """
    locked, read = (read_yaml(lock) or {}).get("stages", {}), cache(read_yaml)
    found: dict[str, list[str]] = {}
    for name in stage_names(stages()):
        stage = locked.get(name, {})
        code = [d["path"] for d in stage.get("deps", []) if d["path"].startswith("src/") and _differs(lock.parent, d)]
        parameters = [
            f"{file}:{key}"
            for file, values in stage.get("params", {}).items()
            for key, value in values.items()
            if not (lock.parent / file).is_file() or _entry(read(lock.parent / file), key) != value
        ]
        if name not in locked or code or parameters:
            found[name] = code + parameters
    return found


def stage_names(content: dict[str, Any]) -> Iterator[str]:
    """Names of the stages of a ``dvc.yaml``, as DVC spells those of a loop."""
    for name, stage in content["stages"].items():
        yield from (f"{name}@{item}" for item in stage["foreach"]) if "foreach" in stage else (name,)


def _differs(root: Path, dependency: dict[str, Any]) -> bool:
    path = root / dependency["path"]
    if path.is_dir():  # DVC hashes folders in a way of its own: told by the files' number and size
        files = [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        return (len(files), sum(p.stat().st_size for p in files)) != (dependency["nfiles"], dependency["size"])
    return not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != dependency["md5"]


def _entry(content: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def project() -> Path:
    """The project that the working directory lies in, of which this package must be the code.

    Raises:
        UserError: there is none, or the package is imported from another one: its imports would be listed.
    """
    root = project_root()
    if root is None:
        raise UserError(f"no project at '{Path.cwd()}': go to the folder with pyproject.toml and conf/")
    if root.resolve() != _ROOT.resolve():
        raise UserError(
            f"the project here is '{root}', but wm_pipelines is imported from '{_ROOT}': install this project "
            "(make setup), or set PYTHONPATH to its src"
        )
    return root


def main(arguments: list[str]) -> None:
    """Write ``dvc.yaml``, or say what has fallen behind."""
    root = project()
    use_environment(root / "conf", "base")  # whatever lies over it here
    if "--behind" not in arguments:
        file = root / "dvc.yaml"
        file.write_text(as_text(), encoding="utf-8")
        print(f"Wrote {file.resolve()}")
        return
    found, total = behind(root / "dvc.lock"), len(list(stage_names(stages())))
    for name, changed in found.items():
        print(f"{name}: {', '.join(changed) or 'never run'}")
    print(f"{len(found)} of {total} stages have fallen behind since dvc.lock was written.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"Error: {error}")
