"""Run the experiments of the benchmark; finished fits are kept, so a stopped run goes on where it was.

    python examples/benchmarks/run.py means --print          # the table of Adult
    python examples/benchmarks/run.py --jobs 2 --max-minutes 60
    python examples/benchmarks/run.py frontier --sets compas --list

Without a name all experiments are run. Results are in build/benchmarks/<run>, one file of JSON lines a
fit; `report.py` turns them into what is under docs/benchmarks.
"""

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from command_line import at_least, check_names, n_jobs
from experiments import EXPERIMENTS, N_SETTLED, Experiment, dense_task, plan, shorten
from joblib import Parallel, delayed, parallel_config
from measure import figures, size, tell_machine, tell_warnings
from method import Setting
from methods import METHODS, SKIPPED, is_possible
from protocol import OTHERS, SETS, load, load_split
from store import Store, Task, pack_decisions

Work = tuple[Task, list[float | None]]
_FOLDER = Path(__file__).resolve().parents[2] / "build" / "benchmarks"


def run_task(store: Store, task: Task, tolerances: list[float | None], where: dict[str, str]) -> str:
    """Fit one method at its open tolerances, store a row for each, and return one line to print."""
    torch.set_num_threads(1)
    train, test = load_split(task.dataset, task.seed)
    method, sizes = METHODS[task.method], None
    if method.sized_by is not None:
        pruned = store.rows(task._replace(method=method.sized_by))
        if not pruned:
            return f"waits    {task.key}: {method.sized_by} has no rows to take the sizes from"
        sizes = tuple(pruned[0]["hidden_sizes"])
    dense = store.load_decisions(dense_task(task.dataset, task.seed, task.max_epochs))
    setting = Setting(train, task.seed, task.constraint, task.sparsity, task.max_epochs, sizes)
    solve, first, failed = method.start(setting), 0.0, 0
    began = time.perf_counter()
    for tolerance in tolerances:
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                solution = solve(tolerance)
            seconds = time.perf_counter() - start
            decided = solution.decide(test)
        except Exception:
            # A method that fails must not stop the others; what failed is told at the end.
            store.fail(task, tolerance, traceback.format_exc(), where)
            failed += 1
            continue
        first = first if solution.shared else seconds
        row = {"tolerance": tolerance, **figures(test, decided, dense), **size(solution.model)}
        row |= {"fit_seconds": round(first if solution.shared else seconds, 3)}
        row |= {"shared_fit": solution.shared, "warnings": tell_warnings(caught)}
        if task == dense_task(task.dataset, task.seed, task.max_epochs):
            row["decided"] = pack_decisions(decided)
        store.append(task, {**row, **where})
    end = f"failed at {failed} of {len(tolerances)}" if failed else f"{len(tolerances)} rows"
    return f"{time.perf_counter() - began:7.1f} s  {task.key}: {end}"


def collect(experiments: Iterable[Experiment]) -> dict[Task, list[float | None]]:
    """Return the tasks of several experiments with the union of their tolerances."""
    tasks: dict[Task, list[float | None]] = {}
    for experiment in experiments:
        for task, tolerances in plan(experiment):
            known = tasks.setdefault(task, [])
            known += [tolerance for tolerance in tolerances if tolerance not in known]
    return tasks


def waves(work: list[Work]) -> list[list[Work]]:
    """Order the work: the dense networks, the methods, and last those that take sizes from others."""

    def number(task: Task) -> int:
        if task == dense_task(task.dataset, task.seed, task.max_epochs):
            return 0
        return 1 if METHODS[task.method].sized_by is None else 2

    ordered: list[list[Work]] = [[], [], []]
    for task, tolerances in work:
        ordered[number(task)].append((task, tolerances))
    return ordered


def execute(store: Store, work: list[Work], jobs: int, max_minutes: float) -> int:
    """Run what is open until the time is up; return how many tasks were not started."""
    where, end, started = tell_machine(), time.monotonic() + 60 * max_minutes, 0

    def until_the_end(wave: list[Work]) -> Iterator:
        nonlocal started
        for task, tolerances in wave:
            if time.monotonic() > end:
                return
            started += 1
            yield delayed(run_task)(store, task, tolerances, where)

    with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=1):
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        for wave in waves(work):
            for line in parallel(until_the_end(wave)):
                print(line, file=sys.stderr, flush=True)
    return len(work) - started


def tell_skipped(experiments: Iterable[tuple[str, Experiment]]) -> None:
    """Print a line for each reason why methods or constraints of the experiments are left out."""
    reasons: dict[str, list[str]] = {}
    for name, experiment in experiments:
        for method in experiment.methods:
            if method in SKIPPED and method not in reasons.setdefault(SKIPPED[method], []):
                reasons[SKIPPED[method]].append(method)
        known = [METHODS[method] for method in experiment.methods if method not in SKIPPED]
        for constraint in experiment.constraints:
            if not any(is_possible(method, constraint) for method in known):
                reasons.setdefault("no method can keep it", []).append(f"{constraint} in {name}")
    for reason, names in reasons.items():
        print(f"skipped, {reason}: {', '.join(names)}", file=sys.stderr)


def choose(args: argparse.Namespace) -> dict[str, Experiment]:
    """Return the experiments as the command line limits them."""
    chosen = {}
    for name in args.experiments or EXPERIMENTS:
        experiment = shorten(EXPERIMENTS[name]) if args.smoke else EXPERIMENTS[name]
        if args.sets:
            experiment = replace(experiment, sets=tuple(args.sets))
        if args.methods:
            kept = tuple(method for method in experiment.methods if method in args.methods)
            experiment = replace(experiment, methods=kept)
        if args.constraints:
            kept = tuple(c for c in experiment.constraints if (c or "none") in args.constraints)
            experiment = replace(experiment, constraints=kept)
        if args.seeds is not None:
            experiment = replace(experiment, seeds=args.seeds)
        chosen[name] = experiment
    return chosen


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""

    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--sets", type=names, help=f"of {', '.join(SETS + OTHERS)}; separated by commas")
    parser.add_argument("--methods", type=names, help="only these methods of the experiments")
    parser.add_argument("--constraints", type=names, help='only these; "none" is unconstrained')
    parser.add_argument(
        "--seeds",
        type=at_least(1),
        help="the number of resampled splits, from the first seed of an experiment on",
    )
    parser.add_argument("--jobs", type=n_jobs, default=1, help="processes, with one thread each")
    parser.add_argument("--max-minutes", type=float, default=float("inf"), help="then start no more fits")
    parser.add_argument("--retry-failed", action="store_true", help="try the failed fits again")
    parser.add_argument("--smoke", action="store_true", help="short fits of two seeds on two small sets")
    parser.add_argument("--run", help='the name of the store (default "main", or "smoke")')
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where stores are")
    parser.add_argument(
        "--take-over",
        type=Path,
        help="first add the rows of this results.parquet, and the failures beside it",
    )
    parser.add_argument("--list", action="store_true", help="tell what is done and open, and stop")
    parser.add_argument("--print", action="store_true", help="print the tables at the end")
    args = parser.parse_args(argv)
    planned = EXPERIMENTS.values()
    for given, known in (
        (args.experiments, EXPERIMENTS),
        (args.sets, [*SETS, *OTHERS]),
        (args.methods, dict.fromkeys(name for each in planned for name in each.methods)),
        (args.constraints, dict.fromkeys(c or "none" for each in planned for c in each.constraints)),
    ):
        check_names(parser, given or (), known)
    for name in args.experiments or EXPERIMENTS:
        if EXPERIMENTS[name].first_seed < N_SETTLED < (args.seeds or 0):
            parser.error(
                f"--seeds {args.seeds}: {name} has splits of seeds 0 to {N_SETTLED - 1}; later ones: later"
            )
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the status is 1 if a fit failed, 2 if data are missing or nothing is to fit."""
    args = parse(argv)
    store = Store(args.folder / (args.run or ("smoke" if args.smoke else "main")))
    chosen = choose(args)
    if not any(any(plan(experiment)) for experiment in chosen.values()):
        tell_skipped(chosen.items())
        print("Nothing to fit: no such methods, under such constraints, are in", *chosen, file=sys.stderr)
        return 2
    if args.take_over is not None:
        failed = args.take_over.with_name("failures.parquet")
        failures = pd.read_parquet(failed) if failed.is_file() else None
        taken = store.take_over(pd.read_parquet(args.take_over), failures)
        print(f"{taken} rows taken over", file=sys.stderr)
    if args.list:
        tell_skipped(chosen.items())
        for name, experiment in chosen.items():
            tasks = collect([experiment])
            left = sum(len(store.open(task, asked, True)) for task, asked in tasks.items())
            failed = sum(len(store.errors(task)) for task in tasks)
            total = sum(map(len, tasks.values()))
            print(f"{name:<12} {len(tasks):>6} tasks, {total:>6} rows: {total - left} done, {failed} failed")
        return 0
    try:
        for dataset in sorted({dataset for experiment in chosen.values() for dataset in experiment.sets}):
            load(dataset)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    tell_skipped(chosen.items())
    work = []
    for task, tolerances in collect(chosen.values()).items():
        if args.retry_failed:
            store.forget_errors(task)
        if left := store.open(task, tolerances, args.retry_failed):
            work.append((task, left))
    not_started = execute(store, work, args.jobs, args.max_minutes)
    if not_started:
        print(f"{not_started} tasks are left: run the same command again.", file=sys.stderr)
    failures = store.failures()
    if len(failures):
        counts = failures.groupby(["dataset", "method", "constraint"]).size()
        print(f"failed fits (reasons in {store.folder}/*/*/*.errors.jsonl):", file=sys.stderr)
        print(counts.to_string(), file=sys.stderr)
    if args.print:
        from report import render

        frame = store.frame()
        for name, experiment in chosen.items():
            print(render(name, experiment, frame, args.smoke, []))
    return 1 if len(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
