"""What a result depends on: every module behind it, and no other."""

import pytest

from wm_pipelines import provenance
from wm_pipelines.provenance import import_closure, source_hash

HOUSE = {
    "__init__": "",
    "blocks/__init__": "",
    "blocks/a": "",
    "blocks/b": "import wm_house.blocks.a",
    "blocks/deep": "def f():\n    if True:\n        from wm_house.late import g\n    return g",
    "blocks/unused": "",
    "late": "import torch",
    "types": "",
    "alternative": "",
    "families/__init__": "from wm_house.registry import families",
    "registry": "",
    "families/one": "from wm_house.blocks import b, deep\nimport numpy as np",
    "families/two/__init__": "from wm_house.families.two.family import Two",
    "families/two/family": (
        "from typing import TYPE_CHECKING\nimport typing\n"
        "if TYPE_CHECKING:\n    from wm_house.types import T\nelse:\n    import wm_house.alternative\n"
        "if typing.TYPE_CHECKING:\n    import wm_house.blocks.unused\n"
        "class Two:\n    pass"
    ),
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package of our own in place of the project."""
    root = tmp_path / "wm_house"
    for name, text in HOUSE.items():
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "_ROOT", root)
    monkeypatch.setattr(provenance, "_PACKAGE", "wm_house")
    forget()
    yield root
    forget()


def forget():
    provenance._imported.cache_clear()
    source_hash.cache_clear()


def closure(root, *modules):
    return {path.relative_to(root).with_suffix("").as_posix() for path in import_closure(*modules)}


def test_the_closure_holds_what_is_imported_early_or_late_and_the_packages_it_lies_in(house):
    packages = {"__init__", "families/__init__", "registry", "blocks/__init__"}
    of_one = {"families/one", "blocks/a", "blocks/b", "blocks/deep", "late"}
    assert closure(house, "wm_house.families.one") == packages | of_one


def test_imports_for_type_checkers_alone_do_not_count_and_their_alternative_does(house):
    found = closure(house, "wm_house.families.two")
    assert {"families/two/__init__", "families/two/family", "alternative"} <= found
    assert not {"types", "blocks/unused"} & found


@pytest.mark.parametrize(
    ("touched", "changes"),
    [("blocks/unused", False), ("families/two/family", False), ("blocks/a", True), ("late", True)],
)
def test_only_what_is_behind_a_module_changes_its_hash(house, touched, changes):
    before = source_hash("wm_house.families.one")
    (house / f"{touched}.py").write_text("# touched")
    forget()
    assert (source_hash("wm_house.families.one") != before) == changes


def test_several_modules_have_one_closure_in_whatever_order(house):
    names = "wm_house.families.one", "wm_house.families.two.family"
    assert closure(house, *names) == closure(house, names[0]) | closure(house, names[1])
    assert source_hash(*names) == source_hash(*reversed(names))


def test_modules_that_do_not_exist_and_packages_of_others_are_passed_over(house):
    assert import_closure("torch", "wm_house.nowhere") == []


def test_families_of_this_project_stand_on_what_they_import():
    found = {path.stem for path in import_closure("wm_pipelines.families.mlp")}
    assert {"mlp", "base", "ensemble", "vector_field", "integrators", "spec"} <= found
    assert not {"hnn", "transformer", "pendulum", "fitting"} & found
