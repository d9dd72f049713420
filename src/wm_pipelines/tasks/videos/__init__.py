"""Videos: the physics that can be read from features, and how well the future is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from wm_pipelines.mappings import Checked
from wm_pipelines.tasks import register
from wm_pipelines.tasks._pixels import PixelConfig
from wm_pipelines.tasks.base import Results, Task, TaskConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.tasks.judgement import Judgement


class VideosConfig(PixelConfig):
    """How features and predictions of videos are judged."""

    window: int = Field(4, ge=2, description="frames that a velocity is read from, the same for every family")
    context: int = Field(10, ge=1, description="frames before the first prediction")
    steps: int = Field(8, ge=1, description="frames predicted")
    every: int = Field(10, ge=1, description="frames between two predictions of one episode")
    probe_episodes: int = Field(200, ge=2, description="training episodes that probes learn from, at most")
    tolerance: float = Field(0.1, gt=0, description="relative energy error that counts as a violation, probed")
    horizon_threshold: float = Field(0.4, gt=0, description="error, in the truth's spread, that ends a horizon")
    samples: int = Field(4, ge=0, description="futures drawn of every start, where a model draws; 0: none are judged")
    lpips: bool = Field(False, description="perceptual distance; needs the extra `lpips`")
    i3d: Checked | None = Field(None, description="TorchScript I3D for FVD: path and SHA-256")


@register
class Videos(Task):
    """Physics probed in features and in predicted futures, predicted frames, surprise."""

    name: ClassVar[str] = "videos"
    pipeline: ClassVar[str] = "video_eval"
    title: ClassVar[str] = "Videos"
    file: ClassVar[str] = "videos.html"
    Config: ClassVar[type[TaskConfig]] = VideosConfig
    shows: ClassVar[tuple[str, ...]] = ("frames", "actions", "rewards", "captions")
    main_metrics: ClassVar[tuple[str, ...]] = (
        "r2_position_probed", "r2_velocity_probed", "linear_probe", "energy_error_probed", "mse", "ssim", "collapsed",
        "train_seconds",
    )  # fmt: skip
    jury: ClassVar[str | None] = "vjepa"

    def splits(self, episodes: Mapping[str, Episodes]) -> list[str]:  # noqa: ARG002
        """The test videos; impossible ones are judged beside them."""
        return ["test"]

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: VideosConfig,
        trained: bool = True,
        manifest: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Judgement:
        """Probes fitted to ``train``; predictions; surprise at the splits ``impossible_…``."""
        from wm_pipelines.tasks.videos.judge import judge

        return judge(model, episodes, split, laws, config, trained)

    def compare(
        self, jury: Family, episodes: Mapping[str, Episodes], arrays: Mapping[str, Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        """Distances of predicted from true videos in the jury's features."""
        del episodes
        from wm_pipelines.tasks.videos.embedding import distances

        return distances(jury, arrays)

    def page(self, results: Results) -> str:
        """What can be read from features and predictions, beside the floors; predicted and true frames in motion."""
        from wm_pipelines.tasks._pixels.report import page

        return page(self.name, "What video models know of physics", results)
