"""docs/results.md and the table of README, written from the numbers in docs/*.json alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from vatt.core.errors import StageError
from vatt.core.files import atomic_path

RESULTS_PATH, TABLES_DIR = Path("docs/results.json"), Path("docs/tables")
PAPERS_PATH = Path(__file__).with_name("papers.yaml")
DOCUMENT_PATH, README_PATH = Path("docs/results.md"), Path("README.md")
BEGIN, END = "<!-- results: begin; `make results` writes this table -->", "<!-- results: end -->"
"""The lines of README between which the table of claims stands."""
Content = Mapping[str, Any]
"""That of docs/results.json, or of a number in it."""
INTRODUCTION = (
    "# Results\n\nWritten by `make results` and `python -m vatt.tables` from `docs/results.json` "
    "and\n`docs/tables/*.json`, which hold every number; not edited by hand."
)
RULE = """The interval covers the mean with 95 % (Student's t). Its unit is the seed: it is over \
the means of both
paths of each seed, as the two share corpus, first weights and order, and are not independent. \
A claim holds if its
interval lies above 0, that of a ratio above 1; others are not made. Differences are in points \
of a percentage. A name
says what is seen or heard, then the label. `make demo` prints one of these runs."""


def write_documents() -> None:
    """Write docs/results.md, and the table of README where the lines for it are.

    Raises:
        StageError: README has one of the lines and not the other.
    """
    with atomic_path(DOCUMENT_PATH) as partial:
        partial.write_text(format_document(Path()), encoding="utf-8")
    if RESULTS_PATH.is_file():
        readme = README_PATH.read_text(encoding="utf-8")
        with atomic_path(README_PATH) as partial:
            partial.write_text(put_claims(readme, _read(RESULTS_PATH)), encoding="utf-8")


def put_claims(readme: str, results: Content) -> str:
    """Return README with the table of claims between its lines; unchanged if it has none of them.

    Raises:
        StageError: it has one of the lines and not the other.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin and END not in readme:
        return readme
    if not begin or not end:
        raise StageError(f"{README_PATH}: needs two lines, {BEGIN!r} and after it {END!r}")
    return f"{before}{begin}\n\n{format_claims(results)}\n\n{end}{after}"


def format_document(root: Path) -> str:
    """Return docs/results.md of the project in `root`, from what was measured so far."""
    parts = [INTRODUCTION]
    if (path := root / RESULTS_PATH).is_file():
        parts += _format_results(_read(path))
    tables = yaml.safe_load(PAPERS_PATH.read_text(encoding="utf-8"))
    for name, paper in tables.items():
        if (path := root / TABLES_DIR / f"{name}.json").is_file():
            parts += _format_table_of(name, _read(path), paper)
    return "\n\n".join(parts) + "\n"


def format_claims(results: Content) -> str:
    """Return the table of all claims, those that do not hold included."""
    rows = []
    for number in results["numbers"]:
        if number["holds"] is not None:
            interval, runs = number["interval"], number["runs"]
            ends = [f"{show(number, a)} to {show(number, b)}" for a, b in (interval, _span(runs))]
            verdict = "holds" if number["holds"] else "not claimed"
            rows.append([number["name"], show(number, number["mean"]), *ends, verdict])
    titles = ["", "mean", "95 % interval", f"all {len(results['runs'])} runs", "claim"]
    return format_table(titles, rows)


def show(number: Content, value: float) -> str:
    """Return a value of a number: a difference in points, a level in percent, or a ratio."""
    if number["unit"] == "times chance":
        return f"{value:.1f} x"
    percent = round(100 * value, 1) + 0.0  # no minus before nothing
    return f"{percent:.1f} %" if number["holds"] is None else f"{percent:+.1f}"


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column stands left, the others right."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format_results(results: Content) -> Iterator[str]:
    """Yield the section of the demo over seeds."""
    runs, names = results["runs"], results["paths"]
    seeds = sorted({str(run["seed"]) for run in runs})
    yield "## The demo over seeds"
    yield (
        f"`make results`, {results['cpu_minutes']:.0f} CPU-minutes. Seeds {', '.join(seeds)}, "
        "which the search for the demo's design did not use:\neach has its own corpus, first "
        "weights and order, and was run by each numerical path:"
    )
    yield "\n".join(f"- `{name}`: {words}" for name, words in names.items())
    yield RULE
    yield format_claims(results)
    yield "### Every run"
    yield (
        "The deviation is the standard deviation of a seed's mean; `paths` is the largest "
        "difference of two paths of one seed."
    )
    rows = [_format_runs(number, runs) for number in results["numbers"]]
    columns = [f"{run['seed']} {run['path']}" for run in runs]
    yield format_table(["", "mean", "deviation", "paths", *columns], rows)


def _format_runs(number: Content, runs: Sequence[Content]) -> list[str]:
    """Return the row of a number with its value in every run."""
    pairs = groupby(zip(runs, number["runs"], strict=True), key=lambda pair: pair[0]["seed"])
    spans = [_span([value for _, value in pair]) for _, pair in pairs]
    apart = max(high - low for low, high in spans)
    shown = [show(number, value).lstrip("+") for value in (number["deviation"], apart)]
    mean, *values = (show(number, value) for value in (number["mean"], *number["runs"]))
    return [number["name"], mean, *shown, *values]


def _format_table_of(name: str, content: Content, paper: Content) -> Iterator[str]:
    """Yield the section of a table in miniature: ours, what it says, and the published one."""
    seeds, variants, numbers = content["seeds"], content["variants"], content["numbers"]
    yield f"## {paper['title']}"
    yield (
        f"`python -m vatt.tables {name}`, {content['cpu_minutes']:.0f} CPU-minutes: "
        f"{content['steps']} steps of pre-training on the demo corpus, seeds "
        f"{', '.join(map(str, seeds))}. {paper['varies']} Means and 95 % intervals over seeds; the "
        "last column is the last variant less the first, of the same seed, in points."
    )
    costs = [
        ["GFLOPs of a clip, forward", *(f"{value:.3f}" for value in content["gflops"]), ""],
        ["seconds of a step", *(f"{sum(own) / len(own):.3f}" for own in content["step_s"]), ""],
    ]
    yield format_table(["", *variants, "difference"], [*costs, *map(_format_variants, numbers)])
    yield f"Expected: {paper['expected']} {_judge(numbers)}"
    if "published" in paper:
        published = paper["published"]
        yield f"Published ({published['source']}), on other hardware and data, not measured here:"
        rows = [[row, *map(str, values)] for row, values in published["rows"].items()]
        yield format_table(["", *published["columns"]], rows)


def _format_variants(number: Content) -> list[str]:
    """Return the row of a number of a table in miniature."""
    cells = [
        f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        for mean, (low, high) in zip(number["means"], number["intervals"], strict=True)
    ]
    mean, (low, high) = number["gain"]["mean"], number["gain"]["interval"]
    gain = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return [f"{number['name']}, %", *cells, gain]


def _judge(numbers: Sequence[Content]) -> str:
    """Say which differences are above 0, which are below, and how many are not decided."""
    above = [number["name"] for number in numbers if number["gain"]["interval"][0] > 0]
    below = [number["name"] for number in numbers if number["gain"]["interval"][1] < 0]
    num_left = len(numbers) - len(above) - len(below)
    return (
        "By the intervals of the differences, these are better in the last variant: "
        f"{'; '.join(above) or 'none'}. Worse: {'; '.join(below) or 'none'}. "
        f"Not decided: {num_left} of {len(numbers)}."
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _read(path: Path) -> Content:
    return dict(json.loads(path.read_text(encoding="utf-8")))
