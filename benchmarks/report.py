"""One table and one plot of all rows."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.row import Plan, Row


def markdown(rows: Sequence[Row], plan: Plan) -> str:
    """The table, with the medians that each figure was computed from."""
    lines = [
        f"Medians of {plan.rounds} alternating rounds, {plan.seconds} s a run; fio over one NBD connection on a Unix "
        "socket, 4 KiB at queue depth 16 unless said. Medians are operations per second unless said.",
        "",
        "| row | figure | bar | reached | medians |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≤" if row.most else "≥"
        cells = [row.what, f"{_number(row.figure)} {row.unit}".strip(), f"{sign} {row.bar:g} {row.unit}".strip()]
        cells += ["yes" if row.reached else "no"]
        cells += ["; ".join(f"{name} {_number(value)}" for name, value in (row.medians or {}).items()) or "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def plot(rows: Sequence[Row], path: str) -> None:
    """Each row's distance from its bar, on a logarithmic scale: right of the line is better than the bar."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [row.what for row in rows]
    figure, axis = pyplot.subplots(figsize=(11, 1.2 + 0.32 * len(rows)))
    colours = ["tab:green" if row.reached else "tab:red" for row in rows]
    axis.barh(names, [row.margin - 1 for row in rows], left=1, color=colours)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)
    axis.set_xlabel("times better than the bar")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
