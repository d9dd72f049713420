"""A mistake in the parameters is one line, before anything is written."""

from __future__ import annotations

import re

import pytest

from tests.pipelines.conftest import Project

pytestmark = pytest.mark.pipeline


def tasks(name: str, **entry):
    return "globals.yml", {"tasks": {name: entry}}


def of(name: str, **entry):
    return f"parameters_{name}.yml", {name: entry}


TABLE = "x,t,u\n0.5,0.1,0.7\n0.4,0.2,nan\n"
MISTAKES = {
    # the list
    "unknown world": (tasks("physics", worlds=["nowhere"]), r"no parameters for 'nowhere'.*parameters_nowhere\.yml"),
    "unknown family": (tasks("physics", families=["oracle", "magic"]), r"no parameters for 'magic'"),
    "empty list": (tasks("physics", worlds=[]), r"tasks\.physics\.worlds: a non-empty list of names, got \[\]"),
    "unknown task": (tasks("physic", worlds=["pendulum"]), r"unknown task 'physic'; did you mean 'physics'"),
    "negative seed": (tasks("physics", seeds=[-1]), r"'tasks\.physics\.seeds'.*>= 0"),
    "seed twice": (tasks("videos", seeds=[1, 1]), r"'tasks\.videos\.seeds'.*twice"),
    "a task that is a number": (("parameters.yml", {"tasks": {"physics": 3}}), r"'tasks\.physics': expected seeds"),
    "no such accelerator here": (
        tasks("physics", learning={"accelerator": "mps"}),
        r"tasks\.physics\.learning\.accelerator': this machine has no 'mps'",
    ),
    "no seeds": (tasks("videos", seeds=[]), r"'tasks\.videos\.seeds'.*non-empty"),
    "unknown device": (tasks("images", learning={"accelerator": "abacus"}), r"tasks\.images\.learning.*abacus"),
    # worlds
    "a world that is a number": (("parameters_pendulum.yml", {"pendulum": 3}), r"'pendulum'"),
    "unknown kind of world": (of("mass_spring", world="nowhere"), r"unknown world 'nowhere'"),
    "unknown equation": (of("heat_1d", world="wave_9d"), r"unknown world 'wave_9d'"),
    "negative mass": (of("mass_spring", parameters={"mass": -1}), r"mass_spring\.parameters\.mass.*greater than 0"),
    "wrong unit": (of("mass_spring", parameters={"mass": "3 s"}), r"mass_spring\.parameters\.mass.*kg.*3 s"),
    "misspelt parameter": (
        of("mass_spring", parameters={"mas": 1}),
        r"unknown parameter 'mass_spring\.parameters\.mas'",
    ),
    "no episodes": (
        of("mass_spring", splits={"train": {"episodes": 0, "steps": 3}}),
        r"splits\.train\.episodes.*greater than or equal to 1, got 0",
    ),
    "too few points": (
        of("heat_1d", parameters={"points": {"interior": 3}}),
        r"heat_1d\.parameters\.points\.interior.*greater than or equal to 16, got 3",
    ),
    "contradicting boundary values": (
        of("heat_1d", parameters={"ends": [1.0, 0.0]}),
        r"conditions 'initial' and 'left end' contradict each other",
    ),
    "measurements that are no numbers": (
        of("heat_1d_inverse", parameters={"measurements": {"count": 0, "table": "measured.csv"}}),
        r"'measured\.csv': u is not a number in row 2",
    ),
    "nothing to find a coefficient from": (
        of("heat_1d_inverse", parameters={"measurements": {"count": 0}}),
        r"nothing to find alpha from",
    ),
    "unknown coefficient": (
        of("heat_1d_inverse", parameters={"unknown": {"beta": [0.1, 1.0]}}),
        r"no coefficient 'beta' to be found",
    ),
    # families
    "unknown family setting": (of("mlp", hiden=3), r"unknown parameter 'mlp\.hiden'; did you mean 'mlp\.hidden'"),
    "unknown setting of a variant": (of("hnn", variants={"pairs": {"ordr": 4}}), r"hnn\.variants\.pairs.*ordr"),
    "unknown setting on a task": (of("mae", tasks={"images": {"ptch": 4}}), r"mae\.tasks\.images.*ptch"),
    "unknown world of a family": (of("hnn", worlds={"moon": {"order": 4}}), r"unknown parameter 'hnn\.worlds\.moon"),
    "impossible schedule": (of("mlp", schedule={"steps": 0}), r"mlp.*schedule\.steps.*got 0"),
    "a layer of no width": (of("mlp", hidden=[0]), r"mlp .*hidden.*greater than or equal to 1, got 0"),
    "a variant that is a number": (of("mlp", worlds={"pendulum": {"variants": 3}}), r"mlp\.worlds.*variants"),
    "a family that is a number": (("parameters_mlp.yml", {"mlp": 3}), r"'mlp'.*mapping of settings, got 3"),
    "negative weight": (
        of("pinn", condition_weight=-1),
        r"pinn .*condition_weight.*equal to 0, got -1",
    ),
    "everything hidden": (of("mae", mask_ratio=1.0), r"mae .*mask_ratio"),
    # play
    "an unknown world to play": (
        of("play", worlds={"driven_pendulm": {"family": "rssm", "variant": "plain", "starts": {"a": [0.0]}}}),
        r"'play\.worlds\.driven_pendulm'; did you mean '.*driven_pendulum'",
    ),
    "an unknown family to play": (
        of("play", worlds={"driven_pendulum": {"family": "latent_dynamic"}}),
        r"'play\.worlds\.driven_pendulum\.family': unknown family 'latent_dynamic'; did you mean 'latent_dynamics'",
    ),
    "a seed to play that is none": (of("play", worlds={"driven_pendulum": {"seed": -1}}), r"play.*seed.*got -1"),
    # control
    "a planner without candidates": (of("control", planner={"samples": 0}), r"control\.planner.*samples"),
    "a misspelt planner": (of("control", planner={"sampels": 9}), r"sampels"),
    "no step to judge at": (of("control", error_steps=[]), r"control.*error_steps"),
    "a recording to act in": (tasks("control", worlds=["mass_spring"]), r"'mass_spring' cannot be acted in"),
    # tasks
    "unknown measure": (
        ("parameters.yml", {"physics": {"tolerence": 0.1}}),
        r"'physics\.tolerence'; did you mean 'physics\.tolerance'",
    ),
    "a measure of an unknown world": (
        ("parameters.yml", {"videos": {"worlds": {"pendulum_vido": {"steps": 1}}}}),
        r"'videos\.worlds\.pendulum_vido'; did you mean 'videos\.worlds\.pendulum_video'",
    ),
    "unknown measure of a world": (
        ("parameters.yml", {"videos": {"worlds": {"pendulum_video": {"stepz": 1}}}}),
        r"pendulum_video.*stepz",
    ),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("mistakes"))
    (project.folder / "measured.csv").write_text(TABLE)
    return project


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_anything_is_written(shared, name):
    (file, content), pattern = MISTAKES[name]
    path = shared.folder / "conf/smoke" / file
    before = path.read_bytes() if path.exists() else None
    shared.configure(file, content)
    try:
        message = shared.error_of()
    finally:
        path.unlink() if before is None else path.write_bytes(before)
    assert re.search(pattern, message), message
    assert not shared.data.exists()


@pytest.mark.parametrize(
    ("parameters", "pattern"),
    [
        ("mlp.hiden=3", r"mlp.*hiden"),
        ("mpl.hidden=3", r"'mpl\.hidden'; did you mean 'mlp\.hidden'"),
        ("hnn.variants.pears.order=2", r"'hnn\.variants\.pears'; did you mean 'hnn\.variants\.pairs'"),
        ("hnn.variants.pears=null", r"'hnn\.variants\.pears'; did you mean 'hnn\.variants\.pairs'"),
        ("tasks.physics.learning.thread=2", r"tasks\.physics\.learning\.thread'; did you mean '.*threads'"),
        ("tasks.physics.families=mlp", r"tasks\.physics\.families: what runs is listed in .*globals\.yml"),
        ("mass_spring.parameters.mas=2", r"mass_spring\.parameters\.mas"),
    ],
)
def test_so_is_one_on_the_command_line(shared, parameters, pattern):
    assert re.search(pattern, shared.error_of(f"--params={parameters}"))
    assert not shared.data.exists()


@pytest.mark.parametrize(
    ("content", "nodes", "pattern"),
    [
        (of("mnist", parameters={"source": "nowhere"}), ["mnist.ingest"], r"nowhere"),
        (of("mae", patch=5), ["mnist.ingest", "images.mae.train_mnist"], r"28"),
        (
            ("parameters.yml", {"videos": {"steps": 100}}),
            ["pendulum_video.ingest", *(f"videos.raw_pixels.{verb}_pendulum_video" for verb in ("train", "evaluate"))],
            r"100 steps",
        ),
    ],
    ids=["no such images", "patches that do not fill the frame", "predictions longer than the episodes"],
)
def test_what_only_the_episodes_show_is_one_line_too(project, content, nodes, pattern):
    project.configure(*content)
    assert re.search(pattern, project.error_of(f"--nodes={','.join(nodes)}"))
