"""Formulas as MathML, which browsers draw by themselves: no script, nothing to fetch. The translation is docutils'."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _formula(node: nodes.Element, block: bool) -> str:
    text = node.astext()
    try:
        return tex2mathml(text, as_block=block)
    except MathError as error:
        logger.warning("formula cannot be drawn (%s): %s", error, text, location=node)
        return f"<code>{text}</code>"


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_formula(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math">{_formula(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """A renderer by the name of ``mathml``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
