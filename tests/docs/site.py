"""The site's own modules, which stand beside the pages and not in the package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


sys.path.append(str(DOCS / "_ext"))  # where its modules find each other


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, docstrings, mathml = load("pages"), load("docstrings"), load("mathml")
