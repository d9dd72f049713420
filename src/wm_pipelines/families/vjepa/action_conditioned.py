"""V-JEPA 2-AC (Assran et al. 2025, *V-JEPA 2*, section 3): a predictor under actions on a frozen encoder.

An encoder is trained on frames alone; then it is frozen, and a predictor learns which latents follow which actions, by
teacher forcing and by its own roll-outs (eqs. 2 to 4). Plans are sampled (section 3.2) towards the features of a frame.

Where this is not the paper's:

- The encoder is convolutional, has one vector per frame and no tokens, and is trained on the world's own frames in the
  first share of training, by roll-outs and SIGReg (`roll_out`) instead of hidden tubelets of a million hours of video.
- The predictor is a perceptron of the last few latents and the action, not a transformer with block-causal attention;
  it sees no proprioception, which worlds of frames do not show.
- Errors of a roll-out are averaged over its steps from the second on, of which the paper has one; in the base
  configuration roll-outs are longer and errors squared, where the paper's are absolute.
- Where the world rewards, rewards are read from the latents, and plans are worth what they add up to. The paper has
  goals alone, and their distance is the L1 of the last latent; here all families share one planner and one distance.

As in the paper, a decoder shows what is imagined: it is trained on frozen latents, and its gradient goes no further.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from wm_pipelines.blocks.encoders import FrameDecoder
from wm_pipelines.blocks.latent_transition import LatentTransition, differences, perceptron
from wm_pipelines.families.base import Imagined
from wm_pipelines.families.vjepa.config import ERRORS, VJEPAConfig
from wm_pipelines.families.vjepa.roll_out import RollOut
from wm_pipelines.spec import Space


class ActionConditioned(nn.Module):
    """The frozen encoder (of ``jepa``), predictor ``P``, rewards and decoder of one seed, for ``predict: actions``.

    Shapes: ``N`` rows, ``M`` latents that P sees (``memory``), ``H`` steps, ``D`` features, ``A`` entries of an action.
    Frames ``x [N, C, H, W]`` are centred and in units.

    Args:
        config: sizes. space: of the frames that networks see. action: ``A``. rewarded: whether there are rewards.
    """

    reward_units: Tensor

    def __init__(self, config: VJEPAConfig, space: Space, action: int, rewarded: bool) -> None:
        super().__init__()
        self.memory, self.error = config.memory, ERRORS[config.error]
        self.jepa = RollOut(config, space.shape)
        self.predictor = LatentTransition(config.latent, config.memory, config.hidden, config.layers, action)
        self.reward = perceptron(config.memory * config.latent + action, config.hidden) if rewarded else None
        self.decoder = FrameDecoder(space.shape, config.widths, config.latent)
        self.register_buffer("reward_units", torch.tensor([0.0, 1.0]))

    @torch.no_grad()
    def learn_rewards(self, rewards: Tensor) -> None:
        """Mean and spread of training rewards ``[E, T]``."""
        spread = rewards.std()
        self.reward_units.copy_(torch.stack([rewards.mean(), torch.where(spread > 0, spread, 1.0)]))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """``z = E(x)``, ``[N, D]``: without gradients, no loss under actions reaches E."""
        return self.jepa.encoder(x)

    def prediction_loss(self, z: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Teacher forcing and roll-out over pieces ``z [N, M + H, D]``, ``actions [N, M + H - 1, A]``.

        ``mean_k |P(z_<=k, a_k) - z_{k+1}|``, and the same where P has only its own predictions of what follows the
        first M latents.
        """
        steps, taken, target = z.shape[1] - self.memory, actions[:, self.memory - 1 :], z[:, self.memory :]
        windows = z.unfold(1, self.memory, 1)[:, :steps].transpose(2, 3)  # [N, H, M, D]
        forced = self.predictor.roll_out(windows, 1, taken[:, :, None])[:, :, 0]
        terms = {"teacher_forcing": self.error(forced, target)}
        if steps > 1:
            rolled = self.predictor.roll_out(z[:, : self.memory], steps, taken)
            terms["rollout"] = self.error(rolled[:, 1:], target[:, 1:])
        return terms

    def reward_loss(self, z: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """Squared error of rewards ``[N, M + H - 1]`` in units of their spread, read from the latents of a piece."""
        first = self.memory - 1
        wanted = (rewards[:, first:] - self.reward_units[0]) / self.reward_units[1]
        return mse_loss(self._standard_rewards(z[:, : self.memory], z[:, self.memory :], actions[:, first:]), wanted)

    def imagine(self, belief: Tensor, actions: Tensor) -> Imagined:
        """What follows the last latents ``[N, M, D]`` under actions ``[N, H, A]``."""
        future = self.predictor.roll_out(belief, actions.shape[1], actions)
        if self.reward is None:
            return Imagined(future)
        rewards = self._standard_rewards(belief, future, actions)
        return Imagined(future, self.reward_units[0] + self.reward_units[1] * rewards)

    def _standard_rewards(self, past: Tensor, future: Tensor, actions: Tensor) -> Tensor:
        """Rewards ``[N, H]`` of actions ``[N, H, A]``, each taken in the M latents before it."""
        assert self.reward is not None
        latents, steps = torch.cat([past, future], 1), actions.shape[1]
        window = [latents[:, k : k + steps] for k in range(self.memory)]
        return self.reward(torch.cat([*differences(window), actions], -1)).squeeze(-1)
