"""Families that are asked about frames: what they share, so that they differ in how they answer alone.

Each sees through an encoder of its own that is trained first, as `ijepa` is: what is seen in masked views predicts what
is seen in the whole image, and SIGReg keeps features apart (Balestriero & LeCun 2025, LeJEPA). The same seed, data and
schedule give the same encoder to the bit. Then it is frozen, or tuned at a rate of its own, and questions are learned
on what it sees. With ``encoder`` it is that of an `ijepa` which was trained before, and questions take all steps.

Shapes: ``E`` episodes, ``T`` rows (1: images), ``Q`` questions of an episode, ``L`` tokens, ``N`` positions of a frame,
``D`` features, ``M`` tokens that a network sees.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from wm_pipelines.blocks.augment import Augmentation
from wm_pipelines.blocks.convolutional import projector, unit_gain
from wm_pipelines.blocks.reading import Kept, Reader, trimmed
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.blocks.stem import StemmedTransformer
from wm_pipelines.blocks.view_prediction import seen_in_views
from wm_pipelines.blocks.words import PADDING, Words
from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.families.parts.stored import stored_encoders
from wm_pipelines.mappings import Checked, Positive

_AT_ONCE = 512  # frames encoded together
_ASKED_AT_ONCE = 128  # episodes asked together


class AskedConfig(TrainedConfig):
    """What all of them are told."""

    schedule: Schedule = Schedule(
        steps=1500, batch_size=32, learning_rate=2e-3, final_learning_rate=0.0, warmup=50, betas=(0.9, 0.98),
        weight_decay=0.01, gradient_clip=1.0,
    )  # fmt: skip
    asked: int = Field(4, ge=1, description="questions of an episode in one step")
    # the encoder
    encoder_share: float = Field(0.3, gt=0, lt=1, description="of training, for the encoder alone")
    encoder_rate: float = Field(
        0.0, ge=0, le=1, description="of the learning rate, for the encoder afterwards; 0: frozen"
    )
    encoder: Checked | None = Field(
        None, description="weights of a trained ijepa, path and SHA-256, whose encoder it is; null: trained first"
    )
    stem: tuple[Positive, ...] = Field((24, 48, 96), min_length=1, description="channels of convolutions that halve")
    features: int = Field(48, ge=2, description="D, of a position of the last map")
    augment: Augmentation = Augmentation()
    mask_ratio: float = Field(0.25, gt=0, lt=1, description="of the positions, hidden in masked views")
    views: int = Field(2, ge=1, description="masked views per image")
    projector: tuple[Positive, ...] = Field((256, 64), min_length=1, description="widths of its layers")
    sigreg_weight: float = Field(0.1, ge=0, le=1)
    directions: int = Field(64, ge=1)
    knots: int = Field(9, ge=2)
    # the network
    vocabulary: int = Field(128, ge=3, description="words at most")
    words: int = Field(48, ge=1, description="of a text at most")
    width: int = Field(96, ge=2)
    depth: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1)


class Eye(nn.Module):
    """The encoder of single frames, and the head that its own training compares."""

    def __init__(self, size: tuple[int, int], channels: int, config: AskedConfig) -> None:
        super().__init__()
        self.encoder = StemmedTransformer(size, channels, (*config.stem, config.features), depth=0)
        unit_gain(self.encoder)
        self.projector = projector(config.features, config.projector)

    def forward(self, frames: Tensor) -> Tensor:
        """``[E, T, H, W, C]`` in [0, 1] -> ``[E, T, N, D]``."""
        return self.encoder(frames.flatten(0, 1)[:, None]).unflatten(0, frames.shape[:2])


class Sight(nn.Module):
    """What a network sees of features: a token for every position of an image, or for every frame of a video.

    The token of a frame has also seen the frame before it (the first one itself): where things are, and how they move.
    """

    def __init__(self, rows: int, positions: int, features: int, width: int) -> None:
        super().__init__()
        self.video = rows > 1
        self.enter = nn.Linear(features * (2 * positions if self.video else 1), width)
        self.places = nn.Parameter(0.3 * torch.randn(rows if self.video else positions, width))

    def forward(self, features: Tensor) -> Tensor:
        """``[E, T, N, D] -> [E, M, width]``."""
        if not self.video:
            return self.enter(features[:, 0]) + self.places
        frames = features.flatten(2)
        before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
        return self.enter(torch.cat([frames, before], 2)) + self.places


class AskedMember(nn.Module):
    """What one seed has; no eye where nothing is seen."""

    def __init__(self, words: Words, eye: Eye | None, network: nn.Module) -> None:
        super().__init__()
        self.words, self.eye, self.network = words, eye, network


class AskedFamily(MemberFamily):
    """Subclasses give `make_network`, `answer_loss` and `scores`."""

    needs: ClassVar[tuple[str, ...]] = ("frames", "questions", "answers")
    config: Any
    _frames: Tensor
    _coded: dict[int, Tensor]

    @abstractmethod
    def make_network(self, sight: Sight) -> nn.Module:
        """All of one seed that is not words or encoder."""

    @abstractmethod
    def answer_loss(
        self, member: Any, seen: Tensor, questions: Tensor, answers: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of features ``[B, T, N, D]``, and tokens of questions and answers ``[B, asked, L]``."""

    @abstractmethod
    def scores(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """How well candidates ``[C, L]`` answer questions ``[B, Q, L]``, ``[B, Q, C]``; the largest is the answer."""

    def are_best(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """Whether they have the largest score, ``[B, Q, C]``; for subclasses that know it without all scores."""
        found = self.scores(member, seen, questions, candidates)
        return found == found.amax(-1, keepdim=True)

    def sees(self) -> bool:
        """Whether answers depend on what is seen; else there is no encoder to train."""
        return True

    # ------------------------------------------------------------------------------------------------------- training

    def make_member(self) -> nn.Module:
        """Words, encoder, network."""
        c, (height, width, channels) = self.config, self.space.shape
        eye = Eye((height, width), channels, c)
        sight = Sight(self.spec.rows, eye.encoder.tokens, c.features, c.width)
        return AskedMember(Words(c.vocabulary, c.words), eye if self.sees() else None, self.make_network(sight))

    def examples(self, episodes: Views) -> Views:
        """Numbers of episodes, by which frames are found, and tokens of questions and answers ``[E, Q, L]``.

        Raises:
            UserError: more words, or longer texts, than there is room for; see `stored_encoders`.
        """
        examples = dict(super().examples(episodes))
        if self.config.encoder is not None and self.sees():
            eyes: list[Any] = [member.eye for member in self.members]
            found = stored_encoders(self.config.encoder, len(eyes), eyes[0].encoder, self.space.shape)
            for eye, encoder in zip(eyes, found, strict=True):
                eye.encoder.load_state_dict(encoder.state_dict())
        texts = torch.cat([padded(examples[name].flatten(0, 1), self._longest(examples)) for name in _TEXTS])
        for member in self.members:
            assert isinstance(member, AskedMember)
            member.words.learn(texts)
        first = self.members[0]
        assert isinstance(first, AskedMember)
        self.register_buffer("_frames", examples["frames"], persistent=False)
        self._coded = {}
        tokens = {name: tokens_of(first.words, examples[name]) for name in _TEXTS}
        return {"episode": torch.arange(len(self._frames)), **tokens}

    def _longest(self, examples: Views) -> int:
        return max(examples[name].shape[-1] for name in _TEXTS)

    def rate_factors(self, progress: float) -> Mapping[str, float]:
        """The encoder's own, once it is trained."""
        return {"eye": 1.0 if self._learns_to_see(progress) else self.config.encoder_rate}

    def _learns_to_see(self, progress: float) -> bool:
        c = self.config
        return self.sees() and c.encoder is None and progress < c.encoder_share

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """First of the encoder alone, then of answers."""
        learns_to_see = self._learns_to_see(progress)
        if member.eye is not None:
            member.eye.train(learns_to_see and self.training)
        if learns_to_see:
            return self._seeing_loss(member.eye, batch["episode"], generator)
        count, asked = batch["questions"].shape[:2]
        drawn = mine(torch.rand(everyone(count), asked, generator=generator)).argsort(1)[:, : self.config.asked]
        rows = torch.arange(count)[:, None], drawn
        questions, answers = (batch[name][tuple(r.to(batch[name].device) for r in rows)] for name in _TEXTS)
        return self.answer_loss(member, self._seen(member, batch["episode"]), trimmed(questions), trimmed(answers))

    def _seeing_loss(self, eye: Eye, episode: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A random frame of every episode: what is seen in masked views predicts what is seen in the whole."""
        c = self.config
        row = mine(torch.randint(self._frames.shape[1], (everyone(len(episode)),), generator=generator))
        images = self.scaled(self._frames[episode, row.to(episode.device)])
        full, masked = seen_in_views(eye.encoder, eye.projector, images, c.augment, c.mask_ratio, c.views, generator)
        error = mse_loss(masked, full.expand_as(masked))
        apart = torch.stack([sigreg(z, generator, c.directions, c.knots) for z in (full, *masked)]).mean()
        share = c.sigreg_weight
        return (1 - share) * error + share * apart, {"prediction": error, "sigreg": apart}

    def _seen(self, member: Any, episode: Tensor) -> Tensor:
        """Features of training episodes, none where nothing is seen; of a frozen encoder they are found once."""
        if not self.sees():
            return self.scaled(self._frames[episode, :0])
        if self.config.encoder_rate:
            return member.eye(self.scaled(self._frames[episode]))
        if id(member) not in self._coded:
            self._coded[id(member)] = self.seen(member, self._frames)
        return self._coded[id(member)][episode]

    @torch.no_grad()
    def seen(self, member: Any, frames: Tensor) -> Tensor:
        """Features ``[E, T, N, D]`` of frames uint8; none where nothing is seen."""
        if not self.sees():
            return self.scaled(frames[:, :0])
        member.eye.eval()
        return torch.cat([member.eye(self.scaled(p)) for p in frames.split(max(1, _AT_ONCE // frames.shape[1]))])

    # ------------------------------------------------------------------------------------------------------------- use

    def choose(self, frames: Tensor, questions: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """See `Answers`.

        Raises:
            UserError: a text has more words than the model takes.
        """
        return self._asked(self.scores, frames, questions, candidates, seed)

    def choose_best(self, frames: Tensor, questions: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """See `ChoosesBest`.

        Raises:
            UserError: a text has more words than the model takes.
        """
        return self._asked(self.are_best, frames, questions, candidates, seed)

    @torch.no_grad()
    def _asked(
        self, judge: Callable[..., Tensor], frames: Tensor, questions: Tensor, candidates: Tensor, seed: int
    ) -> Tensor:
        member = self.members[seed].eval()
        assert isinstance(member, AskedMember)
        asked, offered = tokens_of(member.words, questions), trimmed(tokens_of(member.words, candidates))
        parts = zip(frames.split(_ASKED_AT_ONCE), asked.split(_ASKED_AT_ONCE), strict=True)
        return torch.cat([judge(member, self.seen(member, f), trimmed(q), offered) for f, q in parts])

    @torch.no_grad()
    def pointed(
        self, where: Callable[[Any, Tensor, Tensor], Tensor], frames: Tensor, questions: Tensor, seed: int
    ) -> Tensor:
        """What ``where(member, features [B, T, N, D], tokens [B, Q, L])`` gives, part by part; see `PointsAtTexts`."""
        member: Any = self.members[seed].eval()
        asked = tokens_of(member.words, questions)
        parts = zip(frames.split(_ASKED_AT_ONCE), asked.split(_ASKED_AT_ONCE), strict=True)
        return torch.cat([where(member, self.seen(member, f), trimmed(q)) for f, q in parts])

    def language_parameters(self) -> dict[str, int]:
        """How many parameters of one seed answers take: of the network without the encoder, of its text tower."""
        network = self.members[0].network
        assert isinstance(network, nn.Module)
        tower = getattr(network, "text", None)
        count = [0 if part is None else sum(p.numel() for p in part.parameters()) for part in (network, tower)]
        return {"language": count[0], "text": count[1]}

    def monitor(self) -> Views:
        """See `MemberFamily`; nothing where nothing is seen."""
        return super().monitor() if self.sees() else {}

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """What the encoder sees, frame by frame: the mean over positions, and all of them.

        Raises:
            UserError: nothing is seen.
        """
        if not self.sees():
            raise UserError(f"this {self.name} sees nothing and has no features")
        features = member.eye(self.scaled(views["frames"]))
        return features.mean(2), features


def read_images(
    sight: Sight | None, reader: Reader, seen: Tensor, questions: Tensor
) -> tuple[list[Kept] | None, Tensor]:
    """Read what is seen, once for all questions about it: it does not know what it will be asked.

    Args:
        sight: None: nothing is seen. reader: of images and questions. seen: features ``[B, T, N, D]``.
        questions: tokens ``[B, Q, L]``.

    Returns:
        what is kept of it, by block, for every question; which tokens are there, of the image and of every question,
        ``[B Q, M + L]``.
    """
    there = questions.flatten(0, 1) != PADDING
    if sight is None:
        return None, there
    x = sight(seen)
    _, kept = reader(x, there.new_ones(len(x), x.shape[1], x.shape[1]), last=0)
    asked = questions.shape[1]
    many = [(k.repeat_interleave(asked, 0), v.repeat_interleave(asked, 0)) for k, v in kept]
    return many, torch.cat([there.new_ones(len(there), x.shape[1]), there], 1)


_TEXTS = ("questions", "answers")


def tokens_of(words: Words, texts: Tensor) -> Tensor:
    """Tokens ``[..., words]`` of texts ``[..., L]`` (UTF-8, uint8)."""
    return words.tokens(texts.flatten(0, -2)).unflatten(0, texts.shape[:-1])


def padded(texts: Tensor, length: int) -> Tensor:
    """Texts ``[N, L]`` with zeros behind them up to a length."""
    return nn.functional.pad(texts, (0, length - texts.shape[-1]))
