"""What a table says against itself, and what energy its motion loses: a line each at ingestion."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from wm_pipelines.formulas import Formula
from wm_pipelines.worlds.parts.energy_balance import EnergyLoss, energy_loss, estimated_energy
from wm_pipelines.worlds.parts.table_consistency import compare_energy, compare_rates
from wm_pipelines.worlds.parts.table_parameters import TableParameters
from wm_pipelines.worlds.parts.trajectories import Trajectory

_VARIES = 0.1  # of its scale: scatter of a declared energy that is named


def contradictions(
    name: str, trajectories: Sequence[Trajectory], parameters: TableParameters, hamiltonian: Formula | None
) -> list[str]:
    """Rates that are not the slopes of their coordinates, and a declared energy that moves them otherwise."""
    d, columns, found = parameters.dof, parameters.columns, []
    slopes = None if hamiltonian is None else [hamiltonian.gradient(t.state) for t in trajectories]
    masses = [m.si for m in parameters.mass_per_coordinate]
    for place, coordinate in enumerate(columns.coordinates):
        line = None
        if parameters.quadratic and columns.rates:
            rates = [t.state[:, d + place] / masses[place] for t in trajectories]
            line = compare_rates(name, trajectories, coordinate, columns.rates[place], place, rates)
        if line is None and slopes is not None:
            line = compare_energy(name, trajectories, coordinate, place, [s[:, d + place] for s in slopes])
        found += [line] if line else []
    return found


def loss_of(
    trajectories: Sequence[Trajectory], parameters: TableParameters, hamiltonian: Formula | None
) -> EnergyLoss | None:
    """What the declared energy loses along the table, or one that is estimated from the motion; None: no telling."""
    times, states, d = [t.time for t in trajectories], [t.state for t in trajectories], parameters.dof
    if hamiltonian is not None:
        energies = [hamiltonian(z) for z in states]
        with np.errstate(all="ignore"):
            at_rest = [hamiltonian(np.hstack([z[:, :d], np.zeros_like(z[:, :d])])) for z in states]
        floor = float(np.min(np.concatenate(at_rest)))
        return energy_loss(times, energies, floor if np.isfinite(floor) else float(np.min(np.concatenate(energies))))
    if not parameters.quadratic:
        return None
    masses = np.array([m.si for m in parameters.mass_per_coordinate])
    kinetic = [(z[:, d:] ** 2 / masses).sum(axis=1) / 2 for z in states]
    found = estimated_energy(times, [z[:, :d] for z in states], kinetic, parameters.angles)
    return None if found is None else energy_loss(times, found, 0.0)


def describe_loss(name: str, loss: EnergyLoss, parameters: TableParameters) -> list[tuple[int, str]]:
    """Log level and text of what the loss means."""
    declared, reduced = parameters.energy is not None, parameters.columns.reduced
    whose, per = (
        "the declared energy" if declared else "an energy estimated from the motion",
        "unit of time" if reduced else "second",
    )
    known = declared or bool(parameters.masses)
    power = f", {abs(loss.power):.2g} {'' if reduced else 'W'}".rstrip() if known else ""
    course = (
        f"{abs(loss.rate):.2%} per {per}{power}"
        if 1e-4 < abs(loss.rate) < 10
        else f"{abs(loss.rate):.2g} of it per {per}{power}"
    )
    if loss.clear:
        falls = "loses" if loss.rate > 0 else "gains"
        return [
            (
                logging.WARNING,
                f"'{name}': {whose} {falls} {course} ({abs(loss.lost):.0%} over an episode): models that "
                "conserve an energy cannot follow it, and conserving it is no merit here",
            )
        ]
    if declared and loss.scatter > _VARIES:
        return [
            (
                logging.WARNING,
                f"'{name}': {whose} varies by {loss.scatter:.0%} within an episode, without a trend: look at the "
                "formula, its constants and the units",
            )
        ]
    return [
        (
            logging.INFO,
            f"'{name}': {whose} is kept over an episode, within {max(loss.scatter, abs(loss.lost)):.2g} of it",
        )
    ]
