"""Parameters are checked before the first node runs: every name at every depth, every value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from wm_pipelines.errors import UserError, did_you_mean, unknown_parameter, validate
from wm_pipelines.learning.config import FamilyParameters, LearningConfig, check_seeds
from wm_pipelines.pipelines.combinations import Combinations, combinations, conf_source
from wm_pipelines.registry import families, tasks
from wm_pipelines.worlds.making import WorldConfig

Parameters = Mapping[str, Any]
_OWN = ("tasks", "tuning")


def check_parameters(parameters: Parameters, given: Parameters) -> None:
    """Validate the names and the shape of all parameters; imports no family.

    Args:
        parameters: all of them. given: those of the command line (``--params``), which may change what there is but
            bring nothing new: a misspelt name must not become a new variant.

    Raises:
        UserError: the first fault, on one line.
    """
    wanted = combinations()
    worlds = [name for name, entry in parameters.items() if isinstance(entry, Mapping) and "world" in entry]
    known = (*_OWN, *worlds, *families.names(), *tasks.names(), *_runtime_names())
    for name in parameters:
        if name not in known:
            raise UserError(unknown_parameter("", name, known, parameters[name]))
    for c in wanted.values():
        _check_task(c, parameters)
    for name in dict.fromkeys(world for c in wanted.values() for world in c.worlds):
        _required(parameters, name)
        validate(WorldConfig, parameters[name], name)
    for name in families.names():
        if name in parameters:
            _check_family(name, parameters[name], worlds, given)


def _check_task(c: Combinations, parameters: Parameters) -> None:
    own = parameters["tasks"][c.task]
    check_seeds(own.get("seeds"), f"tasks.{c.task}.seeds")
    validate(LearningConfig, own.get("learning", {}), f"tasks.{c.task}.learning")
    task = tasks.get(c.task)()
    for world in (None, *(parameters.get(c.task) or {}).get("worlds", {})):
        task.config(parameters.get(c.task) or {}, world)
    for family in c.families:
        _required(parameters, family)


def _required(parameters: Parameters, name: str) -> None:
    if not isinstance(parameters.get(name), Mapping):
        raise UserError(
            f"no parameters for '{name}'{did_you_mean(name, list(parameters))}: "
            f"add conf/base/parameters_{name}.yml with the top-level key '{name}'"
        )


def _check_family(name: str, entry: Any, worlds: list[str], given: Parameters) -> None:
    """Names of variants, tasks and worlds; single settings are checked by the family's own configuration."""
    family = validate(FamilyParameters, entry, name)
    for kind, known in (("worlds", worlds), ("tasks", tasks.names())):
        for key, settings in getattr(family, kind).items():
            if key not in known:
                raise UserError(unknown_parameter(f"{name}.{kind}", key, known, settings))
            for variant in settings.get("variants", {}) if isinstance(settings, Mapping) else ():
                if variant not in family.variants:
                    parents = f"{name}.{kind}.{key}.variants"
                    raise UserError(unknown_parameter(parents, variant, list(family.variants)))
    own = given.get(name)
    new = own.get("variants", {}) if isinstance(own, Mapping) else {}
    for variant in new if isinstance(new, Mapping) else ():
        if dict(new[variant] or {}) == dict(family.variants[variant]):  # the command line alone says anything about it
            known = [v for v in family.variants if v != variant]
            raise UserError(unknown_parameter(f"{name}.variants", variant, known))


def check_settings(parameters: Parameters, inputs: set[str]) -> None:
    """Build every world and every family's configuration that a run will need.

    Args:
        parameters: all of them. inputs: of the pipeline that is run, ``params:NAME`` among them.

    Raises:
        UserError: unknown world, or an impossible or unknown parameter.
    """
    from wm_pipelines.worlds.making import build_world

    wanted = combinations()
    for world in dict.fromkeys(world for c in wanted.values() for world in c.worlds):
        if f"params:{world}" in inputs:
            config = validate(WorldConfig, parameters[world], world)
            for split in (None, *config.splits):
                build_world(config, split, world).check()
    for family in dict.fromkeys(family for c in wanted.values() for family in c.families):
        if f"params:{family}" in inputs:
            check_family_settings(family, validate(FamilyParameters, parameters[family], family), wanted)


def check_family_settings(name: str, parameters: FamilyParameters, wanted: Mapping[str, Combinations]) -> None:
    """Every setting by its name where it stands, then every configuration that follows.

    Raises:
        UserError: unknown or impossible, named by its place in the parameter file.
    """
    kind = families.get(name).Config
    for place, settings in parameters.places():
        for path in _unknown(kind, settings):
            *above, word = [part for part in (name, place, path) if part for part in part.split(".")]
            raise UserError(unknown_parameter(".".join(above), word, _fields(kind, path)))
    for c in wanted.values():
        if name in c.families:
            for variant in parameters.variants:
                for world in c.worlds:
                    validate(kind, parameters.resolve(c.task, variant, world), f"{name} ({variant} on {world})")


def _unknown(model: Any, settings: Any, path: str = "") -> Iterator[str]:
    """Dotted names among the settings that a pydantic model does not have."""
    fields = getattr(model, "model_fields", None)
    if fields is None or not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if key not in fields:
            yield f"{path}{key}"
        else:
            yield from _unknown(fields[key].annotation, value, f"{path}{key}.")


def _fields(model: Any, path: str) -> list[str]:
    for part in path.split(".")[:-1]:
        model = model.model_fields[part].annotation
    return list(model.model_fields)


def _runtime_names() -> set[str]:
    """Names that configuration files take from the command line, ``${runtime_params:NAME}``."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in conf_source().rglob("*.yml"))
    return {name for text in texts for name in re.findall(r"\$\{runtime_params:\s*(\w+)", text)}
