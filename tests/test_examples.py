"""The examples run as scripts, with warnings as errors, and say what they are to say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *args, action="error", **env):
    """Run a script in a process that meets warnings with an action."""
    return subprocess.run(
        [sys.executable, "-W", action, EXAMPLES / name, *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", **env},
    )


@pytest.mark.slow
def test_quickstart_prints_the_table_and_writes_the_figure(tmp_path):
    figure = tmp_path / "new" / "figure.png"
    done = run_example("quickstart.py", "--quick", "--output", str(figure))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    header = next(line for line in lines if line.startswith("model "))
    for column in ("accuracy", "DP gap ± se", "EO gap ± se", "parameters", "units", "MACs"):
        assert column in header
    assert header.endswith("fit s  row µs  batch ms")
    models = ["dense", "pruned", "fair pruned", "small from scratch", "gradient boosting"]
    start = lines.index(header)
    table = lines[start : start + 3 + len(models)]
    for name, line in zip([*models, "exact Bayes rule"], table[2:], strict=True):
        assert line.startswith(f"{name} ")
        assert len(line) == len(header)
    assert len(header) <= 120
    assert "Fair pruning removed 90." in done.stdout
    assert "the bound of 0.02 on held-out data" in done.stdout
    assert " is fair" not in done.stdout
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "command",
    [
        ["quickstart.py", "--data", "adult"],
        ["benchmarks/run.py", "means", "--sets", "adult"],
        ["benchmarks/predict.py"],
    ],
)
def test_missing_data_is_one_clear_message(command, tmp_path):
    done = run_example(*command, SKFAIRPRUNE_DATA=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Cannot load 'adult': ")
    assert "Set the environment variable SKFAIRPRUNE_DATA" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_matplotlib_the_table_is_printed_and_the_extra_named(tmp_path):
    # A package of that name which fails to import stands before the real one.
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')", encoding="utf-8")
    figure = tmp_path / "figure.png"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run_example("quickstart.py", "--quick", "--output", str(figure), PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "fair pruned" in done.stdout
    assert "pip install skfairprune[plot]" in done.stderr
    assert not figure.exists()


@pytest.mark.slow
def test_grid_search_chooses_and_audits_one_candidate():
    # The few rows of a fold may not reach the bound; any other warning is an error of the example.
    done = run_example("grid_search.py", "--quick", action="default")
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\w+Warning", done.stderr)) <= {"ConvergenceWarning"}
    assert done.stdout.count("<--") == 1
    assert "Refitted at sparsity 0." in done.stdout
    assert "Test part: accuracy 0." in done.stdout


@pytest.mark.slow
def test_audit_names_the_small_cell_and_writes_the_document(tmp_path):
    done = run_example("audit.py", "--html", str(tmp_path / "new" / "audit.html"))
    assert done.returncode == 0, done.stderr
    assert "fewer than min_cell_size=30" in done.stdout
    assert "('group_1', '75 and over')" in done.stdout
    assert "- not under it in every event: left out: ('group_1', '75 and over')" in done.stdout
    assert (tmp_path / "new" / "audit.html").read_text(encoding="utf-8").count("<table>") == 3
    for column in ("group", "age"):
        assert re.search(rf"^{column} +[01]\.\d+ ± \S+ +(within|undecided|above)$", done.stdout, re.M), column


@pytest.mark.slow
def test_noise_benchmark_holds_figures_against_the_population():
    done = run_example("benchmarks/noise.py", "--rows", "700", "--draws", "3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"left alone +on the rows +reported +upper +population +covered +accuracy", done.stdout)
    assert len(re.findall(r" 700( +\d\.\d+){7}", done.stdout)) == 10


@pytest.mark.slow
def test_memory_benchmark_reports_a_multiple_of_the_data():
    done = run_example("benchmarks/memory.py", "--rows", "5000", "--columns", "4")
    assert done.returncode == 0, done.stderr
    assert "goal <= 3" in done.stdout
