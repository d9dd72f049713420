"""Judging sampled futures of videos beside the floors, and predictions under actions."""

import numpy as np
import pytest
import torch

from tests.tasks.watching import STEP, Reader, Stubborn, judged, value
from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Spec


class Sampler(Stubborn):
    """Draws futures that go straight on, each from a start off by noise; predicts that nothing moves."""

    def start(self, observation, seed):
        return observation["frames"][:, 0, :2, 0].float()[:, None].repeat(1, 3, 1)

    def update(self, belief, action, observation, seed):
        return torch.cat([belief[:, 1:], observation["frames"][:, 0, :2, 0].float()[:, None]], 1)

    def imagine(self, belief, actions, seed):
        raise TypeError

    def features(self, observation, seed):
        raise TypeError

    def sample(self, belief, actions, count, seed, generator):
        v = (belief[:, -1] - belief[:, 0]) / 2
        path = torch.stack([belief[:, -1] + k * v for k in range(1, actions.shape[1] + 1)], 1)
        return path + torch.randn(count, *path.shape, generator=generator)

    def decode(self, features, seed):
        frames = torch.zeros(*features.shape[:2], 12, 12, 1)
        frames[:, :, 0, :2, 0] = (features / 255).clamp(0, 1)
        return frames


def test_samples_stand_beside_the_floors_and_the_truth():
    found, still = judged(Sampler), judged(Stubborn)
    for judgement in (found, still):
        assert abs(value(judgement, "sample_frechet_of_truth")) < value(judgement, "sample_frechet_of_mean_frame")
    for floor in ("persistence", "mean_frame"):
        gain = value(found, f"sample_ssim_above_{floor}")
        assert gain == pytest.approx(value(found, "sample_ssim") - value(found, f"sample_ssim_of_{floor}"))
        below = value(found, f"sample_frechet_below_{floor}")
        assert below == pytest.approx(value(found, f"sample_frechet_of_{floor}") - value(found, "sample_frechet"))
        assert gain > 0
    assert value(found, "sample_ssim_best") > value(found, "sample_ssim")
    # Whoever predicts that nothing moves, and draws nothing, is the floor.
    assert value(still, "sample_ssim_above_persistence") == pytest.approx(0, abs=1e-6)
    assert value(still, "sample_frechet_below_persistence") == pytest.approx(0, abs=1e-3)
    assert value(found, "sample_ssim") > value(still, "sample_ssim")
    assert {row["n"] for row in found.rows if row["metric"].startswith("sample_")} == {20}
    assert not [row for row in judged(Sampler, settings={"samples": 0}).rows if row["metric"].startswith("sample_")]


def test_predictions_are_made_under_the_actions_that_were_taken():
    """The k-th action stands between rows k and k + 1; families that take none are not told any."""

    def driven(seed):
        rng = np.random.default_rng(seed)
        actions = rng.integers(-2, 3, (20, 29, 2)).astype(float)
        q = 90 + np.concatenate([np.zeros((20, 1, 2)), actions.cumsum(1)], 1)
        frames = np.zeros((20, 30, 12, 12, 1), np.uint8)
        frames[:, :, 0, :2, 0] = np.rint(q)
        views = {"frames": frames, "actions": actions}
        return Episodes(Spec("dot", STEP, spaces_of(views), 30), views)

    class Driven(Reader):
        uses = ("actions",)

        def member_predict(self, member, past, steps, actions):
            q = past["frames"][:, :, 0, :2, 0].float()
            torch.testing.assert_close(q[:, 1:] - q[:, :-1], past["actions"].float())
            latents = q[:, -1:] + actions.float().cumsum(1)
            frames = torch.zeros(len(q), steps, 12, 12, 1)
            frames[:, :, 0, :2, 0] = latents / 255
            return {"frames": frames, "latents": latents}

    class Undriven(Reader):
        def member_predict(self, member, past, steps, actions):
            assert actions is None
            assert set(past) == {"frames"}
            return super().member_predict(member, past, steps, actions)

    data = {"train": driven(0), "test": driven(1)}
    assert value(judged(Driven, laws=Laws(), **data), "mse") < 1e-10
    assert value(judged(Undriven, laws=Laws(), **data), "mse") > 1e-6
