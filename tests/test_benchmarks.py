"""The benchmark: its statistics by hand, its store and runner, a smoke run on embedded data, its pages."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
)
from numpy.testing import assert_allclose
from scipy.stats import t
from sklearn.metrics import accuracy_score

# Scripts, not a package: they import each other by the names of their files.
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "benchmarks"))
(
    adversarial,
    experiments,
    figures,
    loss_surface,
    measure,
    method,
    methods,
    penalties,
    protocol,
    report,
    run,
    store,
    summary,
    tables,
) = (
    importlib.import_module(name)
    for name in (
        "baselines.adversarial",
        "experiments",
        "figures",
        "loss_surface",
        "measure",
        "method",
        "methods",
        "baselines.penalties",
        "protocol",
        "report",
        "run",
        "store",
        "summary",
        "tables",
    )
)
DP, EO = "demographic_parity", "equalized_odds"
UNIT = summary.Reference(accuracy=0.5, gap=0.2, top=0.7)


@pytest.mark.parametrize(
    ("accuracy", "gap", "expected"),
    [
        ([0.7], [0.0], 1.0),  # boosting's accuracy at gap 0
        ([0.6], [0.1], 0.25),
        ([0.6, 0.55], [0.1, 0.15], 0.25),  # a dominated point adds nothing
        ([0.65, 0.6], [0.1, 0.0], 0.625),  # in any order
        ([0.6, np.nan], [0.1, np.nan], 0.25),  # a tolerance that failed
        ([0.5, 0.9], [0.0, 0.2], 0.0),  # no better than the reference in one of the two
    ],
)
def test_hypervolume_by_hand(accuracy, gap, expected):
    assert_allclose(summary.hypervolume(np.array(accuracy), np.array(gap), UNIT), expected)


def _points(name, shift, seeds=8):
    noise = np.random.default_rng(0).normal(0, 0.01, seeds)
    return pd.DataFrame(
        [
            {
                "method": name,
                "seed": seed,
                "tolerance": bound,
                "accuracy": 0.6 + bound + shift + noise[seed],
                "dp_gap": bound,
                "fit_seconds": 1.0,
            }
            for seed in range(seeds)
            for bound in (0.02, 0.05)
        ]
    )


def test_paired_intervals_are_far_narrower_than_the_scatter_of_the_splits():
    frame = pd.concat([_points("bilevel", 0.0), _points("twin", 0.0), _points("better", 0.01)])
    table = summary.compare(frame, "dp_gap", lambda seeds: UNIT)
    assert table.index[0] == "better"
    assert_allclose(table.loc["twin", ["difference", "difference_low", "difference_high"]], 0, atol=1e-12)
    # .01 higher over gaps from .02 to .2, of the rectangle .2 x .2.
    assert_allclose(table.loc["better", "difference"], 0.01 * 0.18 / 0.04)
    assert_allclose(table.loc["better", "difference_low"], 0.01 * 0.18 / 0.04)
    assert table.loc["bilevel", "high"] - table.loc["bilevel", "low"] > 0.01
    mean, error = summary.paired(_points("a", 0.0), _points("b", 0.01), "accuracy")
    assert_allclose([mean, error], [0.01, 0], atol=1e-12)


def test_volumes_are_compared_at_as_many_points_and_on_the_same_splits():
    ours = _points("bilevel", 0.0)
    at_one = _points("one", 0.0, seeds=4)
    frame = pd.concat([ours, at_one[at_one["tolerance"] == 0.02]])
    asked = []

    def refer(seeds):
        asked.append(list(seeds))
        return UNIT

    table = summary.compare(frame, "dp_gap", refer)
    assert asked == [list(range(8)), list(range(4)), list(range(4))]
    assert_allclose(table.loc["one", "difference"], 0, atol=1e-12)
    assert table.loc["one", ["n_points", "n_points_of_ours"]].tolist() == [1, 1]
    none = summary.compare(frame, "dp_gap", lambda seeds: UNIT._replace(gap=0.01))
    assert np.isnan(none.loc["one", "difference"])
    assert "| - (4) |" in tables._summary({"adult": none.rename(index={"one": "magnitude"})})
    alone = table.rename(index={"one": "magnitude"}).assign(n_points_of_ours=6)
    assert "° (4) |" in tables._summary({"adult": alone})


def test_methods_are_drawn_on_the_splits_that_all_have():
    """Of five splits with a setting missing four are whole; a method of two is not drawn beside them."""
    few = _points("few", 0.0, seeds=2)
    broken = _points("broken", 0.0, seeds=5).iloc[:-1]
    frame = pd.concat([_points("bilevel", 0.0), broken, few]).assign(dataset="adult", constraint=DP)
    drawn = summary.common_seeds(summary.whole_seeds(frame))
    assert set(drawn["method"]) == {"bilevel", "broken"}
    assert set(drawn["seed"]) == set(range(4))
    alone = summary.common_seeds(few.assign(dataset="adult", constraint=DP))
    assert set(alone["seed"]) == {0, 1}


def test_a_frontier_has_the_points_that_none_of_its_others_is_better_than():
    points = pd.DataFrame({"gap": [0.02, 0.01, 0.03, 0.02, 0.05], "accuracy": [0.7, 0.6, 0.65, 0.71, 0.8]})
    assert figures._undominated(points)["accuracy"].tolist() == [0.6, 0.71, 0.8]


@pytest.mark.parametrize(
    ("seeds", "noise", "expected"), [(8, 0, "+4** (8)"), (8, 0.03, "+4* (8)"), (4, 0, "+4 (4)")]
)
def test_the_summary_marks_what_is_beyond_its_intervals_on_enough_splits(seeds, noise, expected):
    """A difference that is the same on all splits is beyond both, one that varies beyond the narrow one."""
    better = _points("magnitude", 0.01, seeds)
    better["accuracy"] += noise * (better["seed"] - (seeds - 1) / 2) / seeds
    frame = pd.concat([_points("bilevel", 0.0, seeds), better])
    table = summary.compare(frame, "dp_gap", lambda seeds: UNIT._replace(top=0.75))
    assert f"| magnitude | {expected} |" in tables._summary({"adult": table})


def test_the_wider_interval_is_that_of_the_corrected_t_test():
    """With one bound the volume is linear in the accuracy, whose interval has a closed form."""
    rng, n = np.random.default_rng(0), 6
    ours, other = (_points(name, 0.0, n).query("tolerance == 0.02") for name in ("bilevel", "other"))
    other = other.assign(accuracy=other["accuracy"] + rng.normal(0.01, 0.005, n))
    found = summary.compare(pd.concat([ours, other]), "dp_gap", lambda seeds: UNIT).loc["other"]
    differences = (other["accuracy"].to_numpy() - ours["accuracy"].to_numpy()) * 0.18 / 0.04
    high = t(n - 1, scale=differences.std(ddof=1) * np.sqrt(1 / n + 0.3 / 0.7)).ppf(0.975)
    assert_allclose(found["difference"], differences.mean())
    assert_allclose(found["difference_wide"], high, rtol=0.05)  # of 2,000 draws


def test_figures_are_those_of_fairlearn():
    _, test = protocol.load_split("synthetic", 0)
    rng = np.random.default_rng(0)
    decided, dense = (np.where(rng.random(len(test.y)) < p, test.y, 1 - test.y) for p in (0.7, 0.9))
    row = measure.figures(test, decided, dense)
    groups = {"sensitive_features": test.group}
    assert_allclose(row["accuracy"], accuracy_score(test.y, decided))
    assert_allclose(row["dp_gap"], demographic_parity_difference(test.y, decided, **groups))
    assert_allclose(row["eo_gap"], equalized_odds_difference(test.y, decided, **groups))
    before, after = (
        MetricFrame(metrics=accuracy_score, y_true=test.y, y_pred=by, **groups).by_group
        for by in (dense, decided)
    )
    assert_allclose(row["degradation_gap"], np.ptp(before - after))
    assert 0.005 < row["degradation_se"] < 0.1
    assert row["majority"] == max(test.y.mean(), 1 - test.y.mean())


def test_degradation_error_is_the_scatter_over_samples():
    rng, group = np.random.default_rng(0), np.repeat([0, 1], [300, 700])
    gaps, errors = [], []
    for _ in range(400):
        dense = rng.random(1000) < 0.9
        correct = dense & (rng.random(1000) < np.where(group, 0.95, 0.8))
        gap, error = measure.degradation_gap(correct, dense, group)
        gaps.append(gap)
        errors.append(error)
    assert_allclose(np.std(gaps), np.mean(errors), rtol=0.1)


def test_penalties_by_their_definitions():
    torch.manual_seed(0)
    score, y = torch.rand(40, dtype=torch.float64), torch.randint(0, 2, (40,))
    group = torch.randint(0, 2, (40,))
    means = [score[group == g].mean() for g in (0, 1)]
    assert_allclose(penalties.diff_dp(score, y, group), abs(means[0] - means[1]))
    parts = [penalties.diff_dp(score[y == label], y, group[y == label]) for label in (0, 1)]
    assert_allclose(penalties.diff_eodd(score, y, group), sum(parts))
    # As in FFB's loss.py: exp(-d^2 / sigma) with a sigma of 1, of scores and of groups as 0 and 1.
    K = torch.exp(-((score[:, None] - score) ** 2))
    L = torch.exp(-((group[:, None] - group).double() ** 2))
    H = torch.eye(40, dtype=torch.float64) - 1 / 40
    assert_allclose(penalties.hsic(score, y, group), torch.trace(K @ H @ L @ H) / 39**2)
    assert penalties.diff_dp(score, y, torch.zeros_like(group)) == 0


def test_the_adversarys_part_of_a_gradient_is_taken_away():
    """The step keeps the direction of the own loss that is at right angles to the adversary's."""
    own, adversary = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    left = adversarial.project(own, adversary, 0.0)
    assert_allclose((left * adversary).sum(), 0, atol=1e-12)
    assert_allclose((left * own).sum(), left.square().sum())
    assert_allclose(adversarial.project(own, adversary, 0.7), left - 0.7 * adversary)
    assert_allclose(adversarial.project(own, torch.zeros_like(own), 1.0), own)


@pytest.mark.parametrize(
    ("penalty", "column", "weight"), [("diff_dp", "dp_gap", 1.0), ("hsic", "dp_gap", 100.0)]
)
def test_a_penalty_narrows_the_gap(penalty, column, weight):
    train, test = protocol.load_split("synthetic", 0)
    gaps = []
    for name in (None, penalty):
        network = penalties.PenaltyNetwork(name, weight, hidden_layer_sizes=(16,), max_epochs=5)
        network.fit(train.X, train.y, sensitive_features=train.group)
        row = measure.figures(test, network.predict(test.X), None)
        assert row["accuracy"] > row["majority"] + 0.05
        gaps.append(row[column])
    assert gaps[1] < gaps[0] - 0.05


@pytest.mark.filterwarnings("ignore")  # fairlearn's, of pandas and of rounds that did not converge
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("eg_lr", 0.01),
        ("eg_additive", 0.01),
        ("eg_network", 0.01),
        ("threshold_hgb_dp", 0.01),
        ("adversarial", 0.1),
        ("diff_dp", 1.0),
        ("hsic", 100.0),
    ],
)
def test_a_method_outside_the_estimator_narrows_the_gap_and_is_no_constant(name, tolerance):
    train, test = protocol.load_split("synthetic", 0)
    found = {}
    for one, asked in (("hgb", None), (name, tolerance)):
        setting = method.Setting(train, 0, DP if one == name else None, None, 5)
        found[one] = measure.figures(test, methods.METHODS[one].start(setting)(asked).decide(test), None)
    assert found[name]["accuracy"] > found[name]["majority"] + 0.05
    assert found[name]["dp_gap"] < found["hgb"]["dp_gap"] - 0.05


TASK = store.Task("synthetic", 0, "bilevel", DP, 0.9, "auto")


def test_the_store_remembers_tolerances_and_failures(tmp_path):
    kept = store.Store(tmp_path)
    assert kept.open(TASK, (0.02, 0.05), retry=False) == [0.02, 0.05]
    kept.append(TASK, {"tolerance": 0.02, "accuracy": 0.8})
    kept.fail(TASK, 0.05, "ValueError: no", {"date": "today"})
    again = store.Store(tmp_path)
    assert again.open(TASK, (0.02, 0.05, 0.1), retry=False) == [0.1]
    assert again.open(TASK, (0.02, 0.05, 0.1), retry=True) == [0.05, 0.1]
    assert again.open(TASK._replace(seed=1), (0.02,), retry=False) == [0.02]
    assert again.frame()[["constraint", "tolerance"]].values.tolist() == [[DP, 0.02]]
    assert again.failures()["error"].tolist() == ["ValueError: no"]
    again.forget_errors(TASK)
    assert again.failures().empty


def test_a_run_goes_on_from_the_table_of_another(tmp_path):
    dense, decided = experiments.dense_task("synthetic", 0, "auto"), np.arange(11) % 3 == 0
    first = store.Store(tmp_path / "first")
    first.append(TASK, {"tolerance": 0.02, "accuracy": 0.8, "hidden_sizes": [3, 2], "n_test": 11})
    first.append(dense, {"tolerance": None, "decided": store.pack_decisions(decided), "n_test": 11})
    first.append(dense._replace(seed=1), {"tolerance": None, "n_test": 11})
    first.frame().to_parquet(tmp_path / "results.parquet")
    second, table = store.Store(tmp_path / "second"), pd.read_parquet(tmp_path / "results.parquet")
    assert second.take_over(table) == 2
    assert second.take_over(table) == 0
    assert second.rows(TASK)[0]["hidden_sizes"] == [3, 2]
    assert second.load_decisions(dense).tolist() == decided.tolist()
    first.fail(TASK, 0.05, "Trace\nValueError: no", {"date": "today"})
    for _ in range(2):
        assert second.take_over(table, first.failures()) == 0
    assert second.errors(TASK) == first.errors(TASK)
    # A dense network whose decisions are not known is fitted again.
    assert second.open(dense._replace(seed=1), (None,), retry=False) == [None]


def test_every_task_has_a_file_of_its_own():
    tasks = run.collect(experiments.EXPERIMENTS.values())
    assert len({task.key for task in tasks}) == len(tasks)
    # Sizes and dense networks are there before the methods that need them.
    order = [task for wave in run.waves([(task, []) for task in tasks]) for task, _ in wave]
    place = {task: number for number, task in enumerate(order)}
    for task in tasks:
        if (sized_by := methods.METHODS[task.method].sized_by) is not None:
            assert place[task._replace(method=sized_by)] < place[task]
        assert place[experiments.dense_task(task.dataset, task.seed, task.max_epochs)] <= place[task]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Run a part of the means on one split of the embedded data, in two goes."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = ["means", "--smoke", "--sets", "synthetic", "--seeds", "1", "--folder", str(folder)]
    command += ["--methods", "bilevel,scratch", "--constraints", DP]
    assert run.main([*command, "--max-minutes", "0"]) == 0
    assert store.Store(folder / "smoke").frame().empty
    assert run.main(command) == 0
    return folder, command


def test_a_smoke_run_measures_and_is_not_run_twice(smoke, capsys):
    folder, command = smoke
    kept = store.Store(folder / "smoke")
    frame = kept.frame()
    assert frame["method"].value_counts().to_dict() == {"bilevel": 4, "scratch": 4, "dense": 1}
    frame = frame.groupby("method").first()
    assert frame.loc["scratch", "hidden_sizes"] == frame.loc["bilevel", "hidden_sizes"]
    assert frame.loc["scratch", "sparsity_parameters"] == 0
    assert frame.loc["bilevel", "sparsity_parameters"] >= 0.9
    assert frame.loc["bilevel", "dp_gap"] < frame.loc["dense", "dp_gap"] - 0.1
    # Against the dense network, which has nothing to be compared with itself.
    assert frame["degradation_gap"].notna().to_dict() == {"bilevel": True, "dense": False, "scratch": True}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert run.main([*command, "--print"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    page = capsys.readouterr().out
    assert "| small from scratch | demographic parity | 0.02 |" in page
    assert "run.py means --smoke" in page
    assert "torch" in page


def test_failures_are_kept_told_and_tried_again(smoke, capsys, monkeypatch):
    folder, command = smoke
    calls = []

    def start(setting):
        def solve(tolerance):
            calls.append(tolerance)
            raise ValueError("out of luck")

        return solve

    broken = method.Method("lr", "broken", "reference", start, None)
    monkeypatch.setitem(methods.METHODS, "lr", broken)
    command = [*command, "--methods", "lr", "--constraints", "none"]
    assert run.main(command) == 1
    assert "lr" in capsys.readouterr().err
    assert run.main(command) == 1
    assert calls == [None]  # not tried again
    assert run.main([*command, "--retry-failed"]) == 1
    assert calls == [None, None]
    monkeypatch.undo()
    assert run.main([*command, "--retry-failed"]) == 0
    assert store.Store(folder / "smoke").failures().empty


def test_sizes_that_are_not_there_are_waited_for(tmp_path):
    task = TASK._replace(method="scratch", max_epochs=6)
    line = run.run_task(store.Store(tmp_path), task, [0.02], {})
    assert line.startswith("waits")
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # three epochs
def test_dense_weights_of_a_pruned_network_give_its_outputs():
    train, test = protocol.load_split("synthetic", 0)
    clf = loss_surface.FairPrunedClassifier(
        hidden_layer_sizes=(12, 8), sparsity=0.5, max_epochs=3, constraint=EO, random_state=0
    )
    clf.fit(train.X, train.y, sensitive_features=train.group)
    weights = loss_surface.scatter(clf)
    assert [tuple(weight.shape) for weight, _ in weights[1:]] == [(8, 12), (4, 8)]
    surface = loss_surface.Surface(clf, train, test)
    encoded = clf.module_.network.encoding(torch.tensor(test.X, dtype=weights[0][0].dtype))
    assert_allclose(
        surface.positive(weights, encoded), clf.predict_uncorrected_proba(test.X)[:, 1], rtol=1e-4, atol=1e-6
    )
    vector = loss_surface.flatten(weights)
    for (weight, bias), (other, shift) in zip(weights, loss_surface.unflatten(vector, weights), strict=True):
        assert weight.equal(other)
        assert bias.equal(shift)
    rng = np.random.default_rng(0)
    vectors = [vector, *(vector + rng.normal(size=vector.shape) for _ in range(2))]
    plane = loss_surface.span(vectors)
    assert_allclose(plane.origin + plane.points @ plane.basis, np.stack(vectors), atol=1e-9)
    assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-12)
    path = loss_surface.walk(surface, weights, loss_surface.unflatten(vectors[1], weights), n_steps=3)
    assert_allclose(path[0], surface.measure(weights), rtol=1e-6)
    assert loss_surface.barrier(np.array([1.0, 3.0, 2.0])) == 1
    assert loss_surface.barrier(np.array([2.0, 1.0])) == 0


@pytest.fixture
def frame(monkeypatch):
    """Rows of every experiment on one set, in which more epochs, and a looser bound, are better."""
    for name in ("auto", "no_gates", "no_weights", "no_constraint", "prune_then_fair", "magnitude"):
        if name not in methods.METHODS:
            pruned = method.Method(name, name, "pruning", None, pruned=name != "auto")
            monkeypatch.setitem(methods.METHODS, name, pruned)
            monkeypatch.delitem(methods.SKIPPED, name)
    monkeypatch.setattr(figures, "_STYLES", figures._styles())
    rows = []
    where = {"date": "2026-01-01", "machine": "m", "versions": "torch 2", "commit": "c"}
    for name in experiments.EXPERIMENTS:
        short = experiments.shorten(experiments.EXPERIMENTS[name])
        for task, tolerances in run.collect([experiments.replace(short, sets=("compas",))]).items():
            for tolerance in tolerances:
                epochs, bound = float(task.max_epochs), tolerance or 0.3
                row = {**task._asdict(), "tolerance": tolerance, "n_iter": epochs, "updates": None}
                late = 0.01 if task.method.startswith("prune_then_fair") and epochs < 8 else 0
                row |= {"accuracy": 0.8 + 0.01 * min(bound, 1) + 1e-3 * task.seed - late, "majority": 0.6}
                for short_name in ("dp", "eo", "tpr", "error", "degradation"):
                    row |= {f"{short_name}_gap": bound, f"{short_name}_se": 0.01}
                if task.constraint == EO and task.seed == 1 and task.method == "bilevel":
                    row["eo_gap"] = bound + 0.021
                row |= {"sparsity_parameters": 0.99, "parameters": 100, "fit_seconds": 1.0, **where}
                rows.append(row)
    table = pd.DataFrame(rows).drop_duplicates([*store.Task._fields, "tolerance"])
    table["constraint"] = table["constraint"].fillna("none")
    return table.assign(max_epochs=table["max_epochs"].astype(str))


def test_every_experiment_has_a_page(frame, tmp_path):
    class Kept:
        def frame(self):
            return frame

        def failures(self):
            return pd.DataFrame([{"dataset": "compas", "method": "hgb", "error": "Trace\nValueError: no"}])

    pages = report.write(Kept(), tmp_path, smoke=True)
    assert [page.stem for page in pages] == list(experiments.EXPERIMENTS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "Not run yet" not in text, page.stem
        for told in ("splits", "2026-01-01", "torch 2", f"run.py {page.stem} --smoke"):
            assert told in text
        for image in text.split("](")[1:] if page.stem in figures.FIGURES else ():
            assert (tmp_path / image.split(")")[0]).read_bytes().startswith(b"\x89PNG")
        assert ("![" in text) == (page.stem in figures.FIGURES)
    assert "`ValueError: no`" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert pd.read_parquet(tmp_path / "failures.parquet")["error"].tolist() == ["ValueError: no"]
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == len(frame)


def _page(name, frame):
    short = experiments.shorten(experiments.EXPERIMENTS[name])
    return report.render(name, short, frame, True, []).splitlines()


def test_the_bound_counts_gaps_beyond_two_errors(frame):
    header, _, line, *_ = (text for text in _page("bound", frame) if text.startswith("|"))
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["demographic parity, 0.02"] == "0/2"
    assert cells["equalized odds, 0.02"] == cells["equalized odds, 0.05"] == "1/2"
    assert cells["all"] == "2/16 (12.5%)"
    assert cells["shown to be within"] == "0%"
    frame.loc[(frame["constraint"] == DP) & (frame["seed"] == 0), "dp_gap"] = 0.05 - 1.7 * 0.01
    header, _, line, *_ = (text for text in _page("bound", frame) if text.startswith("|"))
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["shown to be within"] == "6%"  # one of 16


def test_the_bound_has_what_it_costs(frame):
    lines = [text.strip("| ").split(" | ") for text in _page("bound", frame) if text.startswith("|")]
    cells = dict(zip(lines[-3], lines[-1], strict=True))
    assert cells["set"] == "compas"
    assert cells["accuracy without a constraint"] == "0.804"
    assert cells["demographic parity, 0.05"] == "0.801 / 0.050"


def test_the_bound_has_means_and_the_sets_of_two_groups_by_themselves(frame):
    frame = pd.concat([frame, frame.assign(dataset="acs_race", accuracy=0.5)])
    lines = [text.strip("| ").split(" | ") for text in _page("bound", frame) if text.startswith("|")]
    header, rows = lines[0], {line[0]: line for line in lines[2:6]}
    assert header[-2:] == ["mean gap", "mean accuracy"]
    assert rows["all sets"][-5] == "4/32 (12.5%)"
    assert rows["without acs_race"][1:] == rows["compas"][1:]
    alone = frame[
        (frame["dataset"] == "compas") & (frame["method"] == "bilevel") & (frame["sparsity"] == 0.9)
    ]
    alone = alone[alone["seed"] < 10]
    bounded = alone[alone["tolerance"].isin([0.02, 0.05]) & (alone["max_epochs"] == "6")]
    bounded = bounded[bounded["constraint"] != "degradation_parity"]
    assert len(bounded) == 16
    assert rows["compas"][-1] == f"{bounded['accuracy'].mean():.3f}"
    assert rows["acs_race"][-1] == "0.500"


def test_the_saving_is_that_of_the_least_training_that_reaches_the_goal(frame):
    not_reached, saved = ["8 (1.0 s)", "not reached", "- |"], ["8 (1.0 s)", "≤ 4 (1.0 s)", "≥ +50% |"]

    def cells():
        """Return what is told of two sparsities with the rule, then of two without it."""
        return [line.split(" | ")[4:] for line in _page("iterations", frame) if line.startswith("| compas")]

    assert cells() == [not_reached, not_reached, saved, saved]
    frame.loc[frame["method"] == "bilevel", "eo_gap"] = 0.02
    assert cells() == 4 * [saved]


def test_an_experiment_takes_rows_of_another_set_only_if_all_are_there(frame):
    other = frame.assign(dataset="law_school")
    both = pd.concat([frame, other], ignore_index=True)
    short = experiments.shorten(experiments.EXPERIMENTS["tradeoff"])
    levels = sorted(short.select(both)["sparsity"].unique())
    assert levels == [0.7, 0.98]
    assert set(short.select(both)["dataset"]) == {"compas", "law_school"}
    part = both[(both["dataset"] == "compas") | (both["sparsity"] != 0.7)]
    assert set(short.select(part)["dataset"]) == {"compas"}


def test_what_the_estimator_lacks_is_told(capsys):
    assert run.main(["--list"]) == 0
    told = capsys.readouterr()
    planned = {name for experiment in experiments.EXPERIMENTS.values() for name in experiment.methods}
    for name in planned & set(methods.SKIPPED):
        assert name in told.err
    for name in experiments.EXPERIMENTS:
        assert f"{name} " in told.out
    known = {*methods.METHODS, *methods.SKIPPED}
    assert planned <= known
    assert all(name.endswith("_raw") for name in known - planned)


def test_names_that_do_not_exist_are_refused(capsys):
    for flag in ("--sets", "--methods", "--constraints"):
        with pytest.raises(SystemExit):
            run.main(["means", flag, "nothing"])
        assert "unknown: 'nothing'; there are " in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["--methods", "magnitude"], ["--constraints", "degradation_parity"]])
def test_a_run_with_nothing_to_fit_says_so(asked, capsys):
    assert run.main(["means", *asked]) == 2
    assert "Nothing to fit: no such methods, under such constraints, are in means" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run --constraints demographic_partiy", "unknown: 'demographic_partiy'; there are 'none', "),
        ("run --seeds 0", "--seeds: got 0; it must be at least 1"),
        ("run --seeds -1", "--seeds: got -1; it must be at least 1"),
        ("run --jobs 0", "--jobs: got 0; it must be at least 1, or -1 for all cores"),
        ("digits --seeds 0", "--seeds: got 0"),
        ("digits --first-seed -1", "--first-seed: got -1; it must be at least 0"),
        ("digits --jobs 0", "--jobs: got 0"),
        ("digits --width 0", "--width: got 0"),
        ("digits --epochs 0", "--epochs: got 0"),
        ("digits --methods dense;nope", "unknown: 'nope'; there are 'dense', 'bi-level (ours)', "),
        ("stages --seeds 0", "--seeds: got 0"),
        ("stages --jobs 0", "--jobs: got 0"),
        ("stages --sets adult,nope", "unknown: 'nope'; there are 'adult', "),
        ("loss_surface --seeds 0", "--seeds: got 0"),
        ("loss_surface --epochs 0", "--epochs: got 0"),
        ("loss_surface --steps 1", "--steps: got 1; it must be at least 2"),
        ("loss_surface --sets nope", "unknown: 'nope'; there are 'adult', "),
        ("hypergradients --seeds 0", "--seeds: got 0"),
        ("hypergradients --data nope", "--data: invalid choice: 'nope' (choose from "),
        ("memory --rows 0", "--rows: got 0"),
        ("memory --columns 0", "--columns: got 0; it must be at least 2"),
        ("speed --repeats 0", "--repeats: got 0"),
        ("speed --threads 0", "--threads: got 0"),
        ("predict --epochs 0", "--epochs: got 0"),
        ("predict --repeats 0", "--repeats: got 0"),
        ("devices --threads 1 0", "--threads: got 0"),
        ("noise --draws 0", "--draws: got 0"),
        ("noise --rows 700 1", "--rows: got 1; it must be at least 2"),
    ],
)
def test_command_lines_are_checked_first(command, told, monkeypatch, capsys):
    script, *arguments = command.split()
    main = importlib.import_module(script).main
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_the_splits_that_chose_the_design_and_the_others_are_told_apart(frame):
    wholes = experiments.EXPERIMENTS
    for name, seeds in (("bound", range(10)), ("later", range(10, 20))):
        assert {task.seed for task, _ in experiments.plan(wholes[name])} == set(seeds)
    bound, later = (experiments.shorten(wholes[name]) for name in ("bound", "later"))
    old, new = frame[frame["seed"] < 10], frame[frame["seed"] >= 10]
    assert set(bound.select(frame)["seed"]) == set(old["seed"])
    assert set(later.select(frame)["seed"]) == set(new["seed"])
    assert later.select(old).empty
    assert bound.select(new).empty
    assert not later.is_there(old)


def test_more_splits_than_a_table_shows_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["bound", "--seeds", "11", "--list"])
    assert "--seeds 11: bound has splits of seeds 0 to 9" in capsys.readouterr().err
