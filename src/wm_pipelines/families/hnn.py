"""Hamiltonian neural networks: a perceptron ``H(q, p)``, and ``dq/dt = dH/dp, dp/dt = -dH/dq``.

Greydanus, Dzamba, Yosinski, NeurIPS 2019, eq. 3: the gradient of H is matched to derivatives of the data
(`derivative`); or pairs of states ``(z_t, z_{t + dt})`` are matched through a symplectic step (`pairs`; Chen, Zhang,
Arjovsky, Bottou, ICLR 2020).

Beyond the papers: what is declared about H (separable, even, periodic, pairwise) can be built into it; inputs are
standardised by the data; roll-outs are symplectic. Where the data have no derivatives, those of splines are matched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.blocks.hamiltonian_terms import Term
from wm_pipelines.blocks.implicit_stages import stages_last
from wm_pipelines.blocks.splines import spline_slopes
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import TrainedConfig, Views
from wm_pipelines.families.parts.hamiltonian import HamiltonianConfig, HamiltonianFamily, Part
from wm_pipelines.integrators import IntegrationError, gauss_legendre_step, splitting_step
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_SPLITTING_OF_ORDER = {2: "leapfrog", 4: "yoshida4", 6: "kahan_li6", 8: "kahan_li8"}
_CORE = 0.5  # share of the typical distance below which pair forces are smooth


class HNNConfig(HamiltonianConfig, TrainedConfig):
    """Defaults in ``conf/base/parameters_hnn.yml``."""

    method: Literal["derivative", "pairs"] = Field("derivative", description="what the flow of H is matched to")
    hidden: tuple[Positive, ...] = Field((64, 64), description="layers of the perceptron")
    activation: Literal["tanh", "silu", "softplus", "gelu"] = "silu"
    order: Literal[2, 4, 6, 8] = Field(6, description="order of the symplectic step that pairs are trained through")
    pair_substeps: int = Field(1, ge=1, description="steps of that scheme between two rows")


@register
class HNN(HamiltonianFamily):
    """A learned Hamiltonian and its symplectic flow."""

    name: ClassVar[str] = "hnn"
    Config: ClassVar[type[HamiltonianConfig]] = HNNConfig
    config: HNNConfig

    def __init__(self, config: HNNConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        if config.order == 8 and not self.separable and config.method == "pairs":
            raise UserError(
                "hnn: order 8 needs a separable H; set order to 6 or less, or declare structure: [separable]"
            )

    # ------------------------------------------------ H

    def make_terms(self) -> list[Term]:
        """One perceptron per part of H that the structure allows; one of the whole state where nothing is declared."""
        return [self._term(part, inputs, salt) for salt, (part, inputs) in enumerate(self.inputs(_CORE).items())]

    def _term(self, part: Part, inputs: Any, salt: int) -> Term:
        sizes = (inputs.inputs, *self.config.hidden, len(inputs.weights))
        psi = EnsembleMLP(sizes, self.seeds, self.config.activation, salt, last_bias=False)
        return Term(part, inputs, psi, len(self.seeds))

    # ------------------------------------------------ training

    def examples(self, episodes: Views) -> Views:
        """States and derivatives, or pairs of states.

        Raises:
            UserError: fewer than two rows per episode.
        """
        time, state = episodes["times"], episodes["states"]
        if state.shape[1] < 2:
            raise UserError(f"hnn: episodes of world '{self.spec.name}' have one row; at least 2 are needed to learn")
        derivative = episodes.get("derivatives") if self.config.use_derivative else None
        spacing = (time[:, 1:] - time[:, :-1])[..., None]
        difference = (state[:, 1:] - state[:, :-1]) / spacing
        with torch.no_grad():
            self._set_rates(difference if derivative is None else derivative)
            self._calibrate(state[None, :, :, None].expand(len(self.seeds), -1, -1, -1, -1))
            self.amplitude.fill_(float((self.rates * self.spread(state).roll(self.spec.dof)).mean()))
        if self.config.method == "pairs":
            return {
                "state": state[:, :-1].flatten(0, 1),
                "next_state": state[:, 1:].flatten(0, 1),
                "step": spacing.flatten(0, 1),
            }
        if derivative is None:
            derivative = spline_slopes(time, state)
        return {"state": state.flatten(0, 1), "derivative": derivative.flatten(0, 1)}

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """``|J grad H - dz/dt|^2`` (paper, eq. 3), or ``|Phi_dt(z_t) - z_{t+dt}|^2 / dt^2``, in units of the rates."""
        if self.config.method == "derivative":
            error, name = self.field(batch["state"]) - batch["derivative"], "derivative"
        else:
            step = batch["step"]
            error, name = (self.flow(batch["state"], step) - batch["next_state"]) / step, "pairs"
        value = (error / self.rates).square().mean(dim=(1, 2))
        return value, {name: value.detach()}

    def flow(self, z: Tensor, step: Tensor) -> Tensor:
        """One differentiable symplectic step: ``[S, B, 2d]``, step sizes ``[S, B, 1] -> [S, B, 2d]``."""
        part = step / self.config.pair_substeps
        for _ in range(self.config.pair_substeps):
            z = self._explicit_step(z, part) if self.separable else self._implicit_step(z, part)
        return z

    def _explicit_step(self, z: Tensor, step: Any) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        scheme = _SPLITTING_OF_ORDER[self.config.order]
        q, p = splitting_step(q, p, step, self._part_gradient("p"), self._force_function(), scheme)
        return torch.cat([q, p], dim=-1)

    def _implicit_step(self, z: Tensor, step: Tensor) -> Tensor:
        in_units = self._field_in_units()

        def field(y: Tensor) -> Tensor:  # time in units of each pair's own step
            return step * stages_last(in_units, y)

        try:
            y = gauss_legendre_step(z / self.units, 1.0, field, stages=self.config.order // 2, tolerance=1e-11)
            return y * self.units
        except IntegrationError:
            return z * math.nan  # the training loop stops on a loss that is not a number, and says so

    def extra_summary(self) -> dict[str, Any]:
        """What was declared about H."""
        return {"structure": sorted(self.structure)}
