"""Judge captions of frames and frames of captions by the scenes behind them.

Axes: ``S`` seeds, ``N`` scenes of a split. A caption is read back to a scene by the grammar, a frame by a parser
without learning (`metrics.scene_parser`); scenes are compared as sets of objects. Rows with a ``step`` are of scenes of
so many objects.

Where no scenes are known (captions of the user's own), nothing can be read back: likelihoods, retrieval and the
distance of drawn frames from true ones remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes, codec_of, utf8
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Encodes, Family
from wm_pipelines.families.parts.language import Captions, Describes, Generates, ScoresText
from wm_pipelines.families.parts.stored import stored
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Checked
from wm_pipelines.metrics.captions import captions_right, others_of_their_kind, perplexity
from wm_pipelines.metrics.distances import frechet_distance
from wm_pipelines.metrics.pretrained import InceptionFeatures
from wm_pipelines.metrics.ranges import RATE
from wm_pipelines.metrics.scene_parser import Look, Scenes, attributes_right, parse
from wm_pipelines.metrics.statistics import Summary, summarise
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.language.asked import add_answers, add_ms, can_be_asked, prompts_of

if TYPE_CHECKING:
    from wm_pipelines.tasks.language import LanguageConfig

Float = NDArray[np.float64]
Right = Mapping[str, NDArray[np.bool_]]

_OF_CAPTIONS = ("sentence", "count", "size", "colour", "shape", "place", "combination")
_OF_FRAMES = ("size", "colour", "shape", "place", "combination")  # where the count is right
_SIDE = 8  # pixels along a side, of which the distance of Fréchet is taken


def judge(
    family: Family, episodes: Mapping[str, Episodes], split: str, laws: Laws, config: LanguageConfig
) -> Judgement:
    """Everything the family can be asked: answers, captions, frames, likelihoods of texts.

    Args:
        family: restored. episodes: of all splits. split: to be judged. laws: how frames and captions are read.

    Raises:
        UserError: nobody can read these scenes, or the family neither says nor draws anything.
    """
    part = episodes[split]
    read, asked = laws.read_caption if "scenes" in part else None, can_be_asked(family, part)
    said_there, shown = "captions" in part, sees(family)
    if not asked:
        _refuse(family, part)
    judged = Judgement(family.seeds, split)
    if asked:
        add_answers(judged, family, episodes, split, laws, config)
    if said_there and shown:
        began = process_time()
        if said := _captions_by(family, part, laws, config, len(judged.seeds)):
            add_ms(judged, "ms_per_caption", began, sum(map(len, said)))
            _add_captions(judged, said, part, read, config)
    if isinstance(family, ScoresText) and said_there:
        _add_perplexities(judged, family, part, shown)
    if isinstance(family, Generates) and said_there and shown:
        _add_frames(judged, family, part, None if read is None else Look(**laws.look), config)
        if read is not None and not any(True for _ in family.parameters()):
            _add_parser(judged, part, Look(**laws.look), config)
    _keep(judged, family, part, shown, config)
    return judged


def sees(family: Family) -> bool:
    """Whether it works on frames in this configuration: what learns texts alone neither draws nor describes."""
    return "frames" in family.observed(family.spec, family.config)


def _refuse(family: Family, part: Episodes) -> None:
    """Raise UserError where there is nothing that the family could be asked."""
    if "captions" not in part:
        raise UserError(f"'{part.spec.name}' has no captions: nobody knows what should be said of it")
    if not isinstance(family, Captions | Generates):
        raise UserError(f"family '{family.name}' neither describes frames nor draws captions")


# ------------------------------------------------------------------------------------------------------ image -> text


def _captions_by(family: Any, part: Episodes, laws: Laws, config: LanguageConfig, seeds: int) -> list[list[str]]:
    """Captions of frames by every seed; of families that are asked, what they say to the question for it.

    Of all frames, or, where nobody can read what is said, of those that the report shows.
    """
    if "scenes" not in part:
        part = part.first(config.shown)
    if isinstance(family, Captions):
        return [family.caption(_frames(part), seed) for seed in range(seeds)]
    prompts = prompts_of(part, laws) if isinstance(family, Describes) else None
    if prompts is None:
        return []
    return [family.describe(torch.tensor(part["frames"]), prompts, seed) for seed in range(seeds)]


def _add_captions(
    judged: Judgement, said: Sequence[list[str]], part: Episodes, read: Any, config: LanguageConfig
) -> None:
    judged.arrays["said"] = utf8(said[0][: config.shown])
    if read is None:
        return
    wanted = part["scenes"]
    right = _stacked([captions_right(texts, read, wanted) for texts in said])
    number = _number(wanted)
    _add_shares(judged, "caption_exact", right["exact_places"], number)
    for name in _OF_CAPTIONS:
        _add_shares(judged, f"caption_{name}", right[name], number)
    judged.add("caption_exact_one", right["exact_places"][:, number == 1], "1")
    judged.add("caption_exact_up_to_two", right["exact_places"][:, number <= 2], "1")
    others = others_of_their_kind(number)
    chance = _stacked([captions_right(texts, read, wanted[others]) for texts in said])
    judged.add("caption_exact_chance", chance["exact_places"], "1")
    judged.arrays["said_right"] = right["exact_places"][0, : config.shown]


def _add_perplexities(judged: Judgement, family: Any, part: Episodes, shown: bool) -> None:
    """Per token and per byte, of the caption alone and, where frames are shown, given the frame."""
    captions = _captions(part)
    given: dict[str, torch.Tensor | None] = {"prior_perplexity": None}
    if shown:
        given["perplexity"] = _frames(part)
    sizes = np.array([len(text.encode()) for text in part["captions"].tolist()], np.float64)
    for name, frames in given.items():
        scores = [family.score(captions, frames, seed) for seed in range(len(judged.seeds))]
        for suffix in ("", "_per_byte"):
            found = [perplexity(s.nats.numpy(), sizes if suffix else s.tokens.double().numpy()) for s in scores]
            values = np.stack([by_text for _, by_text in found])
            judged.add(name + suffix, [summary for summary, _ in found], "1", by_episode=values)


# ------------------------------------------------------------------------------------------------------ text -> image


def _add_frames(judged: Judgement, family: Any, part: Episodes, look: Look | None, config: LanguageConfig) -> None:
    """How far drawn frames are from true ones and, where a parser knows their look, what is on them."""
    part = part.first(config.drawn)
    captions = _captions(part)
    drawn = [
        family.generate(captions, k, torch.Generator().manual_seed(seed)).double().numpy()
        for k, seed in enumerate(judged.seeds)
    ]
    for name, features in _features_of(config).items():
        real = features(part["frames"][:, 0] / 255.0)
        judged.add(name, np.array([frechet_distance(features(f), real) for f in drawn]), "1", n=len(real))
    judged.arrays["drawn"] = np.rint(255 * drawn[0][: config.shown]).astype(np.uint8)
    if look is not None:
        _add_read_frames(judged, drawn, part["scenes"], look, config)


def _features_of(config: LanguageConfig) -> dict[str, Callable[[Float], Float]]:
    """By metric, features of frames ``[N, H, W, C]`` in [0, 1] that Fréchet distances are taken of."""
    found: dict[str, Callable[[Float], Float]] = {"frechet_pixels": coarse}
    if config.encoder is not None:
        found["frechet_encoder"] = _encoded_by(encoder_of(config.encoder))
    if config.inception is not None:
        found["fid"] = InceptionFeatures(config.inception.path, config.inception.sha256)
    return found


def encoder_of(file: Checked) -> Any:
    """A trained model of frames.

    Raises:
        UserError: see `stored`; it has no features of frames that were learned.
    """
    family = stored(file)
    sees_frames = any("frames" in need.split("|") for need in family.needs)
    if not (isinstance(family, Encodes) and family.learned_features and sees_frames):
        raise UserError(f"'{file.path}' ({family.name}) has no learned features of frames: give an ijepa, for example")
    return family


def _encoded_by(family: Any) -> Callable[[Float], Float]:
    """Pooled features of the first seed's encoder, ``[N, D]``."""

    def features(frames: Float) -> Float:
        shape, seen = frames.shape[1:], family.spec.views["frames"].shape
        if shape != tuple(seen):
            raise UserError(f"language.encoder: {family.name} has seen frames {list(seen)}, these are {list(shape)}")
        shown = torch.tensor(np.rint(255 * frames.clip(0, 1)).astype(np.uint8))[:, None]
        with torch.no_grad():
            return np.asarray(family.encode({"frames": shown}).pooled[0].flatten(1).double().numpy())

    return features


def _add_read_frames(
    judged: Judgement, drawn: Sequence[Float], wanted: Scenes, look: Look, config: LanguageConfig
) -> None:
    found = [parse(frames, look) for frames in drawn]
    right, number = _stacked([attributes_right(scenes, wanted) for scenes in found]), _number(wanted)
    _add_shares(judged, "frame_exact", right["exact_places"], number)
    _add_shares(judged, "frame_count", right["count"], number)
    for name in _OF_FRAMES:
        _add_given(judged, f"frame_{name}", right[name], right["count"], number)
    for name, count in (("one", 1), ("two", 2)):
        if (number == count).any():
            judged.add(f"frame_exact_{name}", right["exact_places"][:, number == count], "1")
    others = wanted[others_of_their_kind(number)]
    chance = _stacked([attributes_right(scenes, others) for scenes in found])
    judged.add("frame_exact_chance", chance["exact_places"], "1")
    judged.arrays["drawn_right"] = right["exact_places"][0, : config.shown]


def coarse(frames: Float) -> Float:
    """Frames ``[N, H, W, C]`` averaged to 8 by 8 pixels, flat ``[N, 64 C]``.

    Raises:
        UserError: their sides are no multiples of 8.
    """
    count, height, width, channels = frames.shape
    if height % _SIDE or width % _SIDE:
        raise UserError(f"frames of {height} x {width} pixels cannot be averaged to {_SIDE} x {_SIDE}")
    cells = frames.reshape(count, _SIDE, height // _SIDE, _SIDE, width // _SIDE, channels)
    return np.asarray(cells.mean(axis=(2, 4)).reshape(count, -1))


# ---------------------------------------------------------------------------------------------------------- the parser


def _add_parser(judged: Judgement, part: Episodes, look: Look, config: LanguageConfig) -> None:
    """How well the parser itself reads true frames, as they are and under noise; step: its deviation in per cent."""
    frames, wanted = part["frames"][:, 0] / 255.0, part["scenes"]
    noise = np.random.default_rng(0).standard_normal(frames.shape)
    for sigma in (0.0, *config.parser_noise):
        right = attributes_right(parse(np.clip(frames + sigma * noise, 0.0, 1.0), look), wanted)
        for name, key in (("exact", "exact_places"), ("size", "size"), ("colour", "colour"), ("shape", "shape")):
            values = np.repeat(right[key][None].astype(np.float64), len(judged.seeds), axis=0)
            judged.add(f"parser_{name}", values, "1", step=round(100 * sigma) if sigma else -1)


# -------------------------------------------------------------------------------------------------------------- helpers


def _add_shares(judged: Judgement, metric: str, right: Float, number: NDArray[np.int64]) -> None:
    """Of all scenes, and of those of one, two, three objects."""
    judged.add(metric, right, "1")
    for count in np.unique(number):
        judged.add(metric, right[:, number == count], "1", step=int(count))


def _add_given(judged: Judgement, metric: str, right: Float, given: Float, number: NDArray[np.int64]) -> None:
    """The same, of scenes where ``given [S, N]`` holds alone; none where it holds of none."""
    for step in (-1, *np.unique(number).tolist()):
        chosen = (given > 0) & ((number == step) | (step < 0))
        if chosen.any(1).all():
            values: Sequence[Summary] = [summarise(r[c], within=RATE) for r, c in zip(right, chosen, strict=True)]
            judged.add(metric, values, "1", step=int(step))


def _stacked(found: Sequence[Right]) -> dict[str, Float]:
    return {name: np.stack([one[name] for one in found]).astype(np.float64) for name in found[0]}


def _number(scenes: Scenes) -> NDArray[np.int64]:
    """How many objects scenes have, ``[N]``."""
    return np.asarray((scenes[..., 0] >= 0).sum(1))


def _frames(part: Episodes) -> torch.Tensor:
    return torch.tensor(part["frames"][:, 0])


def _captions(part: Episodes) -> torch.Tensor:
    return torch.tensor(codec_of(part.spec.views["captions"]).to_numbers(part["captions"]))


def _keep(judged: Judgement, family: Any, part: Episodes, shown: bool, config: LanguageConfig) -> None:
    """What the report shows beside: the first scenes, and what the family itself illustrates."""
    few = part.first(config.shown)
    if "frames" in few:
        judged.arrays["true"] = np.ascontiguousarray(few["frames"][:, 0])
    if "captions" not in few:
        return
    judged.arrays["prompts"] = utf8(few["captions"])
    draw: Callable[[Any], Mapping[str, torch.Tensor]] | None = getattr(family, "illustrate", None)
    if draw is None or not shown:
        return
    views = {"frames": torch.tensor(few["frames"]), "captions": _captions(few)}
    for name, images in draw(views).items():
        judged.arrays[f"seen_{name}"] = (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
