"""Pages of families, worlds and metrics: what is written by hand, completed by what code and parameter files know.

``docs/families/NAME.md``, ``docs/worlds/NAME.md`` and ``docs/metrics/NAME.md`` hold what nobody can derive: the
equation, when to use it, the source. Views, knowledge, settings, units and the method's own text are added when a page
is read. A family or world that is registered and has no page gets one to be filled in, and the build fails until it is.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import parts
import yaml
from sphinx.util import logging

from wm_pipelines import registry
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Schedule, TrainedConfig
from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.metrics.descriptions import FLOW_METRICS, LANGUAGE_METRICS, SAMPLE_METRICS
from wm_pipelines.metrics.ranges import value_range
from wm_pipelines.metrics.registry import STATE_METRICS, described
from wm_pipelines.reporting.style import COST_DESCRIPTIONS, METRIC_TITLES, above_floor, lower_is_better, metric_title
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.judgement import COST_UNITS
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.yaml_files import read_yaml

DOCS, ROOT = parts.DOCS, parts.ROOT
SECTIONS = {
    "families": ("Equation", "When to use", "Source"),
    "worlds": ("Equation", "When to use", "Source"),
    "metrics": ("Formula", "Floor and ceiling", "When to use", "Source"),
}
ABILITIES = {
    "encode": "encodes", "imagine": "can be planned with", "act": "can have a policy of its own",
    "sample": "draws futures", "generate": "draws frames of captions", "caption": "writes captions",
    "choose": "chooses answers", "describe": "writes answers", "derivatives": "solves for fields",
    "discover": "discovers actions",
}  # fmt: skip
"""Methods of the protocols of `families.base` and `families.parts.language`, and what they mean."""

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------- what there has to be


def faults() -> list[str]:
    """What is missing: pages of families and worlds, sections of pages, metrics without a page."""
    found = []
    for kind, known in (("families", registry.families), ("worlds", registry.worlds)):
        own = [name for name in known.names() if known.get(name).__module__.startswith("wm_pipelines.")]
        found += [f"{kind}/{name}.md: no such page" for name in own if not (DOCS / kind / f"{name}.md").is_file()]
    for kind, wanted in SECTIONS.items():
        for path in _written(kind):
            there = sections(path.read_text(encoding="utf-8"))
            found += [f"{kind}/{path.name}: '## {name}' is missing or empty" for name in wanted if not there.get(name)]
    names = named()
    for metric in known_metrics():
        pages = pages_of(metric, names)
        if len(pages) != 1:
            found.append(f"metrics/: '{metric}' is on {', '.join(pages) or 'no page'}, must be on one")
    return found


def sections(text: str) -> dict[str, str]:
    """The text below each heading of the second level."""
    return {title: body.strip() for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S)}


def known_metrics() -> list[str]:
    """Every metric that the code lists by name."""
    listed = (STATE_METRICS, FLOW_METRICS, SAMPLE_METRICS, LANGUAGE_METRICS, COST_UNITS, METRIC_TITLES)
    return sorted({name for names in listed for name in names})


def pages_of(metric: str, names: Mapping[str, list[str]] | None = None) -> list[str]:
    """The pages that a metric is on: those that name it, else those with a pattern that it fits.

    A metric that was read through a probe and has no page of its own is on the page of the metric itself.

    Args:
        metric: its name on the leaderboard. names: page -> what it names; None: as the pages say.
    """
    names = named() if names is None else names
    for name in dict.fromkeys((metric, metric.removesuffix("_probed"))):
        for fits in (str.__eq__, fnmatchcase):
            if pages := [page for page, listed in names.items() if any(fits(name, pattern) for pattern in listed)]:
                return pages
    return []


def named() -> dict[str, list[str]]:
    """Page of metrics -> names and patterns of the metrics on it."""
    return {path.stem: about(path)["metrics"] for path in _written("metrics")}


def about(path: Path) -> dict[str, Any]:
    """The front matter of a page."""
    found = re.match(r"---\n(.*?)^---\n", path.read_text(encoding="utf-8"), re.M | re.S)
    return yaml.safe_load(found[1]) if found else {}


def _written(kind: str) -> list[Path]:
    return sorted(path for path in (DOCS / kind).glob("*.md") if path.stem != "index")


# ---------------------------------------------------------------- families


def family(name: str) -> Iterator[str]:
    """What is known of a family."""
    kind, given = registry.families.get(name), parts.base(name)
    parameters = FamilyParameters.model_validate(given)
    tasks = [task for task, listed in parts.tasks().items() if name in listed["families"]]
    yield "## What it sees, and what it is told"
    abilities = ", ".join(text for method, text in ABILITIES.items() if hasattr(kind, method))
    lines = {
        "Needs": parts.views(kind.needs),
        "Also takes": parts.views(kind.uses),
        "Is fitted": _fitted(kind),
        "Other steps than the world's": "can be asked for" if kind.any_step else "cannot be asked for",
        "Protocols": f"predicts, {abilities}" if abilities else "predicts",
        "Runs in": ", ".join(f"`{task}`" for task in tasks) or "no task of base",
    }
    yield "\n".join(f"- **{what}**: {text}" for what, text in lines.items() if text) + "\n"
    yield parts.table(("variant", "knows", "settings of its own"), *_variants(kind, parameters, tasks))
    yield "Words that are no fact of a world: [what they declare](../architecture.md#knowledge-is-declared).\n"
    yield "## Knobs"
    if issubclass(kind.Config, TrainedConfig):
        yield "`schedule`: [how families are trained by gradient](index.md#schedule).\n"
    yield parts.settings(kind.Config, parts.parameter_file(name))
    yield from parts.shown(parts.parameter_file(name))
    yield "## Method"
    yield from parts.code(kind)


def families() -> Iterator[str]:
    """All families in a table, and what those that are trained by gradient share."""
    rows = [
        (f"[`{name}`]({name}.md)", parts.first_sentence(kind), parts.views(kind.needs), _fitted(kind))
        for name, kind in ((name, registry.families.get(name)) for name in registry.families.names())
    ]
    yield parts.table(("family", "in a sentence", "needs", "is fitted"), *rows)
    yield "## Schedule"
    yield parts.settings(Schedule)


def _variants(kind: Any, parameters: FamilyParameters, tasks: list[str]) -> Iterator[tuple[str, str, str]]:
    for name, own in parameters.variants.items():
        if own is None:
            continue
        config = kind.Config.model_validate(parameters.resolve(tasks[0] if tasks else "", name, ""))
        knows = ", ".join(f"`{word}`" for word in sorted(kind.knows(config))) or "–"
        yield f"`{name}`", knows, f"`{parts.as_yaml(own)}`" if own else "–"


def _fitted(kind: Any) -> str:
    closed = any("fit" in vars(c) for c in kind.__mro__ if c.__module__ != "wm_pipelines.families.base")
    ways = ["by gradient"] * issubclass(kind.Config, TrainedConfig) + ["in closed form"] * closed
    return " or ".join(ways) or "not at all"


# ---------------------------------------------------------------- worlds


def world(name: str) -> Iterator[str]:
    """What is known of a kind of world: how it is shown, what it keeps, its parameters, its entries."""
    kind, entries = registry.worlds.get(name), _entries(name)
    specs = {entry: spec for entry, (_, config) in entries.items() if (spec := example(entry, config)) is not None}
    yield "## View"
    yield from _shown_views(specs)
    yield "## What is conserved"
    yield from _conserved(specs)
    yield "## Parameters"
    yield parts.settings(kind.Parameters, next((path for path, _ in entries.values()), None))
    if entries:
        yield "### In the parameter files"
    for path in dict.fromkeys(path for path, _ in entries.values()):
        yield from parts.shown(path)
    yield "## In the code"
    yield from parts.code(kind)


def worlds() -> Iterator[str]:
    """All kinds of worlds in a table."""
    rows = []
    for name in registry.worlds.names():
        entries = ", ".join(f"`{entry}`" for entry in _entries(name)) or "–"
        tasks = [t for t, listed in parts.tasks().items() if set(listed["worlds"]) & set(_entries(name))]
        rows.append(
            (
                f"[`{name}`]({name}.md)",
                parts.first_sentence(registry.worlds.get(name)),
                entries,
                ", ".join(tasks) or "–",
            )
        )
    yield parts.table(("world", "in a sentence", "entries of the parameter files", "tasks of base"), *rows)


def example(entry: str, config: Mapping[str, Any]) -> Spec | None:
    """The spec of a small episode, with the views of all splits; None where files or packages are not there."""
    few, given = {"episodes": 1, "steps": 4}, dict(config)
    if given.get("splits"):
        given["splits"] = {"train": few, "test": few}
    else:
        fields = registry.worlds.get(given["world"]).Parameters.model_fields
        given["parameters"] = {**given.get("parameters", {}), **{k: v for k, v in _COUNTS.items() if k in fields}}
    try:
        made = ingest(WorldConfig.model_validate(given), entry)
    except (UserError, ImportError, ValueError) as error:
        logger.info("no example of '%s': %s", entry, error)
        return None
    views = {view: space for part in reversed(made.values()) for view, space in part.spec.views.items()}
    return Spec(entry, 0.0, views, facts=next(iter(made.values())).spec.facts)


_COUNTS = {"train": 8, "validation": 8, "test": 8, "held_out": 8, "episodes": {"train": 1, "test": 1}}
"""Parameters of worlds that bring their own episodes: how many of a split."""


def _shown_views(specs: Mapping[str, Spec]) -> Iterator[str]:
    rows: dict[tuple[str, ...], list[str]] = {}
    for entry, spec in specs.items():
        for view, space in spec.views.items():
            sizes = ("N", *space.shape[1:]) if space.kind == "points" else space.shape
            shape = " × ".join(map(str, sizes)) or "1"
            rows.setdefault((f"`{view}`", space.kind, shape, space.dtype, space.per), []).append(f"`{entry}`")
    if not rows:
        yield "Known when data are read: no entry of the parameter files is at hand.\n"
        return
    yield parts.table(
        ("view", "kind", "shape", "type", "one per", "in"),
        *((*row, "all" if len(of) == len(specs) else ", ".join(of)) for row, of in rows.items()),
    )


def _conserved(specs: Mapping[str, Spec]) -> Iterator[str]:
    told = {entry: spec.facts["conserved"] for entry, spec in specs.items() if "conserved" in spec.facts}
    equations = {entry: spec.facts["equations"] for entry, spec in specs.items() if "equations" in spec.facts}
    for kept in dict.fromkeys(tuple(kept) for kept in told.values()):
        of = "" if len(set(map(tuple, told.values()))) == 1 else f" (in {_names(told, kept)})"
        yield f"{', '.join(kept).capitalize().replace('_', ' ') or 'Nothing'}{of}.\n"
    if not told and not equations:
        yield "No conserved quantity is stated.\n"
    if equations:
        entry = next(iter(equations))
        yield f"Balances are above; these residuals vanish (`{entry}`):\n"
        yield "```text\n" + "\n".join(f"{k}: {v}" for k, v in equations[entry]) + "\n```\n"


def _names(told: Mapping[str, Any], kept: tuple[str, ...]) -> str:
    return ", ".join(f"`{entry}`" for entry, value in told.items() if tuple(value) == kept)


@cache
def _all_entries() -> dict[str, dict[str, tuple[Path, Mapping[str, Any]]]]:
    """Kind of world -> entry -> file and content, of all environments; base goes first."""
    found: dict[str, dict[str, tuple[Path, Mapping[str, Any]]]] = {}
    files = sorted((ROOT / "conf").glob("*/parameters_*.yml"), key=lambda path: (path.parent.name != "base", path))
    for path in files:
        for entry, content in read_yaml(path).items():
            own = path.stem == f"parameters_{entry}" and isinstance(content, Mapping)
            if own and isinstance(kind := content.get("world"), str):
                found.setdefault(kind, {}).setdefault(entry, (path, content))
    return found


def _entries(name: str) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    return _all_entries().get(name, {})


# ---------------------------------------------------------------- metrics


def metric(page: str) -> Iterator[str]:
    """What is known of the metrics of a page."""
    told = about(DOCS / "metrics" / f"{page}.md")
    yield "## On the leaderboard"
    yield parts.table(
        ("metric", "title", "unit", "better", "between", "marked"),
        *(_row(name) for name in told["metrics"]),
    )
    for name in told["metrics"]:
        text = COST_DESCRIPTIONS.get(name) or getattr(described(name), "description", "")
        if text:
            yield f"`{name}`: {text}\n"
    yield "## Code"
    own = [name for name in told["code"] if explained_on(name) == page]
    if own:
        yield parts.rst(*(f".. {_directive(name)}:: {name}" for name in own))
    if others := [f"{{py:obj}}`{name}`" for name in told["code"] if name not in own]:
        yield f"{'See' if not own else 'See also'} {', '.join(others)}.\n"


def metrics() -> Iterator[str]:
    """All pages of metrics in a table."""
    rows = []
    for path in _written("metrics"):
        title = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.M)
        assert title
        rows.append((f"[{title[1]}]({path.name})", ", ".join(f"`{m}`" for m in about(path)["metrics"])))
    yield parts.table(("page", "metrics"), *rows)


def unit_of(metric: str) -> str:
    """The unit of a metric: as the code describes it, else as its page says."""
    if (known := described(metric)) is not None:
        return known.unit
    told = about(DOCS / "metrics" / f"{pages_of(metric)[0]}.md").get("unit", "1")
    return COST_UNITS.get(metric) or (told.get(metric, "1") if isinstance(told, Mapping) else told)


def _row(name: str) -> tuple[str, ...]:
    pattern = name.replace("*", "x")
    low, high = value_range(pattern)
    better = {True: "less", False: "more", None: "neither"}[lower_is_better(pattern)]
    marked = "if better than the floor" if above_floor(pattern) else "–" if better == "neither" else "yes"
    return f"`{name}`", metric_title(name).replace("*", "…"), unit_of(name), better, _between(low, high), marked


def explained_on(code: str) -> str:
    """The page with the docstring of a function: of several metrics that name it the first; "" where it has another."""
    found, modules = resolve(code), re.findall(r"automodule:: (\S+)", (DOCS / "python.md").read_text(encoding="utf-8"))
    registered = getattr(found, "name", None) in (*registry.families.names(), *registry.worlds.names())
    if found.__module__ in modules or registered:
        return ""
    return min(path.stem for path in _written("metrics") if code in about(path)["code"])


def _between(low: float, high: float) -> str:
    return (
        "any" if low == -math.inf and high == math.inf else f"{low:g} … {high:g}".replace("inf", "∞").replace("-", "−")
    )


def _directive(name: str) -> str:
    found = resolve(name)
    if inspect.isclass(found):
        return "autoclass"
    return "automethod" if "." in found.__qualname__ else "autofunction"


def resolve(name: str) -> Any:
    """What a dotted name stands for: a function, a class, a method."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(resolve(module), rest)


# ---------------------------------------------------------------- notebooks


def notebooks() -> Iterator[str]:
    """The cells of the notebooks, as they are executed by the tests."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        yield f"Download: [{path.name}](../notebooks/{path.name})\n"
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            yield (
                re.sub(r"^#", "##", text, flags=re.M) + "\n"
                if cell["cell_type"] == "markdown"
                else f"```python\n{text}\n```\n"
            )


# ---------------------------------------------------------------- Sphinx

_PARTS = {"families": (families, family), "worlds": (worlds, world), "metrics": (metrics, metric)}


def _check(app: Any) -> None:
    """Say what is missing; give what has no page one to be filled in."""
    del app
    for fault in faults():
        logger.warning("%s", fault)
        page = DOCS / fault.partition(":")[0]
        if fault.endswith("no such page"):
            headings = "\n\n".join(f"## {name}\n" for name in SECTIONS[page.parent.name])
            page.write_text(f"# {page.stem}\n\n{headings}", encoding="utf-8")


def _complete(app: Any, name: str, source: list[str]) -> None:
    """Add to a page what is known, and have it read again when that changes."""
    kind, _, one = name.partition("/")
    if name == "notebooks":
        source[0] += "\n\n" + "\n".join(notebooks())
    elif kind in _PARTS:
        all_of_them, single = _PARTS[kind]
        source[0] += "\n\n" + "\n".join(all_of_them() if one == "index" else single(one))
    if name == "notebooks" or one == "index":
        app.env.note_reread()
    elif kind in _PARTS:
        for path in _sources(kind, one):
            app.env.note_dependency(str(path))


def _sources(kind: str, name: str) -> Iterator[Path]:
    """What a page is made of: source files of the code, parameter files."""
    if kind == "metrics":
        modules = {inspect.getmodule(resolve(code)) for code in about(DOCS / kind / f"{name}.md")["code"]}
        modules |= {sys.modules[called.__module__] for called in (described, value_range, lower_is_better)}
        yield from (Path(module.__file__) for module in modules if module is not None and module.__file__)
        return
    found = getattr(registry, kind).get(name)
    yield from (Path(inspect.getfile(c)) for c in found.__mro__ if c.__module__.startswith("wm_pipelines"))
    yield from [parts.parameter_file(name)] if kind == "families" else [path for path, _ in _entries(name).values()]
    yield ROOT / "conf" / "base" / "globals.yml"


def setup(app: Any) -> dict[str, bool]:
    """Hooks of the build."""
    getLogger("wm_pipelines").setLevel(ERROR)  # what worlds say of their episodes is not of a build
    app.connect("builder-inited", _check)
    app.connect("source-read", _complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
