"""Formulas as MathML, which browsers draw by themselves: no script, nothing to fetch. The translation is docutils'."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

_SPACE = "http://www.w3.org/1998/Math/MathML"
_ACCENTS = frozenset("ˆ˙¨˜¯ˉ^~")
_APPLIED = "\u2061"  # what stands between a function and its argument, without a shape
_BRACKETS = frozenset("([{|⟨")
ElementTree.register_namespace("", _SPACE)


def formula(text: str, block: bool) -> str:
    """MathML of a formula in LaTeX.

    docutils sets the index of a letter with an accent below the letter, and no space behind the name of a function.

    Raises:
        MathError: something in it is unknown.
    """
    # XML knows five of the names that HTML has for characters.
    markup = re.sub(r"&(?!lt;|gt;|amp;|quot;|apos;)\w+;", lambda found: unescape(found[0]), tex2mathml(text, block))
    tree = ElementTree.fromstring(markup)
    for element in list(tree.iter()):
        if element.tag in (f"{{{_SPACE}}}munder", f"{{{_SPACE}}}munderover"):
            _beside(element)
        _apart(element)
    return ElementTree.tostring(tree, encoding="unicode")


def _beside(element: ElementTree.Element) -> None:
    """An index below an accented letter becomes one beside it."""
    base, below, *accent = element
    if accent and accent[0].text in _ACCENTS:
        letter = ElementTree.Element(f"{{{_SPACE}}}mover", accent="true")
        letter.extend([base, accent[0]])
    elif base.get("accent") == "true":
        letter = base
    else:
        return
    element.clear()
    element.tag = f"{{{_SPACE}}}msub"
    element.extend([letter, below])


def _apart(element: ElementTree.Element) -> None:
    """A thin space between the name of a function and an argument without brackets."""
    for child, following in pairwise(element):
        if child.text == _APPLIED and following.text not in _BRACKETS:
            child.clear()
            child.tag = f"{{{_SPACE}}}mspace"
            child.set("width", "0.1667em")


def _drawn(node: nodes.Element, block: bool) -> str:
    try:
        return formula(node.astext(), block)
    except MathError as error:
        logger.warning("formula cannot be drawn (%s): %s", error, node.astext(), location=node)
        return f"<code>{node.astext()}</code>"


def _inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_drawn(node, block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math">{_drawn(node, block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """A renderer by the name of ``mathml``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
