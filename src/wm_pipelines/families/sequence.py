"""A causal transformer over states, ``x_{t+1} = x_t + g_theta(x_{t-W+1}, …, x_t)``: good predictions by a wrong law?

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
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
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
        size: ``n``. config: see `SequenceConfig`.
    """

    mean: Tensor
    scale: Tensor
    change_mean: Tensor
    change_scale: Tensor

    def __init__(self, size: int, config: SequenceConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(size, config.width)
        self.trunk = Trunk((config.window, 1, 1), config.width, config.depth, config.heads, causal=True)
        self.change = nn.Linear(config.width, size)
        nn.init.zeros_(self.change.weight)  # at first everything moves on by its mean change
        nn.init.zeros_(self.change.bias)
        for name, value in (("mean", 0.0), ("scale", 1.0), ("change_mean", 0.0), ("change_scale", 1.0)):
            self.register_buffer(name, torch.full((size,), value))

    @torch.no_grad()
    def learn_units(self, states: Tensor) -> None:
        """Mean and spread of states ``[E, T, n]`` and of their changes; 1 where nothing changes."""
        for values, mean, scale in (
            (states, self.mean, self.scale),
            (states.diff(dim=1), self.change_mean, self.change_scale),
        ):
            mean.copy_(values.flatten(0, 1).mean(0))
            scale.copy_(entry_spread(values))

    def features(self, x: Tensor, last: int | None = None) -> Tensor:
        """What the last block says of each state, ``[B, T, D]``; with ``last``, of the last so many alone."""
        tokens, indices = self.embed((x - self.mean) / self.scale), torch.arange(x.shape[1], device=x.device)
        return self.trunk(self.trunk.place(tokens, indices), indices, last)

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """Change from every state to the next, in units of their spread: ``[B, T, n]``."""
        return self.change(self.features(x, last))

    def roll_out(self, past: Tensor, steps: int, window: int) -> Tensor:
        """``past [B, C, n]``, C <= window -> the next states ``[B, steps, n]``, each from the last ``window`` ones."""
        states = list(past.unbind(1))
        for _ in range(steps):
            change = self(torch.stack(states[-window:], 1), last=1)[:, 0]
            states.append(states[-1] + self.change_mean + self.change_scale * change)
        return torch.stack(states[past.shape[1] :], 1)


@register
class Sequence(MemberFamily):
    """Next-state prediction by a causal transformer."""

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
        return StateTransformer(self.space.shape[0], self.config)

    @property
    def context(self) -> int:
        """One state is enough; more are looked back on, up to the window."""
        return 1

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; their units are learned."""
        examples = super().examples(episodes)
        for member in self.members:
            assert isinstance(member, StateTransformer)
            member.learn_units(examples[self.view])
        return examples

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
        x = self._windows(batch[self.view], generator)
        seen = x[:, :-1]
        if self.config.noise:
            shape = (workers.everyone(len(seen)), *seen.shape[1:])
            draw = workers.mine(torch.randn(shape, generator=generator)).to(seen)
            seen = seen + self.config.noise * member.change_scale * draw
        change = (x[:, 1:] - seen - member.change_mean) / member.change_scale
        seen, change = (v.to(member.embed.weight.dtype) for v in (seen, change))
        loss = (member(seen) - change).square().mean()
        return loss, {"prediction": loss}

    def _windows(self, states: Tensor, generator: torch.Generator) -> Tensor:
        """``W + 1`` states of each episode from a random start of its own: ``[B, T, n] -> [B, W + 1, n]``."""
        length = min(self.config.window + 1, states.shape[1])
        count, starts = len(states), states.shape[1] - length + 1
        first = workers.mine(torch.randint(starts, (workers.everyone(count),), generator=generator))
        rows = (first[:, None] + torch.arange(length)).to(states.device)
        return states[torch.arange(count, device=states.device)[:, None], rows]

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Features of every state; the context begins anew every ``window`` states, as in training."""
        x = views[self.view].to(member.embed.weight.dtype)
        rows, window = x.shape[1], self.config.window
        pieces = pad(x, (0, 0, 0, -rows % window)).unflatten(1, (-1, window))
        return member.features(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2]).flatten(1, 2)[:, :rows], None

    def member_predict(
        self,
        member: Any,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """States, the start in front, each from the last ``window`` observed or predicted ones."""
        known = past[self.view][:, -self.config.window :].to(member.embed.weight.dtype)
        future = member.roll_out(known, steps, self.config.window)
        return {"states": torch.cat([past[self.view][:, -1:], future.to(past[self.view].dtype)], 1)}
