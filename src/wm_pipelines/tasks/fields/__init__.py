"""Fields that obey differential equations: how far solutions are from the truth, and how well they obey the laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from wm_pipelines.tasks import register
from wm_pipelines.tasks.base import Results, Task

if TYPE_CHECKING:
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.tasks.judgement import Judgement


@register
class Fields(Task):
    """Solutions of partial differential equations, and coefficients found from measurements."""

    name: ClassVar[str] = "fields"
    pipeline: ClassVar[str] = "field_eval"
    title: ClassVar[str] = "Fields"
    file: ClassVar[str] = "fields.html"
    shows: ClassVar[tuple[str, ...]] = (
        "interior", "validation", "condition_points", "condition_values", "condition_index",
        "measurement_points", "measurement_values", "measurement_index",
    )  # fmt: skip
    main_metrics: ClassVar[tuple[str, ...]] = (
        "relative_l2_*", "residual_norm", "divergence", "coefficient_error", "coefficient_covered",
        "coefficient_identified", "train_seconds",
    )  # fmt: skip
    # The loop counts operations of its gradient steps alone, not those of a second-order finish.
    costs_left_out: ClassVar[frozenset[str]] = frozenset({"train_flops"})

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: Any,  # noqa: ARG002
        trained: bool = True,  # noqa: ARG002
        manifest: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Judgement:
        """Against the reference on a grid, and by the true equations; in validation by the equations alone."""
        from wm_pipelines.tasks.fields.judge import judge

        return judge(model, episodes[split], split, laws)

    def page(self, results: Results) -> str:
        """Solutions, errors and residuals as maps."""
        from wm_pipelines.tasks.fields.report import page

        return page(results)
