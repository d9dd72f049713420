"""``kedro run`` of this project: a user's mistake is one line and a non-zero exit, not a traceback."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import click
from kedro import KedroDeprecationWarning
from kedro.framework.cli.project import run as kedro_run

from wm_pipelines.errors import UserError


class _Run(click.Command):
    def invoke(self, ctx: click.Context) -> Any:
        # `--pipeline=NAME` is what users type; its deprecation is Kedro's business, not theirs.
        warnings.filterwarnings("ignore", category=KedroDeprecationWarning, message=".*--pipeline.*")
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (cause := user_error(error)) is None:
                raise
            logging.getLogger("kedro").debug("The error in full:", exc_info=error)
            raise click.ClickException(" ".join(str(cause).split())) from None


def user_error(error: BaseException | None) -> UserError | None:
    """What the user can mend behind an exception, however deep frameworks wrapped it: their input, or the disk."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, UserError):
            return error
        if isinstance(error, OSError) and error.filename is not None:
            return UserError(
                f"'{error.filename}': {error.strerror}; make this place readable and writable, then run again"
            )
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, name=__package__)
def cli() -> None:
    """Commands of this project."""


cli.add_command(
    _Run(
        name="run",
        params=kedro_run.params,
        callback=kedro_run.callback,
        help=kedro_run.help,
        context_settings=kedro_run.context_settings,
    )
)
