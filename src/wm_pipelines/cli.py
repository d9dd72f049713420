"""Kedro's commands for this project: a user's mistake is one line and exit status 1, not a traceback."""

from __future__ import annotations

import codecs
import copy
import errno
import inspect
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

import click
from kedro import KedroDeprecationWarning
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import KedroCliError, load_entry_points
from kedro.framework.project import pipelines, settings
from kedro.io import DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.utils import find_kedro_project

from wm_pipelines.errors import UserError, did_you_mean, unknown
from wm_pipelines.yaml_files import read_yaml

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def one_line(command: click.Command) -> click.Command:
    """The same command, whose errors that a user can mend are one line (of a group: those of its commands)."""
    if isinstance(command, _OneLine):
        return command
    found = copy.copy(command)
    found.__class__ = type(f"OneLine{type(command).__name__}", (_OneLine, type(command)), {})
    found.params = [_one_line_option(parameter) for parameter in command.params]
    return found


class _OneLine(click.Command):
    """Put before a command's own class (see `one_line`)."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(info_name, args, *rest, **extra)
        except click.MissingParameter:
            raise
        except click.BadParameter as error:
            raise _shown(error.format_message()) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)  # type: ignore[misc]  # asked of groups alone
        return one_line(found) if found is not None else None

    def invoke(self, ctx: click.Context) -> Any:
        _tolerate_any_locale()
        # `--pipeline=NAME` is what users type; its deprecation is Kedro's business, not theirs.
        warnings.filterwarnings("ignore", category=KedroDeprecationWarning, message=".*--pipeline.*")
        try:
            if not isinstance(self, click.Group):
                check_names(ctx.params)
                if ctx.params.get("runner") == "ParallelRunner":  # ours, which starts the longest trainings first
                    ctx.params["runner"] = "wm_pipelines.runners.ParallelRunner"
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted. Files that were written are whole; run again to go on.", err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except KedroCliError as error:
            raise _shown(error.message) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            cause = user_error(error) or _nothing_left(error, ctx.params) or _in_the_catalog(error)
            if cause is None:
                raise
            logging.getLogger("kedro").debug("The error in full:", exc_info=error)
            raise _shown(str(cause)) from None


def user_error(error: BaseException | None) -> UserError | None:
    """What the user can mend behind an exception, however deep frameworks wrapped it: their input, memory, the disk."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, UserError):
            return error
        # A worker process hands back the outermost exception with its traceback as text, without what caused it.
        if found := re.search(rf"^{re.escape(UserError.__module__)}\.UserError: (.+)$", str(error), re.MULTILINE):
            return UserError(found[1])
        if _is_out_of_memory(error):
            # PyTorch's text goes on with advice for programmers.
            said = str(error).splitlines()[0].split("] ")[-1].split(". ")[0] if str(error) else ""
            why = f" ({shorten(said, 120, placeholder=' …')})" if said else ""
            return UserError(
                f"out of memory{why}; make the data or the batches smaller, or free memory, then run again"
            )
        if isinstance(error, OSError):
            place = f"'{error.filename}': " if error.filename is not None else ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return UserError(f"{place}{_lower(os.strerror(error.errno))}; free the disk, then run again")
            if error.filename is not None:
                return UserError(f"{place}{error.strerror}; make this place readable and writable, then run again")
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def check_names(params: dict[str, Any]) -> None:
    """Whether the names that a command was given exist; what they name is looked up only where there are any.

    Raises:
        UserError: the first that does not, with the closest that does; or a fault of the configuration files.
    """
    if params.get("pipeline") and params.get("pipelines"):
        raise UserError("give --pipeline or --pipelines, not both")
    runs_here = "runner" in params
    if runs_here:
        _check_runner(params["runner"] or "SequentialRunner", params.get("runner_params") or {})
    if params.get("load_file"):  # `kedro viz` of a saved project
        return
    loader = _loader(params)
    if not runs_here:
        # `kedro viz` reads these in a process of its own, where an error would be a traceback and a long wait.
        loader["parameters"], loader["catalog"]
    _check_pipelines(params, runs_here)
    if params.get("load_versions"):
        _check_versions(params["load_versions"], loader["catalog"])


def _loader(params: dict[str, Any]) -> Any:
    source = params.get("conf_source") or (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE
    return settings.CONFIG_LOADER_CLASS(
        conf_source=str(source),
        env=params.get("env") or os.environ.get("KEDRO_ENV") or None,
        runtime_params=params.get("params") or {},
        **settings.CONFIG_LOADER_ARGS,
    )


def _check_runner(name: str, arguments: dict[str, Any]) -> None:
    import kedro.runner
    from kedro.utils import load_obj

    known = [n for n in kedro.runner.__all__ if n.endswith("Runner") and not n.startswith("Abstract")]
    try:
        runner = load_obj(name, "kedro.runner")
    except (ImportError, AttributeError, ValueError):
        raise UserError(unknown("runner", name, known)) from None
    if not (inspect.isclass(runner) and issubclass(runner, kedro.runner.AbstractRunner)) or inspect.isabstract(runner):
        raise UserError(unknown("runner", name, known))
    accepted = [n for n, p in inspect.signature(runner).parameters.items() if p.kind is not p.VAR_KEYWORD]
    for argument in arguments:
        if argument not in accepted:
            raise UserError(f"--runner-params: {unknown('argument', argument, accepted)}")


# The option, what it names, and how the nodes tell which of these there are.
def _datasets(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        for name in (*node.inputs, *node.outputs):
            yield from (name, name.split("@")[0])


def _namespaces(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        parts = (node.namespace or "").split(".")
        yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _tags(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        yield from node.tags


def _names(nodes: list[Node]) -> Iterator[str]:
    return (node.name for node in nodes)


_SELECTIONS: dict[str, tuple[str, str, Callable[[list[Node]], Iterable[str]]]] = {
    "tags": ("--tags", "tag", _tags),
    "namespaces": ("--namespaces", "namespace", _namespaces),
    "node_names": ("--nodes", "node", _names),
    "from_nodes": ("--from-nodes", "node", _names),
    "to_nodes": ("--to-nodes", "node", _names),
    "from_inputs": ("--from-inputs", "dataset", _datasets),
    "to_outputs": ("--to-outputs", "dataset", _datasets),
}


def _check_pipelines(params: dict[str, Any], runs_here: bool) -> None:
    chosen = _chosen(params)
    selections = {key: params[key] for key in _SELECTIONS if params.get(key)}
    if not chosen and not selections:
        return
    if runs_here:  # as the session will, so that what is built here is what it finds
        pipelines.set_requested(chosen or None)
    for name in chosen:
        if name not in pipelines:
            raise UserError(unknown("pipeline", name, _all_pipelines()))
    nodes = sum((pipelines[name] for name in chosen or ["__default__"]), Pipeline([])).nodes
    for key, words in selections.items():
        _, kind, names_in = _SELECTIONS[key]
        known = {name for name in names_in(nodes) if name}
        for word in words:
            if word not in known:
                raise UserError(_not_here(word, kind, names_in, known, chosen))


def _not_here(
    word: str, kind: str, names_in: Callable[[list[Node]], Iterable[str]], known: set[str], chosen: list[str]
) -> str:
    elsewhere = [name for name, found in _all_pipelines().items() if word in set(names_in(found.nodes))]
    if elsewhere:
        here = " + ".join(chosen or ["__default__"])
        return f"pipeline '{here}' has no {kind} '{word}'; --pipeline={min(elsewhere, key=len)} has it"
    return unknown(kind, word, known)


def _chosen(params: dict[str, Any]) -> list[str]:
    """The pipelines a command is told to take, as a list (`kedro catalog` takes several in one option)."""
    given = params.get("pipelines") or params.get("pipeline") or []
    return [n.strip() for n in given.split(",") if n.strip()] if isinstance(given, str) else list(given)


def _all_pipelines() -> dict[str, Pipeline]:
    pipelines.set_requested(None)
    return dict(pipelines)


def _check_versions(wanted: dict[str, str], catalog: dict[str, Any]) -> None:
    versioned = [n for n, entry in catalog.items() if isinstance(entry, dict) and entry.get("versioned")]
    for name in wanted:
        if not versioned:
            raise UserError(f"--load-versions={name}: no dataset of this project is versioned; leave the option out")
        if name not in versioned and not any("{" in pattern for pattern in versioned):
            raise UserError(f"--load-versions: no versioned dataset '{name}'{did_you_mean(name, versioned)}")


def _nothing_left(error: Exception, params: dict[str, Any]) -> UserError | None:
    """The names exist, but no node has all of them: Kedro's error does not say which."""
    if not isinstance(error, ValueError) or "no nodes after applying" not in str(error):
        return None
    given = [f"{flag}={','.join(params[key])}" for key, (flag, _, _) in _SELECTIONS.items() if params.get(key)]
    here = " + ".join(_chosen(params) or ["__default__"])
    if given:
        return UserError(f"no node of pipeline '{here}' fits {' and '.join(given)}; leave one of them out")
    return UserError(
        f"pipeline '{here}' is empty in environment '{params.get('env') or 'local'}': "
        "its globals.yml lists nothing for it; list it there or choose another pipeline or --env"
    )


def _in_the_catalog(error: Exception) -> UserError | None:
    """An entry that Kedro cannot make a dataset of."""
    said = str(error).split("Hint:")[0]
    if isinstance(error, DatasetError) and said.startswith(("Catalog entry", "An exception occurred when parsing")):
        return UserError(f"conf/…/catalog*.yml: {_lower(said)}")
    return None


def _one_line_option(parameter: click.Parameter) -> click.Parameter:
    """The same option; what its value cannot be is said with the option's name."""
    if not isinstance(parameter, click.Option) or parameter.callback is None:
        return parameter
    found, callback, flag = copy.copy(parameter), parameter.callback, parameter.opts[0]

    def read(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
        try:
            if option.name == "config" and value:
                _check_run_config(value, str(ctx.info_name))
            return callback(ctx, option, value)
        except click.MissingParameter:
            raise
        except click.ClickException as error:
            raise _shown(f"{flag}: {error.message.split('option: ')[-1]}") from None
        except UserError as error:
            raise _shown(f"{flag}: {error}") from None
        except click.exceptions.Exit:  # --help, --version
            raise
        except Exception as error:
            raise _shown(f"{flag}: cannot read '{value}' ({_lower(str(error).splitlines()[0])})") from None

    found.callback = read
    return found


def _check_run_config(path: str, section: str) -> None:
    found = read_yaml(path)
    if not isinstance(found.get(section), dict):
        raise UserError(
            f"'{path}': expected the options under the key '{section}:', found {', '.join(found) or 'nothing'}"
        )


def _tolerate_any_locale() -> None:
    """A `²` does not end the run where the terminal's encoding lacks it.

    ASCII is what a terminal without a locale says; it shows UTF-8 all the same, and click writes that there too.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="replace")
        elif stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _is_out_of_memory(error: BaseException) -> bool:
    # PyTorch: OutOfMemoryError on a device, a bare RuntimeError on the processor.
    said_by_torch = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or said_by_torch


def _shown(message: str) -> click.ClickException:
    return click.ClickException(" ".join(message.split()))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Project(click.Group):
    """Asked first for every command that Kedro and its plugins have, and hands it out with one-line errors.

    They are not listed again: the groups that they come from do that.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if own := super().get_command(ctx, cmd_name):
            return own
        from kedro.framework.cli.cli import project_commands

        for group in (*load_entry_points("project"), project_commands):
            if found := group.get_command(ctx, cmd_name):
                return one_line(found)
        return None


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, name=__package__, cls=_Project)
def cli() -> None:
    """Commands of this project."""


run = one_line(kedro_run)  # `python -m wm_pipelines` looks for this name
cli.add_command(run)
# Kedro asks plugins that work outside projects before it asks this module (`kedro viz` is one), so their commands are
# exchanged where they are.
for _group in load_entry_points("global"):
    _group.commands.update({name: one_line(command) for name, command in _group.commands.items()})
