"""How training runs: devices, precision, checkpoints. What is trained is the family's own business."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LearningConfig(BaseModel):
    """The ``learning`` parameters, the same for every family.

    The number of threads is part of the configuration and not of the machine, because sums over several threads round
    differently: with one thread the same seed gives the same bits on 2 cores and on 64.
    """

    model_config = ConfigDict(extra="forbid")

    accelerator: Literal["cpu", "cuda", "gpu", "mps", "auto"] = "cpu"
    devices: int | Literal["auto"] = 1
    nodes: int = Field(1, ge=1, description="machines; more than one needs a launcher such as torchrun")
    strategy: str = Field("auto", description="Lightning Fabric strategy: auto, ddp, fsdp …")
    precision: Literal["64-true", "32-true", "bf16-mixed", "16-mixed"] = "64-true"
    threads: int = Field(1, ge=1, description="CPU threads of one training")
    checkpoint_every: int = Field(500, ge=1, description="optimiser steps between two checkpoints")
    log_every: int = Field(50, ge=1, description="optimiser steps between two points of the learning curve")
    resume: bool = Field(True, description="go on from a checkpoint of the very same training, if there is one")
    progress: bool = Field(True, description="show steps/s, time left and loss")
