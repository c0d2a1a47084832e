"""reports/benchmarks/: the tables as CSV, their figures, and a page that says what is compared with what."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks import search_cost
from benchmarks.training_step import EAS, FLOAT32, OFA
from eas import figures, records
from eas.report import GENERATED, Metrics, entry

PAGE = Path(__file__).parent / "page.md"  # what the report says, its numbers and tables left out
GPU_PART = Path(__file__).parent / "page_gpu.md"  # what it says where a GPU has been measured
AIMS = {  # what was set before anything was measured: number of metrics.json, at least
    "search_times_ofa_finder_long": 1e5,
    "search_times_ofa_finder": 1e5,
    "search_times_evolution_long": 1e4,
    "search_times_evolution": 1e4,
    "training_times_cifar100": 1.5,
    "training_times_float32_cifar100": 1.5,
    "training_times_gpu_cifar100": 3,
}


def keep(folder: Path, name: str, table: pd.DataFrame, run: str, beside: str) -> None:
    """Write a table, with what it was measured on and with: in which run, and beside what other work."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    about = {package: version(package) for package in ("torch", "ofa")} | {"run": run, "beside": beside}
    kept = read_about(folder) | {name: {"machine": records.machine(), "python": platform.python_version()} | about}
    (folder / "machines.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def read_about(folder: Path) -> dict[str, dict]:
    path = folder / "machines.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def read(folder: Path, name: str) -> pd.DataFrame:
    """A table that `keep` wrote.

    Raises:
        FileNotFoundError: that part has not been run; says so.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make bench`")
    return pd.read_csv(path)


def metrics(folder: Path) -> Metrics:
    """The headline numbers."""
    search, training = read(folder, "search"), read(folder, "training").set_index(["study", "side"])
    found: Metrics = {}
    last = search[search.scenarios <= 50].sort_values("scenarios").groupby("method", sort=False).last()
    own = search[(search.method == "generator")].set_index("scenarios").per_scenario
    for method, row in last.drop(index="generator").iterrows():
        # The finder's scenarios do not help each other: what it takes for 5 is what it takes for 50.
        found[f"search_times_{method}"] = float(row.per_scenario / own[50])
    found["search_us_50"] = float(own[50] * 1e6)
    found["search_us_500"] = float(own[500] * 1e6)
    found["search_us_most"] = float(own.iloc[-1] * 1e6)
    found["search_setup_seconds"] = float(read(folder, "search_setup").set_index("part").seconds["generator"])
    memory = read(folder, "search_memory").set_index("scenarios").peak_mb
    found["search_memory_mb_most"] = float(memory.iloc[-1])
    even = read(folder, "search_break_even").set_index("method").scenarios
    found |= {f"search_break_even_{method}": float(even[method]) for method in ("ofa_finder", "ofa_finder_long")}
    profile = read(folder, "training_profile").set_index(["study", "side"])
    convolutions = profile.filter(like="convolutions").sum(axis=1)
    for study in training.index.levels[0]:
        rate = training.images_per_second[study]
        plain = FLOAT32 if FLOAT32 in rate else EAS
        found[f"training_times_{study}"] = float(rate[EAS] / rate[OFA])
        found[f"training_times_float32_{study}"] = float(rate[plain] / rate[OFA])
        found[f"training_matrix_share_{study}"] = float(training.matrix_share[study][EAS])
        share = found[f"training_convolutions_{study}"] = float(convolutions[study][plain])
        found[f"training_times_most_{study}"] = found[f"training_times_float32_{study}"] * 100 / share
    found |= gpu_metrics(folder)
    ratios = read(folder, "network_ratios").set_index("step").times
    found["calibration_times_equal"] = float(ratios["calibrate, equal batches"])
    found["calibration_times_own"] = float(ratios["calibrate, each in its own batches"])
    network = read(folder, "network")
    whole = network[(network.side == "eas") & (network.step == "all")]
    found["network_seconds"] = float(whole.seconds.item())
    exponents = read(folder, "growth_exponents").set_index(["axis", "work"]).exponent_top
    found["growth_scenarios"] = float(exponents["scenarios", "generate"])
    found["study_minutes"] = float(read(folder, "study_stages").seconds.sum() / 60)
    return found


def gpu_metrics(folder: Path) -> Metrics:
    """Of a training step on a GPU, where one was measured: times as fast as the peer's, and shares of the limits."""
    if not (folder / "training_gpu.csv").is_file():
        return {}
    table = read(folder, "training_gpu").set_index(["study", "side"])
    found: Metrics = {}
    for study in table.index.levels[0]:
        eas, plain, ofa = (table.loc[(study, side)] for side in (EAS, FLOAT32, OFA))
        found[f"training_times_gpu_{study}"] = float(eas.images_per_second / ofa.images_per_second)
        found[f"training_times_float32_gpu_{study}"] = float(plain.images_per_second / ofa.images_per_second)
        found[f"training_matrix_share_gpu_{study}"] = float(eas.matrix_share)
        found[f"training_bandwidth_share_gpu_{study}"] = float(eas.bandwidth_share)
    return found


def render(folder: Path) -> None:
    """Write metrics.json, figures/ and README.md from the tables in `folder`; and reports/README.md."""
    numbers = metrics(folder)
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n")
    figures.style()
    (folder / "figures").mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw(folder)
        figure.savefig(folder / "figures" / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
    (folder / "README.md").write_text(page(folder, numbers), encoding="utf-8")
    (folder.parent / "README.md").write_text(entry(folder.parent), encoding="utf-8")


# -------------------------------------------------------------------- figures


def search_figure(folder: Path) -> Figure:
    """Seconds in all over scenarios; the generator also with its training."""
    table, setup = read(folder, "search"), read(folder, "search_setup").set_index("part").seconds["generator"]
    figure, ((axis,),) = figures.panels(height=4)
    looks = figures.looks(table.method.unique())
    for method, part in table.groupby("method", sort=False):
        axis.plot(part.scenarios, part.seconds, label=figures.label(method), **looks[method])
    own = table[table.method == "generator"]
    trained = looks["generator"] | {"linestyle": ":", "markerfacecolor": "white"}
    axis.plot(own.scenarios, own.seconds + setup, label="generator, with its training", **trained)
    axis.set(xscale="log", yscale="log", xlabel="scenarios", ylabel="seconds in all")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def training_figure(folder: Path) -> Figure:
    """Where a training step's time goes, in both implementations; the length is the step's time."""
    table = read(folder, "training").set_index(["study", "side"])
    profile = read(folder, "training_profile").set_index(["study", "side"])
    shares = profile.mul(table.seconds * 1000 / 100, axis=0)
    figure, axes = figures.panels(1, len(shares.index.levels[0]), height=2.6)
    looks = figures.looks(shares.columns)
    for axis, study in zip(axes.flat, shares.index.levels[0], strict=True):
        left = np.zeros(len(shares.loc[study]))
        hatches = ("", "//", "..", "xx", "\\\\", "")
        for kind, hatch in zip(shares.columns, hatches, strict=True):
            length = shares.loc[study, kind].to_numpy()
            bars = {"color": looks[kind]["color"], "hatch": hatch, "edgecolor": "white", "label": kind}
            axis.barh(shares.loc[study].index, length, left=left, **bars)
            left += length
        axis.set(title=study, xlabel="milliseconds a step")
        axis.invert_yaxis()
        figures.plain_names(axis)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def network_figure(folder: Path) -> Figure:
    """Seconds of every step of both sides."""
    table = read(folder, "network")
    table = table[~table.step.str.contains("per million")]
    figure, ((axis,),) = figures.panels(height=4)
    names = list(dict.fromkeys(table.step))
    for side, offset, shade in (("eas", -0.2, "0.2"), ("ofa", 0.2, "0.65")):
        part = table[table.side == side]
        places = [names.index(step) + offset for step in part.step]
        spread = [part.seconds - part.low, part.high - part.seconds]
        axis.barh(places, part.seconds, 0.38, xerr=np.abs(spread), color=shade, ecolor="0.5", label=side)
    axis.set(xscale="log", xlabel="seconds (bars: median, lines: quartiles)")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.legend()
    figures.plain_names(axis)
    return figure


def growth_figure(folder: Path) -> Figure:
    """Seconds over every size, and the exponent at the largest ones."""
    table, exponents = read(folder, "growth"), read(folder, "growth_exponents").set_index(["axis", "work"])
    axes_of = list(dict.fromkeys(table.axis))
    figure, axes = figures.panels(2, 2, height=6)
    for axis, name in zip(axes.flat, axes_of, strict=True):
        part = table[table.axis == name]
        for work, look in figures.looks(part.work.unique()).items():
            line, power = part[part.work == work], exponents.exponent_top[name, work]
            axis.plot(line["size"], line.seconds, label=f"{work.split(',')[0]}: exponent {power:.2f}", **look)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.margins(y=0.35)  # room for the names
        axis.legend(fontsize=7, loc="upper left")
    return figure


def study_figure(folder: Path) -> Figure:
    """Minutes of the stages of `make study`."""
    stages = read(folder, "study_stages")
    stages = stages[stages.seconds > 1]
    figure, ((axis,),) = figures.panels(height=0.8 + 0.3 * len(stages))
    bars = axis.barh(stages.stage, stages.seconds, color="0.45")
    axis.bar_label(bars, [f"{value:.0f} s" for value in stages.seconds], padding=4)
    axis.set(xlabel="seconds", xlim=(0, stages.seconds.max() * 1.12))
    axis.invert_yaxis()
    figures.plain_names(axis)
    return figure


FIGURES: dict[str, Callable[[Path], Figure]] = {
    "search": search_figure,
    "training": training_figure,
    "network": network_figure,
    "growth": growth_figure,
    "study": study_figure,
}

# -------------------------------------------------------------------- the page


def page(folder: Path, numbers: Metrics) -> str:
    """README.md: page.md with its numbers and tables filled in."""
    about = read_about(folder)
    tables = {f"table_{path.stem}": markdown(read(folder, path.stem)) for path in folder.glob("*.csv")}
    methods = "\n".join(f"- `{name}`: {text}." for name, text in search_cost.TOLD.items())
    files = ", ".join(f"[{path.name}]({path.name})" for path in sorted(folder.glob("*.csv")))
    said = {"generated": GENERATED.replace("eas.report", "benchmarks"), "runs": runs(about)}
    said |= {"aims": aims(numbers), "methods": methods, "files": files, "gpu": on_a_gpu(folder, numbers, about)}
    return PAGE.read_text(encoding="utf-8").format(**numbers, **tables, **said)


def on_a_gpu(folder: Path, numbers: Metrics, about: dict[str, dict]) -> str:
    """The part on a training step on a GPU, where one was measured."""
    if "training_gpu" not in about:
        return "On a GPU it has not been measured yet: `make bench` does, where it finds one.\n"
    filled = numbers | about["training_gpu"] | {"table": markdown(read(folder, "training_gpu"))}
    return GPU_PART.read_text(encoding="utf-8").format(**filled)


def runs(about: dict[str, dict]) -> str:
    """A row for every run: when, with what, beside what other work, and the tables that are of it."""
    table = pd.DataFrame(about).T.rename_axis("tables").reset_index()
    known = [column for column in table if column != "tables"]
    return markdown(table.groupby(known)["tables"].agg(", ".join).reset_index())


def aims(numbers: Metrics) -> str:
    rows = [
        {"ratio": name, "aim, at least": f"{aim:,.10g}", "measured": f"{float(f'{numbers[name]:.3g}'):,.10g}"}
        | {"met": "yes" if numbers[name] >= aim else "no"}
        for name, aim in AIMS.items()
        if name in numbers  # a GPU is not everywhere
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def markdown(table: pd.DataFrame) -> str:
    """Three significant digits are all that times deserve; whole numbers stay whole."""

    def short(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else f"{float(f'{value:.3g}'):,.10g}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    return table.map(short).to_markdown(index=False, disable_numparse=True)
