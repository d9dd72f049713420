"""Parameters of the pipelines themselves, validated before any node runs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from wm_pipelines.errors import UserError, validate
from wm_pipelines.mappings import deep_merge


class FamilyParameters(BaseModel):
    """One family's parameter file: defaults, and what its variants and single worlds change in them.

    ``variants: {plain: {}, structured: {structure: declared}}``, ``worlds: {two_body: {features: 300}}``; everything
    else is a default of the family's own `Config`.
    """

    model_config = ConfigDict(extra="allow")

    variants: dict[str, dict[str, Any]] = Field(default={"plain": {}})
    worlds: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("variants")
    @classmethod
    def _named(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if not variants:
            raise ValueError("a family needs at least one variant")
        if bad := [name for name in variants if not name.isidentifier()]:
            raise ValueError(f"variant names become file names: letters, digits, underscore only, got {bad}")
        return variants

    def resolve(self, variant: str, world: str) -> dict[str, Any]:
        """The family's configuration for a variant on a world: defaults, then the variant, then the world.

        A world's entry may itself hold ``variants``, for what one variant needs on that world alone.
        """
        of_world = dict(self.worlds.get(world, {}))
        of_both = of_world.pop("variants", {}).get(variant, {})
        merged: dict[str, Any] = dict(self.model_extra or {})
        for layer in (self.variants[variant], of_world, of_both):
            merged = deep_merge(merged, layer)
        return merged


class EvaluationConfig(BaseModel):
    """How roll-outs are judged."""

    model_config = ConfigDict(extra="forbid")

    tolerance: float = Field(0.01, gt=0, description="relative energy or momentum error that counts as a violation")
    horizon_threshold: float = Field(0.4, gt=0, description="share of the truth's spread at which a prediction is lost")
    error_steps: list[int] = Field([1, 2, 5, 10, 20, 50, 100, 200], description="steps at which `mse` is also reported")
    rollout_episodes: int = Field(3, ge=1, description="episodes kept for the report's figures")
    resamples: int = Field(1000, ge=10, description="bootstrap resamples of every confidence interval")
    animation_frames: int = Field(40, ge=2)
    animation_size: int = Field(96, ge=16, description="pixels")


class PixelEvaluationConfig(BaseModel):
    """How what was learned from pictures is judged."""

    model_config = ConfigDict(extra="forbid")

    resamples: int = Field(1000, ge=10, description="bootstrap resamples of every confidence interval")
    knn: int = Field(5, ge=1, description="neighbours of the kNN probe")
    shown: int = Field(8, ge=1, description="pictures or episodes kept for the report")
    untrained: bool = Field(True, description="also judge every encoder as it was before training")


class ImageEvaluationConfig(PixelEvaluationConfig):
    """``image_evaluation``: probes on frozen features of pictures."""

    probe_train: int | None = Field(None, ge=10, description="labelled pictures that probes learn from; null: all")
    labels: list[int] = Field([100, 1000], description="numbers of labels at which the linear probe is also judged")
    attentive_steps: int = Field(400, ge=1, description="gradient steps of the attentive probe")
    attentive_train: int = Field(5000, ge=0, description="pictures that the attentive probe learns from; 0: none")


class Checked(BaseModel):
    """A file of weights and its checksum."""

    model_config = ConfigDict(extra="forbid")

    path: str
    sha256: str


class VideoEvaluationConfig(PixelEvaluationConfig):
    """``video_evaluation``: physics read from features and from predicted futures."""

    window: int = Field(3, ge=2, description="latents that a velocity is read from")
    context: int = Field(10, ge=1, description="frames before the first prediction")
    steps: int = Field(8, ge=1, description="frames predicted")
    every: int = Field(10, ge=1, description="frames between two predictions of one episode")
    probe_episodes: int = Field(200, ge=2, description="training episodes that probes learn from, at most")
    tolerance: float = Field(0.1, gt=0, description="relative energy error that counts as a violation, probed")
    horizon_threshold: float = Field(0.4, gt=0, description="error, in the truth's spread, that ends a horizon")
    lpips: bool = Field(False, description="perceptual distance; needs the extra `lpips`")
    i3d: Checked | None = Field(None, description="TorchScript I3D for FVD: path and SHA-256")
    worlds: dict[str, dict[str, Any]] = Field(default_factory=dict, description="what single worlds change")

    def on(self, world: str) -> VideoEvaluationConfig:
        """The same with what one world changes."""
        changed = deep_merge(self.model_dump(exclude={"worlds"}), self.worlds.get(world, {}))
        return validate(VideoEvaluationConfig, changed, f"video_evaluation.worlds.{world}")


def check_seeds(seeds: Any, where: str = "seeds") -> list[int]:
    """Seeds as a list of distinct non-negative integers, or a one-line error."""
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise UserError(f"parameter '{where}': a non-empty list of integers >= 0, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"parameter '{where}': a seed stands there twice: {seeds}")
    return seeds
