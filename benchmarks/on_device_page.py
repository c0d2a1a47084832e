"""reports/on_device: a page and a figure, from tables.csv and networks.csv alone."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from eas.files import write_text
from pipeline.report import figures

PAGE = Path(__file__).with_name("on_device.md")
TABLES = "tables", "networks", "times"


def render(folder: Path) -> None:
    """Write README.md and the figure beside the tables; FileNotFoundError where these are missing."""
    paths = [folder / f"{name}.csv" for name in TABLES]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: measure first, without --render")
    tables, networks, times = map(pd.read_csv, paths)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    draw(networks).savefig(folder / "figures" / "latency.png")
    parts = {
        "processor": " and ".join(tables.processor.unique()),
        "low": f"{networks.share.min():.0%}",
        "high": f"{networks.share.max():.0%}",
        "verdict": verdict(tables, networks),
        "studies": told_by_study(networks).to_markdown(disable_numparse=True),
        "tables": told_of_tables(tables).to_markdown(index=False),
        "networks": told_of_networks(networks).to_markdown(index=False),
        "times": told_of_times(times).to_markdown(),
    }
    write_text(folder / "README.md", PAGE.read_text(encoding="utf-8").format(**parts))


def by_study(networks: pd.DataFrame) -> pd.DataFrame:
    """What became of every study's networks: bounds kept, 8-bit integers beside floats, strangers; means."""
    groups = networks.groupby("study", sort=False)
    refused = groups[["refused_others", "refused_own"]].mean()
    return pd.DataFrame(
        {
            "bounds kept (%)": 100 * groups.kept.mean(),
            "at the table's speed": 100 * groups.kept_at_speed.mean(),
            "slower than told (%)": 100 * (groups.speed.first() - 1),
            "int8: times as fast": (networks.measured_ms / networks.measured_ms_int8).groupby(networks.study).median(),
            "points": (networks.top1_int8 - networks.top1).groupby(networks.study).mean(),
            "refused (%): others": refused.refused_others,
            "own": refused.refused_own,
        }
    )


FORMS = (".0f", ".0f", "+.0f", ".2f", "+z.1f", ".0f", ".0f")  # of by_study's columns


def verdict(tables: pd.DataFrame, networks: pd.DataFrame) -> str:
    """What was found, before its numbers; from the least study to the most where they differ."""
    floats = tables[tables.runtime == "onnxruntime"]
    held = "keeps" if floats.error.max() < 5 and floats.correlation.min() > 0.98 else "does not always keep"
    kept, at_speed, _, gain, loss, others, own = (column for _, column in by_study(networks).items())
    hold, faster = in_words(networks)
    size = (networks.bytes_int8 / networks.bytes_float).median()
    return "\n".join(
        (
            f"- **A network's milliseconds are told from sixty timed ones**, which {held} the aim of an error under "
            f"5 % and a rank correlation over 0.98: {span(floats.error, '.1f')} % and "
            f"{span(floats.correlation, '.3f')}; multiply-adds tell ranks by "
            f"{span(floats.correlation_of_madds, '.3f')}.",
            f"- **Bounds of milliseconds {hold}**: of the exported networks' runs {span(kept, '.0f')} % keep theirs; "
            f"of runs at the speed that the sixty were timed at, {span(at_speed, '.0f')} %.",
            f"- **8-bit integers take {size:.0%} of the bytes, and running them {faster}**: {span(gain, '.2f')} times "
            f"the speed, for {span(loss, '+z.1f')} points of accuracy.",
            f"- **Images of other classes are answered *none of these***: {span(others, '.0f')} % of them; and by "
            f"mistake {span(own, '.0f')} % of a network's own.",
        )
    )


def in_words(networks: pd.DataFrame) -> tuple[str, str]:
    """What bounds of milliseconds do, and what running 8-bit integers is or does."""
    kept, at_speed, _, gain, *_ = (column for _, column in by_study(networks).items())
    hold = (
        "hold"
        if kept.min() > 90
        else "hold as long as the machine is as fast"
        if at_speed.min() > 90
        else "do not hold in every study"
        if kept.max() > 90
        else "do not hold"
    )
    faster = "is faster" if (gain > 1.05).all() else "gains little" if (gain < 1.05).all() else "is not always faster"
    return hold, faster


def span(values: pd.Series, form: str) -> str:
    """From the least to the most, or once where they read the same."""
    least, most = (f"{value:{form}}" for value in (values.min(), values.max()))
    return least if least == most else f"{least} to {most}"


def told_by_study(networks: pd.DataFrame) -> pd.DataFrame:
    """by_study as it is printed."""
    table = by_study(networks)
    return pd.DataFrame({name: table[name].map(f"{{:{form}}}".format) for name, form in zip(table, FORMS, strict=True)})


def told_of_tables(tables: pd.DataFrame) -> pd.DataFrame:
    """What a reader wants of tables of latency."""
    rows = [
        {
            "study": row.study,
            "run by": row.runtime,
            "networks take (ms)": f"{row.fastest_ms:.2f} to {row.slowest_ms:.2f}",
        }
        | {"speed (%)": f"{row.speed:+.1f}", "error (%)": f"{row.error:.1f}", "ranks": f"{row.correlation:.3f}"}
        | {"of multiply-adds": f"{row.correlation_of_madds:.3f}"}
        | {"margin (%)": f"{row.margin:.1f}", "kept (%)": f"{row.kept:.0f}"}
        for row in tables.itertuples()
    ]
    return pd.DataFrame(rows)


def told_of_networks(networks: pd.DataFrame) -> pd.DataFrame:
    """The mean over superclasses of every study and bound."""
    columns = ["asked_ms", "told_ms", "measured_ms", "measured_ms_int8", "top1", "top1_int8"]
    columns += ["bytes_float", "bytes_int8", "refused_others", "refused_own", "strangers"]
    mean = networks.groupby(["study", "share"])[columns].mean().reset_index()
    rows = [
        {"study": row.study, "asked (ms)": f"{row.asked_ms:.2f}", "told": f"{row.told_ms:.2f}"}
        | {"measured": f"{row.measured_ms:.2f}", "int8": f"{row.measured_ms_int8:.2f}"}
        | {"top-1 (%)": f"{row.top1:.1f}", "int8 ": f"{row.top1_int8:.1f}"}
        | {"kB": f"{row.bytes_float / 1e3:,.0f}", "int8  ": f"{row.bytes_int8 / 1e3:,.0f}"}
        | {"refused (%): others": f"{row.refused_others:.0f}", "own": f"{row.refused_own:.0f}"}
        | {"noise": f"{row.strangers:.0f}"}
        for row in mean.itertuples()
    ]
    return pd.DataFrame(rows)


def told_of_times(times: pd.DataFrame) -> pd.DataFrame:
    """Seconds of every study, and the megabytes of the command's process."""
    cells = times.seconds.map("{:.2f} s".format) + times.megabytes.map(
        lambda most: "" if pd.isna(most) else f", {most:.0f} MB"
    )
    table = times.assign(cell=cells).pivot(index="what", columns="study", values="cell")
    order = times.sort_values("megabytes", ascending=False, kind="stable").what.unique()  # the command first
    return table.reindex(order).fillna("").rename_axis(columns=None).rename_axis("what is asked for")


def draw(networks: pd.DataFrame) -> Figure:
    """Measured over told milliseconds, a panel for each study."""
    figures.style()
    studies = list(networks.study.unique())
    columns = min(2, len(studies))
    rows = ceil(len(studies) / columns)
    figure, axes = figures.panels(rows, columns, height=3.4 * rows)
    for axis in axes.flat[len(studies) :]:
        axis.set_visible(False)
    for axis, study in zip(axes.flat, studies, strict=False):
        own = networks[networks.study == study]
        ends = [0, 1.05 * own[["asked_ms", "measured_ms", "measured_ms_int8"]].max().max()]
        axis.plot(ends, ends, color="0.6", linewidth=1)
        axis.plot(own.asked_ms, own.measured_ms, "o", color="#0b5fa5", markersize=4, label="floats")
        axis.plot(own.asked_ms, own.measured_ms_int8, "v", color="#d4a300", markersize=4, label="8-bit integers")
        axis.set(title=study, xlabel="bound (ms)", xlim=ends, ylim=ends)
    for axis in axes[:, 0]:
        axis.set_ylabel("measured after export (ms)")
    axes[0, 0].legend(loc="upper left")
    hold, faster = in_words(networks)
    figure.suptitle(f"Bounds of milliseconds {hold}; running 8-bit integers {faster}")
    return figure
