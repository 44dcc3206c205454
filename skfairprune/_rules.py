"""The fitted rules of an estimator: one for each bound, blind or told the group of each row."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skfairprune._labels import encode_sensitive, show_labels
from skfairprune.constraints import Floats
from skfairprune.decision import condition_on_group
from skfairprune.frontier import RuleFrontier
from skfairprune.gaps import upper_limit

__all__ = ["AwareRules", "frontier_table"]


def frontier_table(frontier: RuleFrontier) -> pd.DataFrame:
    """Tabulate what the rule of each bound reaches on held-out rows."""
    rules = frontier.rules
    return pd.DataFrame(
        {
            "bound": frontier.bounds,
            "gap": [rule.gap.value for rule in rules],
            "gap_standard_error": [rule.gap.standard_error for rule in rules],
            "gap_upper": [upper_limit(rule.event_gaps) for rule in rules],
            "accuracy": [rule.accuracy for rule in rules],
            "blind": [rule.strayed is None for rule in rules],
        }
    )


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
    """

    frontier: RuleFrontier
    codes: dict[Hashable, int]
    order: NDArray[np.intp]

    def encode(self, sensitive_features: Any, n_samples: int) -> NDArray[np.intp]:
        """Return the group code of each row.

        Raises
        ------
        ValueError
            If there are groups that were not seen in fit.
        """
        groups = encode_sensitive(sensitive_features, n_samples)
        strange = [label for label in groups.labels if label not in self.codes]
        if strange:
            raise ValueError(
                f"sensitive_features has the groups {show_labels(strange)}, which fit has not seen; it has "
                f"seen {show_labels(list(self.codes))}. Predict these rows without sensitive_features, or "
                "pass the same columns as in fit, in the same order."
            )
        return np.array([self.codes[label] for label in groups.labels], dtype=np.intp)[groups.codes]

    def proba(self, joint: Floats, group: NDArray[np.intp], bound: float) -> Floats:
        """Return class probabilities (n_samples, n_classes) from joint ones (n_samples, n_joint)."""
        rule = self.frontier.rules[self.frontier.position(bound)].fit.rule
        n_groups = rule.coefficients.shape[1]
        own = condition_on_group(joint.reshape(len(joint), -1, n_groups), group)
        return (own.reshape(len(joint), -1) @ rule.output_weights().T)[:, self.order]
