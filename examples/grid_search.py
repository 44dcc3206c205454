"""Search the sparsity in a pipeline, and take the sparsest network that costs nothing measurable.

The data are a DataFrame with categories and missing values. With metadata routing enabled, the search
hands each fold its part of `sensitive_features`, to the classifier and to the scorer of the gap. What is
refitted is not the most accurate candidate: it is the sparsest whose accuracy is within one standard
error of the best, among those whose mean gap over the folds is within the bound. That mean errs on the
strict side: a gap is never negative, so its sampling error in a small fold adds to it.

    python examples/grid_search.py
"""

import argparse

import numpy as np
import pandas as pd
import sklearn
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification, make_preprocessor
from skfairprune.metrics import gap_scorer, gap_with_error

BOUND = 0.05
N_FOLDS = 3
SPARSITY = "fairprunedclassifier__sparsity"


def sparsest_within_one_standard_error(results: dict[str, np.ndarray]) -> int:
    """Choose the position in `cv_results_` to refit; without one in the bound, that of the smallest gap."""
    accuracy, gap = results["mean_test_accuracy"], -results["mean_test_dp"]
    if np.isnan(accuracy + gap).any():
        raise ValueError("A score is NaN: is metadata routing on, and did all fits succeed?")
    eligible = gap <= max(BOUND, gap.min())
    best = np.argmax(np.where(eligible, accuracy, -np.inf))
    tolerance = results["std_test_accuracy"][best] / np.sqrt(N_FOLDS - 1)
    eligible &= accuracy >= accuracy[best] - tolerance
    sparsity = np.asarray(results[f"param_{SPARSITY}"], dtype=float)
    return int(np.argmax(np.where(eligible, sparsity, -np.inf)))


def main() -> None:
    """Run the search and print its table and the chosen network's test figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="3,000 rows, 6 epochs a fit")
    args = parser.parse_args()
    sklearn.set_config(enable_metadata_routing=True)
    data = make_biased_classification(3_000 if args.quick else 5_000, as_frame=True, random_state=args.seed)
    X_train, X_test, y_train, y_test, A_train, A_test = train_test_split(
        data.X,
        data.y,
        data.sensitive_features,
        test_size=0.3,
        stratify=data.y.astype(str) + data.sensitive_features,
        random_state=args.seed,
    )

    classifier = FairPrunedClassifier(
        hidden_layer_sizes=(128, 128),
        constraint="demographic_parity",
        difference_bound=BOUND,
        max_epochs=6 if args.quick else "auto",
        random_state=args.seed,
    )
    search = GridSearchCV(
        make_pipeline(make_preprocessor(data.X), classifier),
        {SPARSITY: [0.5, 0.9, 0.98]},
        scoring={"accuracy": "accuracy", "dp": gap_scorer("demographic_parity")},
        refit=sparsest_within_one_standard_error,
        cv=StratifiedKFold(N_FOLDS, shuffle=True, random_state=args.seed),
        n_jobs=2,
    )
    search.fit(X_train, y_train, sensitive_features=A_train)

    results = pd.DataFrame(search.cv_results_)
    table = pd.DataFrame(
        {
            "sparsity": results[f"param_{SPARSITY}"],
            "accuracy": results["mean_test_accuracy"],
            "± se": results["std_test_accuracy"] / np.sqrt(N_FOLDS - 1),
            "DP gap": -results["mean_test_dp"],
            "chosen": np.where(results.index == search.best_index_, "<--", ""),
        }
    )
    print(f"Means over {N_FOLDS} folds:\n{table.to_string(index=False, float_format='{:.3f}'.format)}\n")
    total = search.best_estimator_[-1].pruning_report_.loc["total"]
    print(
        f"Refitted at sparsity {search.best_params_[SPARSITY]}: {total['units_after']:.0f} of "
        f"{total['units_before']:.0f} units and {total['parameters_after']:,.0f} of "
        f"{total['parameters_before']:,.0f} parameters stay."
    )
    # The one look at the test part, after every choice: it is the figure to report, not the folds' means.
    decided = search.predict(X_test)
    gap = gap_with_error(y_test, decided, constraint="demographic_parity", sensitive_features=A_test)
    print(
        f"Test part: accuracy {np.mean(decided == y_test):.3f}, DP gap {gap.value:.3f} ± "
        f"{gap.standard_error:.3f} (bound {BOUND})."
    )


if __name__ == "__main__":
    main()
