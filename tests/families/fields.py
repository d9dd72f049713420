"""Field worlds as families are handed them."""

import copy
import json

import torch

from wm_pipelines.blocks.field_solution import only_episode
from wm_pipelines.learning.artifacts import TrainedModel
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.registry import worlds

POINTS = {"interior": 400, "boundary": 60, "initial": 60, "validation": 200}


def episodes_of(kind="heat_1d", seed=0, **parameters):
    """Episodes by split of a world."""
    world = worlds.get(kind).restored({"parameters": {"points": POINTS, **parameters}}, kind)
    return world.own_episodes(seed)


def posed(kind="heat_1d", seed=0, **parameters):
    """Spec and training views of a world as a family gets them, and all views of its only episode."""
    episodes = episodes_of(kind, seed, **parameters)
    train, test = as_tensors(episodes["train"]), as_tensors(episodes["test"])
    return episodes["train"].spec, train, only_episode(train) | {name: view[0] for name, view in test.items()}


def error(family, views):
    """Relative L2 of every field over the grid, ``[S, F]``."""
    fields = family.predict({"points": views["grid"]})["fields"]
    return ((fields - views["reference"]).norm(dim=1) / views["reference"].norm(dim=0)).numpy()


def restored(family):
    """The family rebuilt from its card and weights, as from the disk."""
    card = {
        "family": family.name,
        "config": family.config.model_dump(mode="json"),
        "spec": family.spec.to_json(),
        "seeds": list(family.seeds),
    }
    return TrainedModel(copy.deepcopy(family.state_dict()), json.loads(json.dumps(card))).restore()


def by_autograd(f, x, order):
    """One derivative of a pointwise function, one backward pass per order."""
    x = x.detach().requires_grad_()
    value = f(x)
    for axis, times in enumerate(order):
        for _ in range(times):
            value = torch.autograd.grad(value.sum(), x, create_graph=True)[0][..., axis]
    return value.detach()
