"""Latent actions: what can be done in a world, found in videos of it that nobody labelled.

After Bruce et al., *Genie: generative interactive environments* (ICML 2024), at the size of a laptop, in three stages
of one training:

1. *Video prediction*: ``z = Enc(x)``, ``x = Dec(z)``, and ``f`` predicts the next frame from the last ones, without a
   code: what goes on by itself.
2. *Discovery*: an inverse model sees ``z_t`` and ``z_{t+1}`` and passes on one of K codes; from it and the past ``f``
   makes the next frame. A code pays by what the past does not tell. From here on Enc rests.
3. *Dynamics*: the codes rest, and ``f`` is trained on roll-outs under them.

Frames are compared pixel by pixel, with a weight on the foreground: what moves is small. No true action enters the
training. After it a few labelled transitions tell which code is meant by which action, so that the model can be driven
by true actions as well as by codes.

Where this is not the paper's: convolutions on maps of patches in place of transformers on tokens; one ``f`` through all
stages, where the decoder of stage 2 is thrown away in the paper; a share of the codes is withheld, so that the model
can also be asked what is to be expected; in the first part of stage 2 the bottleneck is continuous and noisy, after
which k-means finds the codes to begin with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, linear

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.videos import roll_out_length
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Prediction, Schedule, TrainedConfig, Views
from wm_pipelines.families.latent_action.action_map import ActionMap
from wm_pipelines.families.latent_action.codebook import Codebook
from wm_pipelines.families.latent_action.networks import Autoencoder, Dynamics, Inference, WorldModel
from wm_pipelines.families.parts.imagining import ImaginedStep, ImaginingFamily
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_STARTED_FROM = 2048  # transitions that k-means sees
_FOREGROUND = 0.04  # of the range of pixels: what differs more from the background
_STILL = 1e-6  # squared change of a pixel, beside which what moves less counts as nothing
_AT_ONCE = 256  # frames encoded, or futures followed, together


class LatentActionConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_latent_action.yml``."""

    schedule: Schedule = Schedule(
        steps=1000, batch_size=16, learning_rate=2e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    context: int = Field(2, ge=1, description="frames that a prediction starts from: with one there is no velocity")
    horizon: int = Field(4, ge=1, description="steps of the longest roll-out in stage 3")
    pieces: int = Field(2, ge=1, description="of every episode of a batch")
    prediction_share: float = Field(0.3, gt=0, lt=1, description="share of training of stage 1")
    discovery_share: float = Field(0.4, gt=0, lt=1, description="share of training of stage 2; the rest is stage 3")
    # frames
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    patch: int = Field(4, ge=1, description="pixels along a side of a patch, one position of a latent")
    maps: int = Field(8, ge=1, description="M, numbers at a position of a latent")
    width: int = Field(32, ge=1, description="of the hidden layers of encoder, decoder and inverse model")
    widths: tuple[Positive, ...] = Field((32, 48, 64), min_length=1, description="of f, per level")
    blocks: int = Field(1, ge=0, description="residual blocks of f, per level")
    foreground: float = Field(10.0, ge=0, description="further weight of pixels that are no background")
    # codes
    codes: int = Field(8, ge=2, le=256, description="K, at most")
    code: int = Field(4, ge=1, description="D, numbers in a code")
    continuous: float = Field(0.4, ge=0, lt=1, description="share of stage 2 before there are codes")
    noise: float = Field(0.3, ge=0, description="standard deviation on what is passed on until then")
    commitment: float = Field(0.05, ge=0, description="weight of the distance to the nearest code")
    entropy: float = Field(0.02, ge=0, description="weight of log K minus the entropy of the codes' use")
    kept: float = Field(0.95, ge=0, lt=1, description="of the codes' running means, per step")
    dead: float = Field(0.1, ge=0, lt=1, description="share of an even use below which a code is set anew")
    withheld: float = Field(0.1, ge=0, lt=1, description="share of the transitions without a code, in stages 2 and 3")
    discovery: Literal["learned", "random"] = Field("learned", description="random: the inverse model stays as drawn")
    # true actions
    labels: int = Field(200, ge=0, description="labelled transitions that the action map is told after training")

    @model_validator(mode="after")
    def _three_stages(self) -> LatentActionConfig:
        if self.prediction_share + self.discovery_share >= 1:
            raise ValueError(
                "prediction_share and discovery_share leave nothing for the third stage; lower one of them"
            )
        return self


@register
class LatentAction(ImaginingFamily):
    """A video model that is driven by actions which it has found itself.

    A belief is the latents of the last ``context`` frames, ``[N, context, M, h, w]``; features are latents, flat.
    """

    name: ClassVar[str] = "latent_action"
    Config: ClassVar[type[FamilyConfig]] = LatentActionConfig
    needs: ClassVar[tuple[str, ...]] = ("frames",)
    uses: ClassVar[tuple[str, ...]] = ("actions",)
    config: LatentActionConfig
    _observed: Tensor  # training frames, of which pieces are shown
    _encodings: dict[int, Tensor]  # by member, of all of them, once Enc rests
    _taken: dict[int, Tensor]  # by member, codes of all their transitions, once the codes rest
    _labelled: Tensor

    @classmethod
    def knows(cls, config: LatentActionConfig) -> frozenset[str]:
        """The actions of a few transitions, where there are any."""
        return frozenset({"action_labels"} if config.labels else ())

    @classmethod
    def contains(cls, config: Any, spec: Spec) -> frozenset[str]:
        """Nothing is told where nobody acts."""
        return super().contains(config, spec) if "actions" in spec.views else frozenset()

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Nothing happens in single images."""
        return super().unsuitable(spec, config) or (None if spec.rows > config.context else "needs videos")

    def make_member(self) -> nn.Module:
        """The networks of one seed."""
        c, (height, width, _) = self.config, self.seen_space.shape
        grid = (height // c.patch, width // c.patch)
        return WorldModel(
            Autoencoder(self.seen_space.shape, c.patch, c.maps, c.width),
            Inference(c.maps, c.width, c.code).requires_grad_(c.discovery == "learned"),
            Codebook(c.codes, c.code, c.kept, c.dead),
            Dynamics(c.maps, grid, c.context, c.widths, c.blocks, c.code),
            ActionMap(c.labels, self.action_size, c.codes),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    @property
    def context(self) -> int:
        """Frames that a prediction starts from."""
        return self.config.context

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Numbers of whole episodes, by which frames are found; of the actions those labelled are kept, for `finish`.

        Raises:
            UserError: episodes are shorter than context and horizon.
        """
        c, rows = self.config, episodes[self.view].shape[1]
        if rows < c.context + c.horizon:
            raise UserError(
                f"{self.name}: episodes of {rows} frames are shorter than context {c.context} + horizon {c.horizon}; "
                "lengthen the episodes or lower one of the two"
            )
        seen = super().examples(episodes)
        self.register_buffer("_observed", seen[self.view], persistent=False)
        self._encodings, self._taken = {}, {}
        for member in self.members:
            assert isinstance(member, WorldModel)
            member.frames.learn_background(seen[self.view])
        if self.action_size:
            self.register_buffer("_labelled", seen["actions"].flatten(0, 1)[: c.labels].clone(), persistent=False)
        return {"episode": torch.arange(len(self._observed))}

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the stage that is on."""
        c = self.config
        two, three = c.prediction_share, c.prediction_share + c.discovery_share
        discovers = two <= progress < three
        share = (progress - two) / c.discovery_share
        member.inference.train(discovers)
        if progress < two:
            return self._prediction_loss(member, *self._piece(batch, 1, generator))
        if discovers:
            return self._discovery_loss(member, *self._piece(batch, 1, generator), share, generator)
        steps = roll_out_length((progress - three) / (1 - three), 0.5, c.horizon)
        return self._dynamics_loss(member, *self._piece(batch, steps, generator), generator)

    def _piece(self, batch: Views, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random pieces of the batch's episodes, context and so many steps: episodes ``[N, 1]``, rows ``[N, T]``."""
        c, length = self.config, self.config.context + steps
        shape = (workers.everyone(len(batch["episode"])), c.pieces)
        first = workers.mine(torch.randint(self._observed.shape[1] - length + 1, shape, generator=generator))
        rows = (first[..., None] + torch.arange(length)).flatten(0, 1).to(self._observed.device)
        return batch["episode"].repeat_interleave(c.pieces)[:, None], rows

    def _frames(self, episode: Tensor, rows: Tensor) -> Tensor:
        """Training frames as networks take them, ``[N, T, C, H, W]``."""
        return self.inputs({self.view: self._observed[episode, rows]})

    @torch.no_grad()
    def _latents(self, member: WorldModel) -> Tensor:
        """Latents of all training frames ``[E, T, M, h, w]``, found once: Enc rests from stage 2 on."""
        if id(member) not in self._encodings:
            parts = self._observed.flatten(0, 1).split(_AT_ONCE)
            z = torch.cat([member.frames.encode(self.inputs({self.view: part})) for part in parts])
            self._encodings[id(member)] = z.unflatten(0, self._observed.shape[:2])
        return self._encodings[id(member)]

    @torch.no_grad()
    def _actions(self, member: WorldModel) -> Tensor:
        """Codes of all training transitions ``[E, T - 1]``, found once: they rest in stage 3."""
        if id(member) not in self._taken:
            self._taken[id(member)] = torch.cat([self._codes_of(member, z) for z in self._latents(member).split(1)])
        return self._taken[id(member)]

    def _prediction_loss(self, member: WorldModel, episode: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 1: what is decoded of every frame and of what f expects to follow."""
        x = self._frames(episode, rows)
        z = self._encoded(member, x)
        codes = torch.full((len(x), 1), -1, device=x.device)
        expected = member.roll_out(z[:, :-1], codes)
        rebuilt, pixels = self._error(member, z, x, x)
        ahead, predicted = self._error(member, expected, x[:, -1:], x[:, -2:])
        return rebuilt + ahead, {"rebuilt": pixels, "pixels": predicted}

    def _discovery_loss(
        self, member: WorldModel, episode: Tensor, rows: Tensor, share: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 2: the next frame from the past and from what the inverse model says of it through the bottleneck."""
        c, count = self.config, len(rows)
        x, z = self._frames(episode, rows[:, -2:]), self._latents(member)[episode, rows]
        found = member.inference(z[:, -2], z[:, -1])
        noise = self._drawn(torch.randn, count, c.code, generator=generator).to(found)
        if share < c.continuous:
            passed, bottleneck, terms = found + c.noise * noise, found.new_zeros(()), {}
        else:
            if not bool(member.codebook.started):
                self._start_codes(member, generator)
            passed, chosen = member.codebook(found)
            everything = workers.gathered(found.detach().unflatten(0, (-1, c.pieces))).flatten(0, 1)
            member.codebook.follow(everything, generator)
            crowding = member.codebook.crowding(found)
            distance = (found - member.codebook.vectors[chosen]).square().sum(1).mean()
            bottleneck = c.commitment * distance + c.entropy * crowding
            terms = {"commitment": distance, "crowding": crowding}
        predicted = member.dynamics(z[:, :-1], passed, self._given(count, generator).to(found))
        loss, pixels = self._error(member, predicted[:, None], x[:, -1:], x)
        return loss + bottleneck, {"pixels": pixels, **terms}

    def _dynamics_loss(
        self, member: WorldModel, episode: Tensor, rows: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 3: roll-outs under the codes of what really happened."""
        memory = self.config.context
        if not bool(member.codebook.started):
            self._start_codes(member, generator)
        x = self._frames(episode, rows[:, memory - 1 :])
        z, codes = (
            self._latents(member)[episode, rows[:, :memory]],
            self._actions(member)[episode, rows[:, memory - 1 : -1]],
        )
        given = self._given(len(x), generator).bool()[:, None].to(codes.device)
        future = member.roll_out(z, torch.where(given, codes, -1))
        loss, pixels = self._error(member, future, x[:, 1:], x)
        return loss, {"pixels": pixels}

    def _given(self, count: int, generator: torch.Generator) -> Tensor:
        """1 where a code is passed on, 0 where it is withheld: ``[count]``."""
        return (self._drawn(torch.rand, count, generator=generator) >= self.config.withheld).float()

    def _drawn(self, draw: Callable[..., Tensor], count: int, *each: int, generator: torch.Generator) -> Tensor:
        """Numbers ``[count, *each]`` for pieces: this worker's part of the global batch's."""
        shape = (workers.everyone(count // self.config.pieces), self.config.pieces, *each)
        return workers.mine(draw(shape, generator=generator)).flatten(0, 1)

    def _error(self, member: WorldModel, z: Tensor, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted squared error of decoded latents ``[N, K, …]``, and the plain one per pixel.

        In units of what a copy of the frame before misses: other terms of a loss weigh the same in every world.

        Args:
            x: the truth. seen: successive frames ``[N, T, C, H, W]``, two at least; foreground is where any has some.
        """
        error = (member.frames.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2]) - x).square()
        inside = (seen - member.frames.still).abs().amax((1, 2), keepdim=True) > _FOREGROUND
        weight = 1 + self.config.foreground * inside.to(error)
        moved = (weight * (seen[:, 1:] - seen[:, :-1]).square()).mean()
        return (weight * error).mean() / (workers.averaged(moved) + _STILL), error.mean()

    @torch.no_grad()
    def _start_codes(self, member: WorldModel, generator: torch.Generator) -> None:
        """k-means of what the inverse model says of transitions all over the training frames."""
        z = self._latents(member)
        episodes, rows = z.shape[:2]
        count = min(_STARTED_FROM, episodes * (rows - 1))
        at = torch.linspace(0, episodes * (rows - 1) - 1, count).long()
        was_training = member.inference.training
        member.inference.eval()
        parts = (
            part.tensor_split([1], 1) for part in torch.stack([at // (rows - 1), at % (rows - 1)], 1).split(_AT_ONCE)
        )
        found = [
            member.inference(z[episode[:, 0], row[:, 0]], z[episode[:, 0], row[:, 0] + 1]) for episode, row in parts
        ]
        member.codebook.start(torch.cat(found), generator)
        member.inference.train(was_training)

    @torch.no_grad()
    def finish(self) -> Views | None:
        """Tell every member's action map the labelled transitions; forget latents and codes of training."""
        self._encodings, self._taken = {}, {}
        if self.action_size and self.config.labels:
            count = len(self._labelled)
            episodes = -(-count // (self._observed.shape[1] - 1))
            codes = self.discover({self.view: self._observed[:episodes]})
            for member, chosen in zip(self.members, codes, strict=True):
                assert isinstance(member, WorldModel)
                member.actions.learn(self._labelled, chosen.flatten()[:count])
        return super().finish()

    # ---------------------------------------------------------------------------------------------------------- codes

    @property
    def codes(self) -> int:
        """See `DiscoversActions`."""
        return self.config.codes

    @torch.no_grad()
    def discover(self, views: Views) -> Tensor:
        """See `DiscoversActions`."""
        found = []
        for member in self._evaluated():
            parts = views[self.view].split(max(1, _AT_ONCE // views[self.view].shape[1]))
            encoded = (self._encoded(member, self.inputs({self.view: part})) for part in parts)
            found.append(torch.cat([self._codes_of(member, z) for z in encoded]))
        return torch.stack(found)

    @torch.no_grad()
    def follow(self, past: Views, codes: Tensor) -> Prediction:
        """See `DiscoversActions`."""
        found = []
        for member, chosen in zip(self._evaluated(), codes, strict=True):
            parts = zip(past[self.view].split(_AT_ONCE), chosen.split(_AT_ONCE), strict=True)
            found.append(torch.cat([self._followed(member, *part) for part in parts]))
        return {self.view: torch.stack(found)}

    def step_network(self, seed: int) -> nn.Module:
        """See `StepsAlone`: by codes; without one to what is to be expected."""

        def step(member: Any, belief: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
            given = self.codes * code.mean(1)
            z = member.dynamics(belief, linear(code, member.codebook.vectors.T), given)
            return torch.cat([belief[:, 1:], z[:, None]], 1), z.flatten(1)

        return ImaginedStep(self, seed, step)

    def _followed(self, member: Any, frames: Tensor, codes: Tensor) -> Tensor:
        z = member.roll_out(self.believed(member, {self.view: frames}), codes)
        return self.outputs(member.frames.decode(z.flatten(0, 1))).unflatten(0, codes.shape)

    def _codes_of(self, member: Any, z: Tensor) -> Tensor:
        """Codes ``[N, T]`` of the transitions between latents ``[N, T + 1, …]``."""
        found = member.inference(z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1))
        return member.codebook.nearest(found).unflatten(0, (len(z), -1))

    @staticmethod
    def _encoded(member: Any, x: Tensor) -> Tensor:
        """Latents ``[N, T, M, h, w]`` of frames ``[N, T, C, H, W]``."""
        return member.frames.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    # -------------------------------------------------------------------------------------------------------- beliefs

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """Before the first frame everything was at rest."""
        return member.frames.encode(x)[:, None].expand(-1, self.config.context, -1, -1, -1)

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """What is seen says more than what was done."""
        del action
        return torch.cat([belief[:, 1:], member.frames.encode(x)[:, None]], 1)

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Roll-outs under the codes of true actions; where the action map knows none, what is to be expected."""
        return Imagined(member.roll_out(belief, member.actions(actions)).flatten(2))

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """Latents, flat."""
        return member.frames.encode(x).flatten(1)

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """Frames of latents."""
        z = self._maps(features.flatten(0, 1))
        return member.frames.decode(z).unflatten(0, features.shape[:2])

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Latents averaged two by two, which is what probes read: ``[E, T, D]``."""
        return self._coarse(super().member_encode(member, views)[0]), None

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """Frames under true actions, or what is to be expected; and their latents averaged two by two."""
        belief = self.believed(member, past)
        codes = torch.full((len(belief), steps), -1) if actions is None else member.actions(actions)
        x = self.member_decode(member, member.roll_out(belief, codes.to(belief.device)).flatten(2))
        latents = self.member_features(member, x.clamp(0, 1).flatten(0, 1)).unflatten(0, x.shape[:2])
        return {self.view: self.outputs(x), "latents": self._coarse(latents)}

    @torch.no_grad()
    def round_trip(self, views: Views) -> Tensor:
        """See `RoundTrips`."""
        found = []
        for member in self._evaluated():
            parts = self.inputs(views).split(max(1, _AT_ONCE // views[self.view].shape[1]))
            found.append(torch.cat([self._again(member, part) for part in parts]))
        return torch.stack(found)

    def _again(self, member: Any, x: Tensor) -> Tensor:
        decoded = member.frames.decode(member.frames.encode(x.flatten(0, 1))).clamp(0, 1)
        return self._coarse(self.member_features(member, decoded).unflatten(0, x.shape[:2]))

    def _coarse(self, features: Tensor) -> Tensor:
        """``[E, T, M h w] -> [E, T, M h w / 4]``; as they are where positions are too few."""
        z = self._maps(features.flatten(0, 1))
        z = avg_pool2d(z, 2) if min(z.shape[-2:]) > 1 else z
        return z.flatten(1).unflatten(0, features.shape[:2])

    def _maps(self, features: Tensor) -> Tensor:
        """Flat latents ``[N, M h w]`` as maps."""
        height, width, _ = self.seen_space.shape
        return features.unflatten(1, (self.config.maps, height // self.config.patch, width // self.config.patch))
