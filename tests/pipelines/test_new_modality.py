"""A modality that the bench has never heard of: one file with a kind of space, a world, a family and a task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from tests.pipelines.conftest import Project
from wm_pipelines import episodes as storage
from wm_pipelines import registry
from wm_pipelines.blocks import encoders
from wm_pipelines.datasets.local import EpisodesDataset, ModelsDataset
from wm_pipelines.episodes import Episodes
from wm_pipelines.families.base import TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.spec import Space, Spec, UndeclaredFact
from wm_pipelines.tasks.base import Task, TaskConfig
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.worlds.base import World, WorldParameters

# ---------------------------------------------------------------- a kind of space: rows of cells that are on or off


class BitsCodec:
    """Eight cells a byte, every row from a new byte on."""

    def to_arrow(self, view: np.ndarray) -> Any:
        return pa.array([np.packbits(episode, axis=-1).tobytes() for episode in view], pa.binary())

    def from_arrow(self, column: Any, space: Space) -> np.ndarray:
        (cells,) = space.shape
        packed = np.array([np.frombuffer(entry, np.uint8) for entry in column.to_pylist()])
        return np.unpackbits(packed.reshape(len(packed), -1, -(-cells // 8)), axis=-1, count=cells)

    def content(self, view: np.ndarray) -> bytes:
        return np.packbits(view).tobytes()

    def to_numbers(self, view: np.ndarray) -> np.ndarray:
        return view


class BitsEncoder(encoders.VectorEncoder):
    @staticmethod
    def inputs(view: Tensor) -> Tensor:
        return 2.0 * view.float() - 1.0


# ---------------------------------------------------------------- a world


class RingParameters(WorldParameters):
    cells: int = 8
    shift: int = 1


class Ring(World):
    """Cells on a ring; every step all of them move on."""

    name = "ring"
    Parameters = RingParameters

    def facts(self) -> dict[str, Any]:
        return {"shift": self.parameters.shift}

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        p, rng = self.parameters, np.random.default_rng(seed)

        def split(count: int) -> Episodes:
            start = rng.integers(0, 2, (count, p.cells), dtype=np.uint8)
            cells = np.stack([np.roll(start, p.shift * k, axis=1) for k in range(7)], axis=1)
            return self.episodes({"cells": cells}, step=1.0, spaces={"cells": Space("bits", (p.cells,), "uint8")})

        return {"train": split(64), "validation": split(8), "test": split(16)}


# ---------------------------------------------------------------- a family


class NextCellsConfig(TrainedConfig):
    width: int = 32
    informed: bool = False


class NextCells(MemberFamily):
    """Predict the next row of cells from the last; what is told of the shift turns the row beforehand."""

    name = "next_cells"
    needs = ("cells",)
    Config = NextCellsConfig

    @classmethod
    def knows(cls, config: NextCellsConfig) -> frozenset[str]:
        return frozenset({"shift"} if config.informed else ())

    def make_member(self) -> nn.Module:
        encoder = encoders.encoder(self.space, (self.config.width,), self.config.width)
        return nn.ModuleDict({"encode": encoder, "decode": nn.Linear(self.config.width, *self.space.shape)})

    def logits(self, member: nn.Module, cells: Tensor) -> Tensor:
        turned = cells.roll(self.spec.facts["shift"], -1) if self.config.informed else cells
        skip = 4.0 * BitsEncoder.inputs(turned) if self.config.informed else 0.0
        return skip + member["decode"](member["encode"](BitsEncoder.inputs(turned)))

    def member_loss(self, member, batch, generator, progress):
        now, later = batch["cells"][:, :-1].flatten(0, 1), batch["cells"][:, 1:].flatten(0, 1)
        loss = nn.functional.binary_cross_entropy_with_logits(self.logits(member, now), later.float())
        return loss, {}

    def member_encode(self, member: nn.Module, views: Views) -> tuple[Tensor, Tensor | None]:
        cells = views["cells"]
        return member["encode"](BitsEncoder.inputs(cells.flatten(0, 1))).unflatten(0, cells.shape[:2]), None

    def member_predict(self, member: nn.Module, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        rows, found = past["cells"][:, -1], []
        for _ in range(steps):
            rows = (self.logits(member, rows) > 0).to(torch.uint8)
            found.append(rows)
        return {"cells": torch.stack(found, 1)}


# ---------------------------------------------------------------- a task


class CellsConfig(TaskConfig):
    steps: int = 3


class Cells(Task):
    name = "cells"
    pipeline = "cell_eval"
    title = "Cells on a ring"
    file = "cells.html"
    Config: ClassVar[type[TaskConfig]] = CellsConfig
    shows = ("cells",)
    main_metrics = ("accuracy",)

    def judge(self, model, episodes: Mapping[str, Episodes], split, laws, config, trained=True) -> Judgement:
        cells = episodes[split]["cells"]
        future = model.predict({"cells": torch.tensor(cells[:, :1])}, config.steps)["cells"].numpy()
        right = (future == cells[:, 1 : config.steps + 1]).mean(axis=(2, 3))
        judged = Judgement(model.seeds, split, arrays={"future": future[0]})
        judged.add("accuracy", right, "1")
        return judged


# ---------------------------------------------------------------- the test


@pytest.fixture(scope="module")
def registered():
    """What the decorators of a file among the others do, for the time of this module."""
    kinds = {registry.worlds: Ring, registry.families: NextCells, registry.tasks: Cells}
    for place, kind in kinds.items():
        place.register(kind)
    storage.CODECS["bits"], encoders.ENCODERS["bits"] = BitsCodec(), BitsEncoder
    yield
    for place, kind in kinds.items():
        del place._known[kind.name]
    del storage.CODECS["bits"], encoders.ENCODERS["bits"]


@pytest.fixture(scope="module")
def ran(registered, tmp_path_factory) -> Project:
    """A configuration of a few lines, and one run."""
    project = Project(tmp_path_factory.mktemp("toy"), env="toy")
    learning = {"precision": "32-true", "progress": False, "log_every": 10}
    listed = {"worlds": ["carousel"], "families": ["next_cells"], "seeds": [0, 1], "learning": learning}
    project.list_only({"cells": listed})
    family = {
        "schedule": {"steps": 150, "batch_size": 16, "learning_rate": 0.01},
        "variants": {"plain": {}, "informed": {"informed": True, "schedule": {"steps": 5}}},
    }
    world = {"world": "ring", "parameters": {"cells": 6, "shift": 2}}
    task = {"untrained": True}
    project.configure("parameters.yml", {"carousel": world, "next_cells": family, "cells": task})
    project.said = project.run("--pipeline=cell_eval").stdout
    return project


TOLD = {"plain": "", "informed": "shift"}


@pytest.mark.pipeline
def test_it_has_rows_on_the_leaderboard(ran):
    table = ran.leaderboard()
    pd.testing.assert_frame_equal(table, pd.read_parquet(ran.reports / "leaderboard_parts" / "cells.parquet"))
    assert {"accuracy", "train_seconds", "parameters", "peak_memory_mb"} <= set(table["metric"])
    columns = table[["task", "world", "family", "view"]].drop_duplicates().to_numpy().tolist()
    assert columns == [["cells", "carousel", "next_cells", "cells"]]
    told = table.groupby("variant")["knows"].agg(set).to_dict()
    assert told == {f"{name}{end}": {knows} for name, knows in TOLD.items() for end in ("", "_untrained")}
    score = table[table["metric"] == "accuracy"].groupby("variant")["value"].min()
    assert score["plain"] > 0.95 > 0.8 > score["plain_untrained"]
    assert score["informed"] > 0.95


@pytest.mark.pipeline
def test_it_has_a_page_that_the_first_page_links_to(ran):
    page, first = ((ran.reports / name).read_text() for name in ("cells.html", "index.html"))
    assert "Cells on a ring" in page
    assert "carousel" in page
    assert "told: shift" in page
    assert "Learning curves" in page
    assert 'href="index.html"' in page
    assert 'href="cells.html"' in first
    for text in (page, first):  # after this pipeline alone: to nothing that is not there
        files = set(re.findall(r'(?:href|src)="([^"#:]+)"', text))
        assert all((ran.reports / name).is_file() for name in files), files
    assert str((ran.reports / "cells.html").resolve()) in ran.said
    assert "accuracy" in ran.said.lower()


@pytest.mark.pipeline
def test_its_episodes_are_packed_on_the_disk_and_come_back(ran, registered):
    folder = ran.data / "03_primary" / "carousel"
    stored = EpisodesDataset(filepath=str(folder)).load()
    made = Ring.restored({"parameters": {"cells": 6, "shift": 2}}, "carousel").own_episodes(0)
    for split, own in made.items():
        np.testing.assert_array_equal(stored[split]["cells"], own["cells"])
        assert stored[split].content_hash == own.content_hash
        assert stored[split].spec.views["cells"] == Space("bits", (6,), "uint8")
        assert stored[split].spec.facts["shift"] == 2


@pytest.mark.pipeline
def test_its_models_predict_from_the_card_alone(ran, registered):
    models = ModelsDataset(filepath=str(ran.data / "06_models/cells/next_cells/carousel")).load()
    assert Spec.from_json(models.variants["plain"].card["spec"]).views["cells"].kind == "bits"
    start = torch.tensor([[[1, 0, 0, 1, 1, 0]]], dtype=torch.uint8)
    for variant, model in models.variants.items():
        restored = model.restore()
        future = restored.predict({"cells": start}, 2)["cells"]
        assert future.shape == (2, 1, 2, 6)
        assert future.float().sub(torch.stack([start[:, 0].roll(2, -1), start[:, 0].roll(4, -1)], 1)).abs().mean() < 0.1
        if variant == "plain":
            with pytest.raises(UndeclaredFact, match="shift"):
                restored.spec.facts["shift"]


@pytest.mark.pipeline
def test_a_mistake_in_it_is_one_line(ran):
    assert "'cells.stepz'; did you mean 'cells.steps'" in ran.error_of("--params=cells.stepz=3")
    assert "'next_cells.widht'; did you mean 'next_cells.width'" in ran.error_of("--params=next_cells.widht=3")
