"""Images: what can be read from frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from wm_pipelines.tasks import register
from wm_pipelines.tasks._pixels import PixelConfig
from wm_pipelines.tasks.base import Results, Task, TaskConfig

if TYPE_CHECKING:
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.tasks.judgement import Judgement


class ImagesConfig(PixelConfig):
    """How features of images are judged."""

    probe_train: int | None = Field(None, ge=10, description="labelled images that probes learn from; null: all")
    labels: list[int] = Field([100, 1000], description="numbers of labels at which the linear probe is also judged")
    attentive_steps: int = Field(400, ge=1, description="gradient steps of the attentive probe")
    attentive_train: int = Field(5000, ge=0, description="images that the attentive probe learns from; 0: none")


@register
class Images(Task):
    """Probes on frozen features."""

    name: ClassVar[str] = "images"
    pipeline: ClassVar[str] = "image_eval"
    title: ClassVar[str] = "Images"
    file: ClassVar[str] = "images.html"
    Config: ClassVar[type[TaskConfig]] = ImagesConfig
    shows: ClassVar[tuple[str, ...]] = ("frames",)
    main_metrics: ClassVar[tuple[str, ...]] = (
        "linear_probe", "knn_probe", "attentive_probe", "rankme", "collapsed", "train_seconds",
    )  # fmt: skip

    def splits(self, episodes: Mapping[str, Episodes]) -> list[str]:  # noqa: ARG002
        """The test images."""
        return ["test"]

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,  # noqa: ARG002
        config: ImagesConfig,
        trained: bool = True,
        manifest: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Judgement:
        """Linear, kNN and attentive probes fitted to ``train``, spread and rank of the features."""
        from wm_pipelines.tasks.images.judge import judge

        return judge(model, episodes, split, config, trained)

    def page(self, results: Results) -> str:
        """What can be read from the features, beside the floors; neighbours and features of patches as images."""
        from wm_pipelines.tasks._pixels.report import page

        return page(self.name, "What models learn from images", results)
