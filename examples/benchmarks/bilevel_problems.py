"""Small bi-level problems with a known hypergradient: their lower level is solved to convergence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jacrev
from torch.nn.functional import cross_entropy, linear

from skfairprune.training.hypergradient import Hypergradient, Loss, Parameters, hypergradient

__all__ = ["N_ROWS", "Problem", "Rows", "make_problems"]

N_ROWS = 400  # of each level

Rows = tuple[Tensor, Tensor]
Model = Callable[[Tensor, Parameters, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A bi-level problem: a ridge on the lower level's parameters, none on the upper level."""

    name: str
    model: Model  # takes gates, parameters and inputs
    loss: Callable[[Tensor, Tensor], Tensor]
    shapes: dict[str, tuple[int, ...]]
    consumers: dict[str, slice]
    gates: Tensor
    lower: Rows
    upper: Rows
    ridge: float

    def loss_on(self, rows: Rows) -> Loss:
        """Return the loss on these rows, without the ridge."""
        return lambda gates, parameters: self.loss(self.model(gates, parameters, rows[0]), rows[1])

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the parameters in a vector."""
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), flat.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def objective(self, gates: Tensor, flat: Tensor) -> Tensor:
        """Compute the whole lower objective, the ridge included."""
        data = self.loss_on(self.lower)(gates, self.unflatten(flat))
        return data + self.ridge / 2 * flat.square().sum()

    def solve(self, gates: Tensor, start: Tensor) -> Tensor:
        """Find the lower level's minimum by Newton's method, to a gradient below 1e-11."""
        flat = start
        for _ in range(500):
            at = partial(self.objective, gates)
            slope, hessian = grad(at)(flat), jacrev(grad(at))(flat)
            if slope.norm() < 1e-11:
                return flat
            values, vectors = torch.linalg.eigh(hessian)
            step = vectors @ ((vectors.T @ slope) / values.abs().clamp(min=1e-3 * self.ridge))
            size, decrease = 1.0, float(slope @ step)
            # Below that the objective's own rounding hides the decrease: the full step is Newton's.
            while decrease > 1e-13 and at(flat - size * step) > at(flat) - 1e-4 * size * decrease:
                size /= 2
            flat = flat - size * step
        raise RuntimeError(f"{self.name}: the lower level did not converge")

    def exact(self, flat: Tensor) -> Tensor:
        """Compute the hypergradient at the lower level's minimum with the dense Hessian."""

        def upper(gates: Tensor, flat: Tensor) -> Tensor:
            return self.loss_on(self.upper)(gates, self.unflatten(flat))

        direct, by_weights = grad(upper, argnums=(0, 1))(self.gates, flat)
        hessian = jacrev(grad(self.objective, argnums=1), argnums=1)(self.gates, flat)
        mixed = jacrev(grad(self.objective, argnums=1), argnums=0)(self.gates, flat)
        return direct - mixed.T @ torch.linalg.solve(hessian, by_weights)

    def differences(self, flat: Tensor, step: float = 1e-4) -> Tensor:
        """Compute the same by central differences, the lower level solved anew at each point."""
        slopes = []
        for unit in range(len(self.gates)):
            values = []
            for sign in (1, -1):
                gates = self.gates.clone()
                gates[unit] += sign * step
                solved = self.solve(gates, flat)
                values.append(self.loss_on(self.upper)(gates, self.unflatten(solved)))
            slopes.append((values[0] - values[1]) / (2 * step))
        return torch.stack(slopes)

    def estimate(
        self, method: Hypergradient, flat: Tensor, lower: Rows, damping: float, n_products: int
    ) -> Tensor:
        """Estimate the hypergradient with the lower loss on these rows."""
        return hypergradient(
            method,
            self.loss_on(self.upper),
            self.loss_on(lower),
            self.gates,
            self.unflatten(flat),
            consumers=self.consumers,
            damping=damping,
            n_iterations=n_products,
        )


def squared_error(output: Tensor, y: Tensor) -> Tensor:
    """Compute half the mean squared error."""
    return (output.squeeze(1) - y).square().mean() / 2


def gated_inputs(gates: Tensor, parameters: Parameters, X: Tensor) -> Tensor:
    """Compute a linear model of gated inputs."""
    return linear(X * gates, parameters["weight"])


def gated_units(gates: Tensor, parameters: Parameters, X: Tensor) -> Tensor:
    """Compute a perceptron with gated hidden units."""
    hidden = torch.tanh(linear(X, parameters["producer"], parameters["hidden_bias"]))
    return linear(hidden * gates, parameters["consumer"], parameters["bias"])


def make_problems() -> Iterator[Problem]:
    """Make the problems, each with a strong and a weak ridge."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = partial(torch.rand, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    n_inputs = 12
    mixing = torch.eye(n_inputs, dtype=torch.float64) + 0.3 * draw(n_inputs, n_inputs)
    X, weight = draw(2 * N_ROWS, n_inputs) @ mixing, draw(n_inputs) / 2
    y = X @ weight + draw(2 * N_ROWS)
    lower, upper = slice(None, N_ROWS), slice(N_ROWS, None)
    ridge_regression = Problem(
        "ridge regression",
        gated_inputs,
        squared_error,
        {"weight": (1, n_inputs)},
        {"weight": slice(0, n_inputs)},
        0.2 + 0.8 * uniform(n_inputs),
        (X[lower], y[lower]),
        (X[upper], y[upper]),
        1.0,
    )
    classes = (y > 0).long()
    logistic = replace(
        ridge_regression,
        name="ridge logistic",
        loss=cross_entropy,
        shapes={"weight": (2, n_inputs)},
        lower=(X[lower], classes[lower]),
        upper=(X[upper], classes[upper]),
    )
    X, n_hidden = X[:, :5], 6
    bent = (torch.tanh(X @ weight[:5]) + (X[:, 0] * X[:, 1]) + draw(2 * N_ROWS) / 2 > 0).long()
    perceptron = Problem(
        "perceptron 5-6-2",
        gated_units,
        cross_entropy,
        {"producer": (n_hidden, 5), "hidden_bias": (n_hidden,), "consumer": (2, n_hidden), "bias": (2,)},
        {"consumer": slice(0, n_hidden)},
        0.2 + 0.8 * uniform(n_hidden),
        (X[lower], bent[lower]),
        (X[upper], bent[upper]),
        0.01,
    )
    for problem in (ridge_regression, logistic, perceptron):
        yield problem
        yield replace(problem, ridge=problem.ridge / (10 if problem is perceptron else 100))
