"""A Hamiltonian by regression: random features and one least squares in Hamilton's equations; in seconds.

``H`` is a sum of terms ``sum_m w_m psi(u_m(z))``. A term's inputs ``u_m`` say what is declared about ``H`` (nothing,
separable, even, pairwise); ``psi`` is a linear combination of random tanh features and a few polynomials. Held-out
episodes choose the features' slopes, the ridge, and between forms of H (`hypotheses`): ``T(p) + V(q)``, ``p A(q) p +
V(q)``, any.

With ``offers: false`` none of the simpler forms is offered and no symmetry looked for: H is any function of z that
random features make, the generic model beside the informed ones.

Noisy states with clean derivatives (the data of Greydanus et al. 2019) are not a regression: the integral of the clean
derivative gives each trajectory's shape exactly, its place only up to one constant. These offsets are estimated along
with ``H`` (`closed_form`); `input_noise` detects the noise, `symmetry` looks for forms that the data's symmetries
leave.

Sources: Rahma, Datar, Dietrich 2024, arXiv 2411.17511 (random features and least squares); Golub & Pereyra 1973
(variable projection, for the offsets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.features import RandomFeatures
from wm_pipelines.blocks.hamiltonian_terms import Coordinates, Term
from wm_pipelines.blocks.units import state_units
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import Views
from wm_pipelines.families.hamiltonian_regression.closed_form import WIDEST_SYMMETRY, ClosedForm
from wm_pipelines.families.hamiltonian_regression.hypotheses import QuadraticTerm, hypotheses
from wm_pipelines.families.hamiltonian_regression.input_noise import input_noise, integral_form
from wm_pipelines.families.parts.hamiltonian import HamiltonianConfig, HamiltonianFamily, Part, structure_of
from wm_pipelines.spec import Spec

_CORES = (0.5, 0.15, 0.0)  # shares of the typical distance below which forces are smooth, tried in this order
_LARGEST_MECHANISM = 3  # degrees of freedom up to which a kinetic energy p A(q) p is offered
_OFFERED = frozenset({"separable_form", "kinetic_form", "log_terms"})


class HamiltonianRegressionConfig(HamiltonianConfig):
    """Defaults in ``conf/base/parameters_hamiltonian_regression.yml``."""

    features: int = Field(200, ge=1, description="tanh features per term")
    steepness: tuple[float, ...] = Field((0.12, 0.5), min_length=1, description="slopes tried on held-out episodes")
    ridges: tuple[float, ...] = Field((1e-12, 1e-10, 1e-8, 1e-6), min_length=1, description="ridges tried likewise")
    offers: bool = Field(
        True, description="simpler forms of H for held-out data to choose, and symmetries looked for in the data"
    )
    tail: Literal[0, 1, 2] = Field(1, description="degree of a polynomial added to the features")
    rows: int = Field(2000, ge=10, description="states used, spread evenly over the data")
    noise: Literal["auto", "none"] | float = Field(
        "auto", description="noise on the states: detect it, assume none, or its standard deviation"
    )


@register
class HamiltonianRegression(ClosedForm, HamiltonianFamily):
    """A Hamiltonian fitted in closed form, and its symplectic flow."""

    name: ClassVar[str] = "hamiltonian_regression"
    Config: ClassVar[type[HamiltonianConfig]] = HamiltonianRegressionConfig
    config: HamiltonianRegressionConfig
    active: Tensor
    noise_level: Tensor
    chosen: Tensor

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """The facts that the structure of H is read from, and what its features and hypotheses may contain."""
        known = super().knows(config)
        power = {"power_laws"} if "log_distance" in known else set()
        return known | power | (_OFFERED if config.offers else frozenset())

    @classmethod
    def contains(cls, config: Any, spec: Spec) -> frozenset[str]:
        """Those that this world leaves possible: see `make_terms` and `closed_form`."""
        structure, words = structure_of(config, spec.facts), set(super().contains(config, spec))
        if "log_distance" not in words:
            words -= {"power_laws"}
        if not offered(config, structure):
            words -= _OFFERED
        if spec.dof > _LARGEST_MECHANISM:
            words -= {"kinetic_form"}
        angles = "periodic" in structure and bool(spec.facts.get("angles"))
        if "even" in structure or angles or spec.state_size > WIDEST_SYMMETRY:
            words -= {"log_terms"}
        return frozenset(words)

    def __init__(self, config: HamiltonianRegressionConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.hypotheses = hypotheses(self.terms)
        self.register_buffer("active", torch.tensor([k in self.hypotheses[0] for k in range(len(self.terms))]))
        self.register_buffer("noise_level", torch.zeros(spec.state_size, dtype=torch.float64))
        self.register_buffer("chosen", torch.zeros(len(self.seeds), 2, dtype=torch.float64))

    # ------------------------------------------------ H

    def make_terms(self) -> list[Term]:
        """The terms of H that the structure allows."""
        if "pairwise" in self.structure:
            return self._pairwise_terms()
        terms = [self._term(part, inputs, salt) for salt, (part, inputs) in enumerate(self.inputs(0.0).items())]
        return terms + self._simpler_terms() if offered(self.config, self.structure) else terms

    def _pairwise_terms(self) -> list[Term]:
        """Kinetic energy, and potentials of several cores."""
        features = self.config.features
        terms = [self._term("p", self.inputs(0.0)["p"], 0, {"linear": 1, "tanh": features})]
        counts = {"power": features // 2, "tanh": (features + 1) // 2}
        return terms + [self._term("q", self.inputs(core)["q"], 1, counts) for core in _CORES]

    def _simpler_terms(self) -> list[Term]:
        """Simpler forms of H that held-out data may prefer: nothing is assumed by offering them."""
        d, seeds = self.spec.dof, len(self.seeds)
        terms = [self._term("p", self.forms(d), 1), self._term("q", self.forms(d, self.angles), 2)]
        if d <= _LARGEST_MECHANISM:
            inertia = Coordinates(d, self.angles, [range(d)] if "even" in self.structure else [], seeds)
            counts = {"constant": 1, "tanh": self.config.features // 2}
            features = RandomFeatures(inertia.inputs, counts, self.seeds, salt=3)
            terms.append(QuadraticTerm(inertia, features, d, seeds))
        return terms

    def _term(self, part: Part, inputs: Any, salt: int, counts: Mapping[str, int] | None = None) -> Term:
        n, config = inputs.inputs, self.config
        if counts is None:
            tail = {"linear": n if config.tail >= 1 else 0, "square": n * (n + 1) // 2 if config.tail >= 2 else 0}
            # Functions of one part are simpler than functions of the whole state.
            alone = part != "z" and "separable" not in self.structure
            counts = {**tail, "tanh": config.features // 2 if alone else config.features}
        return Term(part, inputs, RandomFeatures(n, counts, self.seeds, salt), len(self.seeds))

    # ------------------------------------------------ the fit

    def fit(self, episodes: Views) -> Views:
        """Random features and one least squares; with noise on the states, jointly with the trajectories' offsets.

        Returns:
            ``residual [S]``: root mean square of the equation error in units of the derivatives'.

        Raises:
            UserError: fewer than two rows per episode.
        """
        with torch.no_grad():
            return {"residual": self._fit_closed_form(episodes)[0]}

    def _fit_closed_form(self, episodes: Views) -> tuple[Tensor, Tensor]:
        """Residual ``[S]`` and the states ``[S, E, T, 2d]`` cleared of noise, of the rows that were used."""
        time, state, derivative = self._thin(*self._columns(episodes))
        if derivative is None:
            return self._fit_equations(*integral_form(time, state))
        self._set_noise(time, state, derivative)
        if bool((self.noise_level > 0).any()):
            return self._fit_with_offsets(time, state, derivative)
        # Without noise a row needs no neighbours: rather a few rows of many episodes than whole ones.
        _, state, derivative = self._thin(*self._columns(episodes), whole=False)
        assert derivative is not None
        return self._fit_equations(state[:, :, None], torch.ones(1, dtype=torch.float64), derivative)

    def _columns(self, episodes: Views) -> tuple[Tensor, Tensor, Tensor | None]:
        """Time, state and, where given and wanted, derivative."""
        if episodes["states"].shape[1] < 2:
            raise UserError(f"{self.name}: episodes of world '{self.spec.name}' have one row; at least 2 are needed")
        derivative = episodes.get("derivatives") if self.config.use_derivative else None
        return episodes["times"], episodes["states"], derivative

    def _set_noise(self, time: Tensor, state: Tensor, derivative: Tensor | None) -> None:
        setting = self.config.noise
        if derivative is None or setting == "none":
            self.noise_level.zero_()
        elif setting == "auto":
            units = state_units(state)
            found = input_noise(time, state / units, derivative / units)
            self.noise_level.copy_(torch.zeros_like(self.noise_level) if found is None else found * units)
        else:
            self.noise_level.fill_(float(setting))

    def extra_summary(self) -> dict[str, Any]:
        """Noise found on the states; steepness and ridge chosen per seed."""
        return {
            "structure": sorted(self.structure),
            "noise": self.noise_level.tolist(),
            "steepness": self.chosen[:, 0].tolist(),
            "ridge": self.chosen[:, 1].tolist(),
        }


def offered(config: HamiltonianRegressionConfig, structure: frozenset[str]) -> bool:
    """Whether simpler forms stand beside H: not where a declared structure has parted it already."""
    return config.offers and not structure & {"separable", "pairwise"}
