"""reports/on_device: a page and a figure, from tables.csv and networks.csv alone."""

from __future__ import annotations

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
        "tables": told_of_tables(tables).to_markdown(index=False),
        "networks": told_of_networks(networks).to_markdown(index=False),
        "times": told_of_times(times).to_markdown(),
    }
    write_text(folder / "README.md", PAGE.read_text(encoding="utf-8").format(**parts))


def verdict(tables: pd.DataFrame, networks: pd.DataFrame) -> str:
    """What was found, before its numbers; the studies' names where they differ."""
    floats = tables[tables.runtime == "onnxruntime"]
    kept, at_speed = (100 * networks.groupby("study")[name].mean() for name in ("kept", "kept_at_speed"))
    speed = 100 * (networks.groupby("study").speed.first() - 1)
    hold = (
        "hold"
        if kept.min() > 90
        else "hold as long as the machine is as fast"
        if at_speed.min() > 90
        else "do not hold in every study"
        if kept.max() > 90
        else "do not hold"
    )
    gain = (networks.measured_ms / networks.measured_ms_int8).groupby(networks.study).median()
    loss = (networks.top1_int8 - networks.top1).groupby(networks.study).mean()
    size = (networks.bytes_int8 / networks.bytes_float).median()
    refused = networks.groupby("study")[["refused_others", "refused_own"]].mean()
    faster = "is faster" if (gain > 1.05).all() else "gains little" if (gain < 1.05).all() else "is not always faster"
    held = "keeps" if floats.error.max() < 5 and floats.correlation.min() > 0.98 else "does not always keep"
    floats = floats.set_index("study")
    return "\n".join(
        (
            f"- **A table of sixty networks {held} its aim** (an error under 5 %, ranks that correlate by 0.98): "
            f"errors {each(floats.error, '.1f')} %, correlations {each(floats.correlation, '.3f')}; multiply-adds "
            f"alone correlate by {each(floats.correlation_of_madds, '.3f')}.",
            f"- **Bounds of milliseconds {hold}**: measured again after export, {each(kept, '.0f')} % of runs keep "
            f"theirs. By then any network was slower by {each(speed, '+.0f')} % than its table tells; with that taken "
            f"out, {each(at_speed, '.0f')} % do.",
            f"- **8-bit integers take {size:.0%} of the bytes, and running them {faster}**: {each(gain, '.2f')} times "
            f"the speed, for {each(loss, '+.1f')} points of accuracy.",
            f"- **Images of other classes are refused**: {each(refused.refused_others, '.0f')} % of them, and "
            f"{each(refused.refused_own, '.0f')} % of a network's own.",
        )
    )


def each(values: pd.Series, form: str) -> str:
    """A number of every study; its name where there are several."""
    if len(values) == 1:
        return f"{values.iloc[0]:{form}}"
    return ", ".join(f"{value:{form}} ({name})" for name, value in values.items())


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
    return table.reindex(times.what.unique()).fillna("").rename_axis(columns=None).rename_axis("what is asked for")


def draw(networks: pd.DataFrame) -> Figure:
    """Measured over told milliseconds, a panel for each study."""
    figures.style()
    studies = list(networks.study.unique())
    figure, axes = figures.panels(columns=len(studies), height=3.4)
    for axis, study in zip(axes[0], studies, strict=True):
        own = networks[networks.study == study]
        ends = [0, 1.05 * max(own.asked_ms.max(), own.measured_ms.max())]
        axis.plot(ends, ends, color="0.6", linewidth=1)
        axis.plot(own.asked_ms, own.measured_ms, "o", color="#0b5fa5", markersize=4, label="floats")
        axis.plot(own.asked_ms, own.measured_ms_int8, "v", color="#d4a300", markersize=4, label="8-bit integers")
        axis.set(title=study, xlabel="bound (ms)", xlim=ends, ylim=ends)
    axes[0, 0].set_ylabel("measured after export (ms)")
    axes[0, 0].legend(loc="upper left")
    figure.suptitle("Milliseconds that were asked for, and that networks take")
    return figure
