"""The fitted rules of an estimator, one for each bound: merged into its network, or told the group."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skfairprune._labels import encode_sensitive, show_labels
from skfairprune._targets import Targets
from skfairprune.constraints import Floats
from skfairprune.decision import DecisionRule, condition_on_group
from skfairprune.frontier import RuleFrontier
from skfairprune.modules import DecisionNetwork
from skfairprune.training.trainer import Outcome

__all__ = ["AwareRules", "merge_rules"]


def merge_rules(outcome: Outcome, targets: Targets) -> tuple[DecisionNetwork, DecisionNetwork | None]:
    """Return the small network with its rules merged in, and the dense one without a rule, if it was kept."""
    network = outcome.network.cpu()
    dtype = next(network.parameters()).dtype

    # The rows of a last layer, a rule's or the network's own, are in the order of classes_.
    def layer(rule: DecisionRule) -> torch.Tensor:
        return torch.tensor(rule.output_weights()[targets.order], dtype=dtype)

    own = torch.tensor(targets.output_weights, dtype=dtype)
    weights = own if outcome.rule is None else layer(outcome.rule.rule)
    rules: tuple[torch.Tensor, ...] = ()
    if outcome.frontier is not None:
        layers = [layer(rule.fit.rule) for rule in outcome.frontier.rules]
        rules = (torch.tensor(outcome.frontier.bounds, dtype=dtype), torch.stack(layers))
    small, dense = DecisionNetwork(network, weights, *rules), None
    if outcome.dense is not None:
        dense = DecisionNetwork(outcome.dense.cpu(), own).eval().requires_grad_(False)
    return small.eval().requires_grad_(False), dense


@dataclass(frozen=True)
class AwareRules:
    """Rules that are told the group of each row.

    Attributes
    ----------
    frontier : RuleFrontier
        The rules by bound.
    codes : dict
        The code of each group label.
    order : ndarray of shape (n_classes,)
        The label code of each class.
    names : tuple, default=None
        The names of the columns that the groups are of.
    """

    frontier: RuleFrontier
    codes: dict[Hashable, int]
    order: NDArray[np.intp]
    names: tuple[Hashable, ...] | None = None

    def encode(self, sensitive_features: Any, n_samples: int) -> NDArray[np.intp]:
        """Return the group code of each row.

        Raises
        ------
        ValueError
            If there are groups that were not seen in fit, or columns of other names.
        """
        groups = encode_sensitive(sensitive_features, n_samples, known=self.names)
        strange = [label for label in groups.labels if label not in self.codes]
        if strange:
            raise ValueError(
                f"sensitive_features has the groups {show_labels(strange)}, which fit has not seen; it has "
                f"seen {show_labels(list(self.codes))}. Predict these rows without sensitive_features, or "
                "pass the same columns as in fit, without names in the same order."
            )
        return np.array([self.codes[label] for label in groups.labels], dtype=np.intp)[groups.codes]

    def proba(self, joint: Floats, group: NDArray[np.intp], bound: float) -> Floats:
        """Return class probabilities (n_samples, n_classes) from joint ones (n_samples, n_joint)."""
        rule = self.frontier.rules[self.frontier.position(bound)].fit.rule
        n_groups = rule.coefficients.shape[1]
        own = condition_on_group(joint.reshape(len(joint), -1, n_groups), group)
        return (own.reshape(len(joint), -1) @ rule.output_weights().T)[:, self.order]
