"""What a user's mistake looks like at the command line: one line, exit status 1."""

import io
import os
import subprocess
import sys
import textwrap

import kedro.framework.project as kedro_project
import pytest
from click.testing import CliRunner
from kedro.framework.project import configure_project

from wm_pipelines.cli import cli, one_line, user_error
from wm_pipelines.errors import UserError
from wm_pipelines.yaml_files import line_of, read_yaml

pytestmark = pytest.mark.pipeline

PACKAGE = "tiny_project_of_test_cli"
FILES = {
    "settings.py": """
        from wm_pipelines.config_loader import ProjectConfigLoader
        DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry", "kedro-viz")
        CONFIG_LOADER_CLASS = ProjectConfigLoader
        CONFIG_LOADER_ARGS = {
            "base_env": "base",
            "default_run_env": "local",
            "merge_strategy": {"parameters": "soft", "globals": "soft"},
        }
        """,
    "pipeline_registry.py": """
        import errno

        import click
        from kedro.pipeline import node, pipeline


        def fails(error):
            def function(parameter):
                raise error
            return function


        def says(parameter):
            click.echo("5 m² …")
            print("5 m² …")


        def register_pipelines():
            made = {
                "physics_eval": pipeline([
                    node(len, "params:hnn", "length", name="fit", namespace="hnn", tags=["hnn", "spring"]),
                    node(abs, "length", "summary", name="summarise", namespace="report.table", tags=["report"]),
                ]),
                "field_eval": pipeline([
                    node(len, "params:hnn", "fields", name="fit", namespace="pinn", tags=["pinn"]),
                ]),
                "nothing": pipeline([]),
                "says": pipeline([node(says, "params:hnn", None, name="says")]),
            }
            for name, error in {
                "memory": MemoryError("Unable to allocate 8.00 GiB for an array"),
                "torch": RuntimeError("[enforce fail at a.cpp:1] DefaultCPUAllocator: can't allocate memory: x"),
                "disk": OSError(errno.ENOSPC, "No space left on device", "/data/a.bin"),
                "nameless_disk": OSError(errno.ENOSPC, "No space left on device"),
                "interrupt": KeyboardInterrupt(),
                "bug": RuntimeError("a bug"),
            }.items():
                made[name] = pipeline([node(fails(error), "params:hnn", None, name=name)])
            return made | {"__default__": made["physics_eval"] + made["field_eval"]}
        """,
}
CONF = {
    "base/globals.yml": "# what runs\ndata_root: data\nseeds: [1]\n",
    "base/parameters.yml": "hnn:\n  features: 1\n",
    "base/catalog.yml": 'summary:\n  type: MemoryDataset\n  metadata: {root: "${globals:data_root}"}\n',
    "local/.gitkeep": "",
    "smoke/.gitkeep": "",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / PACKAGE).mkdir()
    for name, text in {"__init__.py": "", **FILES}.items():
        (folder / PACKAGE / name).write_text(textwrap.dedent(text), encoding="utf-8")
    before = kedro_project.PACKAGE_NAME
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    configure_project(before or "wm_pipelines", preserve_logging=True)


@pytest.fixture
def conf(package, tmp_path, monkeypatch):
    """The configuration of a project in the working directory."""
    for name, text in CONF.items():
        write(tmp_path / "conf" / name, text)
    write(
        tmp_path / "pyproject.toml",
        f'[tool.kedro]\npackage_name = "{PACKAGE}"\nproject_name = "tiny"\nkedro_init_version = "1.7.0"\n',
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    # The real pipelines of this process shall not be built for this project.
    monkeypatch.setattr("wm_pipelines.config_loader.use_environment", lambda *_: None)
    configure_project(PACKAGE, preserve_logging=True)
    return tmp_path / "conf"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def error_of(*arguments, command=cli, status=1):
    """The one line that a command ends with."""
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def test_a_run_without_a_mistake(conf):
    result = CliRunner().invoke(cli, ["run", "--pipeline=physics_eval", "--tags=hnn", "--params=hnn.features=2"])
    assert result.exit_code == 0, result.output


FAULTS = {
    "tab": ("hnn:\n\tfeatures: 1\n", ":2: a tab; indent with blanks"),
    "no colon": ("a: 1\ndata_root data\nseeds: 3\n", ":2: no colon after the key; write 'key: value'"),
    "no colon at the end": ("a: 1\nb\n", ":2: no colon after the key; write 'key: value'"),
    "indentation": ("a:\n b: 1\n  c: 2\n", ":3: a colon too many or a wrong indentation; quote the text or correct it"),
    "dedentation": ("a:\n    b: 1\n  c: 2\n", ":3: the indentation differs from the lines above; align it"),
    "bracket": ("a:\n  b: [1, 2\nc: 3\n", ":2: a bracket is not closed; close it"),
    "quote": ('a: 1\nb: "x\n', ":2: a quote is not closed; close it"),
    "twice": ("a:\n  b: 1\n  c: 2\n  b: 3\n", ":4: 'b' stands here again (first in line 2); keep one"),
    "twice in a line": ("a: {b: 1, b: 1}\n", ":1: 'b' stands here again (first in line 1); keep one"),
    "list": ("# a list\n\n- a\n- b\n", ":3: expected 'key: value' lines at the top, got a list"),
    "text": ("data_root\n", ":1: expected 'key: value' lines at the top, got a single value"),
    "number as key": ("a: 1\n3: x\n", ":2: a key must be text, got 3; quote it"),
    "latin-1": ("a: 1\nb: café\n".encode("latin-1"), ":2: not UTF-8 (byte 0xe9); save the file as UTF-8"),
    "utf-16": ("a: 1\n".encode("utf-16"), ":1: not UTF-8 (byte 0xff); save the file as UTF-8"),
    "control character": ("a: 1\nb: \x07\n", ":2: the character U+0007 is not allowed; remove it"),
    "second document": ("a: 1\n---\nb: 1\n", ":2: '---' begins a second document; keep one"),
    "alias": ("a: *b\n", ":1: an alias (*) without its anchor (&); write the value out"),
    "tag": ("a: 1\nb: !c d\n", ":2: a tag (!) that is not known here; remove it"),
    "brackets as key": ("a: 1\n[b]: 1\n", ":2: a list or mapping as a key; quote text that begins with a bracket"),
    "placeholder as text": ("a: {{ b }}\n", ":1: a list or mapping as a key; quote text that begins with a bracket"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_yaml_file_is_one_line_with_file_and_line(fault, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = FAULTS[fault]
    write(tmp_path / "conf/x.yml", text)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "conf/x.yml")
    assert str(caught.value) == f"conf/x.yml{message}"


@pytest.mark.parametrize("name", ["base/globals.yml", "base/parameters_x.yml", "local/catalog.yml"])
@pytest.mark.parametrize("fault", ["tab", "twice", "latin-1", "list"])
@pytest.mark.parametrize("command", [["run"], ["registry", "list"]], ids=["run", "registry"])
def test_every_command_says_it_of_every_file(name, fault, command, conf):
    text, message = FAULTS[fault]
    write(conf / name, text)
    assert error_of(*command) == f"conf/{name}{message}"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "local/globals.yml",
            "data_root: null\n",
            "conf/local/globals.yml:1: 'data_root' must be the path of a folder, got null; write 'data_root: data'",
        ),
        (
            "base/globals.yml",
            "seeds: 1\ndata_root: [data]\n",
            "conf/base/globals.yml:2: 'data_root' must be the path of a folder, got ['data']; write 'data_root: data'",
        ),
        (
            "base/globals.yml",
            "data_rot: data\n",
            "conf/base/catalog.yml:3: ${globals:data_root} stands for nothing; did you mean 'data_rot'?",
        ),
        (
            "local/catalog.yml",
            '"{world}.scores":\n  type: MemoryDataset\n  metadata: "${globals:seds}"\n',
            "conf/local/catalog.yml:3: ${globals:seds} stands for nothing; did you mean 'seeds'?",
        ),
        (
            "local/parameters.yml",
            'hnn:\n  features: "${mlp.features}"\n',
            "conf/local/parameters.yml:2: ${mlp.features} stands for nothing in these files; "
            "correct the name or write the value",
        ),
        (
            "local/parameters.yml",
            "hnn:\n  features: ${globls:a}\n",
            "conf/local/parameters.yml:2: 'hnn.features' cannot be resolved (Unsupported interpolation type globls); "
            "correct it",
        ),
        (
            "base/parameters_more.yml",
            "mlp: 1\nhnn: {features: 3}\n",
            "conf/base/parameters.yml:2 and conf/base/parameters_more.yml:2: both set 'hnn.features'; keep one",
        ),
        (
            "local/catalog.yml",
            "length: 3\n",
            "conf/…/catalog*.yml: catalog entry 'length' is not a valid dataset configuration.",
        ),
        (
            "local/catalog.yml",
            "length: {type: kedro.io.MemoryDatset}\n",
            "conf/…/catalog*.yml: an exception occurred when parsing config for dataset 'length': ",
        ),
    ],
)
def test_a_fault_of_what_the_files_mean(name, text, message, conf):
    write(conf / name, text)
    said = error_of("run")
    assert said == message or (message.endswith(": ") and said.startswith(message))  # the rest is Kedro's


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--pipeline=physic_eval", "unknown pipeline 'physic_eval'; did you mean 'physics_eval'?"),
        ("--pipelines=field_eval,physic_eval", "unknown pipeline 'physic_eval'; did you mean 'physics_eval'?"),
        ("--pipeline=nothing --pipelines=nothing", "give --pipeline or --pipelines, not both"),
        ("--tags=hn", "unknown tag 'hn'; did you mean 'hnn'?"),
        ("--tags=hnn,sprin", "unknown tag 'sprin'; did you mean 'spring'?"),  # Kedro runs the rest, and says nothing
        ("--nodes=hnn.fti", "unknown node 'hnn.fti'; did you mean 'hnn.fit'?"),
        ("--nodes=fit", "unknown node 'fit'; did you mean hnn.fit or pinn.fit?"),
        ("--from-nodes=hnn.fti", "unknown node 'hnn.fti'; did you mean 'hnn.fit'?"),
        ("--to-nodes=hnn.fti", "unknown node 'hnn.fti'; did you mean 'hnn.fit'?"),
        ("--namespaces=hhn", "unknown namespace 'hhn'; did you mean 'hnn'?"),
        ("--namespaces=reprt", "unknown namespace 'reprt'; did you mean 'report'?"),
        ("--from-inputs=lenght", "unknown dataset 'lenght'; did you mean 'length'?"),
        ("--to-outputs=sumary", "unknown dataset 'sumary'; did you mean 'summary'?"),
        (
            "--pipeline=physics_eval --tags=pinn",
            "pipeline 'physics_eval' has no tag 'pinn'; --pipeline=field_eval has it",
        ),
        (
            "--tags=pinn --nodes=hnn.fit",
            "no node of pipeline '__default__' fits --tags=pinn and --nodes=hnn.fit; leave one of them out",
        ),
        (
            "--pipeline=nothing --env=smoke",
            "pipeline 'nothing' is empty in environment 'smoke': its globals.yml lists nothing for it; "
            "list it there or choose another pipeline or --env",
        ),
        ("--env=smok", "unknown environment 'smok'; did you mean 'smoke'?"),
        ("--env=..", "unknown environment '..'; known here: base, local, smoke"),
        ("--runner=ThreadRuner", "unknown runner 'ThreadRuner'; did you mean 'ThreadRunner'?"),
        (
            "--runner=no.such.Runner",
            "unknown runner 'no.such.Runner'; known here: ParallelRunner, SequentialRunner, ThreadRunner",
        ),
        ("--runner=Task", "unknown runner 'Task'; known here: ParallelRunner, SequentialRunner, ThreadRunner"),
        ("--runner-params=max_worker=2", "--runner-params: unknown argument 'max_worker'; known here: is_async"),
        (
            "--load-versions=summary:2020",
            "--load-versions=summary: no dataset of this project is versioned; leave the option out",
        ),
        (
            "--load-versions=summary",
            "--load-versions: Expected the form of 'load_versions' to be 'dataset_name:YYYY-MM-DDThh.mm.ss.sssZ',"
            "found summary instead",
        ),
        ("--params=features", "--params: Item `features` must contain a key and a value separated by `=`."),
        ("--params==3", "--params: Parameter key cannot be an empty string."),
        ("--params=hnn.features=[", "--params: cannot read 'hnn.features=[' (while parsing a flow node)"),
        (
            "--params=mlp.width=${no.such}",
            "--params=mlp.width: ${no.such} stands for nothing in these files; correct the name or write the value",
        ),
        ("--conf-source=nowhere", "--conf-source: Path 'nowhere' does not exist."),
        ("--config=nowhere", "Invalid value for '--config' / '-c': File 'nowhere' does not exist."),
    ],
)
def test_an_unknown_name_on_the_command_line(arguments, message, conf):
    assert error_of("run", *arguments.split()) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:\n\ttags: hnn\n", "--config: run.yml:2: a tab; indent with blanks"),
        ("rnu:\n  tags: hnn\n", "--config: 'run.yml': expected the options under the key 'run:', found rnu"),
        (
            "run:\n  tagz: hnn\n",
            "--config: Key `tagz` in provided configuration is not valid. Did you mean this? tags",
        ),
        ("run:\n  tags: hn\n", "unknown tag 'hn'; did you mean 'hnn'?"),
    ],
)
def test_options_from_a_file(text, message, conf):
    write(conf.parent / "run.yml", text)
    assert error_of("run", "--config=run.yml").replace(f"{conf.parent}/", "") == message


def test_the_environment_variable_is_checked_too(conf, monkeypatch):
    monkeypatch.setenv("KEDRO_ENV", "smok")
    assert error_of("registry", "list") == "unknown environment 'smok'; did you mean 'smoke'?"


def test_a_plugins_commands_say_it_as_well(conf):
    from kedro_viz.launchers.cli.main import viz_cli

    message = error_of("viz", "run", "--no-browser", "--env=smok", command=viz_cli)
    assert message == "unknown environment 'smok'; did you mean 'smoke'?"
    message = error_of("viz", "run", "--no-browser", "--pipeline=physic_eval", command=viz_cli)
    assert message == "unknown pipeline 'physic_eval'; did you mean 'physics_eval'?"
    write(conf / "base/parameters.yml", 'hnn: "${no.such}"\n')  # read in another process, where it would be too late
    message = error_of("viz", "run", "--no-browser", command=viz_cli)
    assert message.startswith("conf/base/parameters.yml:1: ${no.such} stands for nothing")


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            "memory",
            "out of memory (Unable to allocate 8.00 GiB for an array); "
            "make the data or the batches smaller, or free memory, then run again",
        ),
        (
            "torch",
            "out of memory (DefaultCPUAllocator: can't allocate memory: x); "
            "make the data or the batches smaller, or free memory, then run again",
        ),
        ("disk", "'/data/a.bin': no space left on device; free the disk, then run again"),
        ("nameless_disk", "no space left on device; free the disk, then run again"),
    ],
)
def test_what_the_machine_lacks(pipeline, message, conf):
    assert error_of("run", f"--pipeline={pipeline}") == message


def test_an_interruption_ends_with_the_status_of_shells(conf):
    result = CliRunner().invoke(cli, ["run", "--pipeline=interrupt"])
    assert result.exit_code == 130
    assert result.stderr == "Interrupted. Files that were written are whole; run again to go on.\n"


def test_an_error_of_the_project_keeps_its_traceback(conf):
    result = CliRunner().invoke(cli, ["run", "--pipeline=bug"])
    assert isinstance(result.exception, RuntimeError)


def test_the_users_error_is_found_below_what_frameworks_raise():
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = UserError("the mistake")
    assert str(user_error(wrapped)) == "the mistake"
    from_a_worker = f'"""\nTraceback (most recent call last):\n{UserError.__module__}.UserError: the mistake\n"""'
    assert str(user_error(RuntimeError(from_a_worker))) == "the mistake"
    assert user_error(RuntimeError("a bug")) is None
    assert user_error(OSError("no file is named")) is None


def test_a_command_is_wrapped_once():
    assert one_line(cli.commands["run"]) is cli.commands["run"]


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "5 m² …"), ("latin-1", "5 m² ?")])
def test_a_terminal_shows_what_it_can(encoding, shown, conf, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.main(["run", "--pipeline=says"], standalone_mode=False)
    terminal.flush()
    # Once by click, once by print.
    assert terminal.buffer.getvalue().decode(terminal.encoding).splitlines() == [shown, shown]


def test_files_are_utf8_whatever_the_locale(tmp_path):
    write(tmp_path / "x.yml", "unit: m²\n")
    code = "from wm_pipelines.yaml_files import read_yaml; print(ascii(read_yaml('x.yml')['unit']))"
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | ascii_locale,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "'m\\xb2'\n"


def test_values_are_those_of_kedros_loader(tmp_path):
    write(tmp_path / "x.yml", "a: 1e-3\nb: 2020-01-02\nc: 1_000\nd: .inf\ne: -2.5\nf: 'x'\ng: [null, true]\nh: 1.\n")
    from omegaconf import OmegaConf

    assert read_yaml(tmp_path / "x.yml") == OmegaConf.to_container(OmegaConf.load(tmp_path / "x.yml"))
    write(tmp_path / "empty.yml", "# nothing\n")
    assert read_yaml(tmp_path / "empty.yml") == {}
    with pytest.raises(UserError, match=r"none\.yml': No such file"):
        read_yaml(tmp_path / "none.yml")


def test_merge_keys_are_no_duplicates(tmp_path):
    write(tmp_path / "x.yml", "_a: &a {x: 1}\n_b: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n  x: 3\n")
    assert read_yaml(tmp_path / "x.yml")["c"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (["a"], 1),
        (["a", "b"], 2),
        (["a", "b", "1"], 4),
        (["d", "e", "f"], 6),
        (["a", "x"], None),
        (["a", "b", "7"], None),
    ],
)
def test_the_line_of_a_key(keys, line, tmp_path):
    write(tmp_path / "x.yml", "a:\n  b:\n    - 1\n    - 2\nd.e:\n  f: 1\n")
    assert line_of(tmp_path / "x.yml", keys) == line


@pytest.mark.pipeline
def test_the_project_itself(monkeypatch):
    configure_project("wm_pipelines", preserve_logging=True)
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    assert error_of("run", "--pipeline=tunin") == "unknown pipeline 'tunin'; did you mean 'tuning'?"
    assert error_of("run", "--env=smok") == "unknown environment 'smok'; did you mean 'smoke'?"
