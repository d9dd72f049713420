"""Search for good parameters of one family on one world: Optuna underneath, resumable, by several processes at once.

The study lives in one append-only journal file. Processes share it; each holds a kernel lock on a file of its own while
it lives, so a trial whose process was killed is told from one that is merely slow, and is counted as failed the next
time anyone opens the study. What a trial samples depends on the seed and on the trials told before it alone: with one
process, a study that was killed and resumed visits the same points as one that was not.
"""

from __future__ import annotations

import fcntl
import inspect
import json
import logging
import math
import multiprocessing
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from wm_pipelines.errors import UserError
from wm_pipelines.learning.search_space import TuningConfig
from wm_pipelines.mappings import nested

logger = logging.getLogger(__name__)

Objective = Callable[..., float]
"""``objective(parameters)`` with dotted names; with a second argument it is given ``report(step, value)``, which ends
the trial early where the pruner says so. A `UserError` or a value that is not finite fails this trial alone."""

_POLL_SECONDS = 0.05
_LEAST_FOR_IMPORTANCE = 4
_WORKER, _ERROR, _FINGERPRINT = "worker", "error", "fingerprint"


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        best_parameters: nested, as in a parameter file. best_value: of the metric; best_trial: its number.
        trials: one row per trial: ``number, state, value, seconds, error`` and one column per dotted parameter.
        importances: share of the metric's variation that each parameter explains; empty where that cannot be told.
    """

    best_parameters: dict[str, Any]
    best_value: float
    best_trial: int
    trials: pd.DataFrame
    importances: dict[str, float]


def overlay_text(config: TuningConfig, result: StudyResult) -> str:
    """The best parameters as a parameter file: put it into a configuration environment and the next run uses them."""
    complete = int((result.trials["state"] == "COMPLETE").sum())
    header = (
        f"# Best of {complete} trials ({config.sampler}, seed {config.seed}): {config.direction} {config.metric} "
        f"on {config.world} -> {result.best_value:.6g} (trial {result.best_trial}).\n"
    )
    tree = {config.family: {"variants": {config.variant: result.best_parameters}}}
    return header + yaml.safe_dump(tree, sort_keys=True)


# ---------------------------------------------------------------- the study


def run_study(config: TuningConfig, objective: Objective, storage: Path, context: str = "") -> StudyResult:
    """Run a study, or on with one, until ``config.trials`` trials have completed or been pruned.

    Args:
        config: what to search. objective: see `Objective`; picklable if ``config.processes > 1``.
        storage: journal file; its folder is made. context: anything else that the values depend on (a hash of the
            data, of the fixed parameters): a study is only resumed in the same context.

    Raises:
        UserError: the study in ``storage`` searches something else, no trial completed, or the sampler is missing.
    """
    storage = Path(storage)
    try:
        shared = _Shared(config, storage)
    except OSError as error:
        raise UserError(f"tuning: cannot write the study '{storage}': {error.strerror}; give another place") from None
    except (ValueError, KeyError) as error:
        raise UserError(f"tuning: '{storage}' is not a study's journal ({error}); move it away") from None
    _check_same(shared.study, config.fingerprint(context), storage)
    deadline = math.inf if config.timeout is None else time.time() + config.timeout
    if config.processes == 1:
        _work(config, objective, storage, 0, deadline)
    else:
        _spawn(config, objective, storage, deadline)
    return _result(config, _Shared(config, storage).study)


class _KernelLock:
    """Mutual exclusion of processes that ends with the process that holds it, however it ends.

    Optuna's own file locks outlive a killed process by half a minute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(handle)
            return False
        except BaseException:
            os.close(handle)
            raise
        self.handle = handle
        return True

    def release(self) -> None:
        assert self.handle is not None
        os.close(self.handle)
        self.handle = None

    @contextmanager
    def held(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


class _Shared:
    """The study as one process sees it."""

    def __init__(self, config: TuningConfig, storage: Path) -> None:
        self.config = config
        locks = _locks(storage)
        locks.mkdir(parents=True, exist_ok=True)
        self.begin, self.workers, write = _KernelLock(locks / "begin"), locks, _KernelLock(locks / "write")
        with write.held():
            _drop_torn_line(storage)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study = optuna.create_study(
                study_name=config.study_name,
                storage=JournalStorage(JournalFileBackend(str(storage), write)),
                direction=config.direction,
                pruner=_pruner(config),
                load_if_exists=True,
            )

    def trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        """Trials in one of these states."""
        return self.study.get_trials(deepcopy=False, states=states)

    def fail_orphans(self) -> None:
        """Fail trials whose process is gone; call it with `begin` held."""
        for trial in self.trials(TrialState.RUNNING):
            worker = trial.user_attrs.get(_WORKER)
            if worker is None or _gone(self.workers / worker):
                logger.warning("trial %d of %s was cut short; it is drawn again", trial.number, self.config.study_name)
                self.study.tell(trial.number, state=TrialState.FAIL)

    def ask(self, index: int, worker: str) -> optuna.Trial | None:
        """Begin a trial, if the study still needs one that nobody is at."""
        with self.begin.held():
            self.fail_orphans()
            told = [t for t in self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL) if _told(t)]
            done = len(self.trials(TrialState.COMPLETE, TrialState.PRUNED))
            if len(told) - done >= max(10, self.config.trials):
                raise UserError(
                    f"tuning: {len(told) - done} trials of {self.config.study_name} failed, the last one with: "
                    f"{told[-1].user_attrs.get(_ERROR, 'no message')}; narrow the space"
                )
            if done + len(self.trials(TrialState.RUNNING)) >= self.config.trials:
                return None
            self.study.sampler = _sampler(self.config, len(told), index)
            trial = self.study.ask()
            trial.set_user_attr(_WORKER, worker)
            return trial

    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.trials(TrialState.COMPLETE, TrialState.PRUNED)) >= self.config.trials


def _work(config: TuningConfig, objective: Objective, storage: Path, index: int, deadline: float) -> None:
    """Run trials until the study is complete or the time is up."""
    shared = _Shared(config, storage)
    parent = multiprocessing.parent_process()
    worker = uuid.uuid4().hex
    with _KernelLock(shared.workers / worker).held():
        while time.time() < deadline and (parent is None or parent.is_alive()):
            trial = shared.ask(index, worker)
            if trial is not None:
                _run_trial(shared.study, trial, config, objective)
            elif shared.complete():
                break
            else:
                time.sleep(_POLL_SECONDS)  # the last trials are running elsewhere; one may yet fail
    (shared.workers / worker).unlink(missing_ok=True)


def _run_trial(study: optuna.Study, trial: optuna.Trial, config: TuningConfig, objective: Objective) -> None:
    parameters = {name: dimension.suggest(trial, name) for name, dimension in config.space.items()}

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


def _spawn(config: TuningConfig, objective: Objective, storage: Path, deadline: float) -> None:
    """Run several workers; what one that dies was at is taken up by the others."""
    context = multiprocessing.get_context("spawn")
    arguments = (config, objective, storage)
    workers = [
        context.Process(target=_worker, args=(*arguments, index, deadline), daemon=True)
        for index in range(config.processes)
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
                process.join()
    codes = [process.exitcode for process in workers]
    if any(codes) and time.time() < deadline and not _Shared(config, storage).complete():
        raise UserError(
            f"tuning: workers of {config.study_name} ended early (exit codes {codes}); what they completed is kept in "
            f"'{storage}', run again to go on"
        )


def _worker(config: TuningConfig, objective: Objective, storage: Path, index: int, deadline: float) -> None:
    try:
        _work(config, objective, storage, index, deadline)
    except UserError as error:
        raise SystemExit(str(error)) from None


def _result(config: TuningConfig, study: optuna.Study) -> StudyResult:
    table = _table(config, study)
    if not (table["state"] == "COMPLETE").any():
        last = table["error"].dropna().iloc[-1:].tolist() or ["none was begun in time"]
        raise UserError(f"tuning: no trial of {config.study_name} completed ({last[0]})")
    best = study.best_trial
    return StudyResult(
        nested(_values(config, best)), float(study.best_value), best.number, table, _importances(config, study)
    )


def _table(config: TuningConfig, study: optuna.Study) -> pd.DataFrame:
    rows = []
    for trial in study.get_trials(deepcopy=False):
        values = _values(config, trial)
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                "value": trial.value if trial.state == TrialState.COMPLETE else math.nan,
                "seconds": trial.duration.total_seconds() if trial.duration is not None else math.nan,
                "error": trial.user_attrs.get(_ERROR),
                # A list or a mapping stands in the table as text, so that the table can be stored anywhere.
                **{
                    name: json.dumps(values.get(name))
                    if isinstance(values.get(name), list | dict)
                    else values.get(name)
                    for name in config.space
                },
            }
        )
    return pd.DataFrame(rows, columns=["number", "state", "value", "seconds", "error", *config.space])


def _values(config: TuningConfig, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """A trial's parameters as the objective saw them."""
    return {
        name: json.loads(trial.params[name]) if dimension.type == "categorical" else trial.params[name]
        for name, dimension in config.space.items()
        if name in trial.params
    }


def _importances(config: TuningConfig, study: optuna.Study) -> dict[str, float]:
    """PED-ANOVA importances (Watanabe, Bansal, Hutter, IJCAI 2023), largest first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _LEAST_FOR_IMPORTANCE or len({t.value for t in complete}) == 1:
        return {}
    if len(config.space) == 1:
        return dict.fromkeys(config.space, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return {name: float(value) for name, value in found.items()}


def _sampler(config: TuningConfig, told: int, index: int) -> optuna.samplers.BaseSampler:
    """A sampler whose randomness is a function of the seed, of how many trials were told, and of the worker."""
    seed = int(np.random.SeedSequence((config.seed, told, index)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if config.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if config.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=config.processes > 1)


def _pruner(config: TuningConfig) -> optuna.pruners.BasePruner:
    if config.pruner == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.HyperbandPruner() if config.pruner == "hyperband" else optuna.pruners.NopPruner()


def _told(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether the objective has answered; a trial that was killed failed without an error of its own."""
    return trial.state != TrialState.FAIL or _ERROR in trial.user_attrs


def _check_same(study: optuna.Study, fingerprint: str, storage: Path) -> None:
    """Only the very same search goes on in a study."""
    known = study.user_attrs.get(_FINGERPRINT)
    if known is None:
        study.set_user_attr(_FINGERPRINT, fingerprint)
    elif known != fingerprint:
        old, new = json.loads(known), json.loads(fingerprint)
        changed = ", ".join(key for key in new if old.get(key) != new[key])
        raise UserError(
            f"tuning: study {study.study_name} in '{storage}' was begun with another {changed}; "
            "move the file away to begin anew, or give another storage"
        )


def _locks(storage: Path) -> Path:
    return storage.with_name(f".{storage.name}.locks")


def _gone(path: Path) -> bool:
    """Whether the worker that held this lock has ended."""
    lock = _KernelLock(path)
    if not lock.acquire(wait=False):
        return False
    lock.release()
    path.unlink(missing_ok=True)
    return True


def _drop_torn_line(storage: Path) -> None:
    """Cut off what a killed writer left of its last line; call it with the write lock held."""
    if not storage.exists():
        return
    data = storage.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(storage, whole)
