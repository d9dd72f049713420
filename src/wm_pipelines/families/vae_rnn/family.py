"""World models of Ha & Schmidhuber (*Recurrent world models facilitate policy evolution*, NeurIPS 2018).

V encodes single observations, ``z ~ N(mu(x), sigma(x)^2)``; M tells of ``z, a, h`` the distribution of the next ``z``
(a mixture of K Gaussians for every number) and the reward; C acts, ``a = tanh(W [z, h] + b)``. V is trained first, then
M on the frozen V, then C by CMA-ES in dreams of M alone.

Where this is not the paper's: the mixture is over the change of ``z``; the reward is predicted (the paper has a car's
track or a time to survive), within the rewards of the training data; V's statistics of batches are fixed in the second
half of its phase, so that M and the decoder meet the code that was trained; M may be given noisy codes (`input_noise`)
and has seen `context` frames before a dream begins; C is the mean of the last generation, and its inputs are in units
of their spread. Dreams are sampled; what is imagined for planning is the chain of the mixtures' means. With
``recurrence: random`` M is an echo state network: its memory stays as drawn, what reads it is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.imagining import ImaginingFamily
from wm_pipelines.families.vae_rnn.controller import Controller, dream, train_in_dreams
from wm_pipelines.families.vae_rnn.networks import MDNRNN, VAE, divergence
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_SETTLED = 0.5  # of V's phase, after which its statistics of batches stay
_STARTS = 512  # observations that dreams begin with
_JUDGED = 256  # dreams of which the return is told
_NOISES = 1024  # steps after which the noise on sampled latents of a belief repeats
_AT_ONCE = 512  # observations encoded together


class VAERNNConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_vae_rnn.yml``."""

    schedule: Schedule = Schedule(
        steps=400, batch_size=16, learning_rate=2e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    context: int = Field(4, ge=1, description="frames that a prediction starts from; of states, one")
    # V
    vae_share: float = Field(0.4, gt=0, lt=1, description="share of training in which V is trained, before M")
    vae_rows: int = Field(8, ge=1, description="observations of each episode of a batch that V is trained on")
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    widths: tuple[Positive, ...] = Field(
        (16, 32, 64), min_length=1, description="channels per level of the convolutions; hidden layers for states"
    )
    features: int = Field(64, ge=1, description="between V's encoder and mu, sigma")
    latent: int = Field(16, ge=1, description="D, numbers in z")
    observation_std: float = Field(0.1, gt=0, description="s of V's p(x | z), in the units of pixels or of the spread")
    kl_tolerance: float = Field(0.0, ge=0, description="nats per number of z that cost nothing")
    # M
    hidden: int = Field(128, ge=1, description="H, numbers in h")
    components: int = Field(5, ge=1, description="K, Gaussians of the mixture")
    piece: int = Field(16, ge=1, description="steps of the sequences that M is trained on")
    pieces: int = Field(1, ge=1, description="of them from each episode of a batch")
    input_noise: float = Field(
        0.0, ge=0, description="largest standard deviation of noise on what M is given in training, in spreads of z"
    )
    reward_weight: float = Field(1.0, ge=0, description="of the reward's squared error, in units of its variance")
    recurrence: Literal["trained", "random"] = Field("trained", description="random: M's memory stays as it was drawn")
    # C
    controller_input: Literal["z", "mu"] = Field("mu", description="what a belief holds of an observation")
    population: int = Field(64, ge=2, description="controllers of a generation")
    generations: int = Field(100, ge=1)
    spread: float = Field(0.1, gt=0, description="standard deviation of the first generation's weights")
    rollouts: int = Field(16, ge=1, description="dreams of each controller of a generation")
    dream_steps: int = Field(200, ge=1)
    dreams_from: Literal["any", "first"] = Field(
        "any", description="rows of training episodes from which C dreams; of frames, `context` rows are remembered"
    )
    temperature: float = Field(1.0, gt=0, description="tau of dreams")


class WorldModel(nn.Module):
    """V, M and C of one seed; C where there are actions and rewards."""

    def __init__(self, v: VAE, m: MDNRNN, c: Controller | None) -> None:
        super().__init__()
        self.v, self.m, self.c = v, m, c


class Codes(NamedTuple):
    """``mu`` and ``log sigma`` of all training observations, ``[E, T, D]``, and the spread of ``mu``, ``[D]``."""

    mu: Tensor
    log_std: Tensor
    spread: Tensor


@register
class VAERNN(ImaginingFamily):
    """A variational autoencoder, a recurrent mixture density network and an evolved linear controller.

    A belief is ``[z, h, c]``: the latent of the last observation, M's memory before it. With ``controller_input: z``
    the latent is a sample, and the belief's last number counts its steps: all rows meet the same noise at a step.
    """

    name: ClassVar[str] = "vae_rnn"
    Config: ClassVar[type[FamilyConfig]] = VAERNNConfig
    config: VAERNNConfig
    _observed: Tensor  # training observations, of which all codes are, and actions
    _taken: Tensor
    _coded: dict[int, Codes]
    _noises: Tensor

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Single observations have no future; what is left untrained is to be compared by what it makes C do."""
        if why := super().unsuitable(spec, config):
            return why
        if spec.rows == 1:
            return "needs videos" if "frames" in cls.shown(spec) else "needs episodes of two states or more"
        acts = {"actions", "rewards"} <= set(spec.views)
        return None if config.recurrence == "trained" or acts else "recurrence: random needs actions and rewards"

    def __init__(self, config: VAERNNConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        noise = torch.randn(_NOISES, config.latent, generator=torch.Generator().manual_seed(0))
        self.register_buffer("_noises", noise, persistent=False)

    def make_member(self) -> nn.Module:
        """The networks of one seed."""
        c = self.config
        v = VAE(self.seen_space, c.widths, c.features, c.latent)
        m = MDNRNN(c.latent, self.action_size, c.hidden, c.components, self.rewarded, c.recurrence == "trained")
        acts = self.action_size and self.rewarded
        return WorldModel(v, m, Controller(c.latent + c.hidden, self.action_size) if acts else None)

    @property
    def context(self) -> int:
        """States tell all at once, frames only together."""
        return 1 if self.space.kind == "vector" else self.config.context

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Numbers of whole episodes, by which observations and codes are found, actions, rewards; units are learned.

        Whole films of which single frames are shown, or codes alone, would be copied for every step.
        """
        examples = super().examples(episodes)
        view = examples[self.view]
        self.learn_exponents(view)
        units = self.inputs({self.view: view}) if self.space.kind == "vector" else view
        for member in self.members:
            assert isinstance(member, WorldModel)
            member.v.learn_units(units)
            if self.rewarded:
                member.m.learn_rewards(examples["rewards"])
        self.register_buffer("_observed", view, persistent=False)
        if self.action_size:
            self.register_buffer("_taken", examples["actions"], persistent=False)
        self._coded = {}
        taken = {name: examples[name] for name in ("actions", "rewards") if name in examples}
        return {"episode": torch.arange(len(view)), **taken}

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """V's loss on single observations in the first share of training, M's on sequences of latents after it."""
        share = self.config.vae_share
        member.v.train(progress < _SETTLED * share)
        if progress < share:
            return self._vae_loss(member.v, batch, generator)
        return self._rnn_loss(member, batch, generator)

    def _vae_loss(self, v: VAE, batch: Views, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """``-log p(x | z)`` without its constant, ``+ KL(q(z | x) || N(0, 1))`` beyond what is tolerated."""
        c = self.config
        rows, episode = self._rows(len(batch["episode"]), c.vae_rows, 1, generator), batch["episode"]
        x = self.inputs(
            {self.view: self._observed[episode.repeat_interleave(c.vae_rows), rows[:, 0].to(episode.device)]}
        )
        mu, log_std = v.encode(x)
        error = v.error(x, self._sampled(mu, log_std, c.vae_rows, generator)).mean()
        kl = divergence(mu, log_std).clamp(min=c.kl_tolerance * c.latent).mean()
        return error / (2 * c.observation_std**2) + kl, {"reconstruction": error, "kl": kl}

    def _rnn_loss(
        self, member: WorldModel, batch: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``-log p(z_{t+1} | z_<=t, a_<=t)`` per number of z, and the reward's squared error; ``z`` are samples."""
        c = self.config
        codes, episode = self._codes(member), batch["episode"].repeat_interleave(c.pieces)
        length = min(c.piece + 1, codes.mu.shape[1])
        rows = self._rows(len(batch["episode"]), c.pieces, length, generator).to(codes.mu.device)
        mu, log_std = (part[episode[:, None], rows].flatten(0, 1) for part in (codes.mu, codes.log_std))
        z = self._sampled(mu, log_std, c.pieces * length, generator).unflatten(0, (-1, length))
        given = z[:, :-1]
        if c.input_noise:
            given = given + codes.spread * self._disturbance(given, generator)
        of = torch.arange(len(batch["episode"]), device=z.device).repeat_interleave(c.pieces)[:, None]
        cut = {name: batch[name][of, rows[:, :-1]] for name in ("actions", "rewards") if name in batch}
        actions = cut["actions"].to(z) if self.action_size else self.no_actions(z, len(z), length - 1)
        mixture, reward = member.m(given, actions)
        nll = -mixture.log_prob(z[:, 1:]).mean()
        if reward is None:
            return nll, {"nll": nll}
        wanted = (cut["rewards"] - member.m.reward_mean) / member.m.reward_std
        error = (reward - wanted).square().mean()
        return nll + c.reward_weight * error, {"nll": nll, "reward": error}

    def _disturbance(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Noise like ``z [B pieces, T, D]``, of a strength of its own in each piece.

        What M dreams is not quite what V would say. Given codes with noise and asked for those that follow, M returns
        to them (Sanchez-Gonzalez et al., *Learning to simulate complex physics with graph networks*, ICML 2020).
        """
        pieces = self.config.pieces
        shape = (workers.everyone(len(z) // pieces), pieces)
        strength = self.config.input_noise * torch.rand(*shape, 1, 1, generator=generator)
        noise = strength * torch.randn(*shape, *z.shape[1:], generator=generator)
        return workers.mine(noise).flatten(0, 1).to(z)

    @torch.no_grad()
    def _codes(self, member: WorldModel) -> Codes:
        """Found once, when V is frozen."""
        if id(member) not in self._coded:
            rows = self._observed.flatten(0, 1).split(_AT_ONCE)
            codes = [torch.cat(member.v.encode(self.inputs({self.view: part})), -1) for part in rows]
            mu, log_std = torch.cat(codes).unflatten(0, self._observed.shape[:2]).chunk(2, -1)
            self._coded[id(member)] = Codes(mu, log_std, mu.flatten(0, 1).std(0))
        return self._coded[id(member)]

    def _dreams(self, member: WorldModel, mu: Tensor, first: bool) -> Tensor:
        """``z, h, c`` to dream from, ``[N, D + 2 H]``: M has seen `context` rows of training episodes.

        Args:
            member: V and M. mu: of the episodes, ``[E, T, D]``. first: the rows with which episodes begin; else any.
        """
        seen = self.context - 1
        if first:
            episode, row = torch.arange(len(mu)), torch.zeros(len(mu), dtype=torch.long)
        else:
            some = torch.linspace(0, len(mu) * (mu.shape[1] - seen) - 1, _STARTS).long()
            episode, row = some // (mu.shape[1] - seen), some % (mu.shape[1] - seen)
        h = memory = mu.new_zeros(len(row), self.config.hidden)
        for k in range(seen):
            action = self._taken[episode, row + k].to(mu)
            _, _, h, memory = member.m.step(mu[episode, row + k], action, h, memory)
        return torch.cat([mu[episode, row + seen], h, memory], -1)

    def _rows(self, episodes: int, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Rows of ``count`` pieces of each episode from random starts: ``[B count, length]``."""
        shape = (workers.everyone(episodes), count)
        first = workers.mine(torch.randint(self._observed.shape[1] - length + 1, shape, generator=generator))
        return (first[..., None] + torch.arange(length)).flatten(0, 1)

    @staticmethod
    def _sampled(mu: Tensor, log_std: Tensor, each: int, generator: torch.Generator) -> Tensor:
        """``mu + sigma eps``, of ``each`` observations of every episode of the batch."""
        shape = (workers.everyone(len(mu) // each), each, mu.shape[-1])
        noise = workers.mine(torch.randn(shape, generator=generator)).flatten(0, 1)
        return mu + log_std.exp() * noise.to(mu)

    @torch.no_grad()
    def finish(self) -> Views | None:
        """Evolve C in dreams; the return of dreams that begin as the training episodes do and last as long."""
        if not (self.action_size and self.rewarded):
            return None
        c = self.config
        self._coded = {}  # codes of the weights as they are kept
        for seed, member in zip(self.seeds, self._evaluated(), strict=True):
            assert isinstance(member, WorldModel)
            assert member.c is not None
            mu = self._codes(member).mu
            firsts = self._dreams(member, mu, first=True)
            train_in_dreams(
                member.m, member.c, firsts if c.dreams_from == "first" else self._dreams(member, mu, first=False),
                steps=c.dream_steps, temperature=c.temperature, rollouts=c.rollouts,
                population=c.population, generations=c.generations, spread=c.spread, seed=seed,
            )  # fmt: skip
            weights, generator = member.c.weights[None], torch.Generator().manual_seed(seed)
            found = dream(
                member.m,
                member.c,
                weights,
                firsts[torch.arange(_JUDGED) % len(mu)],
                self.spec.rows - 1,
                c.temperature,
                generator,
            )
            member.c.dream_return.copy_(found.mean())
        return {"dream_return": torch.stack(self._dream_returns())}

    def _dream_returns(self) -> list[Tensor]:
        return [c.dream_return for c in (self._model(s).c for s in range(len(self.seeds))) if c is not None]

    def extra_summary(self) -> dict[str, Any]:
        """``dream_return`` of every seed, over ``dream_return_steps`` steps at ``dream_temperature``."""
        if not (returns := self._dream_returns()):
            return {}
        told = {"dream_return_steps": self.spec.rows - 1, "dream_temperature": self.config.temperature}
        return {"dream_return": [float(r) for r in returns], **told}

    # ------------------------------------------------------------------------------------------------------- beliefs

    def member_start(self, member: WorldModel, x: Tensor) -> Tensor:
        """An empty memory."""
        mu, log_std = member.v.encode(x)
        return self._belief(mu, log_std, mu.new_zeros(len(mu), 2 * self.config.hidden), mu.new_zeros(len(mu), 1))

    def member_update(self, member: WorldModel, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """The memory takes in what was known and done; the latent is of what is seen now."""
        z, h, c, count = self._parts_of(belief)
        _, _, h, c = member.m.step(z, action, h, c)
        return self._belief(*member.v.encode(x), torch.cat([h, c], -1), count + 1)

    def member_imagine(self, member: WorldModel, belief: Tensor, actions: Tensor) -> Imagined:
        """Means of the mixtures, every one from the means before it."""
        z, h, c, _ = self._parts_of(belief)
        features, rewards = [], []
        for action in actions.unbind(1):
            mixture, reward, h, c = member.m.step(z, action, h, c)
            z = mixture.expected()
            features.append(z)
            if reward is not None:
                rewards.append(member.m.in_units(reward))
        return Imagined(torch.stack(features, 1), torch.stack(rewards, 1) if rewards else None)

    def member_features(self, member: WorldModel, x: Tensor) -> Tensor:
        """``mu``."""
        return member.v.encode(x)[0]

    def member_decode(self, member: WorldModel, features: Tensor) -> Tensor:
        """What V's decoder makes of latents."""
        return member.v.decode(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    @property
    def behaves(self) -> bool:
        """Whether there is a controller: where there are actions and rewards."""
        return all(member.c is not None for member in self.members)

    @torch.no_grad()
    def act(self, belief: Tensor, seed: int) -> Tensor:
        """The controller's actions ``[N, A]``.

        Raises:
            UserError: there is none, in worlds without actions or rewards.
        """
        member = self._model(seed)
        if member.c is None:
            raise UserError(f"{self.name} has a controller where there are actions and rewards; here it can only plan")
        return member.c(belief[:, : self.config.latent + self.config.hidden])

    def _belief(self, mu: Tensor, log_std: Tensor, memory: Tensor, count: Tensor) -> Tensor:
        if self.config.controller_input == "mu":
            return torch.cat([mu, memory], -1)
        noise = self._noises[count[:, 0].long() % _NOISES].to(mu)
        return torch.cat([mu + log_std.exp() * noise, memory, count], -1)

    def _parts_of(self, belief: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``z``, ``h``, ``c`` and the count of steps (0 where it is not counted)."""
        sizes = [self.config.latent, self.config.hidden, self.config.hidden]
        z, h, c, count = belief.split([*sizes, belief.shape[1] - sum(sizes)], -1)
        return z, h, c, count if count.shape[1] else torch.zeros_like(belief[:, :1])

    def _model(self, seed: int) -> WorldModel:
        member = self.members[seed]
        assert isinstance(member, WorldModel)
        return member
