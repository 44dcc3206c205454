"""Audit a fitted network on held-out data, for two sensitive columns and their intersection.

The network is trained under a bound on the demographic parity gap between the intersections of two
columns. Groups that differ little in each column may differ much where the columns meet, and the cells
that arise there can be too small to say anything. The example shows, in this order: what the fit said of
small cells, fairlearn's `MetricFrame`, the audit of the bound as a document, and the gaps of each column.

    python examples/audit.py
"""

import argparse
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count, selection_rate
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skfairprune import FairPrunedClassifier
from skfairprune.audit import audit
from skfairprune.datasets import make_biased_classification, make_preprocessor

BOUND = 0.05
DP = "demographic_parity"


def draw_ages(X: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Invent a second sensitive column: the older have older phones and more savings.

    The bands hold 45, 54 and 1 % of the rows, so that the last is rare.
    """
    age = X["phone_age"] + 0.3 * X["savings"] + rng.normal(scale=0.5, size=len(X))
    edges = [-np.inf, *np.quantile(age, [0.45, 0.99]), np.inf]
    bands = pd.cut(age, edges, labels=["under 40", "40 to 74", "75 and over"])
    return bands.astype(str).rename("age")


def main() -> None:
    """Fit on the training part, audit on the test part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--html", type=Path, default=Path("build/audit.html"), help="where the page is written"
    )
    args = parser.parse_args()
    data = make_biased_classification(args.rows, as_frame=True, random_state=args.seed)
    age = draw_ages(data.X, np.random.default_rng(args.seed))
    A = pd.concat([data.sensitive_features, age], axis=1)
    # Not stratified: a cell may be too rare for that.
    X_train, X_test, y_train, y_test, A_train, A_test = train_test_split(
        data.X, data.y, A, test_size=0.3, random_state=args.seed
    )

    classifier = FairPrunedClassifier(
        hidden_layer_sizes=(64, 64), difference_bound=BOUND, random_state=args.seed
    )
    pipe = make_pipeline(make_preprocessor(X_train), classifier)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        pipe.fit(X_train, y_train, fairprunedclassifier__sensitive_features=A_train)
    decided = pipe.predict(X_test)

    print("1. What the fit warned of\n")
    for warning in caught:
        print(textwrap.fill(f"{warning.category.__name__}: {warning.message}", 100))
    print(
        "\nThe rate of a group of so few rows is mostly chance, and a bound on it would bend the decision\n"
        "to noise. The group is left out of the constraint, and nothing is promised for it. To cover it,\n"
        "merge it with another group, get more rows, or lower min_cell_size knowingly."
    )

    print("\n2. fairlearn's MetricFrame on the test part\n")
    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "selection_rate": selection_rate, "rows": count},
        y_true=y_test,
        y_pred=decided,
        sensitive_features=A_test,
    )
    print(frame.by_group.astype({"rows": int}).to_string(float_format="{:.3f}".format))

    print("\n3. The audit of the bound\n")
    found = audit(y_test, decided, sensitive_features=A_test, model=pipe)
    args.html.parent.mkdir(parents=True, exist_ok=True)
    args.html.write_text(found.to_html(), encoding="utf-8")
    print(found.to_markdown())
    print(f"The same as a page: {args.html}")

    print(f"\n4. The demographic parity gap in each column alone (bound: {BOUND})\n")
    for column in A_test:
        alone = audit(
            y_test, decided, sensitive_features=A_test[column], constraint=DP, difference_bound=BOUND
        )
        print(f"{column:<7} {alone.gap:.3f} ± {alone.standard_error:.3f}   {alone.verdict}")


if __name__ == "__main__":
    main()
