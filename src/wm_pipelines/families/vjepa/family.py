"""Video JEPA: predict the *features* of what a video hides, never its pixels.

``predict: masked`` is the paper (Bardes et al. 2024, V-JEPA, section 3): a transformer sees the visible tubelets of a
clip, a narrow predictor with mask tokens fills in the features of the hidden ones. What is hidden are spatio-temporal
blocks, or all that comes after the first half of the clip; that mask is the one by which the future is predicted.
``predict: rollout`` asks for the future alone: every frame is one latent, and the dynamics is applied to its own
predictions, K steps far, against the encodings of the target (Assran et al. 2025, V-JEPA 2-AC, section 3.1, without
actions). What keeps latents apart is a slow target encoder (EMA), or SIGReg without any (Balestriero & LeCun 2025,
LeJEPA). Nothing ever looks ahead in time.

``predict: actions`` freezes the encoder of ``rollout`` after a share of training and predicts under actions on it
(action_conditioned.py); only this way can be planned with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from wm_pipelines.blocks.augment import random_windows
from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.masks import Masks, shade
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.blocks.transformer import take
from wm_pipelines.blocks.vit import Predictor
from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Views
from wm_pipelines.families.parts.imagining import ImaginingFamily
from wm_pipelines.families.vjepa.action_conditioned import ActionConditioned
from wm_pipelines.families.vjepa.config import ERRORS, VJEPAConfig
from wm_pipelines.families.vjepa.masks import spatiotemporal_masks, temporal_half_mask
from wm_pipelines.families.vjepa.roll_out import RollOut
from wm_pipelines.families.vjepa.tubelet_encoder import TubeletEncoder, widen_weights
from wm_pipelines.spec import Spec

_AT_ONCE = 1024  # frames averaged or encoded together


class _Masked(nn.Module):
    """Context encoder, predictor and target encoder of one seed, for ``predict: masked``."""

    def __init__(self, config: VJEPAConfig, shape: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        height, width, channels = shape
        shared = {"heads": config.heads, "positions": config.positions}
        sizes: dict[str, Any] = config.model_dump(include={"stem", "width", "depth", "latent", "tubelet"}) | shared
        self.encoder = TubeletEncoder((height, width), config.patch, channels=channels, **sizes)
        self.grid = self.encoder.grid(config.clip)
        sizes = {"width": config.predictor_width, "depth": config.predictor_depth} | shared
        self.predictor = Predictor(self.grid, config.latent, **sizes)
        widen_weights(self.predictor)
        self.target = EMA(self.encoder, config.tau, config.schedule.steps) if config.anti_collapse == "ema" else None

    def masks(self, count: int, future: bool, generator: torch.Generator) -> Masks:
        """Hide the second half; or blocks of patches for some steps, then others: as many patches at every step."""
        if future:
            return temporal_half_mask(count, self.grid)
        times, (span, block) = self.grid[0], self.config.mask_block
        turns, image = -(-times // span), (1, *self.grid[1:])
        drawn = spatiotemporal_masks(count * turns, image, 1, block, self.config.mask_ratio, generator=generator)
        return Masks(*(self._through_time(part.unflatten(0, (count, turns)), span) for part in drawn))

    def _through_time(self, patches: Tensor, span: int) -> Tensor:
        """Patches ``[B, turns, K]``, each for ``span`` latent steps, as tokens of the clip."""
        times = torch.arange(self.grid[0])
        return (patches[:, times // span] + self.encoder.patches * times[:, None]).flatten(1)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of the hidden tokens, ``|P(E(x_seen), where) - E'(x)_hidden|`` (V-JEPA, eq. 1)."""
        future = bool(torch.rand((), generator=generator) < self.config.half_share)
        masks = self.masks(everyone(len(x)), future, generator)
        context, hidden = (mine(m).to(x.device) for m in masks)
        found = self.encoder(x) if self.target is None else self.target(x)
        units = self.encoder.units(found)
        whole = self.encoder.standard(found, units)
        if future and self.target is None:
            seen = take(whole, context)  # latent steps are encoded apart: alone they have the very same tokens
        else:
            shown = x[:, : x.shape[1] // 2] if future else x
            seen = self.encoder.standard(self.encoder(shown, context), units, context)
        predicted = self.predictor(seen, context, hidden)
        latents = self.encoder.pool(whole)
        if self.config.tubelet > 1:
            # Frames that tell an energy: it never changes, is predicted without effort and would be all that is learnt
            latents = latents - latents.mean(1, keepdim=True)
        return {"prediction": ERRORS[self.config.error](predicted, take(whole, hidden))}, latents

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Tubelet by tubelet; frames beyond the last whole one are left out."""
        tubelet = self.config.tubelet
        whole = frames[:, : frames.shape[1] // tubelet * tubelet]
        tokens = self._tokens(self.encoder if self.target is None else self.target, whole)
        return self.encoder.pool(tokens), tokens.unflatten(1, (-1, self.encoder.patches))

    def _tokens(self, encoder: nn.Module, clip: Tensor) -> Tensor:
        tokens = encoder(clip)
        return self.encoder.standard(tokens, self.encoder.units(tokens))

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Half a clip after half a clip; what follows that is predicted from predictions."""
        seen, hidden = (m.to(context.device) for m in temporal_half_mask(len(context), self.grid))
        tokens, times = self._tokens(self.encoder, context), steps // self.config.tubelet
        found: list[Tensor] = []
        while sum(z.shape[1] for z in found) < times:
            tokens = self.predictor(tokens, seen, hidden)
            found.append(self.encoder.pool(tokens))
        return torch.cat(found, 1)[:, :times] if found else tokens.new_empty(len(tokens), 0, tokens.shape[-1])


@register
class VJEPA(ImaginingFamily):
    """Video JEPA.

    With ``predict: actions`` a belief is the latents of the last ``memory`` frames, ``[N, memory, D]``.
    """

    name: ClassVar[str] = "vjepa"
    Config: ClassVar[type[FamilyConfig]] = VJEPAConfig
    needs: ClassVar[tuple[str, ...]] = ("frames",)
    config: VJEPAConfig
    mean_frame: Tensor  # [H, W, C], in [0, 1]
    contrast: Tensor  # [C], standard deviation about it
    _observed: Tensor  # training frames, of which pieces are shown
    _coded: dict[int, Tensor]

    def __init__(self, config: FamilyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.register_buffer("mean_frame", torch.zeros(self.seen_space.shape))
        self.register_buffer("contrast", torch.ones(self.seen_space.shape[-1]))

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Single images have no future; what was done is either asked for or would be left out."""
        if why := super().unsuitable(spec, config):
            return why
        if spec.rows == 1:
            return "needs videos"
        acts = "actions" in cls.shown(spec)
        if config.predict == "actions":
            return None if acts else "predict: actions needs actions"
        return f"predict: {config.predict} takes no actions" if acts else None

    @property
    def frames_per_latent(self) -> int:
        """The tubelet, or one frame."""
        return self.config.tubelet if self.config.predict == "masked" else 1

    @property
    def context(self) -> int:
        """The first half of a clip, or the dynamics' memory."""
        return self.config.clip // 2 if self.config.predict == "masked" else self.config.memory

    def make_member(self) -> nn.Module:
        """Encoder, predictor, and a target encoder that starts as a copy.

        Raises:
            UserError: a clip, or memory and horizon, are longer than an episode; or frames are not cut by the patch.
        """
        config, rows = self.config, self.spec.rows
        if config.clip > rows:
            raise UserError(
                f"vjepa.clip: {config.clip} frames do not fit into episodes of {rows} of '{self.spec.name}'; "
                "use a shorter clip"
            )
        if config.predict != "actions":
            return (_Masked if config.predict == "masked" else RollOut)(config, self.seen_space.shape)
        if config.memory + config.horizon > rows:
            raise UserError(
                f"vjepa.horizon: memory {config.memory} and horizon {config.horizon} do not fit into episodes of "
                f"{rows} of '{self.spec.name}'; use a shorter horizon"
            )
        return ActionConditioned(config, self.seen_space, self.action_size, self.rewarded)

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; their mean frame is subtracted from all frames, and each channel gets unit variance.

        Under actions: numbers of episodes, by which frames and, once the encoder is frozen, latents are found.
        """
        examples = super().examples(episodes)
        frames = examples["frames"].flatten(0, 1)
        self.mean_frame.copy_(sum(part.double().sum(0) for part in frames.split(_AT_ONCE)) / len(frames) / 255)
        around = sum(
            (part / 255 - self.mean_frame).square().mean((1, 2)).double().sum(0) for part in frames.split(_AT_ONCE)
        )
        self.contrast.copy_((around / len(frames)).sqrt().clamp_min(1e-3))
        if self.config.predict != "actions":
            return examples
        for member in self.members if self.rewarded else ():
            assert isinstance(member, ActionConditioned)
            member.learn_rewards(examples["rewards"])
        self.register_buffer("_observed", examples["frames"], persistent=False)
        self._coded = {}
        return {"episode": torch.arange(len(self._observed)), **{n: examples[n] for n in self.uses if n in examples}}

    def pixels(self, frames: Tensor) -> Tensor:
        """What networks see of ``[..., H, W, C]`` uint8."""
        return (frames / 255 - self.mean_frame) / self.contrast

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of prediction in feature space, and what keeps features apart; under actions, once they are frozen."""
        config = self.config
        if config.predict != "actions":
            return self._jepa_loss(member, random_windows(batch["frames"], config.clip, generator), generator, progress)
        member.jepa.train(progress < config.encoder_share)
        if progress < config.encoder_share:
            frames = self._observed[self._rows(batch, 1, config.clip, generator)]
            return self._jepa_loss(member.jepa, frames, generator, progress / config.encoder_share)
        return self._conditioned_loss(member, batch, generator)

    def _jepa_loss(
        self, jepa: Any, frames: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of clips ``[B, clip, H, W, C]`` alone."""
        config = self.config
        terms, latents = jepa.loss(self.pixels(frames), generator, progress)
        error = torch.stack(list(terms.values())).sum()
        if config.anti_collapse == "ema":
            return error, terms
        terms["sigreg"] = sigreg(latents.flatten(0, 1), generator, config.directions, config.knots)
        return (1 - config.sigreg_weight) * error + config.sigreg_weight * terms["sigreg"], terms

    def _conditioned_loss(
        self, member: ActionConditioned, batch: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of pieces of the episodes, in the frozen encoder's latents: what follows actions, rewards, frames."""
        config = self.config
        episode, rows = self._rows(batch, config.pieces, config.memory + config.horizon, generator)
        z = self._codes(member)[episode, rows]
        of = torch.arange(len(batch["episode"]), device=rows.device).repeat_interleave(config.pieces)[:, None]
        done = {name: batch[name][of, rows[:, :-1]].to(z.dtype) for name in self.uses if name in batch}
        terms = member.prediction_loss(z, done["actions"])
        loss = torch.stack(list(terms.values())).sum()
        if "rewards" in done:
            terms["reward"] = member.reward_loss(z, done["actions"], done["rewards"])
            loss = loss + config.reward_weight * terms["reward"]
        one = slice(None, None, config.pieces)  # a frame of each episode is enough for the decoder
        shown = self.pixels(self._observed[episode[one, 0], rows[one, -1]]).movedim(-1, -3)
        terms["decoded"] = mse_loss(member.decoder(z[one, -1]), shown)
        return loss + terms["decoded"], terms

    def _rows(self, batch: Views, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Episodes ``[B count, 1]`` and rows ``[B count, length]`` of pieces from random starts."""
        episode = batch["episode"].repeat_interleave(count)[:, None]
        shape = (everyone(len(batch["episode"])), count)
        first = mine(torch.randint(self._observed.shape[1] - length + 1, shape, generator=generator))
        return episode, (first[..., None] + torch.arange(length)).flatten(0, 1).to(episode.device)

    def _codes(self, member: ActionConditioned) -> Tensor:
        """Latents of all training frames ``[E, T, D]``: found once, when the encoder is frozen."""
        if id(member) not in self._coded:
            parts = self._observed.flatten(0, 1).split(_AT_ONCE)
            codes = [member.encode(self.pixels(part).movedim(-1, -3)) for part in parts]
            self._coded[id(member)] = torch.cat(codes).unflatten(0, self._observed.shape[:2])
        return self._coded[id(member)]

    def _jepas(self) -> list[Any]:
        return [member.jepa if isinstance(member, ActionConditioned) else member for member in self.members]

    def after_step(self, progress: float) -> None:
        """Move the target encoders."""
        del progress
        for member in self._jepas():
            if member.target is not None:
                member.target.update_parameters(member.encoder)

    def monitor(self) -> Views:
        """Spread and rank of the features, and how far the target encoder lags behind."""
        found = dict(super().monitor())
        if self.config.anti_collapse == "ema":
            found["target_drift"] = torch.tensor([member.target.drift(member.encoder) for member in self._jepas()])
        return found

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """One latent per frame or tubelet, of the target encoder where there is one; tokens of the transformer."""
        if self.config.predict == "actions":
            return super().member_encode(member, views)
        return member.encode(self.pixels(views["frames"]))

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """Latents of what follows; under actions also frames decoded from them, and rewards."""
        if self.config.predict != "actions":
            return {"latents": member.predict(self.pixels(past["frames"][:, -self.context :]), steps)}
        belief = self.believed(member, past)
        if actions is None:
            actions = self.no_actions(belief, len(belief), steps)
        imagined = self.member_imagine(member, belief, actions.to(belief.dtype))
        found = {"frames": self.outputs(self.member_decode(member, imagined.features)), "latents": imagined.features}
        return found if imagined.rewards is None else {**found, "rewards": imagined.rewards}

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """Before the first frame everything was at rest."""
        return self.member_features(member, x)[:, None].expand(-1, self.config.memory, -1)

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """The newest frame in place of the oldest."""
        return torch.cat([belief[:, 1:], self.member_features(member, x)[:, None]], 1)

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Latents and rewards."""
        return member.imagine(belief, actions)

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """Latents of the frozen encoder."""
        mean, contrast = self._units
        return member.encode((x - mean) / contrast)

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """Frames of latents."""
        mean, contrast = self._units
        return mean + contrast * member.decoder(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    @property
    def _units(self) -> tuple[Tensor, Tensor]:
        """Mean frame ``[C, H, W]`` and contrast ``[C, 1, 1]``, of frames as encoders take them."""
        return self.mean_frame.movedim(-1, 0), self.contrast[:, None, None]

    def illustrate(self, views: Views) -> Views:
        """A clip's start with the patches grey that one mask of blocks hides."""
        if self.config.predict != "masked":
            return {}
        jepa, x = self._jepas()[0], views["frames"][:, : self.config.clip].float() / 255
        hidden = jepa.masks(len(x), False, torch.Generator().manual_seed(0)).targets
        return {"mask": shade(x, hidden, jepa.grid)}
