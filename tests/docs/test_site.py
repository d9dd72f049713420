"""The documentation site: nothing is missing, it builds offline without a warning, and every link leads somewhere."""

import posixpath
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.docs.site import DOCS, docstrings, mathml, pages
from wm_pipelines import registry

BLANK = "# x\n\n## Equation\n\n$$a$$\n\n## When to use\n\n## Source\n\nA paper.\n"


class Document(HTMLParser):
    """Links, anchors, and what a browser would fetch, of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.anchors, self.fetched = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        if tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.fetched.add(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.fetched.add(given["href"])


def build(builder: str, out: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", builder, DOCS, out]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """The built site: path -> page."""
    out = tmp_path_factory.mktemp("site")
    build("html", out)
    return {path.relative_to(out).as_posix(): Document(path) for path in sorted(out.rglob("*.html"))}


# ---------------------------------------------------------------- what is written by hand


def test_every_family_world_and_metric_has_equation_use_and_source():
    assert pages.faults() == []


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    for kind in pages.SECTIONS:
        shutil.copytree(DOCS / kind, tmp_path / kind)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    (tmp_path / "families/hnn.md").unlink()
    (tmp_path / "worlds/pendulum.md").write_text(BLANK)
    (tmp_path / "metrics/psnr.md").unlink()
    assert pages.faults() == [
        "families/hnn.md: no such page",
        "worlds/pendulum.md: '## When to use' is missing or empty",
        "metrics/: 'psnr' is on no page, must be on one",
    ]


def test_a_family_that_is_new_gets_a_page_to_be_filled_in(tmp_path, monkeypatch):
    for kind in pages.SECTIONS:
        shutil.copytree(DOCS / kind, tmp_path / kind)
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    one = registry.families.get("hnn")
    monkeypatch.setattr(registry.families, "names", lambda: ["damped_oscillator"])
    monkeypatch.setattr(registry.families, "get", lambda name: one)
    pages._check(None)
    assert "## When to use" in (tmp_path / "families/damped_oscillator.md").read_text()
    faults = [fault for fault in pages.faults() if "damped_oscillator" in fault]
    assert len(faults) == len(pages.SECTIONS["families"])


@pytest.mark.parametrize("name", sorted({code for p in pages._written("metrics") for code in pages.about(p)["code"]}))
def test_the_code_that_a_metric_names_is_there_and_says_what_it_does(name):
    assert pages.resolve(name).__doc__


def test_what_a_page_tells_is_what_the_code_knows():
    hnn = "\n".join(pages.family("hnn"))
    assert "| `gradient` | `hamiltonian` |" in hnn
    assert "| `method` | `derivative`, `pairs` | `derivative` | what the flow of H is matched to |" in hnn
    pendulum = "\n".join(pages.world("pendulum"))
    assert "Energy.\n" in pendulum
    assert "| `frames` | frames | 32 × 32 × 3 | uint8 | row | `pendulum_video` |" in pendulum
    assert "| `mass` | float | `kg` | `1.0` |" in pendulum
    assert "| `psnr` | PSNR | dB | more | 0 … 100 | if better than the floor |" in "\n".join(pages.metric("psnr"))
    assert "Nothing.\n" in "\n".join(pages.world("duffing_damped"))


def formulas(text: str) -> list[str]:
    """Of a page, in lines of their own and within a sentence; what stands in code is none."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)
    return [block or inline for block, inline in re.findall(r"\$\$\n(.*?)\n\$\$|\$([^$\n]+)\$", text, re.S)]


def test_every_formula_can_be_drawn():
    for path in [*DOCS.glob("*.md"), *(page for kind in pages.SECTIONS for page in (DOCS / kind).glob("*.md"))]:
        for formula in formulas(path.read_text()):
            assert "<math" in mathml.formula(formula, block=True), path
            # docutils takes digits that stand together for one number: \\frac12 would be 12 over what follows.
            assert not re.search(r"frac(?!\{)|[\^_]\d\d", formula), (path, formula)
    assert formulas("$$\na\n$$ and $b$, not `$c$`") == ["a", "b"]


def test_indices_stand_beside_letters_with_accents_and_names_apart_from_what_they_act_on():
    def plain(text: str) -> str:
        return re.sub(r"\s+|stretchy=\"false\"|</?math[^>]*>", "", mathml.formula(text, block=False))

    hat = '<moveraccent="true"><mi>z</mi><mo>ˆ</mo></mover>'
    assert plain(r"\hat z_t") == f"<msub>{hat}<mi>t</mi></msub>"
    assert plain(r"\log p") == '<mi>log</mi><mspacewidth="0.1667em"/><mi>p</mi>'
    assert "mspace" not in plain(r"\log(p)")


def outside(text: str) -> set[str]:
    """Links out of a page; what stands in code is none."""
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", text, flags=re.M | re.S)
    return set(re.findall(r"(?:\]\(|<)(\w+://[^\s)>]*)", text))


def well_formed(link: str) -> bool:
    parts = urlsplit(link)
    return parts.scheme == "https" and bool(re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc))


def test_links_out_of_the_site_are_well_formed():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("[a-z]*/*.md"), DOCS.parent / "README.md"]:
        assert [link for link in outside(path.read_text()) if not well_formed(link)] == [], path
    page = "[a](https://arxiv.org/abs/1) `[b](http://b.c)` <http://c.org/d> [d](https://localhost/x)"
    assert sorted(filter(well_formed, outside(page))) == ["https://arxiv.org/abs/1"]
    assert len(outside(page)) == 3


def test_arguments_that_share_a_line_are_told_apart():
    lines = [
        "Args:",
        "    one: of it, say: so. two, three: of",
        "        both. four:",
        "        more.",
        "Else. two: no",
    ]
    assert list(docstrings.one_entry_per_line(lines, {"one", "two", "three", "four"})) == [
        "Args:",
        "    one: of it, say: so.",
        "    two, three: of",
        "        both.",
        "    four:",
        "        more.",
        "Else. two: no",
    ]


# ---------------------------------------------------------------- what is built


@pytest.mark.pipeline
def test_all_pages_are_read_and_all_references_found(tmp_path):
    build("dummy", tmp_path)


@pytest.mark.slow
def test_every_link_leads_to_a_page_and_to_a_place_on_it(documents):
    checked = 0
    for name, document in documents.items():
        for link in document.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            at = posixpath.join(posixpath.dirname(name), unquote(parts.path)) if parts.path else name
            target = posixpath.normpath(at)
            if target.endswith(".html"):
                assert target in documents, (name, link)
                assert not parts.fragment or unquote(parts.fragment) in documents[target].anchors, (name, link)
            checked += 1
    assert checked > 1000


@pytest.mark.slow
def test_pages_fetch_nothing_from_elsewhere(documents):
    for name, document in documents.items():
        assert not [source for source in document.fetched if "//" in source], name


@pytest.mark.slow
def test_every_family_and_world_has_its_page_in_the_list(documents):
    for kind in (registry.families, registry.worlds):
        folder = {"family": "families", "world": "worlds"}[kind.noun]
        listed = documents[f"{folder}/index.html"].links
        assert {f"{name}.html" for name in kind.names()} <= listed


# ---------------------------------------------------------------- pictures


def texts_of(picture: str, kind: str) -> list[str]:
    """What is written in the boxes of a kind, from top to bottom: the first line of each."""
    svg = (DOCS / "images" / picture).read_text(encoding="utf-8")
    return re.findall(rf'<rect class="{kind}"[^>]*/>\s*<text x[^>]*>([^<]+)<', svg)


def test_the_picture_of_the_pipeline_shows_the_nodes_and_datasets_that_there_are():
    from wm_pipelines.pipelines import nodes

    shown = texts_of("pipeline.svg", "node")
    assert shown == ["ingest", "train", "evaluate", "gather", "report", "leaderboard", "board"]
    assert all(callable(getattr(nodes, name)) for name in shown)
    catalog = yaml.safe_load((DOCS.parent / "conf/base/catalog.yml").read_text())
    known = {name.rpartition(".")[2].strip("{}") for name in catalog} | {"parameters"}
    for name in texts_of("pipeline.svg", "data"):
        assert re.sub(r"^(WORLD|TASK)", lambda m: f"{m[1].lower()}}}", name) in known, name


def test_the_picture_of_the_layers_shows_those_that_are_checked():
    contract = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    shown = [text for kind in ("node", "data", "file") for text in texts_of("dependencies.svg", kind)]
    assert [text.split(" · ") for text in shown] == [layer.split(" | ") for layer in contract["layers"]]
