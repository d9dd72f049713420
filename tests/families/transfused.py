"""Small networks of `transfusion`, and documents for them."""

import torch

from tests.families.scenes import SCENES, halves
from tests.specs import LEARNING
from wm_pipelines.families.transfusion import Transfusion, TransfusionConfig
from wm_pipelines.families.transfusion.layout import Image
from wm_pipelines.families.transfusion.network import Network, Size
from wm_pipelines.families.transfusion.vocabulary import SPECIAL
from wm_pipelines.learning.loop import train

SMALL = {"width": 16, "depth": 2, "heads": 2, "vocabulary": 300, "longest": 12, "patch": 4, "channels": 8}
FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})
SHAPE, PATCHES = (3, 8, 8), 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(kind="linear", causal=False, images=3, seed=0):
    """A network away from where it starts: every weight counts."""
    torch.manual_seed(seed)
    made = Network(Size(300, 40, images, SHAPE, 4, 16, 2, 2, kind, 8), causal).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator(seed)))
    return made


def text(rng, count):
    return rng.integers(SPECIAL, 300, count).tolist()


def document(rng, pieces):
    """A random order of texts and images."""
    return [Image(PATCHES) if kind else text(rng, int(rng.integers(1, 5))) for kind in rng.permutation(pieces)]


def images_of(count, seed=0):
    return torch.randn(1, count, *SHAPE, generator=generator(seed))


def built(seeds=(0,), **changes):
    schedule = {"steps": 12, "batch_size": 8, "warmup": 2}
    return Transfusion(TransfusionConfig(**{"schedule": schedule, **SMALL, **changes}), SCENES, seeds)


def trained(seeds=(0,), **changes):
    family = built(seeds, **changes)
    train(family, halves(24), FLOAT32)
    return family.eval()
