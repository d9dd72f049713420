"""Registry and catalog are built from one list and say the same thing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from tests.pipelines.conftest import ROOT
from wm_pipelines.errors import UserError
from wm_pipelines.pipeline_registry import register_pipelines
from wm_pipelines.pipelines import combinations as lists
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.registry import families, tasks, worlds

EVALUATIONS = {
    "physics": "physics_eval",
    "fields": "field_eval",
    "images": "image_eval",
    "videos": "video_eval",
    "control": "control_eval",
    "language": "language_eval",
}
STAGES = {"data_ingestion": "ingest", "training": "train", "evaluation": "evaluate", "reporting": "report"}
VERBS = ("train", "evaluate")


@pytest.fixture(autouse=True)
def base(monkeypatch):
    monkeypatch.setattr(lists, "_environment", {"conf_source": ROOT / "conf", "env": "base"})


@pytest.fixture
def pipelines():
    return register_pipelines()


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Another list of what runs."""

    def listed(**own):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "globals.yml").write_text(yaml.safe_dump({"data_root": "data", "tasks": own}))
        monkeypatch.setattr(lists, "_environment", {"conf_source": tmp_path, "env": "base"})

    return listed


def names(pipeline):
    return {node.name for node in pipeline.nodes}


def test_users_find_the_pipelines_they_expect(pipelines):
    extra = {"tuning", "replication", "play", "submission"}
    assert set(pipelines) == {"__default__", *extra, *STAGES, *EVALUATIONS.values()}
    assert {name: tasks.get(name).pipeline for name in EVALUATIONS} == EVALUATIONS


def test_the_whole_is_the_sum_of_its_parts(pipelines):
    whole = names(pipelines["__default__"])
    for parts in (STAGES, EVALUATIONS.values()):
        assert set.union(*(names(pipelines[part]) for part in parts)) == whole
    assert sum(len(pipelines[part].nodes) for part in STAGES) == len(whole)


def test_every_world_meets_every_family_of_its_task(pipelines):
    for name, pipeline in EVALUATIONS.items():
        c = combinations()[name]
        pairs = {f"{name}.{family}.{verb}_{world}" for family in c.families for world in c.worlds for verb in VERBS}
        others = {f"{name}.leaderboard.gather", f"{name}.report.report"}
        others |= {f"{name}.manifest.draw_{world}" for world in c.worlds if tasks.get(name).has_manifest}
        others |= {f"{name}.manifest.dose_{world}" for world in c.worlds if tasks.get(name).has_doses}
        others |= {f"board.{node}" for node in ("leaderboard", "first_page", "figure_library")}
        assert names(pipelines[pipeline]) == pairs | others | {f"{world}.ingest" for world in c.worlds}


def test_nodes_are_found_by_stage_by_world_and_by_family(pipelines):
    for node in pipelines["__default__"].nodes:
        (stage,) = node.tags & set(STAGES.values())
        if ".manifest." in node.name:
            task, _, name = node.name.split(".")
            assert node.namespace == f"{task}.manifest"
            verb, world = name.split("_", 1)
            assert node.tags == {"evaluate", world, {"draw": "manifest", "dose": "doses"}[verb]}
        elif stage in VERBS:
            task, family, name = node.name.split(".")
            assert node.namespace == f"{task}.{family}"
            assert node.tags - {"longest"} == {stage, family, name.removeprefix(f"{stage}_")}
            longest = stage == "train" and family in combinations()[task].longest
            assert ("longest" in node.tags) == longest
        elif stage == "ingest":
            assert node.tags == {stage, node.namespace}


def test_a_world_that_several_tasks_name_is_ingested_once(environment):
    one = {"worlds": ["pendulum"], "families": ["latent_dynamics"]}
    environment(physics=one, videos=one)
    assert [n for n in sorted(names(register_pipelines()["__default__"])) if n.endswith("ingest")] == [
        "pendulum.ingest"
    ]


def test_one_leaderboard_after_the_parts_of_the_tasks_that_run(pipelines):
    for pipeline, own in [("__default__", list(EVALUATIONS)), *((p, [name]) for name, p in EVALUATIONS.items())]:
        (union,) = (n for n in pipelines[pipeline].nodes if "leaderboard" in n.outputs)
        parts = {f"{name}_{kind}" for name in own for kind in ("scores", "made_from")}
        assert set(union.inputs) == {"leaderboard_parts", *parts}


def test_what_compares_models_by_an_encoder_gets_it_and_the_episodes(pipelines):
    (gather,) = (n for n in pipelines["video_eval"].nodes if n.name == "videos.leaderboard.gather")
    c = combinations()["videos"]
    assert {f"videos.vjepa.{world}_models" for world in c.worlds} <= set(gather.inputs)
    assert {f"{world}_episodes" for world in c.worlds} <= set(gather.inputs)


def test_what_is_played_is_made_by_the_nodes_of_its_task(pipelines):
    played = {("latent_dynamics", "driven_pendulum"), ("rssm", "driven_pendulum"), ("latent_dynamics", "two_rooms")}
    made = {f"{world}.ingest" for _, world in played} | {f"control.{family}.train_{world}" for family, world in played}
    assert names(pipelines["play"]) == made | {"play.page"}
    assert made < names(pipelines["control_eval"])
    assert pipelines["play"].inputs() == {
        *(f"params:{name}" for name in ("play", *(name for pair in played for name in pair))),
        *(f"params:tasks.control.{name}" for name in ("learning", "seeds")),
        "checkpoints",
    }


def test_what_the_task_does_not_train_is_not_played(environment, tmp_path):
    environment(control={"worlds": ["two_rooms"], "families": ["latent_dynamics"]})
    (tmp_path / "base" / "parameters_play.yml").write_text((ROOT / "conf/base/parameters_play.yml").read_text())
    made = {"two_rooms.ingest", "control.latent_dynamics.train_two_rooms"}
    assert names(register_pipelines()["play"]) == made | {"play.page"}
    environment(control={"worlds": ["two_rooms"], "families": ["rssm"]})
    assert not register_pipelines()["play"].nodes


def test_discovered_actions_are_played_by_models_of_the_videos(environment, tmp_path):
    environment(videos={"worlds": ["pong"], "families": ["latent_action"]})
    (tmp_path / "base" / "parameters_play.yml").write_text((ROOT / "conf/atari/parameters_play.yml").read_text())
    assert names(register_pipelines()["play"]) == {"pong.ingest", "videos.latent_action.train_pong", "play.page"}


def test_every_dataset_is_declared_and_none_in_vain(pipelines):
    entries = OmegaConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")["catalog"]
    resolver, used = DataCatalog.from_config(entries).config_resolver, set()
    for name in {d for p in pipelines.values() for d in p.datasets()} - {"parameters"}:
        if not name.startswith("params:"):
            entry = name if name in entries else resolver.match_dataset_pattern(name)
            assert entry in entries, f"dataset {name} is not in the catalog"
            used.add(entry)
    assert set(entries) == used


def test_no_two_datasets_share_a_place(pipelines):
    entries = OmegaConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")["catalog"]
    catalog = DataCatalog.from_config(entries)
    outputs = {name for node in pipelines["__default__"].nodes for name in node.outputs}
    places = {name: catalog.get(name)._filepath for name in outputs}
    assert len(set(places.values())) == len(places)


@pytest.mark.parametrize("env", sorted(p.name for p in (ROOT / "conf").iterdir() if (p / "globals.yml").is_file()))
def test_every_environment_lists_what_exists(env, monkeypatch):
    monkeypatch.setattr(lists, "_environment", {"conf_source": ROOT / "conf", "env": env})
    for c in combinations().values():
        assert c.task in tasks.names()
        assert set(c.families) <= set(families.names())
        for world in c.worlds:
            files = [ROOT / "conf" / e / f"parameters_{world}.yml" for e in ("base", env)]
            entry = {
                k: v for file in files if file.is_file() for k, v in yaml.safe_load(file.read_text())[world].items()
            }
            assert entry["world"] in worlds.names()
    assert env == "base" or lists.data_root().name == env or env in ("tuned", "local")


def test_a_task_that_is_null_does_not_run(environment):
    environment(physics={"worlds": ["rod"], "families": ["mlp"]}, fields=None)
    built = register_pipelines()
    assert not any(
        built[name].nodes for name in ("field_eval", "image_eval", "video_eval", "control_eval", "language_eval")
    )
    assert names(built["__default__"]) == names(built["physics_eval"])


def test_an_environment_in_which_nothing_runs_has_empty_pipelines(environment):
    environment(physics=None)
    assert not any(pipeline.nodes for name, pipeline in register_pipelines().items() if name != "tuning")


GOOD = {"worlds": ["rod"], "families": ["mlp"]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"physic": GOOD}, "globals: unknown task 'physic'; did you mean 'physics'?"),
        ({"physics": {**GOOD, "world": ["a"]}}, "unknown key 'world'; did you mean 'worlds'?"),
        ({"physics": {**GOOD, "worlds": []}}, "tasks.physics.worlds: a non-empty list of names, got []"),
        ({"physics": {**GOOD, "families": ["mlp", "mlp"]}}, "tasks.physics.families: holds a name twice"),
        ({"physics": {**GOOD, "families": ["m-l-p"]}}, "letters, digits and underscores, got 'm-l-p'"),
        ({"physics": {**GOOD, "worlds": ["rod", "../rod"]}}, "letters, digits and underscores, got '../rod'"),
        ({"physics": ["rod"]}, "tasks.physics: expected worlds, families, seeds and learning"),
    ],
)
def test_a_mistake_in_the_list_is_one_line(environment, entry, message):
    environment(**entry)
    with pytest.raises(UserError) as caught:
        combinations()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_listing_pipelines_needs_no_torch():
    code = "import sys, wm_pipelines.pipeline_registry as p; p.register_pipelines(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_five_hundred_combinations_are_listed_without_delay(environment):
    from time import process_time

    own = {"worlds": [f"w{i}" for i in range(32)], "families": families.names()}
    environment(physics=own)
    began = process_time()
    pipelines = register_pipelines()
    assert len(pipelines["training"].nodes) == 32 * len(families.names())
    assert process_time() - began < 5  # half a second; ten where pipelines are added one to the other
