"""Criteria: the published rules that score the hidden units of all layers, behind one interface.

A criterion takes the :class:`ScoringData` and returns, for each layer, the worth of its units: greater
stays, comparable across layers. The removal of a unit is the step of its gate :math:`c` from 1 to 0, so
formulas that a publication states for a weight :math:`\\theta` are applied to the gate, where they read
:math:`\\theta = 1` and :math:`\\partial L / \\partial c = \\sum_w w\\, \\partial L / \\partial w` over the
unit's outgoing weights.

Three are published as a rule within a layer that removes the same share of every layer ("magnitude",
"fpgm", "fairgrape"): their worth is the unit's place in its layer, as a share. The others compare layers
and are put as what the unit's removal costs per parameter (or MAC, or unit) that it frees in the dense
network ("snip", "taylor", "fairprune", and "obs" at the widths left), since the budget counts these; van
Amersfoort et al. (2020) divide so by computation. The estimator scores once and removes in one step; its
"lottery" calls "magnitude" in rounds.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.constraints import Floats
from skfairprune.pruning.budget import Layout
from skfairprune.pruning.gates import GatedNetwork
from skfairprune.pruning.reconstruction import reconstruction_worth
from skfairprune.pruning.rowwise import keeps_rows, row_by_row
from skfairprune.pruning.units import UnitLayer

__all__ = [
    "CRITERIA",
    "ScoringData",
    "fairgrape",
    "fairprune",
    "fisher_information",
    "fpgm",
    "magnitude",
    "obs",
    "random",
    "snip",
    "taylor",
]

_PRIVILEGED_SHARE = 1 / 3
_TINY = np.finfo(float).tiny

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ScoringData:
    """What the criteria may read.

    Attributes
    ----------
    network : nn.Module
        The trained dense network. Gives logits of the joint classes, of shape (n_samples, n_head_classes *
        n_groups).
    initial : nn.Module
        The same network as it was initialised.
    layers : sequence of UnitLayer
        Its prunable units.
    layout : Layout
        Its widths.
    batches : sequence of (Tensor, Tensor, Tensor)
        Rows of shape (n_samples, n_columns), their joint classes head class * n_groups + group, and their
        loss weights. "taylor" and "fairgrape" square the mean gradient of a batch: give batches of the size
        that is trained with.
    head_labels : ndarray of shape (n_head_classes,)
        The label of each head class; there are more of them than labels within strata.
    n_groups : int
        The number of groups; 1 without a constraint.
    objective : callable
        Takes logits, joint classes and weights; returns the mean over the rows of one term for each.
    generator : torch.Generator
        On the CPU, for "random".
    """

    network: nn.Module
    initial: nn.Module
    layers: Sequence[UnitLayer]
    layout: Layout
    batches: Sequence[tuple[Tensor, Tensor, Tensor]]
    head_labels: NDArray[np.intp]
    n_groups: int
    objective: Loss
    generator: torch.Generator

    @property
    def n_units(self) -> int:
        """The number of units of all layers."""
        return sum(layer.n_units for layer in self.layers)

    def by_layer(self, values: Floats) -> list[Floats]:
        """Split values of all units, of shape (n_units, ...), by layer."""
        return np.split(values, np.cumsum([layer.n_units for layer in self.layers])[:-1])

    def per_parameter(self, cost: Floats) -> list[Floats]:
        """Divide what the removal of each unit costs, of shape (n_units,), by what it frees of the budget."""
        return [part / self.layout.unit_cost(i) for i, part in enumerate(self.by_layer(cost))]


def magnitude(data: ScoringData) -> list[Floats]:
    r"""Score a unit by the norm of its incoming weights.

    .. math:: s_u = \lVert W_{u \cdot} \rVert_2

    Small norms first, the same share of every layer: Li et al., "Pruning Filters for Efficient ConvNets"
    (ICLR 2017), for units in place of filters. They take the 1-norm and find the 2-norm as good; biases do
    not count. The published share of a layer is set by hand; here it is the same for all.
    """
    return [_places(np.linalg.norm(_incoming(data, layer), axis=1)) for layer in data.layers]


def fpgm(data: ScoringData) -> list[Floats]:
    r"""Score a unit by its distance from the geometric median of its layer.

    .. math:: s_u = \sum_v \lVert W_{u \cdot} - W_{v \cdot} \rVert_2

    He et al., "Filter Pruning via Geometric Median" (CVPR 2019): the units nearest to the point of the
    least summed distance are those that the others can stand in for, and leave first. The same share of every
    layer, as published. The bias counts as one more incoming weight: units that differ in nothing else have
    their kink in different places.
    """
    worth = []
    for layer in data.layers:
        rows = torch.from_numpy(_incoming(data, layer, bias=True))
        # The faster way by matrix products does not give equal units a distance of 0.
        distance = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        worth.append(_places(distance.sum(dim=1).numpy()))
    return worth


def snip(data: ScoringData) -> list[Floats]:
    r"""Score a unit by the sensitivity of the initial network's loss to its gate.

    .. math:: s_u = \frac{|\partial L / \partial c_u|}{\sum_v |\partial L / \partial c_v|}

    Lee et al., "SNIP: Single-shot Network Pruning Based on Connection Sensitivity" (ICLR 2019), at
    initialisation, over all layers at once; for units, and per parameter freed, as in van Amersfoort et al.,
    "Single Shot Structured Pruning Before Training" (2020), who count FLOPs. The loss is that of all rows,
    where the publications take one batch.
    """
    slopes = _gate_gradients(data, data.initial, data.objective)
    slope = np.abs(sum(batch.sum(axis=0) for batch, _, _ in slopes))
    return data.per_parameter(slope / max(slope.sum(), _TINY))


def taylor(data: ScoringData) -> list[Floats]:
    r"""Score a unit by the squared first-order change of the loss without it.

    .. math:: s_u = \frac1B \sum_b \Big(\frac{\partial L_b}{\partial c_u}\Big)^2

    over batches :math:`b`: Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019),
    the form with a gate behind the unit. Published without a normalisation by layer, for the change of the
    loss is comparable as it is; here per parameter freed. They prune in many small steps and score anew in
    each; the estimator does it once.
    """
    slopes = _gate_gradients(data, data.network, data.objective)
    return data.per_parameter(np.mean([batch.mean(axis=0) ** 2 for batch, _, _ in slopes], axis=0))


def obs(data: ScoringData) -> list[Floats]:
    """Score a unit by the loss that its removal adds when the others make up for it, per cost freed.

    The optimal brain surgeon (Hassibi and Stork, 1993) for units, one after the other with the weights
    refitted between, as in Frantar and Alistarh, "Optimal Brain Compression" (2022): see
    :func:`skfairprune.pruning.reconstruction.reconstruction_worth`.
    """
    sample = [(x, weight) for x, _, weight in data.batches]
    return reconstruction_worth(data.network, data.layers, data.layout, sample)


def fairgrape(data: ScoringData) -> list[Floats]:
    r"""Score units so that each group keeps its share of a layer's importance.

    The importance of unit :math:`u` for group :math:`g`, with the loss :math:`L_{b,g}` of the group's rows
    in batch :math:`b`, and the group's share of its layer's importance are

    .. math:: I_{u,g} = \sum_b \Big(\frac{\partial L_{b,g}}{\partial c_u}\Big)^2, \qquad
              p_g = \frac{\sum_u I_{u,g}}{\sum_{u,h} I_{u,h}}.

    Units are chosen one after the other: the group whose share in the importance of the units chosen so
    far is farthest below :math:`p_g` gets the unit of most importance to it. Units chosen earlier are worth
    more; of every layer the same share stays. Lin, Kim and Joo, "FairGRAPE: Fairness-aware GRAdient Pruning
    mEthod for Face Attribute Classification" (ECCV 2022), as the authors' program has it, with the unit's
    gate in place of the weight, whose importance is :math:`(w\,\partial L / \partial w)^2`. They prune a
    tenth at a time and train in between; the estimator does it once.

    The loss is the cross-entropy of the label alone, as published. That of the joint class would not do: in a
    trained network the groups' mean gradients cancel, so that two groups find the same units important,
    those that tell the groups apart.

    With one group the order is that of "taylor" under the cross-entropy, within each layer.
    """
    importance = np.zeros((data.n_units, data.n_groups))
    for slopes, group, weight in _gate_gradients(data, data.network, partial(_label_loss, data)):
        total = np.bincount(group, weight, data.n_groups)
        sums = (np.arange(data.n_groups)[:, None] == group) @ slopes
        importance += ((sums / np.where(total > 0, total, np.inf)[:, None]) ** 2).T
    worth = []
    for part in data.by_layer(importance):
        place = np.empty(len(part))
        place[_preserving_order(part)] = np.arange(len(part), 0, -1)
        worth.append(place / len(part))
    return worth


def fairprune(data: ScoringData) -> list[Floats]:
    r"""Score a unit by what its removal costs the worse-off, less what it costs the others.

    .. math:: s_u = \tfrac12 \big(h_u^0 - \beta\, h_u^1\big), \qquad
              h_u^k = E\Big[\Big(\frac{\partial \ell}{\partial c_u}\Big)^2 \Big| k\Big],

    with :math:`\beta = 1/3`: Wu et al., "FairPrune: Achieving Fairness Through Pruning for Dermatological
    Disease Diagnosis" (MICCAI 2022), whose saliency of a weight is :math:`\frac12 \theta^2 (h^0 - \beta h^1)`
    with the diagonals :math:`h` of the Hessians of the losses of the unprivileged (0) and the privileged
    group (1), in the form of its public reimplementations; the smallest leave first, over all layers. Here it
    is the gate, with :math:`\theta = 1`, in place of the weight, the Fisher information of the rows' own
    classes in place of the Hessian, and the saliency per parameter freed. :math:`\beta` is set by hand there;
    this value is ours. Of several groups the unprivileged one is that of the least accuracy in the label on
    the rows, and the others together are the privileged one.

    With one group this is :math:`\frac12 h_u`, the saliency of the optimal brain damage (LeCun et al. 1990).
    """
    fisher, total = _fisher(data)
    if data.n_groups == 1:
        return data.per_parameter(fisher[0] / total[0] / 2)
    worst = int(np.argmin(_label_accuracy(data)))
    others = np.arange(data.n_groups) != worst
    privileged = fisher[others].sum(axis=0) / total[others].sum()
    return data.per_parameter((fisher[worst] / total[worst] - _PRIVILEGED_SHARE * privileged) / 2)


def fisher_information(data: ScoringData) -> list[Floats]:
    r"""Return the Fisher information of each unit's gate, :math:`E[(\partial \ell / \partial c_u)^2]`.

    Half of it is what the removal adds to the loss, to second order (LeCun et al., "Optimal brain damage",
    1990).
    """
    fisher, total = _fisher(data)
    return data.by_layer(fisher.sum(axis=0) / total.sum())


def random(data: ScoringData) -> list[Floats]:
    """Draw the worth of each unit uniformly from [0, 1)."""
    return data.by_layer(torch.rand(data.n_units, generator=data.generator, dtype=torch.float64).numpy())


#: The criteria by name.
CRITERIA: dict[str, Callable[[ScoringData], list[Floats]]] = {
    "magnitude": magnitude,
    "fpgm": fpgm,
    "snip": snip,
    "taylor": taylor,
    "obs": obs,
    "fairgrape": fairgrape,
    "fairprune": fairprune,
    "random": random,
}


def _places(score: Floats) -> Floats:
    """Turn the scores of a layer into places from 1 / n_units to 1; of equals the later gets the less."""
    places = np.empty(len(score))
    places[np.lexsort((-np.arange(len(score)), score))] = np.arange(1, len(score) + 1)
    return places / len(score)


def _incoming(data: ScoringData, layer: UnitLayer, bias: bool = False) -> Floats:
    """Return the incoming weights of a layer's units, of shape (n_units, n_weights), of all its producers."""
    parts = []
    for path, positions in layer.producers:
        producer = data.network.get_submodule(path)
        weight = producer.get_parameter("weight")
        rows = (weight.T if isinstance(producer, nn.Embedding) else weight).flatten(1)
        if bias and getattr(producer, "bias", None) is not None:
            rows = torch.cat([rows, producer.get_parameter("bias")[:, None]], dim=1)
        parts.append(rows[torch.from_numpy(positions).to(rows.device)].flatten(1))
    return torch.cat(parts, dim=1).detach().cpu().numpy().astype(np.float64)


def _label_logits(data: ScoringData, logits: Tensor) -> Tensor:
    """Return the logarithms of the labels' probabilities, those of groups and strata summed."""
    heads = torch.log_softmax(logits, dim=1).reshape(len(logits), -1, data.n_groups).logsumexp(dim=2)
    of_label = [np.flatnonzero(data.head_labels == label).tolist() for label in np.unique(data.head_labels)]
    return torch.stack([heads[:, places].logsumexp(dim=1) for places in of_label], dim=1)


def _labels(data: ScoringData, target: Tensor) -> Tensor:
    """Return the label codes of joint classes."""
    return torch.as_tensor(data.head_labels, device=target.device)[target // data.n_groups]


def _label_loss(data: ScoringData, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean cross-entropy of the label."""
    label = _labels(data, target)
    return -(weight * _label_logits(data, logits).gather(1, label[:, None]).squeeze(1)).mean()


def _gate_gradients(
    data: ScoringData, network: nn.Module, objective: Loss
) -> Iterator[tuple[Floats, NDArray[np.intp], Floats]]:
    """Yield, batch by batch, the slopes of the rows' losses by the gates, their groups and weights.

    One backward pass a batch serves all groups: every row has gates of its own. Where the rows cannot be told
    apart in the network each has a pass.

    Yields
    ------
    slopes : ndarray of shape (n_samples, n_units)
        The derivative of the row's term of the objective, its weight included.
    group : ndarray of shape (n_samples,)
        The group codes.
    weight : ndarray of shape (n_samples,)
        The loss weights.
    """
    training = network.training
    gated = GatedNetwork(network.eval(), data.layers)
    apart = keeps_rows(network, gated.columns, (x for x, _, _ in data.batches))

    def slopes_of(x: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        gates = x.new_ones(len(x), data.n_units).requires_grad_()
        loss = objective(gated(x, gates), target, weight)
        (slopes,) = torch.autograd.grad(len(x) * loss, gates)
        return slopes

    try:
        for batch in data.batches:
            slopes = slopes_of(*batch) if apart else torch.cat([slopes_of(*row) for row in row_by_row(batch)])
            _, target, weight = batch
            group = target.remainder(data.n_groups).cpu().numpy()
            yield slopes.cpu().double().numpy(), group, weight.cpu().double().numpy()
    finally:
        gated.release().train(training)


def _fisher(data: ScoringData) -> tuple[Floats, Floats]:
    """Return the summed squared slopes of each group's rows, (n_groups, n_units), and the rows' weights."""
    fisher, total = np.zeros((data.n_groups, data.n_units)), np.zeros(data.n_groups)
    for slopes, group, weight in _gate_gradients(data, data.network, data.objective):
        member = np.arange(data.n_groups)[:, None] == group
        # A row's slopes hold its weight once, so does its share of the mean.
        fisher += (member / np.where(weight > 0, weight, np.inf)) @ slopes**2
        total += member @ weight
    return fisher, total


@torch.no_grad()
def _label_accuracy(data: ScoringData) -> Floats:
    """Return the weighted accuracy in the label, of shape (n_groups,); infinite for a group without rows."""
    right, total = np.zeros(data.n_groups), np.zeros(data.n_groups)
    for x, target, weight in data.batches:
        label = _label_logits(data, data.network(x)).argmax(dim=1)
        group = target.remainder(data.n_groups).cpu().numpy()
        hit = (label == _labels(data, target)).cpu().numpy()
        share = weight.cpu().double().numpy()
        right += np.bincount(group, share * hit, data.n_groups)
        total += np.bincount(group, share, data.n_groups)
    return np.divide(right, total, out=np.full(data.n_groups, np.inf), where=total > 0)


def _preserving_order(importance: Floats) -> NDArray[np.intp]:
    """Choose the units of a layer one by one, each for the group that is farthest below its share.

    Parameters
    ----------
    importance : ndarray of shape (n_units, n_groups)
        What each unit means to each group.

    Returns
    -------
    ndarray of shape (n_units,)
        The units in the order in which they are chosen.
    """
    n_units, n_groups = importance.shape
    target = importance.sum(axis=0) / max(importance.sum(), _TINY)
    wanted = [iter(np.argsort(-importance[:, g], kind="stable")) for g in range(n_groups)]
    kept, share = np.zeros(n_groups), np.zeros(n_groups)
    chosen = np.zeros(n_units, dtype=bool)
    order = np.empty(n_units, dtype=np.intp)
    for place in range(n_units):
        unit = next(u for u in wanted[int(np.argmin(share - target))] if not chosen[u])
        chosen[unit] = True
        order[place] = unit
        kept += importance[unit]
        share = kept / max(kept.sum(), _TINY)
    return order
