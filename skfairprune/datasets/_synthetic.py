"""Synthetic data to learn fairness on, with a known optimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, ndtr, softmax
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints, validate_params

__all__ = ["BiasedDistribution", "make_biased_classification"]


_INFORMATIVE, _PROXIES, _NOISE = (
    ("income", "savings", "job_tenure"),
    ("commute", "rent_area"),
    ("phone_age", "call_hour"),
)
_CATEGORIES = {
    "occupation": ["manual", "service", "office", "technical"],  # moved by the true label
    "district": ["north", "east", "south", "west"],  # moved by the group
}
_CONSTRAINTS: dict[str, list[Any]] = {
    "n_samples": [Interval(Integral, 1, None, closed="left")],
    "n_informative": [Interval(Integral, 1, None, closed="left")],
    "n_proxies": [Interval(Integral, 0, None, closed="left")],
    "n_noise": [Interval(Integral, 0, None, closed="left")],
    "class_sep": [Interval(Real, 0, None, closed="neither")],
    "group_probs": ["array-like"],
    "base_rates": ["array-like"],
    "label_bias": [Interval(Real, 0, 1, closed="left")],
    "proxy_strength": [Interval(Real, 0, None, closed="left")],
    "as_frame": ["boolean"],
    "missing_rate": [Interval(Real, 0, 1, closed="left")],
    "random_state": ["random_state"],
}


def _names(known: tuple[str, ...], kind: str, n: int) -> list[str]:
    return [*known[:n], *(f"{kind}_{i}" for i in range(len(known), n))]


def _category_log_probs(means: np.ndarray) -> np.ndarray:
    """Log-probability of each of the four categories for each cause, (n_means, 4)."""
    return log_softmax(np.outer(means, np.linspace(-1.0, 1.0, 4)), axis=1)


@dataclass(frozen=True)
class BiasedDistribution:
    r"""The law behind :func:`make_biased_classification`: exact posterior and Bayes rule.

    The group :math:`A` moves the true label :math:`T` and the proxies, the true label moves the
    informative columns, and nothing else is connected:

    .. math::

        A \sim \pi, \quad T \mid A=g \sim \mathrm{Bernoulli}(b_g), \quad
        X_I \mid T \sim N(\pm s \mathbf{1}, I), \quad
        X_P \mid A=g \sim N(\rho_g \mathbf{1}, I), \quad X_N \sim N(0, I)

    with :math:`\rho_g = \rho (2g - G + 1)` for :math:`g = 0 \dots G - 1`. The observed label
    :math:`Y` is :math:`T`, except that a true 1 of the last group is recorded as 0 with
    probability :math:`\lambda`. ``as_frame=True`` adds two columns with four categories, scored
    :math:`c_j = -1, -\tfrac13, \tfrac13, 1`: ``occupation`` with
    :math:`P(j \mid T) \propto e^{\pm s c_j}` and ``district`` with
    :math:`P(j \mid A=g) \propto e^{\rho_g c_j}`; and the first informative column is missing
    completely at random. Columns are independent given :math:`(T, A)`: each present value
    multiplies the posterior by its likelihood, a missing one by 1.

    Parameters
    ----------
    n_informative, n_proxies, n_noise : int, default=3, 2, 2
        Numbers of columns, as in :func:`make_biased_classification`.
    class_sep : float, default=0.6
        :math:`s > 0`, in standard deviations.
    group_probs, base_rates : sequence of float, default=(0.7, 0.3), (0.45, 0.25)
        :math:`\pi` and :math:`b`, each of length ``n_groups``.
    label_bias : float, default=0.0
        :math:`\lambda` in [0, 1).
    proxy_strength : float, default=1.0
        :math:`\rho \geq 0`, in standard deviations.
    as_frame : bool, default=False
        Whether X is a DataFrame with categories and missing values.
    missing_rate : float, default=0.1
        Share of missing values in the first informative column, in [0, 1), with ``as_frame``.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skfairprune.datasets import BiasedDistribution
    >>> report = BiasedDistribution().bayes_report()
    >>> round(report.accuracy, 3), round(report.demographic_parity_difference, 3)
    (0.859, 0.203)
    """

    n_informative: int = 3
    n_proxies: int = 2
    n_noise: int = 2
    class_sep: float = 0.6
    group_probs: Sequence[float] = (0.7, 0.3)
    base_rates: Sequence[float] = (0.45, 0.25)
    label_bias: float = 0.0
    proxy_strength: float = 1.0
    as_frame: bool = False
    missing_rate: float = 0.1

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        validate_parameter_constraints(_CONSTRAINTS, given, type(self).__name__)
        for name in ("group_probs", "base_rates"):
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, tuple(float(value) for value in given))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must be a sequence of numbers; got {given!r}.") from error
        probs, rates = self.group_probs, self.base_rates
        if len(probs) < 2 or not all(p > 0 for p in probs) or not abs(sum(probs) - 1) < 1e-8:
            raise ValueError(
                "group_probs must be two or more positive probabilities with sum 1; "
                f"got {probs} with sum {sum(probs):g}."
            )
        if len(rates) != len(probs) or not all(0 < rate < 1 for rate in rates):
            raise ValueError(
                f"base_rates must hold {len(probs)} rates strictly between 0 and 1, one for each "
                f"entry of group_probs; got {rates}."
            )
        if self.as_frame and self.n_informative < 2:
            raise ValueError(
                "n_informative must be at least 2 with as_frame=True, where one informative "
                f"column has missing values; got {self.n_informative}."
            )

    @property
    def groups(self) -> np.ndarray:
        """Labels of the groups, (n_groups,): "group_0", "group_1", ..."""
        return np.array([f"group_{g}" for g in range(len(self.group_probs))])

    @property
    def feature_names(self) -> list[str]:
        """Names of the columns of X; without ``as_frame`` they name its positions."""
        names = _names(_INFORMATIVE, "informative", self.n_informative)
        names += _names(_PROXIES, "proxy", self.n_proxies) + _names(_NOISE, "noise", self.n_noise)
        return names + list(_CATEGORIES) if self.as_frame else names

    @property
    def _means(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean of an informative column given T, (2,), and of a proxy given A, (n_groups,)."""
        n_groups = len(self.group_probs)
        centred = 2.0 * np.arange(n_groups) - n_groups + 1
        return self.class_sep * np.array([-1.0, 1.0]), self.proxy_strength * centred

    @property
    def _flips(self) -> np.ndarray:
        """P(Y=0 | T=1, A), (n_groups,)."""
        return np.array([0.0] * (len(self.group_probs) - 1) + [self.label_bias])

    def joint_proba(self, X: np.ndarray | pd.DataFrame) -> np.ndarray:
        r"""Return the exact posterior of the observed label and the group.

        .. math::

            P(T=t, A=g \mid x) \propto \pi_g\, b_g^t (1 - b_g)^{1-t}\, p(x \mid T=t)\, p(x \mid A=g)

        and :math:`P(Y=1, A=g \mid x) = (1 - \lambda_g)\, P(T=1, A=g \mid x)`.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features) or DataFrame
            Rows as drawn from this distribution; a DataFrame with ``as_frame=True``. NaN and a
            missing or unknown category carry no information.

        Returns
        -------
        ndarray of shape (n_samples, 2, n_groups)
            Entry ``[i, y, g]``; the entries of a row sum to 1.

        Raises
        ------
        ValueError
            If the columns of X are not those of the distribution.
        """
        names, rates = self.feature_names, np.array(self.base_rates)
        first, last = self.n_informative, self.n_informative + self.n_proxies
        if self.as_frame:
            if not isinstance(X, pd.DataFrame) or not set(names) <= set(X.columns):
                got = list(X.columns) if isinstance(X, pd.DataFrame) else type(X).__name__
                raise ValueError(f"X must be a DataFrame with the columns {names}; got {got}.")
            x = X[names[:last]].to_numpy(dtype=float, na_value=np.nan)
        else:
            x = np.asarray(X, dtype=float)
            if x.ndim != 2 or x.shape[1] != len(names):
                raise ValueError(f"X must have shape (n, {len(names)}); got {x.shape}.")
        evidence = []  # log-likelihoods given T, (n, 2), and given A, (n, n_groups)
        for mean, columns, name in zip(
            self._means, (x[:, :first], x[:, first:last]), _CATEGORIES, strict=True
        ):
            # Up to a term free of the mean; nansum gives a missing value the factor 1.
            log_likelihood = np.nansum(columns[:, :, None] * mean - mean**2 / 2, axis=1)
            if self.as_frame:
                codes = pd.Index(_CATEGORIES[name]).get_indexer(X[name].astype(object))
                # A missing or unknown category has code -1: the appended column of zeros.
                table = np.pad(_category_log_probs(mean), ((0, 0), (0, 1)))
                log_likelihood += table[:, codes].T
            evidence.append(log_likelihood)
        prior = np.array(self.group_probs) * np.array([1 - rates, rates])
        joint = softmax(np.log(prior) + evidence[0][:, :, None] + evidence[1][:, None], axis=(1, 2))
        flipped = joint[:, 1] * self._flips
        return np.stack([joint[:, 0] + flipped, joint[:, 1] - flipped], axis=1)

    def predict_proba(self, X: np.ndarray | pd.DataFrame) -> np.ndarray:
        """Return P(y | x), blind to the group: the joint summed over groups.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows as drawn, with missing values where the distribution has them.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Probabilities of the labels 0 and 1.
        """
        return self.joint_proba(X).sum(axis=2)

    def predict(self, X: np.ndarray | pd.DataFrame) -> np.ndarray:
        """Return the Bayes rule's decisions, the most accurate ones on the observed labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows as drawn, with missing values where the distribution has them.

        Returns
        -------
        ndarray of shape (n_samples,)
            0 or 1.
        """
        return (self.predict_proba(X)[:, 1] > 0.5).astype(int)

    def _selection_given_truth(self) -> np.ndarray:
        """P(Bayes rule = 1 | T, A), (2, n_groups), by quadrature over the proxy statistic."""
        class_mean, group_mean = self._means
        rates, n_groups = np.array(self.base_rates), len(self.base_rates)
        occupation, district = np.zeros((2, 1)), np.zeros((n_groups, 1))  # log-probabilities
        n_present = {self.n_informative: 1.0}  # informative columns present: probability
        if self.as_frame:
            occupation, district = map(_category_log_probs, (class_mean, group_mean))
            n_present = {
                self.n_informative: 1 - self.missing_rate,
                self.n_informative - 1: self.missing_rate,
            }
        z, step = np.linspace(-9.0, 9.0, 2001, retstep=True)
        weights = np.exp(-(z**2) / 2) * step / np.sqrt(2 * np.pi)
        centres = group_mean * np.sqrt(self.n_proxies)
        selected = np.zeros((2, n_groups))
        for t, g in np.ndindex(selected.shape):
            q = (centres[g] + z)[:, None, None]
            share = softmax(
                np.log(self.group_probs) + q * centres - centres**2 / 2 + district.T, axis=2
            )  # P(A | q, district), (n_z, n_districts, n_groups)
            gain, loss = share @ (rates * (1 - 2 * self._flips)), share @ (1 - rates)
            ratio = np.divide(loss, gain, out=np.full_like(loss, np.inf), where=gain > 0)
            for n_columns, probability in n_present.items():
                d = 2 * self.class_sep * np.sqrt(n_columns)
                mean = (t - 0.5) * d**2 + occupation[1] - occupation[0]
                above = ndtr((mean - np.log(ratio)[:, :, None]) / d)
                selected[t, g] += probability * np.einsum(
                    "z,d,o,zdo", weights, np.exp(district[g]), np.exp(occupation[t]), above
                )
        return selected

    def bayes_report(self) -> Bunch:
        r"""Compute the Bayes rule's accuracy and fairness gaps in the population.

        x enters the posterior only through the proxies' :math:`q = \mathbf{1}^\top x_P /
        \sqrt{n_P}` and the informative columns' log-likelihood ratio :math:`m`, which given
        :math:`T` is :math:`N(\pm d^2/2, d^2)` with :math:`d = 2 s \sqrt{n_I}`. The rule decides 1
        where

        .. math::

            m > \log \frac{\sum_g P(A=g \mid q)\,(1 - b_g)}
                          {\sum_g P(A=g \mid q)\, b_g (1 - 2 \lambda_g)},

        so the share of ones given :math:`(T, A)` is a one-dimensional integral of :math:`\Phi` over
        q, taken by the trapezoidal rule on ±9 standard deviations for any number of groups. With
        ``as_frame=True`` it is also summed over categories and missingness. Nothing is sampled.

        Returns
        -------
        Bunch
            ``accuracy`` on the observed labels; ``demographic_parity_difference`` and
            ``equalized_odds_difference`` (max − min between groups; for equalized odds the larger
            of the true and false positive rate's gaps); ``by_group``, a DataFrame of
            ``selection_rate``, ``true_positive_rate`` and ``false_positive_rate``.
        """
        probs, rates = np.array(self.group_probs), np.array(self.base_rates)
        # The flip is independent of x given T = 1: the rows with Y = 1 are selected like T = 1.
        when_negative, tpr = self._selection_given_truth()
        selection_rate = rates * tpr + (1 - rates) * when_negative
        positive = rates * (1 - self._flips)
        fpr = (selection_rate - positive * tpr) / (1 - positive)
        rates_by_name = {
            "selection_rate": selection_rate,
            "true_positive_rate": tpr,
            "false_positive_rate": fpr,
        }
        return Bunch(
            accuracy=float(probs @ (positive * tpr + (1 - positive) * (1 - fpr))),
            demographic_parity_difference=float(np.ptp(selection_rate)),
            equalized_odds_difference=float(max(np.ptp(tpr), np.ptp(fpr))),
            by_group=pd.DataFrame(rates_by_name, index=pd.Index(self.groups, name="group")),
        )


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def make_biased_classification(
    n_samples: int = 2000,
    *,
    n_informative: int = 3,
    n_proxies: int = 2,
    n_noise: int = 2,
    class_sep: float = 0.6,
    group_probs: Sequence[float] = (0.7, 0.3),
    base_rates: Sequence[float] = (0.45, 0.25),
    label_bias: float = 0.0,
    proxy_strength: float = 1.0,
    as_frame: bool = False,
    missing_rate: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Draw a classification problem whose unfairness has a known cause and size.

    Groups differ in how often the label is truly 1, in columns that give the group away
    (proxies), and, if asked for, in how often a true 1 is recorded as 0. The law is that of
    :class:`BiasedDistribution`, so the best possible accuracy and its gaps are known exactly:
    with the defaults .859, .203 (demographic parity) and .098 (equalized odds).

    Parameters
    ----------
    n_samples : int, default=2000
        Number of rows, at least 1.
    n_informative : int, default=3
        Columns that depend on the true label, at least 1; at least 2 with ``as_frame=True``.
    n_proxies, n_noise : int, default=2, 2
        Columns that depend on the group only, and on nothing; at least 0.
    class_sep : float, default=0.6
        Half the distance of the classes in each informative column, in standard deviations;
        positive.
    group_probs : sequence of float, default=(0.7, 0.3)
        Shares of the groups, positive, with sum 1; two groups or more.
    base_rates : sequence of float, default=(0.45, 0.25)
        P(true label = 1 | group) in (0, 1), one for each group.
    label_bias : float, default=0.0
        Probability in [0, 1) that a true 1 of the last group is recorded as 0.
    proxy_strength : float, default=1.0
        Half the distance of neighbouring groups in each proxy, in standard deviations; at
        least 0, where the proxies are noise.
    as_frame : bool, default=False
        Whether to return pandas objects, with two more columns, ``occupation`` (depends on the
        true label) and ``district`` (on the group), and with missing values.
    missing_rate : float, default=0.1
        Share in [0, 1) of missing values in the first informative column, completely at random;
        only used with ``as_frame=True``.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw.

    Returns
    -------
    Bunch
        ``X`` of shape (n_samples, n_features): informative, proxy, noise, then the categorical
        columns; ``y`` (0/1, observed) and ``true_label`` (0/1, before the flips);
        ``sensitive_features``, the labels "group_0", "group_1", ...; ``distribution``, a
        :class:`BiasedDistribution`.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skfairprune.datasets import make_biased_classification
    >>> data = make_biased_classification(1000, label_bias=0.2, as_frame=True, random_state=0)
    >>> data.X.columns.tolist()
    ['income', 'savings', 'job_tenure', 'commute', 'rent_area', 'phone_age', 'call_hour',
     'occupation', 'district']
    >>> data.distribution.joint_proba(data.X).shape
    (1000, 2, 2)
    """
    law = BiasedDistribution(
        n_informative=n_informative,
        n_proxies=n_proxies,
        n_noise=n_noise,
        class_sep=class_sep,
        group_probs=group_probs,
        base_rates=base_rates,
        label_bias=label_bias,
        proxy_strength=proxy_strength,
        as_frame=as_frame,
        missing_rate=missing_rate,
    )
    rng, last = check_random_state(random_state), n_informative + n_proxies
    group = rng.choice(len(law.group_probs), size=n_samples, p=law.group_probs)
    true_label = (rng.uniform(size=n_samples) < np.array(law.base_rates)[group]).astype(int)
    y = np.where(rng.uniform(size=n_samples) < law._flips[group], 0, true_label)
    X = rng.standard_normal((n_samples, last + n_noise))
    causes = (true_label, group)
    X[:, :n_informative] += law._means[0][true_label, None]
    X[:, n_informative:last] += law._means[1][group, None]
    A = law.groups[group]
    if not as_frame:
        return Bunch(X=X, y=y, sensitive_features=A, true_label=true_label, distribution=law)
    X[rng.uniform(size=n_samples) < missing_rate, 0] = np.nan
    frame = pd.DataFrame(X, columns=law.feature_names[:-2])
    for (name, labels), mean, cause in zip(_CATEGORIES.items(), law._means, causes, strict=True):
        cumulative = np.exp(_category_log_probs(mean)).cumsum(axis=1)[cause, :-1]
        codes = (rng.uniform(size=(n_samples, 1)) > cumulative).sum(axis=1)
        frame[name] = pd.Categorical.from_codes(codes, categories=labels)
    return Bunch(
        X=frame,
        y=pd.Series(y, name="repaid"),
        sensitive_features=pd.Series(A, name="group"),
        true_label=pd.Series(true_label, name="would_repay"),
        distribution=law,
    )
