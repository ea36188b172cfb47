"""The fitted artifact: a frozen mixture with the site and the weights it belongs to, and its views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shammie.core.artifact import Pretrained, check_model
from shammie.core.errors import MismatchError, ShammieError
from shammie.core.model import LanguageModel
from shammie.core.site import Site
from shammie.mfa.equations import Parameters, latent, varimax
from shammie.mfa.expectation import Expectation, groups, leading_dimensions
from shammie.mfa.settings import MfaSettings


@dataclass(frozen=True, eq=False)
class Mixture(Pretrained):
    """A mixture of K factor analyzers of rank R at one site of a model, D wide."""

    kind: ClassVar[str] = "mfa_mixture"

    site: str
    settings: MfaSettings
    weights: Float[Tensor, " K"]
    means: Float[Tensor, "K D"]
    loadings: Float[Tensor, "K D R"]
    noise: Float[Tensor, "n D"]
    provenance: dict[str, Any]

    @property
    def parameters(self) -> Parameters:
        """The tensors as equations take them."""
        return Parameters(self.weights, self.means, self.loadings, self.noise)

    @cached_property
    def expectation(self) -> Expectation:
        """The E-step as the settings ask for."""
        screen = leading_dimensions(self.parameters, self.settings.screen) if self.settings.screen else None
        return Expectation(self.parameters, screen, self.settings.candidates)

    def log_density(self, x: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Log p(x) in nats, over all components."""
        return self.expectation.dense(self._checked(x)).logsumexp(-1)

    def responsibilities(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Posterior probability of every component."""
        return self.expectation.dense(self._checked(x)).softmax(-1)

    def regions(self, x: Float[Tensor, "B D"]) -> tuple[Int[Tensor, "B C"], Float[Tensor, "B C"]]:
        """The likeliest components of each token and their posterior probabilities, best first."""
        found = self.expectation.posterior(self._checked(x))
        return found.components, found.responsibilities

    def latents(self, x: Float[Tensor, "B D"], components: Int[Tensor, " B"]) -> Float[Tensor, "B R"]:
        """Posterior mean of the local coordinates of each token in its component."""
        x, known = self._checked(x), self.expectation.known
        z = torch.zeros(len(x), self.loadings.shape[2]).to(x)
        for component, rows in groups(components, len(self.weights)):
            z[rows] = latent(x[rows] - self.means[component], known.readout[component], known.cholesky[component])
        return z

    def reconstruct(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """sum_k r_k (mean_k + W_k z_k) over the candidates."""
        components, share = self.regions(x)
        total = torch.zeros_like(self._checked(x))
        for column in range(components.shape[1]):
            own, r = components[:, column], share[:, column : column + 1]
            if float(r.max()) < 1e-4:
                break
            z = self.latents(x, own)
            for component, rows in groups(own, len(self.weights)):
                total[rows] += r[rows] * (self.means[component] + z[rows] @ self.loadings[component].T)
        return total

    def dictionary(self) -> Float[Tensor, "F D"]:
        """Directions [mean_1, its loadings, mean_2, ...]: F = K (R + 1) rows, whose codes are r_k and r_k z_k."""
        rows = torch.cat([self.means[:, None], self.loadings.transpose(1, 2)], dim=1)
        return rows.flatten(0, 1)

    def codes(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """The code of each token, so that codes @ dictionary is its reconstruction; dense, so for few tokens at a time."""
        components, share = self.regions(x)
        table = torch.zeros(len(x), len(self.weights), self.loadings.shape[2] + 1).to(share)
        for column in range(components.shape[1]):
            own, r = components[:, column], share[:, column : column + 1]
            values = torch.cat([r, r * self.latents(x, own)], dim=1)
            table[torch.arange(len(x)), own] = values
        return table.flatten(1)

    def varimax(self, component: int) -> Float[Tensor, "D R"]:
        """A component's loadings turned to few large entries each; the likelihood does not see the turn."""
        self.check_component(component)
        own = self.loadings[component]
        return (own.double() @ varimax(own)).to(own.dtype)

    def check_component(self, component: int) -> None:
        """Raise ShammieError for a component that is not there."""
        if not 0 <= component < len(self.weights):
            raise ShammieError(
                f"region {component} does not exist; this mixture has regions 0 to {len(self.weights) - 1}"
            )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model with other weights than those whose activations were fitted."""
        check_model(self.provenance, model.hash, model.name)

    def at(self) -> Site:
        """The site whose states these are."""
        return Site.parse(self.site)

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.means.shape[1]:
            raise MismatchError(
                f"the mixture is of width {self.means.shape[1]}, but the states have {x.shape[-1]} dimensions"
            )
        return x.to(self.means)


def make_mixture(parameters: Parameters, settings: MfaSettings, site: Site, provenance: dict[str, Any]) -> Mixture:
    """The artifact, the heaviest component first."""
    order = parameters.weights.argsort(descending=True, stable=True)
    weights, means, loadings, noise = parameters
    return Mixture(
        str(site),
        settings,
        weights[order],
        means[order],
        loadings[order],
        noise[order] if len(noise) > 1 else noise,
        provenance,
    )
