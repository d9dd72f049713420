"""Judge a model of videos by the physics that can be read from its features and from the futures it predicts.

Axes: ``S`` seeds, ``E`` episodes, ``I`` latent steps, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wm_pipelines.episodes import Episodes
from wm_pipelines.families.base import DiscoversActions, Family
from wm_pipelines.laws import Laws
from wm_pipelines.metrics.explained import explained_by_episode, explained_variance
from wm_pipelines.metrics.probed import LAWS, along, natural_scale
from wm_pipelines.metrics.probes import knn_probe, linear_probe
from wm_pipelines.tasks._pixels.features import (
    Float,
    Labels,
    add_spread,
    calibrate,
    encode,
    encoder,
    has_learned,
    labels_of,
    repeated_frames,
)
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.videos.codes import add_codes
from wm_pipelines.tasks.videos.generation import add_samples
from wm_pipelines.tasks.videos.physics import add_futures
from wm_pipelines.tasks.videos.prediction import add_frames, predict
from wm_pipelines.tasks.videos.probing import Observables, PhysicsProbe
from wm_pipelines.tasks.videos.surprise import add_surprise

if TYPE_CHECKING:
    from wm_pipelines.tasks.videos import VideosConfig

_VARIES = 1e-9  # of its natural scale: what varies less is the same in all episodes, and explains nothing


def judge(
    family: Family, episodes: Mapping[str, Episodes], split: str, laws: Laws, config: VideosConfig, trained: bool
) -> Judgement:
    """Everything that can be said of one model.

    Args:
        family: restored. trained: else only its features are judged, not its predictions.
        episodes: ``train``, the split to be judged, and ``impossible_…`` where there are any. laws: of the world.
        config: windows, steps, numbers of episodes.

    Raises:
        UserError: the family has no features, or the episodes are too short for what is asked.
    """
    model, test = encoder(family), episodes[split]
    some = episodes["train"].first(config.probe_episodes)
    judged = Judgement(family.seeds, split)
    learning = has_learned(family)
    # Features that training does not change are those of raw pixels: what is read of them was not learned.
    representation = model.learned_features or not learning
    if not trained:
        if not representation:
            return judged
        calibrate(family, some)
    learned, _ = encode(model, some["frames"])
    held_out, _ = encode(model, test["frames"])
    if representation:
        frames = test["frames"].reshape(-1, *test["frames"].shape[2:]) if trained and learning else None
        add_spread(judged, held_out.reshape(len(held_out), -1, held_out.shape[-1]), frames)
        if (labels := labels_of({**episodes, "train": some}, split)) is not None:
            _add_labels(judged, learned, labels[0], held_out, labels[1], config.knn)
    probe = None
    if test.spec.dof:
        probe = PhysicsProbe(Observables.of(test.spec), config.window, model.frames_per_latent, learned, some["states"])
        judged.arrays["window"] = np.array([config.window * test.spec.step, config.window])
        if representation:
            _add_read(judged, probe, held_out, test["states"], laws)
    if not trained or not model.context:
        return judged
    futures = predict(model, test, config)
    if futures.latents is not None and probe is not None:
        floor = predict(model, some, config, only_context=True)
        add_futures(judged, probe, futures, floor, laws, config)
    if futures.frames is not None:
        add_frames(judged, futures, config)
        if config.samples:
            add_samples(judged, model, futures, some, test, config)
    if isinstance(model, DiscoversActions):
        add_codes(judged, model, some, test, laws, config)
    add_surprise(judged, model, episodes, split, learned)
    judged.arrays["repeated"] = np.array(repeated_frames(episodes["train"]["frames"], test["frames"]))
    return judged


def _add_labels(judged: Judgement, learned: Float, labels: Labels, held_out: Float, true: Labels, knn: int) -> None:
    """Classes of whole videos, from features averaged over time."""
    if len(np.unique(labels)) < 2:
        return
    pairs = list(zip(learned.mean(2), held_out.mean(2), strict=True))
    judged.add("linear_probe", np.stack([linear_probe(x, labels, y, true) for x, y in pairs]), "1")
    judged.add("knn_probe", np.stack([knn_probe(x, labels, y, true, knn) for x, y in pairs]), "1")


def _add_read(judged: Judgement, probe: PhysicsProbe, latents: Float, states: Float, laws: Laws) -> None:
    """How much of positions and velocities the features hold, and of energy and momenta that follow from them."""
    at = probe.latent_steps(states)[:, probe.window - 1 :]
    where, how_fast = probe.read(latents)
    for name, found, target in (
        ("r2_position_probed", where, probe.observables.position(at)),
        ("r2_velocity_probed", how_fast, probe.observables.velocity(at)),
    ):
        by_episode = np.stack([explained_by_episode(f, target) for f in found])
        judged.add(name, [explained_variance(f, target) for f in found], "1", by_episode=by_episode)
    read = probe.observables.states(where, how_fast)
    for law in LAWS:
        if (formula := getattr(laws, law)) is None:
            continue
        true = along(law, formula, at)
        if true.std((0, 1)).max() > _VARIES * natural_scale(law, formula, at):
            quantities = [along(law, formula, z) for z in read]
            judged.add(f"r2_{law}_probed", [explained_variance(f, true) for f in quantities], "1")
