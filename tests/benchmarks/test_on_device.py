"""On one processor: what is measured, and the page that tells it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from cases import CIFAR100
from tiny_kit import make_kit, write_tiny_kit

from benchmarks import on_device, on_device_page, serving_times
from eas.serving import latency


@pytest.fixture
def kit(supernet, dataset):
    return dataclasses.replace(make_kit(supernet, dataset), test=dataset.test)


@pytest.fixture
def tables(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "ARCHS", 12)
    return [latency.latency_table(kit.supernet.space, runtime) for runtime in ("onnxruntime", "torch")]


def test_a_table_is_judged_on_archs_that_it_was_not_fitted_on(kit, tables, monkeypatch):
    space = kit.supernet.space
    fitted, others = (
        {tuple(arch) for arch in each.tolist()}
        for each in (latency.spread_archs(CIFAR100, on_device.ARCHS), on_device.held_out(CIFAR100))
    )
    assert not fitted & others
    archs = on_device.held_out(space)
    assert len(archs) == on_device.HELD_OUT
    truth = tables[0].seconds(space, archs, latency.outputs_of(archs)).numpy()
    off = np.where(np.arange(len(truth)) % 3 == 0, 1.2, 1.0)  # a third takes a fifth longer, and all a tenth
    monkeypatch.setattr(on_device, "measure", lambda *arguments: np.tile(truth * off * 1.1, (5, 1)))
    judged = on_device.judge("glyphs", space, tables[0])
    assert judged["speed"] == pytest.approx(10) and judged["error"] == pytest.approx(100 * (1 - 1 / 1.2) / 3)
    assert judged["kept"] == pytest.approx(100 if tables[0].margin >= 0.2 else 200 / 3) and judged["correlation"] > 0.8


def test_networks_of_every_superclass_keep_their_bounds_and_are_tested(kit, tables, tmp_path, monkeypatch):
    monkeypatch.setattr(on_device, "BOUNDS", 1)
    (tmp_path / "files").mkdir()
    rows, runs = zip(*on_device.networks_of("glyphs", kit, tables[0], tmp_path / "files"), strict=True)
    assert [row["group"] for row in rows] == list(kit.hierarchy.superclasses)
    assert all(row["told_ms"] <= row["asked_ms"] for row in rows) and all(len(pair) == 2 for pair in runs)
    assert all(0 <= row["top1"] <= 100 and row["bytes_int8"] > 0 for row in rows)
    assert all(run() for pair in runs for run in pair)


def test_serving_is_timed_cold_and_live(kit, dataset, tmp_path, monkeypatch):
    folder = write_tiny_kit(tmp_path / "tiny", kit, dataset)
    monkeypatch.setattr(serving_times, "ROUNDS", 2)
    monkeypatch.setattr(serving_times, "SCENARIOS", 3)
    times = serving_times.times_of(str(folder), kit)
    assert len(times) == 7 and (times.seconds > 0).all() and set(times.study) == {"tiny"}
    assert times.megabytes.notna().tolist() == 2 * [True] + 5 * [False]
    assert (times.loc[0, ["seconds", "megabytes"]] > times.loc[1, ["seconds", "megabytes"]]).all()
    assert "3 scenarios" in times.what.iloc[-1]
    assert len(serving_times.times_of(str(tmp_path), kit)) == 5  # no files there, for the command


# -------------------------------------------------------------------- the page


def made_up(studies=("one", "two")):
    """Tables and networks as they are written, of studies that differ."""
    table = {"fastest_ms": 0.1, "slowest_ms": 1.0, "error": 2.0, "correlation": 0.99, "correlation_of_madds": 0.9}
    table |= {"speed": 3.0, "margin": 5.0, "kept": 96.0, "processor": "a chip"}
    tables = [{"study": s, "runtime": r, **table} for s in studies for r in ("onnxruntime", "onnxruntime-int8")]
    row = {"madds": 1e6, "low": 60.0, "high": 80.0, "images": 100, "bytes_float": 9e5, "bytes_int8": 3e5}
    row |= {"refused_own": 9.0, "refused_others": 88.0, "strangers": 97.0, "kept": 0.5}
    row |= {"kept_at_speed": 0.95, "speed": 1.1}
    networks = [
        {"study": study, "group": group, "share": share, "asked_ms": share, "told_ms": 0.97 * share}
        | {"measured_ms": 0.95 * share, "measured_ms_int8": 0.5 * share, "top1": 70 + share, "top1_int8": 69 + share}
        | row
        for study in studies
        for group in ("x", "y")
        for share in (0.1, 0.9)
    ]
    return pd.DataFrame(tables), pd.DataFrame(networks)


def write_all(folder, tables, networks):
    times = [("cold", 2.5, 700.0, "one"), ("live", 0.125, None, "one"), ("live", 0.5, None, "two")]
    times = pd.DataFrame(times, columns=["what", "seconds", "megabytes", "study"])
    for name, table in zip(on_device_page.TABLES, (tables, networks, times), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)


@pytest.mark.parametrize("studies", [("one",), ("one", "two")])
def test_the_page_says_what_the_tables_hold(tmp_path, studies):
    write_all(tmp_path, *made_up(studies))
    on_device_page.render(tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "which keeps the aim" in page and "On a chip, one thread" in page
    assert "8-bit integers take 33% of the bytes, and running them is faster" in page.replace("\n", " ")
    assert "Bounds of milliseconds hold as long as the machine is as fast" in page
    assert "networks' runs 50 % keep" in page and all(f"| {study} " in page for study in studies)
    assert "| cold" in page and "2.50 s, 700 MB" in page and "0.12 s" in page
    assert "| one" in page and (tmp_path / "figures" / "latency.png").is_file() and "nan" not in page


def test_what_was_not_reached_is_told(tmp_path):
    tables, networks = made_up(("one",))
    tables["error"], networks["measured_ms_int8"] = 9.0, networks.measured_ms
    said = on_device_page.verdict(tables, networks)
    assert "does not always keep the aim" in said and "running them gains little" in said


def test_studies_that_differ_are_told_from_the_least_to_the_most():
    tables, networks = made_up()
    networks["refused_others"] = networks.study.map({"one": 91.0, "two": 80.0})
    said = on_device_page.verdict(tables, networks)
    assert "*none of these***: 80 to 91 % of them; and by mistake 9 % of a network's own." in said


def test_a_study_measured_again_replaces_its_rows_only(tmp_path):
    tables, _ = made_up()
    path = tmp_path / "tables.csv"
    on_device.replace_rows(path, tables)
    on_device.replace_rows(path, tables[tables.study == "one"].assign(error=7.0))
    assert pd.read_csv(path).groupby("study").error.agg(["mean", "size"]).loc[["one", "two"]].values.tolist() == [
        [7, 2],
        [2, 2],
    ]


def test_rendering_without_measuring_first_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(on_device, "FOLDER", tmp_path)
    assert on_device.main(["--render"]) == 1 and "is missing: measure first" in capsys.readouterr().err
    assert on_device.main([]) == 1 and "name the studies" in capsys.readouterr().err
