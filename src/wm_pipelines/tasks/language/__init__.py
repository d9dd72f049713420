"""Language: captions of frames, frames of captions, answers to questions, judged by what is behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from wm_pipelines.mappings import Checked
from wm_pipelines.tasks import register
from wm_pipelines.tasks.base import Results, Task, TaskConfig

if TYPE_CHECKING:
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.tasks.judgement import Judgement


class LanguageConfig(TaskConfig):
    """How captions and frames are judged."""

    drawn: int = Field(300, ge=2, description="captions of a split of which frames are drawn; the first ones")
    parser_noise: list[float] = Field(
        [0.05, 0.1, 0.2], description="standard deviations of noise on true frames, in [0, 1], that the parser reads"
    )
    retrieved: int = Field(200, ge=2, description="frames of a split that look for their captions; the first ones")
    retrieved_of: int = Field(1000, ge=2, description="different captions that they look among")
    selective_share: float = Field(
        0.95, gt=0, le=1, description="of the accuracy of a caption per frame, that fewer captions have to reach"
    )
    inception: Checked | None = Field(
        None, description="TorchScript InceptionV3 for the FID of drawn frames: path and SHA-256"
    )
    encoder: Checked | None = Field(
        None,
        description="weights of a trained model of images, for a distance of features: path and SHA-256",
    )
    shown: int = Field(8, ge=1, description="examples kept for the report")


@register
class Language(Task):
    """Image -> text and text -> image; the split ``held_out`` has combinations that training never shows."""

    name: ClassVar[str] = "language"
    pipeline: ClassVar[str] = "language_eval"
    title: ClassVar[str] = "Language"
    file: ClassVar[str] = "language.html"
    Config: ClassVar[type[TaskConfig]] = LanguageConfig
    shows: ClassVar[tuple[str, ...]] = ("frames", "captions", "questions", "answers")
    not_judged: ClassVar[frozenset[str]] = frozenset({"train", "validation", "moving"})  # the last one beside `test`
    main_metrics: ClassVar[tuple[str, ...]] = (
        "caption_exact_one", "frame_exact_one", "answer_accuracy", "caption_exact", "frame_exact", "retrieval_r1",
        "fewer_than_stride", "fewer_than_pixels", "perplexity_per_byte", "prior_perplexity_per_byte", "train_seconds",
    )  # fmt: skip

    def check(self, config: LanguageConfig) -> None:
        """Networks that were trained elsewhere are there, and can be read.

        Raises:
            UserError: one of them is not.
        """
        if config.encoder is not None:
            from wm_pipelines.tasks.language.judge import encoder_of

            encoder_of(config.encoder)
        if config.inception is not None:
            from wm_pipelines.metrics.pretrained import InceptionFeatures

            InceptionFeatures(config.inception.path, config.inception.sha256)

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: LanguageConfig,
        trained: bool = True,  # noqa: ARG002
        manifest: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Judgement:
        """Answers, captions read back to scenes, frames read by a parser, perplexities; whichever it can give."""
        from wm_pipelines.tasks.language.judge import judge

        return judge(model, episodes, split, laws, config)

    def page(self, results: Results) -> str:
        """Who says and draws what is there; generated frames beside prompts, captions beside frames."""
        from wm_pipelines.tasks.language.report import page

        return page(results)
