"""Data sets of the Hugging Face Hub, or of a folder in the same layout, through the package ``datasets``.

Texts (WikiText-103: Merity et al., *Pointer sentinel mixture models*, ICLR 2017) are cut to passages; pictures
(ImageNet-100: a hundred classes of Russakovsky et al., *ImageNet large scale visual recognition challenge*, IJCV 2015)
come with their own captions, or with one made of the name of their class. A revision pins what is loaded; what really
was used is pinned by a checksum over texts and pixels.

Needs the package: ``pip install 'wm_pipelines[huggingface]'``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError, did_you_mean
from wm_pipelines.files import project_path
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters, check_splits
from wm_pipelines.worlds.parts.captioned_rows import KINDS, passages, text_views
from wm_pipelines.worlds.parts.pictures import fitted
from wm_pipelines.worlds.parts.video_files import Cut, check_memory


class SplitOf(Settings):
    """Where a split of ours comes from."""

    split: str = Field(description="as the data set calls it")
    first: int = Field(0, ge=0, description="examples (pictures, passages) that are passed over")
    count: int = Field(ge=1, description="examples taken at most")


class HuggingFaceParameters(WorldParameters):
    """Which data set, which columns, how much of it."""

    dataset: str = Field(description="owner/name on the Hub, or a folder of Parquet, Arrow, CSV … files")
    config: str | None = Field(None, description="of a data set that has several")
    revision: str | None = Field(None, description="commit, branch or tag on the Hub; a commit pins the data")
    streaming: bool = Field(True, description="read what is taken alone; false: fetch all of it into the cache first")
    shuffle: int | None = Field(
        None, ge=1, description="examples that are put in random order by the seed; streaming: of so many at a time"
    )
    sha256: str | None = Field(None, description="of what was taken (see the metadata of episodes); null: not compared")
    text: str | None = Field(None, description="column of captions or texts; null: classes tell what is shown")
    image: str | None = Field(None, description="column of pictures; null: texts alone, cut to passages")
    label: str | None = Field(None, description="column of classes")
    caption: str = Field("a photo of {label}", description="where there are no texts: with the name of the class")
    passage: int = Field(160, ge=1, description="bytes of a passage at most")
    size: int = Field(32, ge=8, multiple_of=8, description="pixels along a side: shorter side scaled, centre cut out")
    splits: dict[str, SplitOf]

    @model_validator(mode="after")
    def _fit_together(self) -> HuggingFaceParameters:
        check_splits(self.splits, "test: {split: test, count: 500}")
        if self.text is None and (self.image is None or self.label is None):
            raise ValueError("text: name the column, or those of image and label")
        if self.text is None and "{label}" not in self.caption:
            raise ValueError("caption: '{label}' stands for the name of the class")
        return self


@register
class HuggingFace(World):
    """Captions ``[E]``; with pictures frames ``[E, 1, size, size, 3]``, questions and answers ``[E, 1]``, too."""

    name = "huggingface"
    Parameters = HuggingFaceParameters
    parameters: HuggingFaceParameters

    def laws(self) -> Laws:
        """What is asked; nobody knows what the captions should say."""
        return Laws(question_kinds=KINDS)

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """The examples as they stand in the data set; ``seed`` puts them in another order where that is asked for.

        Raises:
            UserError: the package is missing, the data set cannot be loaded or has no such column, a split is empty,
                or the checksum is another.
        """
        p, found = self.parameters, {}
        for split, part in p.splits.items():
            rows = self._rows(part.split, seed)
            taken = islice(self._examples(rows), part.first, part.first + part.count)
            if p.image is not None:
                check_memory(part.count, Cut(1, 1, None, 1, p.size, False), f"{self.entry}: split '{split}'")
            views = _views(list(taken))
            if views is None:
                raise UserError(f"{self.entry}: split '{split}' is empty: '{part.split}' of '{p.dataset}' ends before")
            found[split] = views
        checksum = _checksum(found)
        if p.sha256 not in (None, checksum):
            raise UserError(
                f"{self.entry}: what was taken of '{p.dataset}' has the checksum {checksum}, not {p.sha256}: the data "
                "set, its revision or a parameter has changed"
            )
        facts = {
            "seed": seed,
            "dataset": p.dataset,
            "revision": p.revision,
            "source_sha256": checksum,
            "generator": __version__,
        }
        return {split: self.episodes(views, 1.0, facts | {"split": split}) for split, views in found.items()}

    def _rows(self, split: str, seed: int) -> Any:
        """The data set's own split.

        Raises:
            UserError: see `own_episodes`.
        """
        p = self.parameters
        try:
            import datasets
        except ImportError:
            raise UserError(
                f"world '{self.entry}' needs the package datasets: pip install 'wm_pipelines[huggingface]'"
            ) from None
        local = project_path(p.dataset)
        place = str(local) if Path(local).is_dir() else p.dataset
        try:
            rows = datasets.load_dataset(place, p.config, split=split, revision=p.revision, streaming=p.streaming)
        except Exception as error:  # whatever the Hub, the network, the cache or the files say
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.entry}: cannot load '{split}' of the data set '{p.dataset}': {reason}") from error
        for name in (p.text, p.image, p.label):
            if name is not None and name not in (rows.column_names or ()):
                there = list(rows.column_names or ())
                raise UserError(f"{self.entry}: '{p.dataset}' has no column '{name}'{did_you_mean(name, there)}")
        if p.shuffle is None:
            return rows
        return rows.shuffle(seed=seed, buffer_size=p.shuffle) if p.streaming else rows.shuffle(seed=seed)

    def _examples(self, rows: Any) -> Iterator[tuple[str, NDArray[np.uint8] | None]]:
        """Captions and pictures, or passages, one after the other."""
        p = self.parameters
        if p.image is None:
            for row in rows.select_columns([p.text]):
                for passage in passages(row[p.text] or "", p.passage):
                    yield passage, None
            return
        names = _class_names(rows, p.label) if p.text is None else ()
        for number, row in enumerate(rows, 1):
            text = row[p.text] if p.text is not None else p.caption.replace("{label}", _named(row[p.label], names))
            if not (text or "").strip():
                raise UserError(f"{self.entry}: row {number} of '{p.dataset}' has an empty caption")
            yield text.strip(), fitted(row[p.image], p.size)


def _class_names(rows: Any, label: str | None) -> Sequence[str]:
    """Names of the classes where the data set tells them."""
    return getattr((rows.features or {}).get(label), "names", None) or ()


def _named(label: Any, names: Sequence[str]) -> str:
    """The name of a class, of several synonyms the first."""
    name = names[label] if names else str(label)
    return name.split(",")[0].replace("_", " ")


def _views(examples: Sequence[tuple[str, NDArray[np.uint8] | None]]) -> dict[str, NDArray[Any]] | None:
    """None where there are no examples."""
    captions = [text for text, _ in examples]
    pictures = [picture for _, picture in examples if picture is not None]
    if not captions:
        return None
    if not pictures:
        return {"captions": np.array(captions)}
    return {"frames": np.stack(pictures)[:, None], **text_views(captions)}


def _checksum(found: Mapping[str, Mapping[str, NDArray[Any]]]) -> str:
    """SHA-256 over captions and pixels of all splits, in order."""
    digest = hashlib.sha256()
    for split, views in found.items():
        digest.update(f"{split}\n".encode())
        digest.update("\n".join(views["captions"].tolist()).encode())
        if "frames" in views:
            digest.update(np.ascontiguousarray(views["frames"]).data)
    return digest.hexdigest()
