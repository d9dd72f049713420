"""``python -m wm_pipelines``: run the project without the `kedro` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main(*args: Any, **kwargs: Any) -> Any:
    """Run as ``kedro run`` would."""
    package = Path(__file__).parent.name
    configure_project(package)
    # Kedro looks for the section of `--config` under the command's name.
    names = {"prog_name": "run", "standalone_mode": not hasattr(sys, "ps1")}
    return find_run_command(package)(*args, **{**names, **kwargs})


if __name__ == "__main__":
    main()
