"""Registry, catalog and dvc.yaml say the same thing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from wm_pipelines.errors import UserError
from wm_pipelines.pipeline_registry import register_pipelines
from wm_pipelines.pipelines import combinations as lists_of
from wm_pipelines.pipelines.combinations import combinations

ROOT = Path(__file__).parents[2]
PIPELINES = {
    "data_ingestion",
    "training",
    "evaluation",
    "reporting",
    "tuning",
    "physics_eval",
    "field_eval",
    "image_eval",
    "video_eval",
    "__default__",
}


@pytest.fixture(scope="module")
def pipelines():
    return register_pipelines()


@pytest.fixture(scope="module")
def entries():
    loader = OmegaConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")
    return loader["catalog"]


def datasets(pipeline):
    return {name for name in pipeline.datasets() if not name.startswith("params:") and name != "parameters"}


def test_users_find_the_pipelines_they_expect(pipelines):
    assert set(pipelines) >= PIPELINES


def test_the_whole_is_the_sum_of_its_parts(pipelines):
    parts = ("data_ingestion", "training", "evaluation", "reporting")
    whole = {node.name for node in pipelines["physics_eval"].nodes}
    seen = {f"{world}.simulate" for world in (*combinations().image_worlds, *combinations().video_worlds)}
    assert whole == {node.name for part in parts for node in pipelines[part].nodes} - seen


def test_every_world_meets_every_family(pipelines):
    names = {node.name for node in pipelines["physics_eval"].nodes}
    lists = combinations()
    assert {f"{family}.train_{world}" for family in lists.families for world in lists.worlds} <= names


def test_groups_are_flat(pipelines):
    lists = combinations()
    groups = {node.namespace for node in pipelines["physics_eval"].nodes}
    assert groups == {*lists.worlds, *lists.families, "evaluation", "report"}


def test_every_field_world_meets_every_field_family(pipelines):
    lists = combinations()
    fields = pipelines["field_eval"]
    assert {node.namespace for node in fields.nodes} == {
        *lists.field_worlds,
        *lists.field_families,
        "evaluation",
        "field_report",
    }
    pairs = {f"{family}.train_{world}" for family in lists.field_families for world in lists.field_worlds}
    assert pairs <= {node.name for node in fields.nodes}


def test_the_default_is_everything_with_one_leaderboard_after_all_parts(pipelines):
    names = ("physics_eval", "field_eval", "image_eval", "video_eval")
    whole, parts = pipelines["__default__"], [pipelines[name] for name in names]
    assert {n.name for n in whole.nodes} == {n.name for part in parts for n in part.nodes}
    (union,) = (n for n in whole.nodes if "leaderboard" in n.outputs)
    assert set(union.inputs) == {"leaderboard_parts", *(f"{name}_scores" for name in names)}


@pytest.mark.parametrize("kind", ["image", "video"])
def test_every_world_that_is_seen_meets_every_family_that_sees(pipelines, kind):
    lists, built = combinations(), pipelines[f"{kind}_eval"]
    worlds, families = getattr(lists, f"{kind}_worlds"), getattr(lists, f"{kind}_families")
    assert {node.namespace for node in built.nodes} == {*worlds, *families, "evaluation", f"{kind}_report"}
    assert {f"{f}.train_{w}" for f in families for w in worlds} <= {node.name for node in built.nodes}


def test_without_field_worlds_there_is_no_field_pipeline(monkeypatch, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "globals.yml").write_text("worlds: [pendulum]\nfamilies: [mlp]\n")
    monkeypatch.setattr(lists_of, "_environment", {"conf_source": tmp_path, "env": "local"})
    built = register_pipelines()
    assert not any(built[name].nodes for name in ("field_eval", "image_eval", "video_eval"))
    assert {n.name for n in built["__default__"].nodes} == {n.name for n in built["physics_eval"].nodes}


def test_a_family_may_learn_from_pictures_and_from_videos(monkeypatch, tmp_path):
    (tmp_path / "base").mkdir()
    lists = "worlds: [rod]\nfamilies: [mlp]\nimage_worlds: [a]\nimage_families: [mae]\n"
    (tmp_path / "base" / "globals.yml").write_text(lists + "video_worlds: [b]\nvideo_families: [mae]\n")
    monkeypatch.setattr(lists_of, "_environment", {"conf_source": tmp_path, "env": "local"})
    assert combinations().worlds_of_families() == {"mlp": ("rod",), "mae": ("a", "b")}
    assert combinations().elsewhere() == {"image_eval": ("a",), "video_eval": ("b",)}


def test_a_name_in_both_lists_is_one_clear_line(monkeypatch, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "globals.yml").write_text("worlds: [rod]\nfamilies: [mlp]\nfield_worlds: [rod]\n")
    monkeypatch.setattr(lists_of, "_environment", {"conf_source": tmp_path, "env": "local"})
    with pytest.raises(UserError, match="'rod' stands in 'worlds' and in 'field_worlds'"):
        combinations()


def test_every_dataset_is_declared_and_none_in_vain(pipelines, entries):
    catalog = DataCatalog.from_config(entries)
    resolver = catalog.config_resolver
    used = set()
    for name in {d for p in pipelines.values() for d in datasets(p)}:
        pattern = resolver.match_dataset_pattern(name)
        assert name in entries or pattern in entries, f"dataset {name} is not in the catalog"
        used.add(name if name in entries else pattern)
    assert set(entries) == used


def test_listing_pipelines_needs_no_torch():
    code = "import sys, wm_pipelines.pipeline_registry as p; p.register_pipelines(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------------------------ dvc.yaml


@pytest.fixture(scope="module")
def stages():
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def filled(text: str, **item: str) -> str:
    for key, value in item.items():
        text = text.replace(f"${{item.{key}}}", value)
    return text


def file_of(dataset: str, entries) -> str:
    catalog = DataCatalog.from_config(entries)
    return str(catalog.get(dataset)._filepath).removeprefix(f"{Path.cwd()}/")


def outputs_of(nodes, entries) -> set[str]:
    return {file_of(name, entries) for node in nodes for name in node.outputs}


def test_dvc_reads_the_lists_that_the_registry_reads(stages):
    assert stages["ingest"]["matrix"] == {"world": "${worlds}"}
    assert stages["fit"]["matrix"] == {"family": "${families}", "world": "${worlds}"}


def test_ingest_stages_run_and_track_what_the_registry_declares(stages, pipelines, entries):
    for world in combinations().worlds:
        assert (
            filled(stages["ingest"]["cmd"], world=world) == f"kedro run --pipeline=data_ingestion --namespaces={world}"
        )
        nodes = [n for n in pipelines["data_ingestion"].nodes if n.namespace == world]
        assert {filled(out, world=world) for out in stages["ingest"]["outs"]} == outputs_of(nodes, entries)


def test_fit_stages_run_and_track_what_the_registry_declares(stages, pipelines, entries):
    lists = combinations()
    by_name = {node.name: node for node in pipelines["physics_eval"].nodes}
    for family, world in [(f, w) for f in lists.families for w in lists.worlds]:
        command = filled(stages["fit"]["cmd"], family=family, world=world)
        nodes = [by_name[name] for name in command.split("--nodes=")[1].split(",")]
        assert {filled(out, family=family, world=world) for out in stages["fit"]["outs"]} == outputs_of(nodes, entries)
        read = {file_of(d, entries) for n in nodes for d in n.inputs if d.endswith("_episodes")}
        assert read <= {filled(dep, family=family, world=world) for dep in stages["fit"]["deps"]}


def test_the_report_stage_runs_and_tracks_what_the_registry_declares(stages, pipelines, entries):
    tags = stages["report"]["cmd"].split("--tags=")[1].split(",")
    nodes = pipelines["physics_eval"].only_nodes_with_tags(*tags).nodes
    tracked = [*stages["report"]["outs"], *stages["report"]["metrics"]]
    tracked = [next(iter(out)) if isinstance(out, dict) else out for out in tracked]
    for path in outputs_of(nodes, entries):
        assert any(path == out or path.startswith(f"{out}/") for out in tracked), f"{path} is not tracked by dvc.yaml"


def test_all_stages_together_run_every_node_once(stages, pipelines):
    lists = combinations()
    physics = pipelines["physics_eval"]
    run = [n.name for n in physics.nodes if n.namespace in lists.worlds]
    for family in lists.families:
        for world in lists.worlds:
            run += filled(stages["fit"]["cmd"], family=family, world=world).split("--nodes=")[1].split(",")
    run += [n.name for n in physics.only_nodes_with_tags("collect", "report").nodes]
    assert sorted(run) == sorted(n.name for n in physics.nodes)


@pytest.mark.parametrize("kind", ["field", "image", "video"])
def test_stages_of_a_kind_run_and_track_what_the_registry_declares(stages, pipelines, entries, kind):
    by_name = {node.name: node for node in pipelines[f"{kind}_eval"].nodes}
    worlds, families = (getattr(combinations(), f"{kind}_{noun}") for noun in ("worlds", "families"))
    assert stages[f"ingest_{kind}"]["matrix"] == {"world": f"${{{kind}_worlds}}"}
    assert stages[f"fit_{kind}"]["matrix"] == {"family": f"${{{kind}_families}}", "world": f"${{{kind}_worlds}}"}
    run = []
    for name, items in {
        f"ingest_{kind}": [{"world": world} for world in worlds],
        f"fit_{kind}": [{"family": f, "world": w} for f in families for w in worlds],
        f"collect_{kind}": [{"family": family} for family in families],
        f"report_{kind}": [{}],
    }.items():
        stage = stages[name]
        for item in items:
            command = filled(stage["cmd"], **item)
            assert command.split("--pipeline=")[1].split()[0] in (f"{kind}_eval", "data_ingestion")
            picked = command.split("=")[-1].split(",")
            nodes = [n for n in by_name.values() if n.namespace in picked or n.name in picked]
            run += [n.name for n in nodes]
            assert {filled(out, **item) for out in stage["outs"]} == outputs_of(nodes, entries)
    # The union belongs to the stage `report`, whichever pipelines wrote its parts.
    assert sorted([*run, "evaluation.leaderboard"]) == sorted(by_name)
    assert file_of(f"{kind}_eval_scores", entries) in stages["report"]["deps"]


def test_dependencies_and_parameter_files_of_stages_exist(stages):
    every = combinations()
    for stage in stages.values():
        matrix = stage.get("matrix", {})
        kind = next(iter(matrix.values()), "${worlds}")[2:].removesuffix("}").rpartition("_")[0]
        worlds, families = (getattr(every, f"{kind}_{noun}" if kind else noun) for noun in ("worlds", "families"))
        files = [dep for dep in stage.get("deps", []) if dep.startswith("src")]
        files += [next(iter(entry)) for entry in stage.get("params", [])]
        for family in families:
            for world in worlds:
                for file in files:
                    assert (ROOT / filled(file, family=family, world=world)).exists(), file
