"""A learned world as an ONNX file: one imagined step, for whatever evaluates such graphs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import torch

from wm_pipelines.errors import UserError
from wm_pipelines.families.base import DiscoversActions, Family, StepsAlone

INPUTS = ("belief", "action")
OUTPUTS = ("next_belief", "observation")
OPERATIONS = (
    "Add", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div", "Exp", "Expand", "Gather", "Gemm",
    "Identity", "LayerNormalization", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Split",
    "Squeeze", "Sub", "Tanh", "Unsqueeze",
)  # fmt: skip
"""Of ONNX, those that a graph may hold: what the page evaluates (``reporting/templates/play_onnx.js``)."""


def first_belief(family: Family, observation: Any, seed: int = 0) -> torch.Tensor:
    """The belief ``[N, …]`` after a first observation of the family's view, ``[N, …]``, float32: what a graph takes.

    Raises:
        UserError: see `step_to_onnx`.
    """
    model = _steerable(family)
    view = family.shown(family.spec)[0]
    return model.start({view: torch.as_tensor(observation)}, seed).float()


def step_to_onnx(family: Family, seed: int = 0) -> bytes:
    """One imagined step of one model, float32: ``belief, action [1, A] -> next_belief, observation``, each ``[1, …]``.

    Of a family that discovers actions A are its codes, one of them 1, or none.

    The same model gives the same bytes: what the exporter notes of the machine is left out.

    Args:
        family: a trained family whose step stands alone (`StepsAlone`). seed: index of the model among its seeds.

    Raises:
        UserError: the family has no such step, the world takes no actions, the package onnxscript is missing, or the
            graph holds other operations than `OPERATIONS`.
    """
    model = _steerable(family)
    view = family.shown(family.spec)[0]
    space = family.spec.views[view]
    seen = torch.zeros(1, *space.shape, dtype=torch.uint8 if space.kind == "frames" else torch.float64)
    belief = first_belief(family, seen, seed).contiguous()
    action = torch.zeros(1, actions_of(family))
    try:
        graph = _exported(model.step_network(seed), (belief, action))
    except ImportError as missing:
        raise UserError(
            f"writing ONNX needs the package {missing.name}: pip install 'wm_pipelines[play]', or take make setup's "
            "environment"
        ) from None
    if unknown := sorted({node.op_type for node in graph.graph.node} - set(OPERATIONS)):
        raise UserError(f"a step of {family.name} holds {', '.join(unknown)}, which the page does not evaluate")
    return bytes(graph.SerializeToString(deterministic=True))


def actions_of(family: Family) -> int:
    """Entries of what a family is steered by: of the world's actions, or codes that it has discovered."""
    return family.codes if isinstance(family, DiscoversActions) else int(family.spec.views["actions"].shape[0])


def _steerable(family: Family) -> Any:
    if not isinstance(family, StepsAlone):
        raise UserError(f"family '{family.name}' has no step that stands alone; choose latent_dynamics or rssm")
    if "actions" not in family.spec.views and not isinstance(family, DiscoversActions):
        raise UserError(f"world '{family.spec.name}' takes no actions; nothing can be steered there")
    return family


def _exported(network: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """The graph, without what the exporter notes of sources and versions."""
    import onnxscript  # noqa: F401 — torch asks for it late, and less clearly

    quiet, before = logging.getLogger("torch.onnx"), logging.getLogger("torch.onnx").level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, example, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False
            )
    finally:
        quiet.setLevel(before)
    assert program is not None
    graph: Any = program.model_proto
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.input, *graph.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.graph.value_info[:]
    graph.producer_version = ""
    return graph
