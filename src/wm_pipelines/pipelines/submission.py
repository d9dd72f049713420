"""``submission``: roll-outs that were made elsewhere become rows of the table, marked as from outside.

A model is submitted as a folder: ``card.json`` says who it is and which episodes it predicted, ``rollouts.npz`` (or
``rollouts.parquet``) holds what it predicted from their first states. It is judged as all others are, on the same
episodes; what would need the model itself (other splits, other steps, the learned force) is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from kedro.pipeline import Node, Pipeline
from numpy.typing import NDArray
from pydantic import Field, field_validator

from wm_pipelines.errors import UserError, did_you_mean, unknown, validate
from wm_pipelines.mappings import Settings
from wm_pipelines.pipelines.combinations import combinations

TASK = "physics"
VARIANT = "outside"  # what every row of such a model is marked with
_AXES = "seeds, episodes, rows, numbers of a state"


class SubmissionConfig(Settings):
    """The parameters ``submission``."""

    path: str | None = Field(None, description="folder of the submitted model")


class Card(Settings):
    """What ``card.json`` says."""

    name: str = Field(pattern=r"^[A-Za-z]\w*$", max_length=60, description="of the model, as it stands in the table")
    world: str
    episodes: str = Field(description="content hash of the episodes that were predicted: which draw it was")
    split: Literal["test"] = "test"
    view: str = Field("states", pattern=r"^\w+(\+\w+)*$", description="what its training looked at")
    knows: tuple[str, ...] = Field((), description="what it was told of the world, beyond the episodes")
    source: str = Field("", description="where it comes from: a paper, a repository")

    @field_validator("knows")
    @classmethod
    def _known(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        from wm_pipelines.families.base import FORM_WORDS
        from wm_pipelines.spec import FACTS

        for word in words:
            if word not in {*FACTS, *FORM_WORDS}:
                raise ValueError(f"nothing is called '{word}'{did_you_mean(word, sorted({*FACTS, *FORM_WORDS}))}")
        return words


def create_pipeline(everything: Pipeline) -> Pipeline:
    """The judging of a submission, then the table and the pages again.

    Args:
        everything: holds the nodes that gather and report.
    """
    if TASK not in combinations():
        return Pipeline([])
    judging = Node(
        judge,
        inputs={"submission": "params:submission", "stored": "episodes_by_world", "evaluation": f"params:{TASK}"},
        outputs=f"{TASK}_outside",
        name="judge",
        namespace="submission",
        tags=["submission"],
    )
    own = (f"{TASK}.leaderboard.", f"{TASK}.report.", "board.")
    return Pipeline([judging, *(node for node in everything.nodes if node.name.startswith(own))])


def judge(
    submission: SubmissionConfig, stored: Mapping[str, Callable[[], Mapping[str, Any]]], evaluation: dict[str, Any]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Scores, arrays and facts of the submitted model, by its name and world.

    Args:
        submission: where it lies. stored: episodes by world. evaluation: the task's parameters.

    Raises:
        UserError: the folder, its card or its roll-outs are missing or wrong, the world has no stored episodes, or the
            card is of other episodes than those.
    """
    from wm_pipelines.laws import laws_of
    from wm_pipelines.pipelines.judging import Outside, facts_of, judge_on_one_thread
    from wm_pipelines.registry import tasks
    from wm_pipelines.tasks.judgement import table

    if submission.path is None:
        raise UserError("which model? kedro run --pipeline=submission --params path=FOLDER")
    folder = Path(submission.path)
    card, episodes = _card_and_episodes(folder, stored)
    test = episodes[card.split]
    states = read_states(folder, np.asarray(test["states"]))
    task = tasks.get(TASK)()
    config = task.config(evaluation, card.world).model_copy(update={"asked_episodes": 0})
    model = Outside(lambda starts, steps: states[:, : len(starts), : steps + 1], test.spec, len(states))
    judged = judge_on_one_thread(task, model, episodes, card.split, laws_of(test.spec), config)
    told = {"variant": VARIANT, "view": card.view, "knows": ",".join(sorted(card.knows))}
    left_out = "step_ms"  # of a table that is read
    rows = [{**told, **row} for row in judged.rows if row["metric"] != left_out]
    results = {
        "scores": table(rows, task=TASK, world=card.world, family=card.name),
        "arrays": {f"{VARIANT}/{card.split}/{name}": array for name, array in judged.arrays.items()},
        "facts": facts_of(task, card.name, card.world, episodes, config) | {"source": card.source},
    }
    return {(card.name, card.world): results}


def _card_and_episodes(
    folder: Path, stored: Mapping[str, Callable[[], Mapping[str, Any]]]
) -> tuple[Card, Mapping[str, Any]]:
    """The card, and the episodes that it is about: of another draw there is nothing to compare."""
    from wm_pipelines.registry import families

    card = read_card(folder)
    if card.name in families.names():
        raise UserError(f"'{folder}/card.json': '{card.name}' is the name of a family of this project; choose another")
    if card.world not in stored:
        raise UserError(f"'{folder}/card.json': {unknown('world', card.world, list(stored))}")
    episodes = stored[card.world]()
    if card.episodes != (ours := episodes[card.split].content_hash):
        raise UserError(
            f"'{folder}/card.json': its roll-outs are of episodes {card.episodes[:12]}, those of '{card.world}' "
            f"({card.split}) are {ours[:12]}; predict these"
        )
    return card, episodes


def read_card(folder: Path) -> Card:
    """What a submitted model says of itself.

    Raises:
        UserError: it is missing, no JSON, or says something that cannot be.
    """
    path = folder / "card.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing: a JSON file with name, world, episodes, view, knows, source") from None
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON: {error}") from None
    return validate(Card, said, str(path))


def read_states(folder: Path, truth: NDArray[Any]) -> NDArray[np.float64]:
    """Predicted states ``[S, E, K, 2d]``, of which the first are those of the episodes ``truth [E, K, 2d]``.

    ``rollouts.npz`` holds them as ``states [S, E, K, 2d]``, of one seed also ``[E, K, 2d]``; ``rollouts.parquet`` as a
    row for each state, with the columns ``seed``, ``episode``, ``row`` and then the state's numbers. Where a model
    breaks off there are NaN.

    Raises:
        UserError: there is neither, they have another shape, or they begin elsewhere.
    """
    found = _from_npz(folder / "rollouts.npz")
    found = _from_parquet(folder / "rollouts.parquet") if found is None else found
    if found is None:
        raise UserError(f"'{folder}' holds neither rollouts.npz nor rollouts.parquet")
    found = found[None] if found.ndim == truth.ndim else found
    if found.shape[1:] != truth.shape or not len(found):
        wanted = " x ".join(map(str, truth.shape))
        raise UserError(f"'{folder}': states are {list(found.shape)} ({_AXES}); these episodes need S x {wanted}")
    if not np.allclose(found[:, :, 0], truth[:, 0], rtol=1e-6, atol=1e-9):
        raise UserError(f"'{folder}': roll-outs do not begin with the first states of the episodes")
    found[:, :, 0] = truth[:, 0]
    return found


def _from_npz(path: Path) -> NDArray[np.float64] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "states" not in stored:
                raise UserError(f"'{path}' holds {', '.join(stored) or 'nothing'}, and no 'states'")
            return _real(path, stored["states"])
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None


def _from_parquet(path: Path) -> NDArray[np.float64] | None:
    if not path.exists():
        return None
    index = ["seed", "episode", "row"]
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}") from None
    if missing := [name for name in index if name not in rows]:
        raise UserError(f"'{path}': no column {missing[0]}; it needs {', '.join(index)} and the numbers of a state")
    rows = rows.sort_values(index)
    shape = [rows[name].nunique() for name in index]
    if len(rows) != np.prod(shape) or rows.duplicated(index).any():
        raise UserError(f"'{path}': {len(rows)} rows are not one for each of {' x '.join(map(str, shape))} states")
    if not len(rows):
        raise UserError(f"'{path}' has no rows")
    return _real(path, np.array(rows.drop(columns=index))).reshape(*shape, -1)


def _real(path: Path, numbers: NDArray[Any]) -> NDArray[np.float64]:
    """States as real numbers; what is none would become one silently."""
    if numbers.dtype.kind not in "fiub":
        raise UserError(f"'{path}': states are numbers, got {numbers.dtype}")
    return np.array(numbers, np.float64)
