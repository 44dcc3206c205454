import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import minimize, root
from scipy.special import softmax
from torch.func import functional_call, grad, jacrev
from torch.nn.functional import cross_entropy

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.units import find_units
from skfairprune.training.batches import Batches, Rows
from skfairprune.training.hypergradient import (
    HYPERGRADIENTS,
    closed_form,
    conjugate_gradient,
    first_order,
    hypergradient,
    implicit,
)
from skfairprune.training.net import BilevelNet
from skfairprune.training.objective import Objective

N_ROWS, RIDGE = 60, 0.05


class Problem:
    """A network under gates, rows for each level, and a ridge on the lower one."""

    def __init__(self, forward, shapes, consumers, gates, rows, loss=cross_entropy):
        self.forward, self.shapes, self.consumers, self.gates = forward, shapes, consumers, gates
        self.rows, self.data_loss = rows, loss

    def named(self, flat):
        sizes = [int(np.prod(shape)) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), flat.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def loss(self, level):
        X, y = self.rows[level]
        return lambda gates, parameters: self.data_loss(self.forward(gates, parameters, X), y)

    def lower(self, gates, flat):
        """Compute the lower objective with its ridge."""
        return self.loss("lower")(gates, self.named(flat)) + RIDGE / 2 * flat.square().sum()

    def solve(self, gates, start):
        """Minimise the lower objective by scipy, to rounding."""

        def call(function):
            return lambda flat: function(torch.from_numpy(flat)).numpy()

        def at(flat):
            return self.lower(gates, flat)

        slope, hessian = call(grad(at)), call(jacrev(grad(at)))
        found = minimize(call(at), start, jac=slope, hess=hessian, method="trust-exact").x
        found = root(slope, found, jac=hessian, tol=1e-15).x
        assert np.linalg.norm(slope(found)) < 1e-10
        assert np.linalg.eigvalsh(hessian(found))[0] > 0
        return torch.from_numpy(found)

    def differences(self, start, step=1e-4):
        """Differentiate the upper loss at the lower level's minimum, solved anew at each point."""
        slopes = []
        for unit in range(len(self.gates)):
            values = []
            for sign in (1, -1):
                gates = self.gates.clone()
                gates[unit] += sign * step
                values.append(self.loss("upper")(gates, self.named(self.solve(gates, start))))
            slopes.append((values[0] - values[1]) / (2 * step))
        return torch.stack(slopes)

    def estimate(self, method, flat, *, upper="upper", damping=RIDGE, n_iterations=200):
        return hypergradient(
            method,
            self.loss(upper),
            self.loss("lower"),
            self.gates,
            self.named(flat),
            consumers=self.consumers,
            damping=damping,
            n_iterations=n_iterations,
        )


def _rows(n_inputs, target):
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(2 * N_ROWS, n_inputs)) @ rng.normal(size=(n_inputs, n_inputs)))
    y = target(X, torch.from_numpy(rng.normal(size=2 * N_ROWS)))
    return {"lower": (X[:N_ROWS], y[:N_ROWS]), "upper": (X[N_ROWS:], y[N_ROWS:])}


def _gates(n_units):
    return torch.from_numpy(np.random.default_rng(1).uniform(0.2, 1, n_units))


def _linear(gates, parameters, X):
    return (X * gates) @ parameters["w"].T


def _perceptron(gates, parameters, X):
    hidden = torch.tanh(X @ parameters["v"].T + parameters["a"])
    return (hidden * gates) @ parameters["w"].T + parameters["b"]


def regression():
    rows = _rows(4, lambda X, noise: X[:, :2].sum(1, keepdim=True) + noise[:, None])

    def half_squares(output, y):
        return (output - y).square().mean() / 2

    return Problem(_linear, {"w": (1, 4)}, {"w": slice(0, 4)}, _gates(4), rows, half_squares)


def logistic():
    rows = _rows(4, lambda X, noise: (X[:, 0] + noise > 0).long())
    return Problem(_linear, {"w": (2, 4)}, {"w": slice(0, 4)}, _gates(4), rows)


def perceptron():
    rows = _rows(5, lambda X, noise: (X[:, 0] - X[:, 1].tanh() + noise / 2 > 0).long())
    shapes = {"v": (6, 5), "a": (6,), "w": (2, 6), "b": (2,)}
    return Problem(_perceptron, shapes, {"w": slice(0, 6)}, _gates(6), rows)


PROBLEMS = [regression, logistic, perceptron]


def _solved(make):
    problem = make()
    size = sum(int(np.prod(shape)) for shape in problem.shapes.values())
    start = torch.from_numpy(np.random.default_rng(2).normal(size=size))
    return problem, problem.solve(problem.gates, start)


@pytest.mark.parametrize("make", PROBLEMS)
def test_implicit_is_the_derivative_of_the_solved_problem(make):
    problem, flat = _solved(make)
    exact = problem.differences(flat)
    assert exact.abs().max() > 1e-3
    assert_allclose(problem.estimate("implicit", flat), exact, atol=1e-7)
    # The response counts: without it the estimate is far off.
    assert (problem.estimate("first_order", flat) - exact).norm() > 0.1 * exact.norm()


def test_implicit_is_the_derivative_of_the_closed_solution():
    problem, _ = _solved(regression)
    X, y = problem.rows["lower"]
    gates = problem.gates.clone().requires_grad_()
    gram = (X * gates).T @ (X * gates) / N_ROWS + RIDGE * torch.eye(4).double()
    weight = torch.linalg.solve(gram, (X * gates).T @ y / N_ROWS).T
    (exact,) = torch.autograd.grad(problem.loss("upper")(gates, {"w": weight}), gates)
    assert_allclose(problem.estimate("implicit", weight.flatten()), exact, rtol=1e-10)


@pytest.mark.parametrize("make", PROBLEMS)
def test_implicit_with_the_ridge_in_the_loss_needs_no_damping(make):
    problem, flat = _solved(make)

    def lower_loss(gates, parameters):
        return problem.lower(gates, torch.cat([p.flatten() for p in parameters.values()]))

    found = implicit(
        problem.loss("upper"), lower_loss, problem.gates, problem.named(flat), damping=0, n_iterations=200
    )
    dense = jacrev(grad(problem.lower, argnums=1), argnums=1)(problem.gates, flat)
    mixed = jacrev(grad(problem.lower, argnums=1))(problem.gates, flat)

    def upper(gates, flat):
        return problem.loss("upper")(gates, problem.named(flat))

    direct, by_weights = grad(upper, argnums=(0, 1))(problem.gates, flat)
    exact = direct - mixed.T @ torch.linalg.solve(dense, by_weights)
    assert_allclose(found, exact, rtol=1e-9, atol=1e-11)
    assert_allclose(found, problem.estimate("implicit", flat), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", PROBLEMS)
def test_first_order_is_the_derivative_at_fixed_weights(make):
    problem = make()
    size = sum(int(np.prod(shape)) for shape in problem.shapes.values())
    parameters = problem.named(torch.from_numpy(np.random.default_rng(3).normal(size=size)))
    found = first_order(problem.loss("upper"), problem.gates, parameters)
    expected = []
    for unit in range(len(found)):
        step = torch.zeros_like(problem.gates)
        step[unit] = 1e-5
        values = [problem.loss("upper")(problem.gates + sign * step, parameters) for sign in (1, -1)]
        expected.append((values[0] - values[1]) / 2e-5)
    assert_allclose(found, expected, atol=1e-9)


def test_closed_form_is_its_formula():
    problem, gamma = logistic(), 0.3
    problem.gates[1] = 0
    weight = np.random.default_rng(3).normal(size=(2, 4))
    m = problem.gates.numpy()

    def by_z(level):
        X, y = (part.numpy() for part in problem.rows[level])
        return (softmax(X @ (m * weight).T, axis=1) - np.eye(2)[y]).T @ X / N_ROWS

    g_up, g_low = by_z("upper"), by_z("lower")
    expected = (weight * g_up - g_low * (m * g_up) / gamma).sum(0)
    found = problem.estimate("closed_form", torch.from_numpy(weight).flatten(), damping=gamma)
    assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("make", PROBLEMS)
@pytest.mark.parametrize("upper", ["lower", "upper"])
def test_at_a_stationary_lower_level_the_closed_form_is_twice_first_order(make, upper):
    problem, flat = _solved(make)
    partial = problem.estimate("first_order", flat, upper=upper)
    assert partial.abs().max() > 1e-3
    for damping, factor in ((RIDGE, 2.0), (RIDGE / 4, 5.0), (RIDGE * 10, 1.1)):
        found = problem.estimate("closed_form", flat, upper=upper, damping=damping)
        assert_allclose(found, factor * partial, atol=1e-8)


def test_closed_form_is_exact_where_the_ridge_is_all_the_curvature():
    problem, flat = _solved(logistic)
    X, y = problem.rows["lower"]
    problem.rows["lower"] = X / 1e3, y  # the loss is all but linear in the weights, and the weights small
    flat = problem.solve(problem.gates, flat)
    exact = problem.estimate("implicit", flat)
    assert_allclose(problem.estimate("closed_form", flat), exact, rtol=1e-4)
    assert_allclose(problem.estimate("first_order", flat), exact / 2, rtol=1e-4)


def test_closed_form_sees_each_layers_gates_on_its_own_weights():
    network, gates = _network().double(), torch.linspace(0.1, 1, 12, dtype=torch.float64)
    gated = GatedNetwork(network, find_units(network))
    parameters = dict(gated.named_parameters())
    names = ["network.layers.2.weight", "network.layers.4.weight"]
    columns = [slice(0, 7), slice(7, 12)]
    upper, lower = (_loss(gated, _net_rows(seed)) for seed in (0, 1))
    found = closed_form(
        upper, lower, gates, parameters, consumers=dict(zip(names, columns, strict=True)), damping=0.5
    )
    # By the product: gates of 1 in a network whose weights are already multiplied.
    products = {name: parameters[name].detach() * gates[c] for name, c in zip(names, columns, strict=True)}
    for product in products.values():
        product.requires_grad_()
    whole, ones = {**parameters, **products}, torch.ones_like(gates)
    g_up, g_low = (
        torch.autograd.grad(level(ones, whole), list(products.values())) for level in (upper, lower)
    )
    expected = torch.cat(
        [
            (parameters[name] * up - low * (gates[c] * up) / 0.5).sum(0)
            for name, c, up, low in zip(names, columns, g_up, g_low, strict=True)
        ]
    )
    assert_allclose(found, expected.detach(), rtol=1e-9)


def test_closed_form_is_finite_at_gates_that_are_all_but_shut():
    network = _network()
    gates = torch.tensor([0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-10, 1.0] + [0.5] * 5)
    gated = GatedNetwork(network, find_units(network))
    loss = _loss(gated, _net_rows(0, torch.float32))
    consumers = {"network.layers.2.weight": slice(0, 7), "network.layers.4.weight": slice(7, 12)}
    parameters = dict(gated.named_parameters())
    found = closed_form(loss, loss, gates, parameters, consumers=consumers, damping=1e-3)
    assert found.isfinite().all()
    assert_allclose(found[:5], first_order(loss, gates, parameters)[:5], rtol=1e-5)


def test_conjugate_gradient_solves_a_positive_system():
    rng = np.random.default_rng(0)
    root_, target = rng.normal(size=(30, 8)), rng.normal(size=8)
    matrix = root_.T @ root_
    calls = []

    def product(vector):
        calls.append(vector)
        return torch.from_numpy(matrix) @ vector

    found = conjugate_gradient(product, torch.from_numpy(target), 100)
    assert_allclose(found, np.linalg.solve(matrix, target), rtol=1e-8)
    assert 8 <= len(calls) <= 10
    # Each iteration brings the solution nearer.
    errors = [
        float((conjugate_gradient(product, torch.from_numpy(target), n) - found).norm()) for n in range(8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_conjugate_gradient_ends_where_the_curvature_is_not_positive():
    target = torch.tensor([1.0, 1.0])
    assert torch.equal(conjugate_gradient(lambda v: -v, target, 10), torch.zeros(2))
    assert torch.equal(conjugate_gradient(lambda v: v, torch.zeros(2), 10), torch.zeros(2))
    found = conjugate_gradient(lambda v: v * torch.tensor([3.0, -1.0]), target, 10)
    assert_allclose(found, [1.0, 1.0])  # one step of 2 / (3 - 1), then no more


def test_parameters_that_a_loss_does_not_read_do_not_respond():
    problem, flat = _solved(logistic)
    parameters = {**problem.named(flat), "unused": torch.ones(3, dtype=torch.float64)}
    losses = problem.loss("upper"), problem.loss("lower")
    found = implicit(*losses, problem.gates, parameters, damping=RIDGE, n_iterations=200)
    assert_allclose(found, problem.estimate("implicit", flat), rtol=1e-9)


@pytest.mark.parametrize("method", HYPERGRADIENTS)
def test_the_arguments_are_left_as_they_are(method):
    problem, flat = _solved(logistic)
    gates, parameters = problem.gates.clone().requires_grad_(), problem.named(flat)
    before = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    given = dict(before)
    losses = problem.loss("upper"), problem.loss("lower")
    found = hypergradient(
        method, *losses, gates * 1, given, consumers=problem.consumers, damping=RIDGE, n_iterations=9
    )
    assert not found.requires_grad
    assert gates.grad is None
    for name, value in given.items():
        assert value is before[name]
        assert value.grad is None
        assert torch.equal(value, parameters[name])


def test_unknown_estimator_is_an_error():
    problem, flat = _solved(regression)
    with pytest.raises(ValueError, match=r"hypergradient must be one of \['first_order'.*got 'second_order'"):
        problem.estimate("second_order", flat)


def _network(seed=0):
    torch.manual_seed(seed)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 5), np.linspace(-1, 1, 4)])
    return TabularNetwork(encoding, (7, 5), 4, "tanh").float()


def _net_rows(seed, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return Rows(
        torch.tensor(rng.normal(size=(N_ROWS, 2)), dtype=dtype),
        torch.tensor(rng.integers(0, 4, N_ROWS)),
        torch.tensor(rng.uniform(0.5, 1.5, N_ROWS), dtype=dtype),
        torch.arange(N_ROWS),
    )


def _objective():
    objective = Objective(0.5, 0.3)
    positive = torch.tensor([0.05, 0.1, 1.0, 0.85], dtype=torch.float64)
    table = torch.stack([1 - positive, positive], dim=1)
    objective.set_tables(table, table)
    return objective


def _loss(gated, rows):
    objective = _objective().to(rows.x.dtype)
    return lambda gates, parameters: objective(
        functional_call(gated, parameters, (rows.x, gates)), rows.target, rows.weight
    )


def _bilevel(lower, upper, *, batch_size, n_epochs=1, **params):
    """Return a trained bilevel net, its network and gates."""
    network = _network().double()
    start = np.random.default_rng(5).normal(size=12)
    gates = BudgetedGates(Chain(7, (7, 5), 4), [torch.tensor(start[:7]), torch.tensor(start[7:])])
    net = BilevelNet(
        GatedNetwork(network, find_units(network)),
        _objective(),
        held_out=None,
        generator=torch.Generator().manual_seed(0),
        optimizer=torch.optim.AdamW,
        lr=0.01,
        batch_size=batch_size,
        max_epochs=n_epochs,
        callbacks__print_log=None,
        verbose=0,
        gates=gates,
        upper=upper,
        gate_lr=0.05,
        schedule=_schedule,
        n_steps=10,
        upper_objective=_objective(),
        **params,
    )
    net.initialize()
    return net.partial_fit(lower), network, gates


def _schedule(progress):
    return 100 - 50 * progress, 1 - 0.7 * progress


def test_the_default_takes_the_step_of_the_plain_gradient():
    lower, upper = _net_rows(0), _net_rows(1)
    _, trained, gates = _bilevel(lower, upper, batch_size=30, n_epochs=3)

    network, objective = _network().double(), _objective()
    start = np.random.default_rng(5).normal(size=12)
    expected = BudgetedGates(Chain(7, (7, 5), 4), [torch.tensor(start[:7]), torch.tensor(start[7:])])
    gated = GatedNetwork(network, find_units(network))
    generator = torch.Generator().manual_seed(0)
    weights = torch.optim.AdamW(network.parameters(), lr=0.01)
    scores = torch.optim.Adam([expected.scores], lr=0.05, fused=True)
    step, upper_batches = 0, iter(())
    for _ in range(3):
        for batch in Batches(lower, 30, generator):
            step += 1
            expected.budget, expected.temperature = _schedule(step / 10)
            current = expected()
            weights.zero_grad()
            objective(gated(batch.x, current.detach()), batch.target, batch.weight).backward()
            weights.step()
            held_out = next(upper_batches, None)
            if held_out is None:
                upper_batches = iter(Batches(upper, 30, generator))
                held_out = next(upper_batches)
            loss = objective(gated(held_out.x, current), held_out.target, held_out.weight)
            (expected.scores.grad,) = torch.autograd.grad(loss, expected.scores)
            scores.step()
    assert torch.equal(gates.scores, expected.scores)
    for found, wanted in zip(trained.parameters(), network.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("method", HYPERGRADIENTS)
def test_the_net_takes_the_hypergradient_of_its_name_at_the_stepped_weights(method):
    lower, upper, damping = _net_rows(0), _net_rows(1), 0.2
    net, network, gates = _bilevel(lower, upper, batch_size=N_ROWS, hypergradient=method, damping=damping)
    start = np.random.default_rng(5).normal(size=12)
    before = BudgetedGates(Chain(7, (7, 5), 4), [torch.tensor(start[:7]), torch.tensor(start[7:])])
    before.budget, before.temperature = _schedule(0.1)
    other = copy.deepcopy(network)
    gated = GatedNetwork(other, find_units(other))
    current = before()
    slope = hypergradient(
        method,
        _loss(gated, upper),
        _loss(gated, lower),
        current,
        dict(gated.named_parameters()),
        consumers={"network.layers.2.weight": slice(0, 7), "network.layers.4.weight": slice(7, 12)},
        damping=damping,
    )
    (expected,) = torch.autograd.grad(current, before.scores, slope)
    assert expected.abs().max() > 1e-4
    assert_allclose(gates.scores.grad, expected, rtol=1e-9, atol=1e-12)
    if method != "first_order":
        plain = first_order(_loss(gated, upper), current, dict(gated.named_parameters()))
        assert (slope - plain).norm() > 0.01 * plain.norm()
    assert net.consumers_.keys() == {"network.layers.2.weight", "network.layers.4.weight"}
