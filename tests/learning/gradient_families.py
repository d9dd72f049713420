"""Every family that is trained by gradient, in every one of its ways, small; ``python -m`` trains and stores them."""

import os
import sys
from pathlib import Path

import torch

from tests.families.driven import PUSHED, pushed
from tests.families.fields import posed
from tests.families.images import IMAGES, blobs, spec_of, squares
from tests.families.mechanics import TWO_BODY, bodies_field, body_starts
from tests.families.scenes import SCENES, halves
from tests.families.test_flow_post_training import POLICY, thrown
from tests.families.test_latent_action import walks
from tests.specs import PENDULUM, pendulum, simulated, spec, without
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.learning.loop import train
from wm_pipelines.mappings import deep_merge
from wm_pipelines.registry import families
from wm_pipelines.spec import Space, Spec
from wm_pipelines.worlds.making import WorldConfig, build_world
from wm_pipelines.worlds.parts.driving import drive

VIDEO = spec_of(10, 16, 16, 1, name="video")
ACTED = {"actions": Space("vector", (1,), per="transition"), "rewards": Space("scalar", per="transition")}
LEARNING = LearningConfig(precision="64-true", progress=False, checkpoint_every=20, log_every=10)
STEPS = 50
BATCH = 11  # neither two nor three workers have as many examples each


def swings():
    return PENDULUM, pendulum(6, 12)


def rows_alone():
    return PENDULUM, without(pendulum(6, 12), "derivatives")


def second_order_rows():
    return spec(2, name="pendulum", second_order=True), rows_alone()[1]


def two_bodies():
    return TWO_BODY, simulated(bodies_field((1.0, 2.0), (0.0, 0.0)), body_starts((1.0, 2.0), 6), steps=12)


def two_bodies_rows():
    return TWO_BODY, without(two_bodies()[1], "derivatives")


def heat():
    return posed()[:2]


def heat_inverse():
    return posed(unknown={"alpha": [0.05, 3.0]}, measurements={"count": 40, "noise": 0.01})[:2]


def images():
    return IMAGES, {"frames": blobs(24)[0]}


def video():
    return VIDEO, {"frames": squares(24)}


def driven():
    world = build_world(WorldConfig(world="driven_pendulum"))
    made = drive(world, step=0.05, steps=12, episodes=12, seed=0)
    return made.spec, {name: torch.from_numpy(made[name]) for name in ("states", "actions", "rewards")}


def driven_frames():
    views = driven()[1]
    spec = Spec("driven", 0.1, {**VIDEO.views, **ACTED}, 10)
    return spec, {"frames": squares(12), **{name: views[name][:, :9] for name in ACTED}}


def pushes():
    return PUSHED, pushed(24, 12)


def ways():
    return spec_of(12, 16, 16, 1), {"frames": walks(12)[0]["frames"]}


def scenes():
    return SCENES, halves(24)


def balls():
    episodes = thrown()
    return episodes.spec, as_tensors(episodes, ["states"])


SMALL = {"hidden": (8, 8)}
PINN = {"hidden": (8,), "adaptive_points": 25, "refresh_every": 3, "balance_every": 2, "finish_steps": 4}
PINN |= {"finish_points": 60, "schedule": {"batch_size": 59}}
VIEWS = {"predict": "view", "stem": (4, 8), "width": 8, "depth": 1, "heads": 2, "projector": (16, 8)}
VIEWS |= {"augment": {"elastic": 1.0}}
BLOCKS = {"patch": 7, "width": 8, "depth": 1, "heads": 2, "predictor_width": 8}
MASKED = {"predict": "masked", "clip": 8, "patch": 8, "width": 8, "depth": 1, "heads": 2, "mask_block": (1, 1)}
MASKED |= {"predictor_width": 8, "predictor_depth": 1, "stem": (4, 8), "latent": 4}
ROLLOUT = {"predict": "rollout", "clip": 8, "widths": (4, 8), "latent": 4, "memory": 2, "hidden": 16, "rollout": 3}
CONDITIONED = {**ROLLOUT, "predict": "actions", "horizon": 2, "pieces": 2}
MAE = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "decoder_width": 8}
VIT = {"encoder": "vit", "patch": 4, "width": 8, "depth": 1, "heads": 2}
CNN = {"widths": (4, 8), "projector": (16, 8), "latent": 4}
STATES = {"context": 1, "horizon": 3, "widths": (16,), "latent": 4, "hidden": 16}
FRAMES = {"context": 3, "horizon": 2, "widths": (4, 8), "latent": 4, "hidden": 16}
LOCAL = {**FRAMES, "transition": "local", "maps": 2, "widths": (8, 8), "symmetries": ("rows", "time")}
SEQUENCE = {"window": 5, "width": 16, "depth": 2, "heads": 2, "noise": 0.1}
RSSM = {"window": 5, "widths": (8,), "features": 4, "deterministic": 8, "stochastic": 3, "hidden": 8, "crops": 2}
DREAMER = {**RSSM, "behaviour": True, "behaviour_from": 0.4, "horizon": 3, "starts": 2}
TRANSITION = {"rows": 4, "hidden": 8, "widths": (4, 8), "latent": 4, "noise": 0.1}
FLOW = {**TRANSITION, "dropout": 0.2}
DIVERGENCE = {"objective": "contrastive_divergence", "smallest": 0.3, "levels": 1, "langevin_steps": 3}
DREAMS = {"widths": (4, 8), "features": 8, "latent": 3, "hidden": 8, "piece": 5, "vae_rows": 4, "pieces": 2}
TRACKER = {"objects": 1, "extent": 8, "context": 3, "horizon": 2, "width": 8, "memory": 16, "tracked": 8}
TRACKER |= {"position_batch": 6, "on_positions": 0.5, "symmetries": ("rows", "columns", "transpose", "time")}
CODES = {"patch": 4, "maps": 3, "width": 6, "widths": (6, 8), "codes": 4, "code": 2, "horizon": 2, "dead": 0.9}
ASKED = {"stem": (4, 8), "features": 8, "projector": (16, 8), "width": 8, "depth": 1, "heads": 2, "words": 10}
ASKED |= {"vocabulary": 20, "asked": 2, "encoder_share": 0.4}
DOCUMENTS = {"width": 8, "depth": 1, "heads": 2, "vocabulary": 300, "longest": 12, "patch": 4, "channels": 8}
PAINTED = {"text_width": 8, "text_depth": 1, "heads": 2, "widths": (8, 8), "hidden": 8, "words": 6, "vocabulary": 12}
REWARDED = {"hidden": 12, "rows": 4, "reward": {}, "post_training": POLICY.model_dump()}

CASES = {
    "mlp": ("mlp", swings, SMALL),
    "mlp windows": ("mlp", rows_alone, {**SMALL, "window": 2}),
    "physics_informed known": ("physics_informed", swings, {**SMALL, "adapt_every": 2}),
    "physics_informed learned": ("physics_informed", swings, {**SMALL, "energy": "learned", "adapt_every": 2}),
    "physics_informed projected": ("physics_informed", swings, {**SMALL, "projected": True}),
    "physics_informed visited": ("physics_informed", swings, {**SMALL, "visited": 2, "adapt_every": 2}),
    "physics_informed rollout": ("physics_informed", swings, {**SMALL, "penalty": "rollout", "energy": "learned"}),
    "physics_informed windows": (
        "physics_informed",
        rows_alone,
        {**SMALL, "penalty": "rollout", "energy": "learned", "window": 2, "adapt_every": 2},
    ),
    "hnn gradient": ("hnn", swings, SMALL),
    "hnn pairs": ("hnn", rows_alone, {**SMALL, "method": "pairs", "order": 4}),
    "hnn pairs declared": ("hnn", rows_alone, {**SMALL, "method": "pairs", "structure": "declared"}),
    "momentum_gnn conservative": ("momentum_gnn", two_bodies, {**SMALL, "training": "gradient"}),
    "momentum_gnn dynamical": (
        "momentum_gnn",
        two_bodies_rows,
        {**SMALL, "training": "gradient", "form": "dynamical", "spin": True, "messages": 2},
    ),
    "momentum_gnn generic": ("momentum_gnn", two_bodies, {**SMALL, "training": "gradient", "inputs": "distance"}),
    "pinn": ("pinn", heat, PINN),
    "pinn inverse": ("pinn", heat_inverse, PINN),
    "latent_dynamics states": ("latent_dynamics", swings, {**STATES, "stochastic": True}),
    "mlp second order windows": ("mlp", second_order_rows, {**SMALL, "second_order": True, "angles": False}),
    "sequence": ("sequence", swings, SEQUENCE),
    "rssm states": ("rssm", swings, {**RSSM, "free_nats": 0.1}),
    "rssm behaviour": ("rssm", driven, DREAMER),
    "rssm behaviour alone": ("rssm", driven, {**DREAMER, "world_share": 0.5, "goes_on": 2}),
    "rssm frames": ("rssm", video, {**RSSM, "pool": 2, "widths": (4, 8)}),
    "sequence pushed": ("sequence", pushes, SEQUENCE),
    "energy_based": ("energy_based", pushes, TRANSITION),
    "energy_based video": ("energy_based", video, {**TRANSITION, "context": 2}),
    "energy_based divergence": ("energy_based", pushes, {**TRANSITION, **DIVERGENCE}),
    "mixture_density": ("mixture_density", pushes, {**TRANSITION, "components": 3}),
    "flow": ("flow", pushes, FLOW),
    "flow chunks": ("flow", swings, {**FLOW, "chunk": 3}),
    "flow video": ("flow", video, {**FLOW, "context": 2, "encoder_rows": 4}),
    "latent_dynamics vector": ("latent_dynamics", video, FRAMES),
    "latent_dynamics local": ("latent_dynamics", video, {**LOCAL, "stochastic": True}),
    "ijepa sigreg": ("ijepa", images, {**VIEWS, "anti_collapse": "sigreg"}),
    "ijepa vicreg": ("ijepa", images, {**VIEWS, "anti_collapse": "vicreg"}),
    "ijepa ema": ("ijepa", images, BLOCKS),
    "ijepa blocks sigreg": ("ijepa", images, {**BLOCKS, "anti_collapse": "sigreg", "schedule": {"accumulate": 2}}),
    "vjepa masked": ("vjepa", video, MASKED),
    "vjepa masked ema": ("vjepa", video, {**MASKED, "anti_collapse": "ema"}),
    "vjepa rollout": ("vjepa", video, ROLLOUT),
    "vjepa rollout ema": ("vjepa", video, {**ROLLOUT, "anti_collapse": "ema"}),
    "vjepa actions": ("vjepa", driven_frames, CONDITIONED),
    "mae images": ("mae", images, MAE),
    "mae video": ("mae", video, {**MAE, "context": 4, "clip": 8}),
    "contrastive images": ("contrastive", images, {**CNN, "pool": "mean"}),
    "contrastive video": ("contrastive", video, CNN),
    "contrastive vit": ("contrastive", video, CNN | VIT),
    "object_tracker": ("object_tracker", video, TRACKER),
    "vae_rnn states": ("vae_rnn", swings, {**DREAMS, "widths": (8,)}),
    "vae_rnn frames": ("vae_rnn", video, DREAMS),
    "flow post-training": (
        "flow",
        balls,
        {"hidden": 12, "rows": 4, "reward": {}, "post_training": POLICY.model_dump()},
    ),
    "latent_action": ("latent_action", ways, CODES),
    "transfusion": ("transfusion", scenes, DOCUMENTS),
    "transfusion balanced": ("transfusion", scenes, {**DOCUMENTS, "balance": "dynamic", "average": 0.9}),
    "transfusion latents": ("transfusion", scenes, {**DOCUMENTS, "latents": 2, "stem": "linear", "patch": 1}),
    "text_flow": ("text_flow", scenes, {**PAINTED, "dropout": 0.2, "word_dropout": 0.2}),
    "vljepa": ("vljepa", scenes, ASKED),
    "vljepa sigreg": ("vljepa", scenes, {**ASKED, "loss": "l2", "sigreg_text": 0.2, "encoder_rate": 0.5}),
    "token_vlm": ("token_vlm", scenes, ASKED),
    "dual_encoder": ("dual_encoder", scenes, ASKED),
}
"""Name -> family, what makes its spec and episodes, its settings."""


def trained(case, store=None):
    """A family after `STEPS` steps, in float64 to the end."""
    name, episodes, settings = CASES[case]
    kind, (spec, views) = families.get(name), episodes()
    few = {"steps": STEPS, "batch_size": BATCH, "warmup": 1, "gradient_clip": 1.0}
    family = kind(kind.Config(**deep_merge({"schedule": few}, settings)), spec, (0, 1))
    family.dtype = torch.float64
    run = train(family, views, LEARNING, store, case, "data")
    return family.state_dict(), run.curve


def main(folder, *cases):
    """Train each case; every worker stores its tensors and its learning curve."""
    for case in cases or CASES:
        torch.save(trained(case, CheckpointStore(folder)), Path(folder) / f"{case}.{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
