"""What the families that learn a Hamiltonian share: the declared structure of ``H``, its inputs, the roll-out.

How ``H`` is fitted is each family's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks.hamiltonian_flow import HamiltonianFlow
from wm_pipelines.blocks.hamiltonian_terms import Coordinates, Distances, Forms, Speeds, Term, pair_couplings
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, FamilyConfig, Prediction, Views, with_derivatives
from wm_pipelines.spec import Spec

Word = Literal["separable", "even", "periodic", "pairwise"]
Part = Literal["z", "q", "p"]


class HamiltonianConfig(FamilyConfig):
    """What every such family can be told, and how finely it rolls out."""

    structure: Literal["none", "declared"] | tuple[Word, ...] = Field(
        "none", description="what is known of H: none, what the world declares, or a list"
    )
    use_derivative: bool = Field(True, description="False: see states only, even where derivatives are given")
    tolerance: float = Field(
        1e-6, gt=0, allow_inf_nan=False, description="relative error of one roll-out step, sets the sub-steps"
    )
    max_substeps: int = Field(8, ge=1, description="largest number of sub-steps between two rows")


class HamiltonianFamily(HamiltonianFlow, Family):
    """A learned ``H`` made of terms, and its symplectic flow."""

    Config: ClassVar[type[FamilyConfig]] = HamiltonianConfig
    config: Any
    amplitude: Tensor
    rates: Tensor
    units: Tensor

    @classmethod
    def observed(cls, spec: Spec, config: Any) -> tuple[str, ...]:
        """States, and their derivatives where episodes carry them and they are used."""
        return with_derivatives(cls.shown(spec), spec, config.use_derivative)

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """That there is an energy from which the rates follow, and the facts that its structure is read from."""
        if config.structure == "none":
            return frozenset({"hamiltonian"})
        declared = config.structure == "declared"
        words = set(get_args(Word) if declared else config.structure)
        facts = {"structure"} if words - {"periodic"} else set()
        facts |= {"angles"} if "periodic" in words else set()
        pairs = {"particles", "space", "attributes", "log_distance"}
        return frozenset({"hamiltonian"} | facts | (pairs if "pairwise" in words else set()))

    @classmethod
    def contains(cls, config: Any, spec: Spec) -> frozenset[str]:
        """Logarithms of distances only where forces are pairwise."""
        absent = set() if "pairwise" in structure_of(config, spec.facts) else {"log_distance"}
        return super().contains(config, spec) - absent

    def __init__(self, config: HamiltonianConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.structure = self._structure()
        self.terms = self.make_terms()
        self.parts = nn.ModuleList(self.terms)  # the same terms, where torch looks for parameters
        self.register_buffer("amplitude", torch.ones(1, dtype=torch.float64))
        self.register_buffer("rates", torch.ones(spec.state_size, dtype=torch.float64))
        self.register_buffer("units", torch.ones(spec.state_size, dtype=torch.float64))

    @abstractmethod
    def make_terms(self) -> list[Term]:
        """The terms of H."""

    # ------------------------------------------------ the structure of H

    def _structure(self) -> frozenset[str]:
        """What is known of H.

        Raises:
            UserError: pairwise forces are asked for where there are no particles with masses.
        """
        known, facts = structure_of(self.config, self.spec.facts), self.spec.facts
        if "pairwise" in known and ("particles" not in facts or "mass" not in facts.get("attributes", {})):
            raise UserError(
                f"{self.name}: structure 'pairwise' needs particles with masses; world '{self.spec.name}' has none"
            )
        return known

    def inputs(self, core: float) -> dict[Part, Any]:
        """The inputs of H: of kinetic and potential energy if the structure parts them, else of the whole state.

        Args:
            core: share of the typical distance below which pair forces are smooth.
        """
        d, seeds = self.spec.dof, len(self.seeds)
        if "pairwise" in self.structure:
            particles, space, attributes = (self.spec.facts[name] for name in ("particles", "space", "attributes"))
            couplings = pair_couplings(particles, attributes)
            return {
                "p": Speeds(attributes["mass"], space, seeds),
                "q": Distances(couplings, particles, space, seeds, core),
            }
        if "separable" in self.structure:
            mirrors = [range(d)] if "even" in self.structure else []
            return {"p": Coordinates(d, (), mirrors, seeds), "q": Coordinates(d, self.angles, mirrors, seeds)}
        return {"z": self.forms(2 * d, self.angles)}

    def forms(self, size: int, angles: Sequence[int] = ()) -> Any:
        """Linear forms of ``size`` numbers, or these themselves where some are angles or H is even in them."""
        d, even = self.spec.dof, "even" in self.structure
        if not even and not angles:
            return Forms(size, len(self.seeds))
        mirrors = [range(start, start + d) for start in range(0, size, d)] if even else []
        return Coordinates(size, angles, mirrors, len(self.seeds))

    @property
    def angles(self) -> Sequence[int]:
        """Indices of coordinates that are angles, if that is known."""
        return self.spec.facts["angles"] if "periodic" in self.structure else ()

    # ------------------------------------------------ prediction

    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,
    ) -> Prediction:
        """Symplectic roll-out from the last state of the past."""
        return Prediction(
            states=self.rolled_out(past["states"][:, -1], steps, self.spec.step if step is None else step)
        )


def structure_of(config: HamiltonianConfig, facts: Mapping[str, Any]) -> frozenset[str]:
    """What a configuration says of H in a world with these facts: the words themselves, or those that it declares."""
    if config.structure == "none":
        return frozenset()
    if config.structure != "declared":
        return frozenset(config.structure)
    return frozenset(facts.get("structure", ())) | ({"periodic"} if facts.get("angles") else set())
