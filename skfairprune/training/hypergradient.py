r"""Hypergradients: how the upper level's loss changes with the gates when the weights follow them.

Upper level: minimise :math:`F(m, \theta^*(m))` over the gates :math:`m`. Lower level:
:math:`\theta^*(m) = \arg\min_\theta L(m, \theta) + \frac{\gamma}{2} \|\theta\|^2`. The exact hypergradient is

.. math:: \frac{dF}{dm} = \nabla_m F
          - (\nabla^2_{m \theta} L)^T (\nabla^2_{\theta \theta} L + \gamma I)^{-1} \nabla_\theta F

at :math:`\theta = \theta^*(m)`, by the implicit function theorem. The three estimators differ in what they do
with the second term, the weights' response: leave it out, give it a closed form, or solve for it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import grad

__all__ = [
    "HYPERGRADIENTS",
    "Columns",
    "Hypergradient",
    "Loss",
    "Parameters",
    "closed_form",
    "conjugate_gradient",
    "first_order",
    "hypergradient",
    "implicit",
]

#: The weights and biases of a network by name.
Parameters = Mapping[str, Tensor]
#: Takes the gates and the parameters, returns a scalar.
Loss = Callable[[Tensor, Parameters], Tensor]

#: Which gates multiply the columns of a weight: a slice of the gates, or a position for each, -1 for none.
Columns = slice | Tensor

Hypergradient = Literal["first_order", "closed_form", "implicit"]
#: The names of the estimators.
HYPERGRADIENTS: tuple[Hypergradient, ...] = ("first_order", "closed_form", "implicit")


def first_order(upper_loss: Loss, gates: Tensor, parameters: Parameters) -> Tensor:
    r"""Compute the partial gradient :math:`\nabla_m F`: the weights are taken not to respond.

    Exact for the weights as they are, that is for an upper step that looks no step of the weights ahead.

    Parameters
    ----------
    upper_loss : Loss
        :math:`F`.
    gates : Tensor of shape (n_units_total,)
        :math:`m`.
    parameters : Parameters
        :math:`\theta`.

    Returns
    -------
    Tensor of shape (n_units_total,)
        The derivative by each gate.
    """
    gates, parameters = gates.detach().requires_grad_(), _detached(parameters)
    return grad(upper_loss(gates, parameters), gates)[0]


def closed_form(
    upper_loss: Loss,
    lower_loss: Loss,
    gates: Tensor,
    parameters: Parameters,
    *,
    consumers: Mapping[str, Columns],
    damping: float,
) -> Tensor:
    r"""Compute the hypergradient of a lower level that is curved by its ridge alone.

    The losses see the gated weights only through :math:`z_{ou} = m_u \theta_{ou}`. With
    :math:`\nabla^2_z L = 0` the Hessian by :math:`\theta` is :math:`\gamma I` and the mixed derivative is
    :math:`\partial^2 L / \partial m_u \partial \theta_{ou} = \partial L / \partial z_{ou}`, so that

    .. math:: \frac{dF}{dm_u} = \sum_o \theta_{ou} \frac{\partial F}{\partial z_{ou}}
              - \frac{1}{\gamma} \sum_o \frac{\partial L}{\partial z_{ou}}\, m_u
                \frac{\partial F}{\partial z_{ou}}.

    The assumption and the form are those of Zhang et al., "Advancing Model Pruning via Bi-level
    Optimization" (BiP, 2022), here with one gate a unit and a loss for each level. Where the lower level is
    stationary, :math:`m_u \partial L / \partial z_{ou} = -\gamma \theta_{ou}`, this is twice
    :func:`first_order`, whatever the upper loss.

    Parameters
    ----------
    upper_loss, lower_loss : Loss
        :math:`F` and :math:`L`, the latter without its ridge.
    gates : Tensor of shape (n_units_total,)
        :math:`m`.
    parameters : Parameters
        :math:`\theta`.
    consumers : mapping of str to slice, or Tensor of shape (n_inputs,) of long
        The names of the gated weights that are trained, of shape (n_outputs, n_inputs, ...), and which of the
        gates multiply their columns: a slice of them one by one, or for each column the position of its gate,
        -1 for none. Without any this is :func:`first_order`.
    damping : float
        :math:`\gamma`, above 0.

    Returns
    -------
    Tensor of shape (n_units_total,)
        The derivative by each gate.
    """
    if not consumers:
        return first_order(upper_loss, gates, parameters)
    gates, parameters = gates.detach().requires_grad_(), _detached(parameters, consumers)
    weights = [parameters[name] for name in consumers]
    result, *upper = grad(upper_loss(gates, parameters), [gates, *weights])
    lower = grad(lower_loss(gates, parameters), weights)
    for columns, by_upper, by_lower in zip(consumers.values(), upper, lower, strict=True):
        number = (
            torch.arange(len(gates), device=gates.device)[columns] if isinstance(columns, slice) else columns
        )
        # Of a grouped convolution each group of outputs reads inputs of its own.
        n_groups = len(number) // by_lower.shape[1]
        shape = (n_groups, len(by_lower) // n_groups, by_lower.shape[1], -1)
        products = (by_lower * by_upper).reshape(shape).sum((1, 3)).flatten()
        gated = number >= 0
        # A gate of 0 passes no gradient: the product is 0 with any divisor.
        gate = gates.detach()[number[gated]].clamp(min=torch.finfo(gates.dtype).tiny)
        result.index_add_(0, number[gated], products[gated] / gate / damping, alpha=-1)
    return result


def implicit(
    upper_loss: Loss,
    lower_loss: Loss,
    gates: Tensor,
    parameters: Parameters,
    *,
    damping: float,
    n_iterations: int,
) -> Tensor:
    r"""Compute the hypergradient with the lower level's own curvature.

    :math:`(\nabla^2_{\theta \theta} L + \gamma I)\, v = \nabla_\theta F` is solved by conjugate gradient on
    Hessian-vector products (Pedregosa, "Hyperparameter optimization with approximate gradient", 2016), each
    a backward pass through the graph of one gradient. Exact at a minimum of the lower level.

    Parameters
    ----------
    upper_loss, lower_loss : Loss
        :math:`F` and :math:`L`.
    gates : Tensor of shape (n_units_total,)
        :math:`m`.
    parameters : Parameters
        :math:`\theta`.
    damping : float
        :math:`\gamma`, at least 0: the ridge of the lower level that ``lower_loss`` leaves out.
    n_iterations : int
        The most Hessian-vector products, at least 1.

    Returns
    -------
    Tensor of shape (n_units_total,)
        The derivative by each gate.
    """
    gates, parameters = gates.detach().requires_grad_(), _detached(parameters, parameters)
    weights = list(parameters.values())
    partial, *upper = grad(upper_loss(gates, parameters), [gates, *weights], materialize_grads=True)
    lower = _flat(grad(lower_loss(gates, parameters), weights, create_graph=True, materialize_grads=True))

    def curvature(vector: Tensor) -> Tensor:
        product = grad(lower, weights, vector, retain_graph=True, materialize_grads=True)
        return _flat(product) + damping * vector

    response = conjugate_gradient(curvature, _flat(upper), n_iterations)
    return partial - grad(lower, gates, response)[0]


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], target: Tensor, n_iterations: int, tolerance: float = 1e-12
) -> Tensor:
    """Solve a symmetric linear system by conjugate gradient (Hestenes and Stiefel, 1952).

    A network's Hessian need not be positive: the iteration ends at a direction along which the curvature is
    not above 0 and returns what it has so far (Steihaug, 1983).

    Parameters
    ----------
    product : callable
        Multiplies a vector by the matrix.
    target : Tensor of shape (n,)
        The right-hand side.
    n_iterations : int
        The most products.
    tolerance : float
        The residual's norm, as a share of the target's, at which the iteration ends.

    Returns
    -------
    Tensor of shape (n,)
        The solution; 0 where the first direction is one of no positive curvature.
    """
    solution, residual = torch.zeros_like(target), target
    direction, square = residual, residual @ residual
    goal = tolerance**2 * square
    for _ in range(n_iterations):
        if square <= goal:
            break
        image = product(direction)
        curvature = direction @ image
        if curvature <= 0:
            break
        step = square / curvature
        solution = solution + step * direction
        residual = residual - step * image
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return solution


def hypergradient(
    method: Hypergradient,
    upper_loss: Loss,
    lower_loss: Loss,
    gates: Tensor,
    parameters: Parameters,
    *,
    consumers: Mapping[str, Columns],
    damping: float,
    n_iterations: int = 5,
) -> Tensor:
    """Compute the hypergradient by the estimator of that name.

    Parameters
    ----------
    method : {"first_order", "closed_form", "implicit"}
        The estimator.
    upper_loss, lower_loss : Loss
        The losses of the two levels, the lower one without its ridge. "first_order" does not call the
        lower one.
    gates : Tensor of shape (n_units_total,)
        The gates.
    parameters : Parameters
        The parameters of the network.
    consumers : mapping of str to slice or Tensor
        The names of the gated weights and which of the gates multiply their columns ("closed_form").
    damping : float
        The strength of the lower level's ridge ("closed_form", "implicit").
    n_iterations : int
        The most Hessian-vector products ("implicit").

    Returns
    -------
    Tensor of shape (n_units_total,)
        The derivative of the upper loss by each gate.

    Raises
    ------
    ValueError
        If there is no estimator of that name.

    Examples
    --------
    The lower level fits a weight to 2 under a gate and a ridge of 1, the upper level wants 1:

    >>> import torch
    >>> from skfairprune.training.hypergradient import hypergradient
    >>> gate, weight = torch.tensor([1.0]), torch.tensor([[1.0]])  # the minimum of the lower level
    >>> for method in ("first_order", "closed_form", "implicit"):
    ...     slope = hypergradient(
    ...         method,
    ...         lambda m, p: (m * p["w"] - 0.5).square().sum() / 2,
    ...         lambda m, p: (m * p["w"] - 2.0).square().sum() / 2,
    ...         gate, {"w": weight}, consumers={"w": slice(0, 1)}, damping=1.0,
    ...     )
    ...     print(method, slope.item())
    first_order 0.5
    closed_form 1.0
    implicit 0.5
    """
    if method == "first_order":
        return first_order(upper_loss, gates, parameters)
    losses = upper_loss, lower_loss
    if method == "closed_form":
        return closed_form(*losses, gates, parameters, consumers=consumers, damping=damping)
    if method == "implicit":
        return implicit(*losses, gates, parameters, damping=damping, n_iterations=n_iterations)
    raise ValueError(f"hypergradient must be one of {list(HYPERGRADIENTS)}; got {method!r}.")


def _detached(parameters: Parameters, differentiable: Iterable[str] = ()) -> dict[str, Tensor]:
    """Return the parameters off their graph, those of these names as new leaves."""
    leaves = {name: parameter.detach() for name, parameter in parameters.items()}
    for name in differentiable:
        leaves[name].requires_grad_()
    return leaves


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
