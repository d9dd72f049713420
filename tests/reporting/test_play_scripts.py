"""What the page that is played computes: its graph reader, beside the runtime and torch, and its true worlds."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from played import STEP, TOLERANCE, by_runtime, evaluated, in_node, needs_node, rooms, untrained

from wm_pipelines.control.onnx_step import INPUTS, OPERATIONS, OUTPUTS, first_belief, step_to_onnx
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import StepsAlone
from wm_pipelines.registry import families, worlds
from wm_pipelines.reporting.play import READ, SIMULATED
from wm_pipelines.spec import Space, Spec

onnx = pytest.importorskip("onnx")

RECURRENT = {"family": "rssm", "widths": (12,), "features": 5, "deterministic": 7, "stochastic": 3, "hidden": 8}
MODELS = {
    "states as latents": ("states", 1, {"context": 1, "widths": (), "hidden": 24}),
    "states, encoded, with a past": ("states", 2, {"context": 3, "widths": (12,), "latent": 5, "hidden": 16}),
    "an ensemble with a variance": (
        "states",
        1,
        {"context": 2, "widths": (), "hidden": 8, "ensemble": 2, "stochastic": True},
    ),
    "frames": ("frames", 2, {"context": 2, "pool": 2, "widths": (4, 6), "latent": 5, "hidden": 16}),
    "codes": ("frames", 3, {"family": "latent_action", "codes": 3, "maps": 4, "width": 8, "widths": (8, 8)}),
    "recurrent": ("states", 1, RECURRENT),
    "recurrent, frames": ("frames", 2, {**RECURRENT, "pool": 2, "widths": (4, 6)}),
}


@needs_node
@pytest.mark.training
@pytest.mark.parametrize("model", MODELS)
def test_the_page_the_runtime_and_torch_say_the_same(model):
    view, size, config = MODELS[model]
    family, rng = untrained(view, size, **config), np.random.default_rng(0)
    shape = family.spec.views[view].shape
    graph = step_to_onnx(family, 1)
    onnx.checker.check_model(onnx.load_from_string(graph))
    seen = rng.integers(0, 256, (1, *shape)).astype(np.uint8) if view == "frames" else rng.normal(size=(1, *shape))
    belief, network = first_belief(family, seen, 1), family.step_network(1)
    inputs, wanted = [], []
    for _ in range(6):
        action = torch.from_numpy(rng.uniform(-1, 1, (1, size))).float()
        if model == "codes":
            action = torch.eye(size + 1, size)[[len(inputs) % (size + 1)]]  # one of them, then none
        inputs.append(dict(zip(INPUTS, (belief.numpy(), action.numpy()), strict=True)))
        with torch.no_grad():
            after, observation = network(belief, action)
        wanted.append(dict(zip(OUTPUTS, (after.numpy(), observation.numpy()), strict=True)))
        belief = after
    assert np.abs(wanted[-1]["observation"]).max() > 0.01
    for found in (evaluated(graph, inputs), by_runtime(graph, inputs)):
        for own, truth in zip(found, wanted, strict=True):
            for name in OUTPUTS:
                np.testing.assert_allclose(own[name], truth[name], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.training
@pytest.mark.parametrize("model", ["states, encoded, with a past", "recurrent"])
def test_a_step_is_the_first_of_what_is_imagined_and_the_belief_goes_on_from_there(model):
    view, size, config = MODELS[model]
    family = untrained(view, size, **config)
    assert isinstance(family, StepsAlone)
    rng = np.random.default_rng(1)
    seen, actions = rng.normal(size=(1, 3)), torch.from_numpy(rng.uniform(-1, 1, (1, 8, size))).float()
    belief, network, shown = first_belief(family, seen, 1), family.step_network(1), []
    imagined = family.decode(family.imagine(belief, actions, 1).features, 1)
    for k in range(8):
        with torch.no_grad():
            belief, observation = network(belief, actions[:, k])
        shown.append(observation)
    torch.testing.assert_close(torch.stack(shown, 1).double(), imagined, rtol=1e-5, atol=1e-5)


@pytest.mark.training
def test_a_step_by_a_code_is_that_which_follows_under_it_and_without_one_what_is_expected():
    family, rng = untrained("frames", 3, **MODELS["codes"][2]), np.random.default_rng(1)
    seen = torch.from_numpy(rng.integers(0, 256, (1, 2, 16, 16, 3)).astype(np.uint8))
    belief = family.believed(family.members[1].eval(), {"frames": seen})
    shown = {}
    for code in (-1, 0, 2):
        followed = family.follow({"frames": seen}, torch.full((2, 1, 1), code))["frames"][1, :, 0]
        given = torch.eye(3)[[code]] if code >= 0 else torch.zeros(1, 3)
        with torch.no_grad():
            _, shown[code] = family.step_network(1)(belief, given)
        torch.testing.assert_close(shown[code].permute(0, 2, 3, 1), followed, rtol=1e-5, atol=1e-6)
    assert (shown[0] - shown[2]).abs().max() > 1e-4
    assert (shown[0] - shown[-1]).abs().max() > 1e-4


@pytest.mark.training
def test_equal_models_give_equal_bytes_without_a_trace_of_the_machine():
    one, other = (step_to_onnx(untrained("states", context=1, widths=(), hidden=8)) for _ in range(2))
    assert one == other
    assert b"site-packages" not in one
    assert b".py" not in one
    assert len(one) < 4000


def test_what_has_no_step_of_its_own_is_refused():
    still = families.get("persistence")
    space = {"states": Space("vector", (3,)), "actions": Space("vector", (1,), per="transition")}
    with pytest.raises(
        UserError, match="family 'persistence' has no step that stands alone; choose latent_dynamics or rssm"
    ):
        step_to_onnx(still(still.Config(), Spec("rod", STEP, space, 21), (0,)))
    kind = families.get("latent_dynamics")
    alone = Spec("still", STEP, {"states": space["states"]}, 21)
    with pytest.raises(UserError, match="world 'still' takes no actions"):
        step_to_onnx(kind(kind.Config(context=1, widths=()), alone, (0,)))


# ---------------------------------------------------------------- the evaluator


@needs_node
def test_the_page_evaluates_what_may_be_written_and_refuses_the_rest():
    assert in_node("return Onnx.operations") == sorted(OPERATIONS)
    graph = graph_of([onnx.helper.make_node("Sin", ["x"], ["y"])], {"x": (2,)})
    said = in_node(
        "const bytes = Uint8Array.from(Buffer.from(given.graph, 'base64'));"
        "try { Onnx.load(bytes); } catch (error) { return error.message; }",
        graph=base64.b64encode(graph).decode(),
    )
    assert said == "the operation Sin is not evaluated"


def graph_of(nodes, inputs, **constants):
    """A graph from ``inputs`` (shapes by name) to ``y``."""
    real = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        nodes,
        "made",
        [onnx.helper.make_tensor_value_info(name, real, shape) for name, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info("y", real, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


W = np.random.default_rng(5).normal(size=(4, 3, 3, 3)).astype(np.float32)
SINGLE = {
    "Add, broadcast both ways": (("Add", ["x", "c"], {}), (2, 1, 3), {"c": np.float32([[1.0], [2.0]])}),
    "Sub from a scalar": (("Sub", ["c", "x"], {}), (2, 3), {"c": np.float32(1.5)}),
    "Mul": (("Mul", ["x", "x"], {}), (2, 3), {}),
    "Div": (("Div", ["x", "c"], {}), (2, 3), {"c": np.float32([1.0, 2.0, -3.0])}),
    "DepthToSpace": (("DepthToSpace", ["x"], {"blocksize": 2, "mode": "CRD"}), (2, 12, 2, 3), {}),
    "Exp": (("Exp", ["x"], {}), (5,), {}),
    "Expand": (("Expand", ["x", "c"], {}), (2, 1, 3), {"c": np.int64([4, 1, 5, 1])}),
    "Tanh": (("Tanh", ["x"], {}), (5,), {}),
    "Relu": (("Relu", ["x"], {}), (5,), {}),
    "Sigmoid": (("Sigmoid", ["x"], {}), (5,), {}),
    "Identity": (("Identity", ["x"], {}), (2, 2), {}),
    "Clip with one end": (("Clip", ["x", "", "c"], {}), (7,), {"c": np.float32(0.2)}),
    "Gather, one place from the end": (("Gather", ["x", "c"], {"axis": 1}), (2, 3, 2), {"c": np.int64(-1)}),
    "Gather, places": (("Gather", ["x", "c"], {"axis": -1}), (2, 3), {"c": np.int64([[2, 0]])}),
    "Slice": (
        ("Slice", ["x", "a", "b", "c", "d"], {}),
        (4, 7),
        {"a": np.int64([-3, 1]), "b": np.int64([99, 6]), "c": np.int64([0, -1]), "d": np.int64([1, 2])},
    ),
    "Squeeze": (("Squeeze", ["x", "c"], {}), (1, 3, 1), {"c": np.int64([-1, 0])}),
    "Unsqueeze": (("Unsqueeze", ["x", "c"], {}), (2, 3), {"c": np.int64([0, -1])}),
    "ReduceMean": (("ReduceMean", ["x", "c"], {"keepdims": 0}), (2, 3, 4), {"c": np.int64([0, -1])}),
    "ReduceMean, kept": (("ReduceMean", ["x", "c"], {}), (2, 3, 4), {"c": np.int64([1])}),
    "Reshape": (("Reshape", ["x", "c"], {}), (2, 6), {"c": np.int64([3, -1])}),
    "Concat": (("Concat", ["x", "c", "x"], {"axis": 1}), (2, 3), {"c": np.float32([[1.0], [2.0]])}),
    "Gemm": (
        ("Gemm", ["x", "a", "b"], {"alpha": 0.5, "beta": 2.0}),
        (2, 3),
        {"a": W[0, 0].copy(), "b": np.float32([1.0, 2.0, 3.0])},
    ),
    "LayerNormalization": (("LayerNormalization", ["x", "a"], {"axis": -1}), (2, 3), {"a": np.float32([1, 2, 3])}),
    "Conv": (
        ("Conv", ["x", "w", "b"], {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        (2, 3, 6, 5),
        {"w": W, "b": W[:, 0, 0, 0].copy()},
    ),
    "Conv, an odd number of filters": (("Conv", ["x", "w"], {}), (1, 3, 5, 4), {"w": W[:3].copy()}),
    "ConvTranspose": (
        ("ConvTranspose", ["x", "w"], {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}),
        (2, 4, 3, 4),
        {"w": W},
    ),
}  # fmt: skip


@needs_node
@pytest.mark.parametrize("case", SINGLE)
def test_every_operation_is_that_of_the_runtime(case):
    (operation, names, attributes), shape, constants = SINGLE[case]
    graph = graph_of([onnx.helper.make_node(operation, names, ["y"], **attributes)], {"x": shape}, **constants)
    inputs = [{"x": np.random.default_rng(7).normal(size=shape).astype(np.float32)}]
    (found,), (wanted,) = evaluated(graph, inputs), by_runtime(graph, inputs)
    assert found["y"].shape == wanted["y"].shape
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-6)


@needs_node
@pytest.mark.parametrize("how", [{"num_outputs": 3}, {"lengths": [4, 1, 2]}])
def test_a_split_has_the_parts_of_the_runtime(how):
    lengths = how.pop("lengths", None)
    given = ["x", "lengths"] if lengths else ["x"]
    constants = {"lengths": np.int64(lengths)} if lengths else {}
    x = np.random.default_rng(7).normal(size=(2, 7, 2)).astype(np.float32)
    for part in range(3):
        names = ["y" if i == part else f"other{i}" for i in range(3)]
        graph = graph_of([onnx.helper.make_node("Split", given, names, axis=-2, **how)], {"x": x.shape}, **constants)
        (found,), (wanted,) = evaluated(graph, [{"x": x}]), by_runtime(graph, [{"x": x}])
        assert found["y"].shape == wanted["y"].shape
        np.testing.assert_allclose(found["y"], wanted["y"])


# ---------------------------------------------------------------- the true world


@needs_node
@pytest.mark.parametrize("own", [{}, {"door": 0.2, "wall": -0.1, "thickness": 0.1, "stride": 0.3}])
def test_the_rooms_of_the_page_are_those_of_the_package(own):
    world, rng = rooms(**own), np.random.default_rng(0)
    actions = rng.choice([-1.0, 0.0, 1.0, 0.3], (300, 20, 2))
    z = [world.sample_initial_state(rng, 20)]
    for a in actions:
        z.append(world.advance(z[-1], a, STEP))
    found = in_node(
        """
        const world = Worlds.two_rooms(given.parameters, given.step);
        const states = [given.start];
        for (const a of given.actions) states.push(states.at(-1).map((z, i) => world.advance(z, a[i])));
        return {states, seen: states.map((row) => row.map(world.observe))};
        """,
        parameters=world.parameters.model_dump(mode="json"),
        step=STEP,
        start=z[0].tolist(),
        actions=actions.tolist(),
    )
    truth = np.stack(z)
    asked = world.parameters.stride * actions
    inside = (np.abs(truth) < world.half - 1e-9).all(-1)[1:]
    stopped = np.abs(np.diff(truth, axis=0) - asked).max(-1) > 1e-9
    assert (stopped & inside).any()  # by the wall
    sides = np.sign(truth[..., 0] - world.parameters.wall)
    assert (sides.min(0) < sides.max(0)).any()  # through the door
    np.testing.assert_allclose(found["states"], truth, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["seen"], world.observe(truth), rtol=0, atol=1e-9)


@needs_node
@pytest.mark.parametrize("size", [64, 32])
def test_places_are_read_from_pictures_and_how_much_of_a_point_there_is(size):
    world, rng = rooms(), np.random.default_rng(0)
    places = world.sample_initial_state(rng, 40)
    frames = world.render(places, 64).reshape(-1, size, 64 // size, size, 64 // size, 3).mean((2, 4)) / 255
    still = world.render(places[:1] + 9.0, 64).reshape(1, size, 64 // size, size, 64 // size, 3).mean((2, 4)) / 255
    frames = np.concatenate([frames, 0.5 * (frames[:1] + still)])  # one that has half gone
    found = in_node(
        """
        const world = Worlds.two_rooms(given.parameters, given.step);
        const pictures = given.pictures.map((data) => ({ dims: given.dims, data }));
        return pictures.map((picture) => world.read(picture, pictures[0]));
        """,
        parameters=world.parameters.model_dump(mode="json"),
        step=STEP,
        dims=[1, 3, size, size],
        pictures=frames.transpose(0, 3, 1, 2).reshape(len(frames), -1).tolist(),
    )
    read, pixel = np.array(found), 2 * (world.half + world.parameters.thickness) / size
    apart = np.abs(read[:-1, :2] - places)
    assert apart.max() < 0.3 * pixel
    assert np.abs(read[:-1, 2] - 1).max() < 0.15
    assert 0.3 < read[-1, 2] < 0.6


@needs_node
@pytest.mark.parametrize("own", [{}, {"mass": 1.3, "length": 1.2, "gravity": 9.81, "friction": 0.1, "torque": 3.0}])
def test_the_true_world_of_the_page_is_that_of_the_package(own):
    kind = worlds.get("driven_pendulum")
    world, rng = kind(kind.Parameters(**own)), np.random.default_rng(0)
    actions = rng.uniform(-1.2, 1.2, (200, 8, 1))
    z = [world.sample_initial_state(rng, 8)]
    for a in actions:
        z.append(world.advance(z[-1], a, STEP))
    found = in_node(
        """
        const world = Worlds.driven_pendulum(given.parameters, given.step);
        const states = [given.start];
        for (const a of given.actions) states.push(states.at(-1).map((z, i) => world.advance(z, a[i])));
        const seen = states.map((row) => row.map(world.observe));
        return {states, seen, energy: seen.map((row) => row.map(world.quantities[0].of))};
        """,
        parameters=world.parameters.model_dump(mode="json"),
        step=STEP,
        start=z[0].tolist(),
        actions=actions.tolist(),
    )
    truth = np.stack(z)
    assert np.abs(truth[..., 1]).max() > 3  # it swings
    np.testing.assert_allclose(found["states"], truth, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["seen"], world.observe(truth), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found["energy"], world.energy(world.observe(truth)), rtol=0, atol=1e-9)


@needs_node
def test_every_world_that_is_offered_has_what_the_page_asks_for():
    for name in SIMULATED:
        parameters = worlds.get(name).Parameters().model_dump(mode="json")
        code = "return Object.keys(Worlds[given.name](given.parameters, 0.05)).sort()"
        found = in_node(code, name=name, parameters=parameters)
        read = ["read"] if name in READ else []
        assert found == sorted(["keys", "advance", "observe", *read, "quantities", "gap", "draw"])
