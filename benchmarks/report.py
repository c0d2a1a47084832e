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

from benchmarks import loading, search_cost
from benchmarks.training_step import EAS, FLOAT32, OFA
from eas.files import write_text
from pipeline.report import Metrics, figures
from pipeline.report.template import GENERATED
from pipeline.store import machine

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
    "training_times_mobilenetv3_64": 1.5,
    "training_times_mobilenetv3_112": 1.5,
    "loading_times_files_224": 1,
    "loading_times_mapped_224": 1,
}


def write_table(folder: Path, name: str, table: pd.DataFrame, run: str, beside: str) -> None:
    """Write a table, with what it was measured on and with: in which run, and beside what other work."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    about = {package: version(package) for package in ("torch", "ofa")} | {"run": run, "beside": beside}
    about |= {"machine": machine(), "python": platform.python_version()}
    every = read_about(folder) | {name: about}
    write_text(folder / "machines.json", json.dumps(every, indent=1, sort_keys=True) + "\n")


def read_about(folder: Path) -> dict[str, dict[str, str]]:
    """What every table was measured on and with, by its name."""
    path = folder / "machines.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """A table that `write_table` wrote.

    Raises:
        FileNotFoundError: that part has not been run; says so.
    """
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `make bench`")
    return pd.read_csv(path)


def metrics(folder: Path) -> Metrics:
    """The headline numbers."""
    search, training = read_table(folder, "search"), read_table(folder, "training").set_index(["study", "side"])
    numbers: Metrics = {}
    last = search[search.scenarios <= 50].sort_values("scenarios").groupby("method", sort=False).last()
    generator = search[search.method == "generator"].set_index("scenarios").per_scenario
    for method, row in last.drop(index="generator").iterrows():
        # The finder's scenarios do not help each other: what it takes for 5 is what it takes for 50.
        numbers[f"search_times_{method}"] = float(row.per_scenario / generator[50])
    numbers["search_us_50"] = float(generator[50] * 1e6)
    numbers["search_us_500"] = float(generator[500] * 1e6)
    numbers["search_us_most"] = float(generator.iloc[-1] * 1e6)
    numbers["search_setup_seconds"] = float(read_table(folder, "search_setup").set_index("part").seconds["generator"])
    memory = read_table(folder, "search_memory").set_index("scenarios").peak_mb
    numbers["search_memory_mb_most"] = float(memory.iloc[-1])
    even = read_table(folder, "search_break_even").set_index("method").scenarios
    numbers |= {f"search_break_even_{method}": float(even[method]) for method in ("ofa_finder", "ofa_finder_long")}
    profile = read_table(folder, "training_profile").set_index(["study", "side"])
    convolutions = profile.filter(like="convolutions").sum(axis=1)
    for study in training.index.levels[0]:
        rate = training.images_per_second[study]
        plain = FLOAT32 if FLOAT32 in rate else EAS
        numbers[f"training_times_{study}"] = float(rate[EAS] / rate[OFA])
        numbers[f"training_times_float32_{study}"] = float(rate[plain] / rate[OFA])
        numbers[f"training_matrix_share_{study}"] = float(training.matrix_share[study][EAS])
        share = numbers[f"training_convolutions_{study}"] = float(convolutions[study][plain])
        numbers[f"training_times_most_{study}"] = numbers[f"training_times_float32_{study}"] * 100 / share
    numbers |= gpu_metrics(folder) | mobilenetv3_metrics(folder) | loading_metrics(folder)
    ratios = read_table(folder, "network_ratios").set_index("step").times
    numbers["calibration_times_equal"] = float(ratios["calibrate, equal batches"])
    numbers["calibration_times_own"] = float(ratios["calibrate, each in its own batches"])
    network = read_table(folder, "network")
    whole = network[(network.side == "eas") & (network.step == "all")]
    numbers["network_seconds"] = float(whole.seconds.item())
    exponents = read_table(folder, "growth_exponents").set_index(["axis", "work"]).exponent_top
    numbers["growth_scenarios"] = float(exponents["scenarios", "generate"])
    growth = read_table(folder, "growth")
    for short, begins in {"fit": "closed form", "branches": "branches"}.items():
        largest = growth[growth.work.str.startswith(begins)].iloc[-1]
        numbers |= {f"growth_{short}_seconds": float(largest.seconds), f"growth_{short}_mb": float(largest.peak_mb)}
    rates = read_table(folder, "processes").set_index("processes").images_per_second
    numbers["processes_times"] = float(rates[2] / rates[1])
    numbers["study_minutes"] = float(read_table(folder, "study_stages").seconds.sum() / 60)
    return numbers


def gpu_metrics(folder: Path) -> Metrics:
    """Of a training step on a GPU, where one was measured: times as fast as the peer's, and shares of the limits."""
    if not (folder / "training_gpu.csv").is_file():
        return {}
    table = read_table(folder, "training_gpu").set_index(["study", "side"])
    numbers: Metrics = {}
    for study in table.index.levels[0]:
        eas, plain, ofa = (table.loc[(study, side)] for side in (EAS, FLOAT32, OFA))
        numbers[f"training_times_gpu_{study}"] = float(eas.images_per_second / ofa.images_per_second)
        numbers[f"training_times_float32_gpu_{study}"] = float(plain.images_per_second / ofa.images_per_second)
        numbers[f"training_matrix_share_gpu_{study}"] = float(eas.matrix_share)
        numbers[f"training_bandwidth_share_gpu_{study}"] = float(eas.bandwidth_share)
    return numbers


def mobilenetv3_metrics(folder: Path) -> Metrics:
    """Of a training step of OFA's own network at each image size: times as fast as the peer's, in float32 too."""
    equal = read_table(folder, "mobilenetv3_equality")
    numbers: Metrics = {"mobilenetv3_largest_difference": float(equal.largest_difference.max())}
    for size, table in read_table(folder, "mobilenetv3").groupby("image_size"):
        rate = table.set_index("side").images_per_second
        numbers[f"training_times_mobilenetv3_{size}"] = float(rate[EAS] / rate[OFA])
        plain = FLOAT32 if FLOAT32 in rate else EAS
        numbers[f"training_times_float32_mobilenetv3_{size}"] = float(rate[plain] / rate[OFA])
    return numbers


def loading_metrics(folder: Path) -> Metrics:
    """Of reading photographs at each image size: times as many a second as the peer reads."""
    numbers: Metrics = {}
    for size, table in read_table(folder, "loading").groupby("image_size"):
        rate = table.set_index("side").images_per_second
        for name, side in (("files", loading.FILES), ("mapped", loading.MAPPED)):
            numbers[f"loading_times_{name}_{size}"] = float(rate[side] / rate[loading.PEER])
    return numbers


def render(folder: Path) -> None:
    """Write metrics.json, figures/ and README.md from the tables in `folder`.

    Raises:
        FileNotFoundError: a part has not been run; says so.
    """
    numbers = metrics(folder)
    write_text(folder / "metrics.json", json.dumps(numbers, indent=1) + "\n")
    figures.style()
    (folder / "figures").mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw(folder)
        figure.savefig(folder / "figures" / f"{name}.png", metadata={"Software": None})
        plt.close(figure)
    write_text(folder / "README.md", page(folder, numbers))


# -------------------------------------------------------------------- figures


def search_figure(folder: Path) -> Figure:
    """Seconds in all over scenarios; the generator also with its training."""
    table = read_table(folder, "search")
    training = read_table(folder, "search_setup").set_index("part").seconds["generator"]
    figure, ((axis,),) = figures.panels(height=4)
    looks = figures.looks(table.method.unique())
    for method, part in table.groupby("method", sort=False):
        axis.plot(part.scenarios, part.seconds, label=method, **looks[method])
    generator = table[table.method == "generator"]
    look = looks["generator"] | {"linestyle": ":", "markerfacecolor": "white"}
    axis.plot(generator.scenarios, generator.seconds + training, label="generator, with its training", **look)
    axis.set(xscale="log", yscale="log", xlabel="scenarios", ylabel="seconds in all")
    seconds = table.pivot(index="scenarios", columns="method", values="seconds")[["ofa_finder", "generator"]].dropna()
    times, count = seconds.ofa_finder.iloc[-1] / seconds.generator.iloc[-1], seconds.index[-1]
    axis.set_title(f"For {count} scenarios OFA's finder takes {times:,.0f} times as long as the generator", loc="left")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def training_figure(folder: Path) -> Figure:
    """Where a training step's time goes, in both implementations; the length is the step's time."""
    table = read_table(folder, "training").set_index(["study", "side"])
    profile = read_table(folder, "training_profile").set_index(["study", "side"])
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
        times = table.seconds[study, "ofa"] / table.seconds[study, "eas"]
        axis.set(title=f"{study}: {times:.2f} times as fast as OFA's", xlabel="milliseconds a step")
        axis.invert_yaxis()
        figures.plain_names(axis)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def network_figure(folder: Path) -> Figure:
    """Seconds of the steps that both sides take."""
    table = read_table(folder, "network")
    both = table.groupby("step").side.transform("nunique") == 2
    table = table[both & ~table.step.str.contains("per million")]
    figure, ((axis,),) = figures.panels(height=3)
    names = list(dict.fromkeys(table.step))
    for side, offset, shade in (("eas", -0.2, "0.2"), ("ofa", 0.2, "0.65")):
        part = table[table.side == side]
        places = [names.index(step) + offset for step in part.step]
        spread = [part.seconds - part.low, part.high - part.seconds]
        axis.barh(places, part.seconds, 0.38, xerr=np.abs(spread), color=shade, ecolor="0.5", label=side)
    times = read_table(folder, "network_ratios").set_index("step").times["calibrate, each in its own batches"]
    axis.set_title(f"OFA's calibration takes {times:.1f} times as long", loc="left")
    axis.set(xscale="log", xlabel="seconds (bars: median, lines: quartiles)")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.legend()
    figures.plain_names(axis)
    return figure


def growth_figure(folder: Path) -> Figure:
    """Seconds over every size, and the exponent at the largest ones."""
    table, exponents = read_table(folder, "growth"), read_table(folder, "growth_exponents").set_index(["axis", "work"])
    axes_of = list(dict.fromkeys(table.axis))
    figure, axes = figures.panels(2, 2, height=6)
    for axis, name in zip(axes.flat, axes_of, strict=True):
        part = table[table.axis == name]
        for work, look in figures.looks(part.work.unique()).items():
            line, power = part[part.work == work], exponents.exponent_top[name, work]
            axis.plot(line["size"], line.seconds, label=f"{work.split(',')[0]}: exponent {power:.2f}", **look)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.margins(y=0.1 + 0.2 * part.work.nunique())  # room for the names
        axis.legend(fontsize=7, loc="upper left")
    figure.suptitle(f"Nothing grows by more than the power {exponents.exponent_top.max():.1f} of its size")
    return figure


def study_figure(folder: Path) -> Figure:
    """Seconds of the stages of `make study`, without those that are hardly to be seen."""
    stages = read_table(folder, "study_stages")
    stages = stages[stages.seconds > stages.seconds.sum() / 100]
    figure, ((axis,),) = figures.panels(height=0.8 + 0.3 * len(stages))
    bars = axis.barh(stages.stage, stages.seconds, color="0.45")
    axis.bar_label(bars, [f"{value:.0f} s" for value in stages.seconds], padding=4)
    most = stages.sort_values("seconds").tail(3)
    told = f"Three stages take {most.seconds.sum() / stages.seconds.sum():.0%}: {', '.join(most.stage[::-1])}"
    axis.set_title(told, loc="left")
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
    tables = {f"table_{path.stem}": markdown(read_table(folder, path.stem)) for path in folder.glob("*.csv")}
    methods = "\n".join(f"- `{name}`: {text}." for name, text in search_cost.DESCRIPTIONS.items())
    files = ", ".join(f"[{path.name}]({path.name})" for path in sorted(folder.glob("*.csv")))
    parts = {"generated": GENERATED.replace("pipeline.report", "benchmarks"), "gpu": on_a_gpu(folder, numbers, about)}
    parts |= {"runs": runs(about), "aims": aims(numbers), "methods": methods, "files": files}
    parts |= {f"{name}_rounded": rounded(value) for name, value in numbers.items()}
    return PAGE.read_text(encoding="utf-8").format(**numbers, **tables, **parts)


def on_a_gpu(folder: Path, numbers: Metrics, about: dict[str, dict]) -> str:
    """The part on a training step on a GPU, where one was measured."""
    if "training_gpu" not in about:
        return "On a GPU it has not been measured yet: `make bench` does, where it finds one.\n"
    values = numbers | about["training_gpu"] | {"table": markdown(read_table(folder, "training_gpu"))}
    return GPU_PART.read_text(encoding="utf-8").format(**values)


def runs(about: dict[str, dict]) -> str:
    """A row for every run: when, with what, beside what other work, and the tables that are of it."""
    table = pd.DataFrame(about).T.rename_axis("tables").reset_index()
    known = [column for column in table if column != "tables"]
    return markdown(table.groupby(known)["tables"].agg(", ".join).reset_index())


def aims(numbers: Metrics) -> str:
    """A row for every aim: what was aimed at, what was measured."""
    rows = [
        {"ratio": name, "aim, at least": f"{aim:,.10g}", "measured": rounded(numbers[name])}
        | {"met": "yes" if numbers[name] >= aim else "no"}
        for name, aim in AIMS.items()
        if name in numbers  # a GPU is not everywhere
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def rounded(value: float) -> str:
    """With three significant digits, which are all that times deserve."""
    return f"{float(f'{value:.3g}'):,.10g}"


def markdown(table: pd.DataFrame) -> str:
    """The table, its fractions rounded; whole numbers stay whole."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if np.isnan(value) else rounded(value)
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    return table.map(cell).to_markdown(index=False, disable_numparse=True)
