"""Write the pages of the benchmark: for each experiment its tables and figures; rows and failures as Parquet.

python examples/benchmarks/report.py --docs docs/benchmarks
"""

import argparse
import re
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from experiments import EXPERIMENTS, Experiment, shorten
from figures import FIGURES, STYLE
from methods import METHODS, SKIPPED
from store import Store
from tables import TABLES

_ROOT = Path(__file__).resolve().parents[2]
_COLUMNS = (
    "A row is one method on one 70/30 split (`dataset`, `seed`) under one `constraint` at one bound or "
    "weight (`tolerance`): the test part's `accuracy`, its gaps and their sampling standard errors (`dp_gap` "
    "and `dp_se` for demographic parity; `eo` equalized odds, `tpr` true positive rates, `error` error "
    "rates), the sparsity asked for and reached, the size, the training, and `date`, `machine`, `versions` "
    "and `commit`. `majority` is the accuracy of the commoner class, `shared_fit` tells that a row is of a "
    "network that was fitted under another bound, `decided` packs the decisions of dense networks."
)


def tell_origin(rows: pd.DataFrame, name: str, smoke: bool) -> str:
    """Return the seeds, the date, the machine, the versions and the command of some rows."""
    cells = rows.groupby(["dataset", "method", "constraint", "sparsity"], dropna=False)
    seeds = cells["seed"].nunique()
    of_seeds = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    dates = sorted(rows["date"].unique())
    parts = [
        f"{of_seeds} resampled 70/30 splits of a method",
        dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        *("; ".join(sorted(rows[column].unique())) for column in ("machine", "versions")),
        "commit " + ", ".join(sorted(rows["commit"].unique())),
    ]
    command = f"python examples/benchmarks/run.py {name}{' --smoke' if smoke else ''}"
    return f"{', '.join(parts)}.\n\n```sh\n{command}\n```"


def render(name: str, experiment: Experiment, frame: pd.DataFrame, smoke: bool, images: list[str]) -> str:
    """Return the page of an experiment, or one line if none of its rows are there."""
    rows = experiment.select(frame)
    title = f"# {experiment.title}"
    if rows.empty:
        return f"{title}\n\nNot run yet.\n"
    absent = [method for method in experiment.methods if method in SKIPPED]
    notes = [f"Not in this version of the estimator: {', '.join(absent)}."] if absent else []
    links = [f"![{image.removesuffix('.png')}]({image})" for image in images]
    return "\n\n".join([title, tell_origin(rows, name, smoke), *notes, *links, TABLES[name](rows)]) + "\n"


def draw(name: str, experiment: Experiment, frame: pd.DataFrame, folder: Path) -> list[str]:
    """Write the figures of an experiment and return their names."""
    if name not in FIGURES:
        return []
    rows, written = experiment.select(frame), []
    with mpl.rc_context(STYLE):
        for end, figure in FIGURES[name](rows).items() if len(rows) else ():
            if figure is not None:
                file = f"{name}-{end.replace('_', '-')}.png"
                figure.savefig(folder / file)
                written.append(file)
    return written


def write(store: Store, docs: Path, smoke: bool) -> list[Path]:
    """Write every page, the index, the rows and the failures; return the pages."""
    docs.mkdir(parents=True, exist_ok=True)
    frame, failures = store.frame(), store.failures()
    if len(failures):  # of each error its last line: the rest names files of the machine
        last = failures["error"].map(lambda text: re.sub(r"\s+", " ", text.strip().splitlines()[-1])[:100])
        failures = failures.assign(error=last)
    pages, missing = [], []
    for name, whole in EXPERIMENTS.items():
        experiment = shorten(whole) if smoke else whole
        if not experiment.is_there(frame):
            missing.append(name)
            continue
        page = docs / f"{name}.md"
        images = draw(name, experiment, frame, docs)
        page.write_text(render(name, experiment, frame, smoke, images), encoding="utf-8")
        pages.append(page)
    frame.to_parquet(docs / "results.parquet", index=False)
    failures.to_parquet(docs / "failures.parquet", index=False)
    index = ["# Benchmark", "", f"{len(frame)} rows in `results.parquet`, {len(failures)} failed fits.", ""]
    index += [_COLUMNS, ""]
    index += [f"- [{EXPERIMENTS[page.stem].title}]({page.name})" for page in pages]
    if (docs / "surface.md").is_file():  # of loss_surface.py
        index.append("- [The loss surface between the solution and its ablations](surface.md)")
    if missing:
        index += ["", f"Not run in this store: {', '.join(missing)}."]
    if len(failures):
        counts = failures.groupby(["dataset", "method", "error"]).size()
        index += ["", "Failed fits:", ""]
        index += [
            f"- {dataset}, {METHODS[method].label if method in METHODS else method}: {count} x `{error}`"
            for (dataset, method, error), count in counts.items()
        ]
    (docs / "README.md").write_text("\n".join(index) + "\n", encoding="utf-8")
    return pages


def main(argv: list[str] | None = None) -> int:
    """Write the pages; the status is 2 if there is nothing to write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=_ROOT / "build" / "benchmarks")
    parser.add_argument("--run", help='the name of the store (default "main", or "smoke")')
    parser.add_argument("--smoke", action="store_true", help="of a smoke run")
    parser.add_argument("--docs", type=Path, help="default: docs/benchmarks, or build/benchmarks/smoke-docs")
    args = parser.parse_args(argv)
    store = Store(args.folder / (args.run or ("smoke" if args.smoke else "main")))
    if store.frame().empty:
        print(f"No results in {store.folder}: run examples/benchmarks/run.py first.", file=sys.stderr)
        return 2
    docs = args.docs or (args.folder / "smoke-docs" if args.smoke else _ROOT / "docs" / "benchmarks")
    for page in write(store, docs, args.smoke):
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
