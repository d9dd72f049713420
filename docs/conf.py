"""Settings of the documentation site: ``make docs`` builds it, offline."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

project = "wm_pipelines"
html_title = "wm_pipelines"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "mathml",
    "pages",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

default_role = "code"  # docstrings name functions in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and units are in the docstrings, types in the signatures' source
autodoc_preserve_defaults = True
viewcode_follow_imported_members = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
