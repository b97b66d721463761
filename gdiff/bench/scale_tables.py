"""The numbers of `gdiff bench scale` for people."""

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table


def tables(results: Mapping) -> Iterator[Table]:
    """The full scan, the golden scan, and what holds for the whole run."""
    title = (
        f"{results['dataset']}: n = {results['points']}, d = {results['dim']}, "
        f"B = {results['queries']}, {results['bytes'] / 1e9:.3g} GB {results['dtype']}"
    )
    yield _full(results, title)
    yield _golden(results, title)
    yield _run(results)


def _full(results: Mapping, title: str) -> Table:
    """One row a level, and one for all."""
    full, read = results["full"], results["read"]
    ratios = ("times_read", "times_product", "times_slower_of_both")
    speed = results["bytes"] / 1e9
    count = len(results["sigma"])
    columns = {
        "seconds": [*full["seconds"], full["total_seconds"]],
        "GB/s": [*full["gigabytes_per_second"], count * speed / full["total_seconds"]],
        f"{read['from']}\nGB/s": [
            *read["gigabytes_per_second"],
            count * speed / read["total_seconds"],
        ],
    }
    for name, key in zip(("× reading", "× products", "× slower\nof both"), ratios, strict=True):
        columns[name] = [*full[key], full[f"total_{key}"]]
    table = Table(title=f"full scan, rows on the {results['rows']}\n{title}")
    _fill(table, results["sigma"], {n: [f"{x:.3g}" for x in each] for n, each in columns.items()})
    table.caption = (
        "×: seconds over those of reading all data, of two\n"
        "plain matrix products, and of the slower of both"
    )
    return table


def _golden(results: Mapping, title: str) -> Table:
    """One row a level, and one for all."""
    golden = results["golden"]
    errors, rows, left = (
        golden[key] for key in ("relative_error_max", "rows", "queries_scanned_in_full")
    )
    ratios = [*golden["times_faster"], golden["total_times_faster"]]
    columns = {
        "seconds": [f"{x:.3g}" for x in (*golden["seconds"], golden["total_seconds"])],
        "×": [f"{x:.3g}" for x in ratios],
        "largest\nerror": [f"{x:.2g}" for x in (*errors, max(errors))],
        "rows": [*map(str, rows), ""],
        "queries\nin full": [*map(str, left), str(sum(left))],
    }
    table = Table(title=f"golden scan, tolerance {golden['tolerance']:g}\n{title}")
    _fill(table, results["sigma"], columns)
    table.caption = "×: times faster than the full scan\nrows: weighed in full, median of queries"
    return table


def _fill(table: Table, sigma: Sequence[float], columns: Mapping[str, Sequence[str]]) -> None:
    table.add_column("σ", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
    names = [*(f"{level:.3g}" for level in sigma), "all"]
    for number, row in enumerate(zip(names, *columns.values(), strict=True)):
        table.add_row(*row, end_section=number == len(sigma) - 1)


def _run(results: Mapping) -> Table:
    """What holds for all levels."""
    table = Table("measurement", "value", title="the run")
    table.columns[1].justify = "right"
    golden, memory = results["golden"], results["memory"]
    for name in ("fit", "compile", "trajectory"):
        table.add_row(f"golden: {name}, seconds", f"{golden[f'{name}_seconds']:.3g}")
    if memory is not None:
        for name, key in (("peak", "peak_bytes"), ("anonymous, at its end", "anonymous_bytes")):
            table.add_row(f"golden: memory, {name}, GiB", f"{memory[key] / 2**30:.3g}")
    for name, multiple in results["exchanged"].items():
        table.add_row(f"{name}: numbers exchanged, at most, × B d", f"{multiple:.3g}")
    return table
