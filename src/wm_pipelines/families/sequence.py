"""A causal transformer over states, ``x_{t+1} = x_t + g_theta(x_{t-W+1}, …, x_t)``: good predictions by a wrong law?

Where there are actions the token of a state also holds the action taken in it, and where there are rewards a second
head gives what it earned: ``x_{t+1}, r_t`` from ``x_{t-W+1}, a_{t-W+1}, …, x_t, a_t``.

Trained on the next state alone (teacher forcing), as language models are on the next token; rolled out on its own
predictions, from a context that grows from the start to W states and then slides. It is told nothing, not even that
motion has a law: what it has found out is asked by the yardsticks (Vafa, Chang, Rambachan, Mullainathan, *What has a
foundation model found?* ICML 2025: a transformer that predicts orbits and has not found Newton's law).

States are standardised entry by entry, and so are their changes. ``noise`` disturbs what the network sees in training,
in units of the changes' spread, and the change to be predicted with it: a roll-out that strays is led back (as in
Sanchez-Gonzalez et al., *Learning to simulate complex physics with graph networks*, ICML 2020).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.transformer import Trunk
from wm_pipelines.blocks.vector_field import entry_spread
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.imagining import ImaginingFamily
from wm_pipelines.spec import Spec


class SequenceConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_sequence.yml``."""

    schedule: Schedule = Schedule(
        steps=200, batch_size=20, learning_rate=3e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    window: int = Field(8, ge=1, description="W, states that a prediction looks back on at most")
    width: int = Field(48, ge=2, description="features of a token")
    depth: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="of attention")
    noise: float = Field(0.0, ge=0, description="on the states seen in training, in units of the changes' spread")


class StateTransformer(nn.Module):
    """The network of one seed: windows of states ``[B, T <= W, n]`` -> the change that follows each of them.

    Args:
        size: ``n``. config: see `SequenceConfig`. action_size: ``A``, 0 for none. rewarded: whether there are rewards.
    """

    mean: Tensor
    scale: Tensor
    change_mean: Tensor
    change_scale: Tensor
    reward_mean: Tensor
    reward_scale: Tensor

    def __init__(self, size: int, config: SequenceConfig, action_size: int = 0, rewarded: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(size, config.width)
        self.trunk = Trunk((config.window, 1, 1), config.width, config.depth, config.heads, causal=True)
        self.change = nn.Linear(config.width, size)
        nn.init.zeros_(self.change.weight)  # at first everything moves on by its mean change
        nn.init.zeros_(self.change.bias)
        for name, value in (("mean", 0.0), ("scale", 1.0), ("change_mean", 0.0), ("change_scale", 1.0)):
            self.register_buffer(name, torch.full((size,), value))
        self.embed_action = nn.Linear(action_size, config.width, bias=False) if action_size else None
        self.reward = nn.Linear(config.width, 1) if rewarded else None
        if rewarded:
            self.register_buffer("reward_mean", torch.zeros(1))
            self.register_buffer("reward_scale", torch.ones(1))

    @torch.no_grad()
    def learn_units(self, states: Tensor, rewards: Tensor | None = None) -> None:
        """Mean and spread of states ``[E, T, n]``, of their changes, of rewards; 1 where nothing changes."""
        units = [(states, self.mean, self.scale), (states.diff(dim=1), self.change_mean, self.change_scale)]
        if rewards is not None:
            units.append((rewards[..., None], self.reward_mean, self.reward_scale))
        for values, mean, scale in units:
            mean.copy_(values.flatten(0, 1).mean(0))
            scale.copy_(entry_spread(values))

    def standardised(self, x: Tensor) -> Tensor:
        """States in units of their spread."""
        return (x - self.mean) / self.scale

    def features(self, x: Tensor, actions: Tensor | None = None, last: int | None = None) -> Tensor:
        """What the last block says of each state, ``[B, T, D]``; with ``last``, of the last so many alone.

        Args:
            x: states ``[B, T, n]``. actions: taken in them, ``[B, T, A]``; None: none, or unknown.
        """
        tokens, indices = self.embed(self.standardised(x)), torch.arange(x.shape[1], device=x.device)
        if self.embed_action is not None and actions is not None:
            tokens = tokens + self.embed_action(actions)
        return self.trunk(self.trunk.place(tokens, indices), indices, last)

    def forward(self, x: Tensor, actions: Tensor | None = None, last: int | None = None) -> Tensor:
        """Change from every state to the next, in units of their spread: ``[B, T, n]``."""
        return self.change(self.features(x, actions, last))

    def roll_out(self, past: Tensor, actions: Tensor, window: int) -> Imagined:
        """The next states, each from the last ``window`` ones, and rewards.

        Args:
            past: ``[B, C, n]``, C <= window. actions: of the past, but for its last state, and of H steps to come,
                ``[B, C - 1 + H, A]``. window: W.
        """
        states, rewards = list(past.unbind(1)), []
        for end in range(past.shape[1], actions.shape[1] + 1):
            first = max(0, end - window)
            seen = self.features(torch.stack(states[first:], 1), actions[:, first:end], last=1)[:, 0]
            states.append(states[-1] + self.change_mean + self.change_scale * self.change(seen))
            if self.reward is not None:
                rewards.append((self.reward_mean + self.reward_scale * self.reward(seen))[:, 0])
        return Imagined(torch.stack(states[past.shape[1] :], 1), torch.stack(rewards, 1) if rewards else None)


@register
class Sequence(ImaginingFamily):
    """Next-state prediction by a causal transformer.

    Its belief is a window ``[N, W, n + A + 1]`` of the last states, the actions taken in them, and 1 where there is a
    state; it fills from the front, and what stands behind is not read.
    """

    name: ClassVar[str] = "sequence"
    Config: ClassVar[type[FamilyConfig]] = SequenceConfig
    needs: ClassVar[tuple[str, ...]] = ("states",)
    config: SequenceConfig

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """A single state is no sequence."""
        return super().unsuitable(spec, config) or (None if spec.rows > 1 else "needs episodes of two states or more")

    def make_member(self) -> nn.Module:
        """The transformer of one seed."""
        return StateTransformer(self.space.shape[0], self.config, self.action_size, self.rewarded)

    @property
    def context(self) -> int:
        """One state is enough; more are looked back on, up to the window."""
        return 1

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; their units are learned."""
        examples = super().examples(episodes)
        self.learn_exponents(examples[self.view])
        for member in self.members:
            assert isinstance(member, StateTransformer)
            member.learn_units(self._in_units(examples[self.view]), examples.get("rewards"))
        return examples

    def _in_units(self, states: Tensor) -> Tensor:
        """States in coarse units that float32 can hold, of the type they had."""
        return (states / self.unit.to(states.device)).to(states.dtype)

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the next change, in units of its spread, at every state of a random window of an episode.

        The first state of a window has nothing to look back on: short contexts are learned along with long ones.
        """
        rows = self._windows(batch[self.view], generator)
        x = _taken(self._in_units(batch[self.view]), rows)
        seen = x[:, :-1]
        if self.config.noise:
            shape = (workers.everyone(len(seen)), *seen.shape[1:])
            draw = workers.mine(torch.randn(shape, generator=generator)).to(seen)
            seen = seen + self.config.noise * member.change_scale * draw
        change = (x[:, 1:] - seen - member.change_mean) / member.change_scale
        seen, change = (v.to(member.embed.weight.dtype) for v in (seen, change))
        actions = _taken(batch["actions"], rows[:, :-1]).to(seen) if self.action_size else None
        features = member.features(seen, actions)
        loss = (member.change(features) - change).square().mean()
        terms = {"prediction": loss}
        if self.rewarded:
            rewards = (_taken(batch["rewards"], rows[:, :-1]) - member.reward_mean) / member.reward_scale
            terms["reward"] = (member.reward(features)[..., 0] - rewards.to(seen)).square().mean()
            loss = loss + terms["reward"]
        return loss, terms

    def _windows(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of every episode ``[B, T, n]`` that are seen: ``W + 1`` from a start of its own, ``[B, W + 1]``."""
        length = min(self.config.window + 1, states.shape[1])
        count, starts = len(states), states.shape[1] - length + 1
        first = workers.mine(torch.randint(starts, (workers.everyone(count),), generator=generator))
        return (first[:, None] + torch.arange(length)).to(states.device)

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Features of every state; the context begins anew every ``window`` states, as in training."""
        x = self.inputs(views)
        rows, window = x.shape[1], self.config.window
        pieces = pad(x, (0, 0, 0, -rows % window)).unflatten(1, (-1, window))
        return member.features(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2]).flatten(1, 2)[:, :rows], None

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """States, the start in front, each from the last ``window`` observed or predicted ones; rewards."""
        rows = past[self.view].shape[1]
        known = self.inputs(past)[:, -self.config.window :]
        dtype = known.dtype
        before = past["actions"][:, : rows - 1] if "actions" in past else self.no_actions(known, len(known), rows - 1)
        before = before[:, rows - known.shape[1] :].to(dtype)
        ahead = self.no_actions(known, len(known), steps) if actions is None else actions.to(dtype)
        found = member.roll_out(known, torch.cat([before, ahead], 1), self.config.window)
        future = self.outputs(found.features).to(past[self.view].dtype)
        rewards = {} if found.rewards is None else {"rewards": found.rewards}
        return {"states": torch.cat([past[self.view][:, -1:], future], 1), **rewards}

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """A window with one state."""
        del member
        belief = x.new_zeros(len(x), self.config.window, x.shape[1] + self.action_size + 1)
        belief[:, 0] = self._entry(x)
        return belief

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """The action stands beside the state it was taken in; the next state behind it, once full in the last place."""
        del member
        belief, count, rows = belief.clone(), _count(belief), torch.arange(len(belief), device=belief.device)
        belief[rows, count - 1, x.shape[1] : -1] = action.to(belief)
        full = count == self.config.window
        belief[full] = belief[full].roll(-1, 1)
        belief[rows, count - full.long()] = self._entry(x)
        return belief

    def _entry(self, x: Tensor) -> Tensor:
        """What a window holds of a state in which nothing has been done yet: ``[N, n] -> [N, n + A + 1]``."""
        return torch.cat([x, self.no_actions(x, len(x)), x.new_ones(len(x), 1)], 1)

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Standardised states and rewards; windows that hold equally many states are rolled out together."""
        size, count = self.space.shape[0], _count(belief)
        features = belief.new_zeros(*actions.shape[:2], size)
        rewards = belief.new_zeros(actions.shape[:2])
        for known in count.unique().tolist():
            rows = count == known
            past, before = belief[rows, :known, :size], belief[rows, : known - 1, size:-1]
            found = member.roll_out(past, torch.cat([before, actions[rows].to(belief)], 1), self.config.window)
            features[rows] = member.standardised(found.features)
            if found.rewards is not None:
                rewards[rows] = found.rewards
        return Imagined(features, rewards if self.rewarded else None)

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """Standardised states."""
        return member.standardised(x)

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """States of standardised ones."""
        return member.mean + member.scale * features


def _count(belief: Tensor) -> Tensor:
    """How many states windows ``[N, W, ·]`` hold: ``[N]``."""
    return belief[..., -1].sum(1).round().long()


def _taken(view: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[B, K]`` of a view ``[B, T, …]``."""
    return view[torch.arange(len(view), device=view.device)[:, None], rows]
