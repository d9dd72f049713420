"""The scripts of the page that is played, run in Node.js, and models for it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

from wm_pipelines.registry import families, worlds
from wm_pipelines.reporting.page import template_text
from wm_pipelines.spec import Space, Spec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js, which runs the scripts, is not here")
STEP, TOLERANCE = 0.05, 1e-5
STARTS = {"below": [np.pi, 0.0], "side": [np.pi / 2, 0.0]}


def in_node(code, **given):
    """What ``code`` returns, given the page's scripts and ``given``."""
    scripts = "\n".join(template_text(name) for name in ("play_onnx.js", "play_worlds.js"))
    body = f"{scripts}\nconst given = JSON.parse(require('fs').readFileSync(0, 'utf8'));\n"
    body += f"process.stdout.write(JSON.stringify((() => {{ {code} }})()));"
    done = subprocess.run(["node", "-e", body], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


RUN = """
const graph = Onnx.load(Uint8Array.from(Buffer.from(given.graph, "base64")));
return given.inputs.map((named) => {
  const read = Object.entries(named).map(([n, x]) => [n, {dims: x.dims, data: Float64Array.from(x.data)}]);
  const found = graph.run(Object.fromEntries(read));
  return Object.fromEntries(Object.entries(found).map(([n, x]) => [n, {dims: x.dims, data: Array.from(x.data)}]));
});
"""


def evaluated(graph, inputs):
    """Outputs of the page's evaluator, one mapping per mapping of inputs."""
    sent = [{n: {"dims": x.shape, "data": x.flatten().tolist()} for n, x in named.items()} for named in inputs]
    found = in_node(RUN, graph=base64.b64encode(graph).decode(), inputs=sent)
    return [{n: np.array(x["data"]).reshape(x["dims"]) for n, x in named.items()} for named in found]


def by_runtime(graph, inputs):
    """The same, of ONNX Runtime."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    single = [{n: x.astype(np.float32) for n, x in named.items()} for named in inputs]
    return [dict(zip(names, session.run(names, named), strict=True)) for named in single]


def untrained(view, size=1, family="latent_dynamics", side=16, **config):
    """A model whose every weight counts, as after training."""
    shown = Space("frames", (side, side, 3)) if view == "frames" else Space("vector", (3,))
    views = {view: shown, "actions": Space("vector", (size,), per="transition")}
    kind = families.get(family)
    family = kind(kind.Config(**config), Spec("rod", STEP, views, 21), (0, 1))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in family.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
        for name, buffer in family.named_buffers():
            if name.endswith(("scale", "running_var")):
                buffer.mul_(1.7)
    return family.eval()


def rooms(**own):
    kind = worlds.get("two_rooms")
    return kind(kind.Parameters(**own))
