"""Search for good parameters of one family on one world: Optuna underneath, resumable, by several workers at once.

The study lives in one file that workers share: SQLite among the processes of a machine, a journal among machines that
share a disk (SQLite is not safe there). Each worker holds a file lock while it lives, and the kernel frees it however
the worker ends: so a trial whose process was killed is told at once from one that is merely slow, and is counted as
failed. (Optuna's heartbeat would take a trial from a process that was only paused, and would wait for ever for one that
was killed before its first beat.)

Trials that count are numbered, one that was cut short passes its number on, and what a trial draws is a function of the
seed, its number, and the trials told before it. So with one worker a study that was killed and resumed visits the same
points as one that was not, and random search visits the same points with any number of workers, whoever dies.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import multiprocessing
import sqlite3
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from wm_pipelines.errors import UserError
from wm_pipelines.learning.search_space import TuningConfig
from wm_pipelines.mappings import nested

logger = logging.getLogger(__name__)

Objective = Callable[..., float]
"""``objective(parameters)`` with dotted names; with a second argument it is given ``report(step, value)``, which ends
the trial early where the pruner says so. A `UserError` or a value that is not finite fails this trial alone."""

Start = Mapping[str, Any] | None

_POLL_SECONDS = 0.05
_BUSY_SECONDS = 60
_LEAST_FOR_IMPORTANCE = 4
_WORKER, _DRAW, _PARAMETERS, _ERROR, _FINGERPRINT = "worker", "draw", "parameters", "error", "fingerprint"
_BEGIN = "begin"
JOURNAL = ".journal"
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        best_parameters: nested, as in a parameter file. best_value: of the metric; best_trial: its number.
        start_value: of the settings that the search started from, trial 0; None where that failed or was not asked for.
        trials: one row per trial: ``number, state, value, seconds, error`` and one column per dotted parameter.
        importances: share of the metric's variation that each parameter explains; empty where that cannot be told.
    """

    best_parameters: dict[str, Any]
    best_value: float
    best_trial: int
    start_value: float | None
    trials: pd.DataFrame
    importances: dict[str, float]


def run_study(
    config: TuningConfig,
    objective: Objective,
    storage: Path,
    context: str = "",
    start: Mapping[str, Any] | None = None,
) -> StudyResult:
    """Run a study, or on with one, until ``config.trials`` trials have completed or been pruned.

    Args:
        config: what to search. objective: see `Objective`; picklable if ``config.processes > 1``.
        storage: a file, its folder is made: a journal where its name ends in ``.journal``, else SQLite.
        context: anything else that the values depend on (a hash of the data, of the fixed parameters): a study is only
            resumed in the same context.
        start: the first trial's settings, see `search_space.starting_point`; None: it is drawn like all others.

    Raises:
        UserError: the study in ``storage`` searches something else, no trial completed, or the sampler is missing.
    """
    storage = Path(storage)
    deadline = math.inf if config.timeout is None else time.time() + config.timeout
    with closing(_Shared(config, storage, start)) as shared:
        shared.refuse_another(config.fingerprint(context))
        if config.processes == 1:
            _work(shared, objective, deadline)
        else:
            _spawn(shared, objective, deadline)
        return _result(config, shared.study, start)


# ---------------------------------------------------------------- workers


def _spawn(shared: _Shared, objective: Objective, deadline: float) -> None:
    """Run several workers; what one that dies was at is taken up by the others."""
    config, storage = shared.config, shared.storage
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_worker, args=(config, storage, objective, deadline, shared.start), daemon=True)
        for _ in range(config.processes)
    ]
    try:
        for process in workers:
            process.start()
        for process in workers:
            process.join()
    finally:
        for process in workers:
            if process.is_alive():
                process.terminate()
    codes = [process.exitcode for process in workers]
    if any(codes) and time.time() < deadline and not shared.complete():
        raise UserError(
            f"tuning: workers of {config.study_name} ended early (exit codes {codes}); what they completed is kept in "
            f"'{storage}', run again to go on"
        )


def _worker(config: TuningConfig, storage: Path, objective: Objective, deadline: float, start: Start) -> None:
    try:
        with closing(_Shared(config, storage, start)) as shared:
            _work(shared, objective, deadline)
    except UserError as error:
        raise SystemExit(str(error)) from None


def _work(shared: _Shared, objective: Objective, deadline: float) -> None:
    """Run trials until the study is complete or the time is up."""
    parent = multiprocessing.parent_process()
    worker = uuid.uuid4().hex
    with shared.lock(worker) as mine:
        while time.time() < deadline and (parent is None or parent.is_alive()):
            trial = shared.begin_trial(worker)
            if trial is not None:
                _run_trial(shared.study, trial, shared.config, objective)
            elif shared.complete():
                break
            else:
                time.sleep(_POLL_SECONDS)  # the last trials are running elsewhere; one may yet fail
    Path(mine.lock_file).unlink()


def _run_trial(study: optuna.Study, trial: optuna.Trial, config: TuningConfig, objective: Objective) -> None:
    parameters = {name: dimension.suggest(trial, name) for name, dimension in config.space.items()}
    trial.set_user_attr(_PARAMETERS, parameters)

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        with_report = len(inspect.signature(objective).parameters) > 1
        value = float(objective(parameters, report) if with_report else objective(parameters))
        if not math.isfinite(value):
            raise UserError(f"{config.metric} is {value}")
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except Exception as error:
        trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}".splitlines()[0])
        study.tell(trial, state=TrialState.FAIL)
        if not isinstance(error, UserError):
            raise
        logger.warning("trial %d of %s failed: %s", trial.number, config.study_name, error)
    else:
        study.tell(trial, value)
        logger.info("trial %d of %s: %s = %.6g", trial.number, config.study_name, config.metric, value)


# ---------------------------------------------------------------- the study


class _Shared:
    """The study as one process sees it."""

    def __init__(self, config: TuningConfig, storage: Path, start: Start = None) -> None:
        self.config, self.storage, self.start = config, storage, start
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            with self.lock(_BEGIN):  # two processes must not make the tables at once
                self.database = self._journal() if storage.suffix == JOURNAL else _sqlite(storage)
                self.study = optuna.create_study(
                    study_name=config.study_name,
                    storage=self.database,
                    direction=config.direction,
                    pruner=_pruner(config),
                    load_if_exists=True,
                )
        except OSError as error:
            raise UserError(
                f"tuning: cannot write the study '{storage}': {error.strerror}; give another place"
            ) from None
        except (sqlite3.Error, ValueError, KeyError) as error:  # of SQLite, and of a journal
            raise UserError(f"tuning: '{storage}' is not a study's database ({error}); move it away") from None

    def close(self) -> None:
        """Whoever closes last leaves one single file."""
        if isinstance(self.database, optuna.storages.RDBStorage):
            self.database.remove_session()
            self.database.engine.dispose()

    def _journal(self) -> optuna.storages.JournalStorage:
        backend = optuna.storages.journal.JournalFileBackend(str(self.storage), _WhileAlive(self.lock("journal")))
        return optuna.storages.JournalStorage(backend)

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """A lock that ends with the process that holds it; taking it makes the folders."""
        return FileLock(self.storage.with_name(f".{self.storage.name}.locks") / name, timeout=timeout)

    def alive(self, worker: str) -> bool:
        """Whether the worker still holds its lock."""
        try:
            with self.lock(worker, timeout=0) as lock:
                Path(lock.lock_file).unlink()  # its holder is gone
                return False
        except Timeout:
            return True

    def trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        """Trials in one of these states."""
        return self.study.get_trials(deepcopy=False, states=states)

    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.trials(*_COUNTED)) >= self.config.trials

    def refuse_another(self, fingerprint: str) -> None:
        """Only the very same search goes on in a study."""
        with self.lock(_BEGIN):
            known = self.study.user_attrs.get(_FINGERPRINT)
            if known is None:
                self.study.set_user_attr(_FINGERPRINT, fingerprint)
            elif known != fingerprint:
                old, new = json.loads(known), json.loads(fingerprint)
                changed = ", ".join(key for key in new if old.get(key) != new[key])
                raise UserError(
                    f"tuning: study {self.config.study_name} in '{self.storage}' was begun with another {changed}; "
                    "move the file away to begin anew, or give another storage"
                )

    def begin_trial(self, worker: str) -> optuna.Trial | None:
        """Begin a trial, if the study still needs one that nobody is at."""
        name = self.config.study_name
        with self.lock(_BEGIN):
            for orphan in self.trials(TrialState.RUNNING):
                if not self.alive(orphan.user_attrs.get(_WORKER, "nobody")):
                    logger.warning("trial %d of %s was cut short; it is drawn again", orphan.number, name)
                    self.study.tell(orphan.number, state=TrialState.FAIL)
            # A trial that was cut short has no error of its own, and leaves no trace in what is drawn.
            errors = [t.user_attrs[_ERROR] for t in self.trials(TrialState.FAIL) if _ERROR in t.user_attrs]
            if len(errors) >= max(10, self.config.trials):
                raise UserError(
                    f"tuning: {len(errors)} trials of {name} failed, the last one with: {errors[-1]}; narrow the space"
                )
            if len(self.trials(*_COUNTED, TrialState.RUNNING)) >= self.config.trials:
                return None
            draw = self._next_draw()
            if self.start is not None and draw == 0 and not self.trials(TrialState.WAITING):
                self.study.enqueue_trial(dict(self.start))
            self.study.sampler = _sampler(self.config, draw)
            trial = self.study.ask()
            trial.set_user_attr(_DRAW, draw)
            trial.set_user_attr(_WORKER, worker)
            return trial

    def _next_draw(self) -> int:
        """The smallest number that no trial has but those that were cut short."""
        kept = [t for t in self.trials(*_COUNTED, TrialState.RUNNING, TrialState.FAIL) if not _cut_short(t)]
        taken = {t.user_attrs.get(_DRAW, place) for place, t in enumerate(kept)}
        return next(number for number in range(len(kept) + 1) if number not in taken)


class _WhileAlive:
    """The lock of a journal; Optuna's own wait half a minute for one whose holder was killed."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_short(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether its process was killed: a trial that fails by itself says why."""
    return trial.state == TrialState.FAIL and _ERROR not in trial.user_attrs


def _sqlite(storage: Path) -> optuna.storages.RDBStorage:
    _connect(storage).close()
    # With a creator, because a URL cannot spell every path.
    return optuna.storages.RDBStorage("sqlite:///study", {"creator": partial(_connect, storage)})


def _connect(storage: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(storage, timeout=_BUSY_SECONDS)
    # A commit outlives a killed process without waiting for the disk; a power cut loses the last trials at most.
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL")
    return connection


def _sampler(config: TuningConfig, draw: int) -> optuna.samplers.BaseSampler:
    """A sampler whose randomness is a function of the seed and of the trial's number."""
    seed = int(np.random.SeedSequence((config.seed, draw)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if config.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=config.shared)


def _pruner(config: TuningConfig) -> optuna.pruners.BasePruner:
    kinds = optuna.pruners
    return {"none": kinds.NopPruner, "median": kinds.MedianPruner, "hyperband": kinds.HyperbandPruner}[config.pruner]()


# ---------------------------------------------------------------- what comes out


def _result(config: TuningConfig, study: optuna.Study, start: Start) -> StudyResult:
    table = _table(config, study)
    if not (table["state"] == "COMPLETE").any():
        last = table["error"].dropna().iloc[-1:].tolist() or ["none was begun in time"]
        raise UserError(f"tuning: no trial of {config.study_name} completed ({last[0]})")
    best = study.best_trial
    parameters = nested(best.user_attrs[_PARAMETERS])
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    started = next((t.value for t in complete if start is not None and t.params == dict(start)), None)
    return StudyResult(parameters, float(study.best_value), best.number, started, table, _importances(study))


def _table(config: TuningConfig, study: optuna.Study) -> pd.DataFrame:
    columns = {
        "number": "number",
        "state": "state",
        "value": "value",
        "duration": "seconds",
        f"user_attrs_{_ERROR}": "error",
        **{f"params_{name}": name for name in config.space},
    }
    table = study.trials_dataframe(("number", "state", "value", "duration", "user_attrs", "params"))
    table = table.reindex(columns=list(columns)).rename(columns=columns)
    return table.assign(
        value=table["value"].where(table["state"] == "COMPLETE"),  # Optuna gives a pruned trial its last report
        seconds=pd.to_timedelta(table["seconds"]).dt.total_seconds(),
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA importances (Watanabe, Bansal, Hutter, IJCAI 2023), largest first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _LEAST_FOR_IMPORTANCE or len({t.value for t in complete}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
