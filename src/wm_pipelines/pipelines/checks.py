"""Parameters are checked before the first node runs: every name at every depth, every value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from wm_pipelines.errors import UserError, did_you_mean, unknown, unknown_parameter, validate
from wm_pipelines.learning.config import FamilyParameters, LearningConfig, RayConfig, check_seeds
from wm_pipelines.pipelines.combinations import (
    LISTS,
    TASK_KEYS,
    Combinations,
    combinations,
    conf_source,
    stated,
)
from wm_pipelines.pipelines.play import PlayConfig
from wm_pipelines.pipelines.replication import ReplicationConfig
from wm_pipelines.pipelines.submission import SubmissionConfig
from wm_pipelines.registry import families, tasks
from wm_pipelines.registry import worlds as registered_worlds
from wm_pipelines.worlds.base import ControlledWorld
from wm_pipelines.worlds.making import WorldConfig

Parameters = Mapping[str, Any]
_OWN = ("tasks", "tuning", "replication", "play", "ray", "submission")


def check_parameters(parameters: Parameters, given: Parameters) -> None:
    """Validate the names and the shape of all parameters; imports no family.

    Args:
        parameters: all of them. given: those of the command line (``--params``), which may change what there is but
            bring nothing new: a misspelt name must not become a new variant.

    Raises:
        UserError: the first fault, on one line.
    """
    wanted = combinations()
    worlds = _worlds(parameters)
    known = (*_OWN, *worlds, *families.names(), *tasks.names(), *_runtime_names())
    for name in parameters:
        if name not in known:
            raise UserError(unknown_parameter("", name, known, parameters[name]))
    for name, entry in parameters.items():
        if not isinstance(entry, Mapping) and name not in _runtime_names():
            raise UserError(f"parameter '{name}': expected a mapping of settings, got {entry!r}")
    _check_lists(given)
    for c in wanted.values():
        _check_task(c, parameters, worlds)
    for name in dict.fromkeys((*worlds, *(world for c in wanted.values() for world in c.worlds))):
        _required(parameters, name)
        validate(WorldConfig, parameters[name], name)
    validate(ReplicationConfig, parameters.get("replication", {}), "replication")
    validate(SubmissionConfig, parameters.get("submission", {}), "submission")
    validate(RayConfig, parameters.get("ray", {}), "ray")
    _check_play(validate(PlayConfig, parameters.get("play", {}), "play"), worlds)
    for name in families.names():
        if name in parameters:
            _check_family(name, parameters[name], worlds, given)


def _worlds(parameters: Parameters) -> list[str]:
    others = {*_OWN, *families.names(), *tasks.names()}
    return [
        name
        for name, entry in parameters.items()
        if name not in others and isinstance(entry, Mapping) and "world" in entry
    ]


def _check_lists(given: Parameters) -> None:
    """What runs is read from files before there are parameters: said on the command line it would have no effect."""
    for task, entry in given.get("tasks", {}).items() if isinstance(given.get("tasks"), Mapping) else ():
        for key in entry if isinstance(entry, Mapping) else ():
            if key in LISTS:
                raise UserError(
                    f"--params=tasks.{task}.{key}: what runs is listed in conf/<env>/globals.yml; change it there, or "
                    "choose --env, --tags or --namespaces"
                )


def _check_task(c: Combinations, parameters: Parameters, worlds: list[str]) -> None:
    own, where = parameters.get("tasks", {}).get(c.task), f"tasks.{c.task}"
    if not isinstance(own, Mapping):
        raise UserError(f"parameter '{where}': expected seeds and learning, got {own!r}")
    for key in own:
        if key not in TASK_KEYS:
            raise UserError(unknown_parameter(where, key, TASK_KEYS, own[key]))
    check_seeds(own.get("seeds"), f"{where}.seeds")
    validate(LearningConfig, own.get("learning", {}), f"{where}.learning")
    task, evaluation = tasks.get(c.task)(), parameters.get(c.task, {})
    for world in task.config(evaluation).worlds:
        if world not in worlds:
            raise UserError(unknown_parameter(f"{c.task}.worlds", world, worlds))
        task.config(evaluation, world)
    for world in c.worlds:
        task.check(task.config(evaluation, world))
    if task.has_manifest:
        _check_acted_in(c, parameters)
    for family in c.longest:
        if family not in families.names():
            raise UserError(f"globals: {where}.longest: {unknown('family', family, families.names())}")
    for family in c.families:
        _required(parameters, family)


def _check_acted_in(c: Combinations, parameters: Parameters) -> None:
    """A recording cannot be acted in: nobody knows what would have followed."""
    for name in c.worlds:
        entry = parameters.get(name)
        kind = entry.get("world") if isinstance(entry, Mapping) else None
        if kind in registered_worlds.names() and not issubclass(registered_worlds.get(kind), ControlledWorld):
            raise UserError(
                f"globals: tasks.{c.task}.worlds: '{name}' cannot be acted in; list it under physics if it has states, "
                "under videos if it has frames"
            )


def _check_play(play: PlayConfig, worlds: list[str]) -> None:
    for name, entry in play.chosen.items():
        if entry.world is None and name not in worlds:
            raise UserError(unknown_parameter("play.worlds", name, worlds))
        if entry.world is not None and entry.world not in worlds:
            near = did_you_mean(entry.world, worlds)
            raise UserError(f"parameter 'play.worlds.{name}.world': unknown world '{entry.world}'{near}")
        if entry.task not in tasks.names():
            near = did_you_mean(entry.task, tasks.names())
            raise UserError(f"parameter 'play.worlds.{name}.task': unknown task '{entry.task}'{near}")
        if entry.family not in families.names():
            near = did_you_mean(entry.family, families.names())
            raise UserError(f"parameter 'play.worlds.{name}.family': unknown family '{entry.family}'{near}")


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
            for variant in settings.get("variants", {}):
                if variant not in family.variants:
                    parents = f"{name}.{kind}.{key}.variants"
                    raise UserError(unknown_parameter(parents, variant, list(family.variants)))
    if new := (given.get(name) or {}).get("variants"):
        known = list(stated(name).get("variants") or ["plain"])  # the command line changes them, and adds none
        if unheard := [variant for variant in new if variant not in known]:
            raise UserError(unknown_parameter(f"{name}.variants", unheard[0], known))


def check_settings(parameters: Parameters, inputs: set[str]) -> None:
    """Build every world and every family's configuration that a run will need.

    Args:
        parameters: all of them.
        inputs: of the pipeline that is run, ``params:NAME`` among them, and of whatever else is to be checked.

    Raises:
        UserError: unknown world, an impossible or unknown parameter, or an accelerator that is not there.
    """
    from wm_pipelines.worlds.making import build_world

    wanted = combinations()
    if "params:tuning" in inputs:
        from wm_pipelines.learning.search_space import tuning_configs

        tuning_configs(parameters["tuning"])
    for task in wanted:
        if f"params:tasks.{task}.learning" in inputs:
            check_accelerator(LearningConfig(**parameters["tasks"][task].get("learning", {})), task)
    for world in _worlds(parameters):
        if f"params:{world}" in inputs:
            config = validate(WorldConfig, parameters[world], world)
            for split in (None, *config.splits):
                build_world(config, split, world).check()
    for family in families.names():
        if f"params:{family}" in inputs:
            check_family_settings(family, validate(FamilyParameters, parameters[family], family), wanted)


def check_accelerator(learning: LearningConfig, task: str) -> None:
    """Raises UserError where this machine does not have what a task is to be trained on."""
    if learning.accelerator in ("auto", "cpu"):
        return
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"cuda": cuda, "mps": mps, "gpu": cuda or mps}[learning.accelerator]:
        raise UserError(
            f"parameter 'tasks.{task}.learning.accelerator': this machine has no '{learning.accelerator}' that PyTorch "
            "can use; choose cpu or auto"
        )


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
            for world in c.worlds:
                for variant in parameters.variants_for(c.task, world):
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
