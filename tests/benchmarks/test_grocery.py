"""Side by side on photographs: the opponents are what they claim to be, and the page tells what was measured."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
import yaml
from photo_cases import GROUPS, draw_shop
from safetensors.torch import load_file

from benchmarks import baselines, grocery, grocery_page, grocery_trials
from eas import data
from eas.recipes import Augment, Training
from pipeline import own_kit, own_study
from pipeline.report.stats import Interval
from pipeline.store import open_workspace

RECIPE = Training(epochs=4, batch_size=16, learning_rate=0.05, random_subnets=1, augment=Augment(shift=0, flip=True))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Photographs that lie in folders under train/, and their data set at 32 pixels."""
    folder = draw_shop(tmp_path_factory.mktemp("shop") / "shop", "train", "test", count=12)
    workspace = open_workspace(str(own_study.check(folder).path))
    return folder, data.make(workspace.study.data, workspace.root, workspace.dataset_path)[0]


@pytest.fixture
def lite(shop, monkeypatch):
    """The published network, with random weights where its package is not there."""
    monkeypatch.setattr(baselines, "load_lite", lambda supernet, path: statistics_of(supernet))
    monkeypatch.setattr(
        "eas.spaces.efficientnet_lite.find_spec", lambda name: type("Spec", (), {"origin": "/there/a.py"})
    )
    return shop[1]


@torch.no_grad()
def statistics_of(supernet):
    from eas.layers import CalibratedStatistics

    statistics = CalibratedStatistics()
    torch.manual_seed(0)
    supernet(torch.rand(8, 3, 32, 32), supernet.space.largest, statistics)
    return statistics.recorded


def test_every_group_some_pairs_and_the_folders_are_asked_for(shop):
    folder, dataset = shop
    folders = grocery.folders_of(dataset, folder / "train")
    assert folders == {name: sorted(classes) for name, classes in sorted(GROUPS.items())}
    every = grocery.scenarios(dataset, {"all of it": [name for names in GROUPS.values() for name in names]})
    assert [kind for kind, _ in every.values()] == ["group"] * 3 + ["pair"] * 3 + ["folder"]
    assert len(grocery.classes_of(dataset, every["bread+milk"][1])) == 4


def test_a_folder_that_is_a_group_is_one_already_and_one_group_has_no_pairs(shop):
    _, dataset = shop
    every = grocery.scenarios(dataset, {"milk": list(GROUPS["milk"])})
    assert every["milk"] == ("group", ["milk"]) and len(every) == 6
    alone = replace(dataset, hierarchy=data.Hierarchy(("all",), (dataset.hierarchy.classes,)))
    assert grocery.scenarios(alone, {}) == {"all": ("group", ["all"])}


def test_images_of_some_classes_are_labelled_by_their_places(shop):
    _, dataset = shop
    own = baselines.of_classes(dataset.test, [5, 2], 6)
    assert own.labels.bincount().tolist() == [12, 12]
    assert torch.equal(own.images[own.labels == 0], dataset.test.images[dataset.test.labels == 5])


def test_fine_tuning_learns_and_pruning_meets_its_budget(lite):
    classes = [0, 1]
    train, test = (baselines.of_classes(split, classes, 6) for split in (lite.train, lite.test))
    network = baselines.pretrained_lite(lite, classes, seed=0)
    example = torch.zeros(1, 3, 32, 32)
    whole = baselines.madds_of(network, example)
    assert whole == int(network_space().madds(network_space().largest, 2))
    baselines.finetune(network, train, RECIPE, seed=0)
    once = grocery.row("finetuned_each", "bread", "group", network, test, 1.0, 3.0)
    assert once["madds"] == whole and once["images"] == len(test) and 0 <= once["top1"] <= 100
    with torch.inference_mode():
        right = (network(test.images.float() / 255).argmax(1) == test.labels).float().mean().item()
    assert once["top1"] == pytest.approx(100 * right, abs=0.01)
    baselines.prune(network, train, 0.5 * whole, seed=0)
    assert 0.2 * whole < baselines.madds_of(network, example) <= 0.5 * whole
    baselines.finetune(network, train, RECIPE.model_copy(update={"epochs": 1}), seed=0)
    assert network(test.images.float() / 255).shape == (len(test), 2)
    with pytest.raises(ValueError, match="pruning does not reach 0.001M multiply-adds"):
        baselines.prune(network, train, 1000, seed=0)


def network_space():
    from eas.spaces import EfficientNetLiteSpace

    return EfficientNetLiteSpace(32, 3)


def test_outputs_of_a_network_for_all_classes_are_cut(lite, monkeypatch):
    monkeypatch.setitem(grocery.ONCE, "epochs", 1)
    every = grocery.scenarios(lite, {})
    rows = grocery.finetuned_once(lite, 0, every, RECIPE)
    assert [row["scenario"] for row in rows] == list(every) and len({row["minutes_before"] for row in rows}) == 1
    assert rows[0]["parameters"] < rows[3]["parameters"]  # two classes, four


def test_a_table_keeps_the_rows_of_every_part(tmp_path, monkeypatch):
    monkeypatch.setattr(grocery, "WORK", tmp_path / "build")
    made, path = [], tmp_path / "report" / "networks.csv"

    def make(top1):
        made.append(top1)
        return [{"top1": top1}, {"top1": top1 + 1}]

    for seed, name, top1 in [(0, "eas", 50.0), (1, "eas", 60.0), (0, "eas", 70.0), (0, "finetuned_each milk", 40.0)]:
        table = grocery.keep(path, {"seed": seed, "part": name}, lambda top1=top1: make(top1))
    assert made == [50, 60, 40] and table.top1.tolist() == [50, 51, 60, 61, 40, 41]
    assert table.seed.tolist() == [0, 0, 1, 1, 0, 0] and table.machine.notna().all()


def test_trials_change_what_they_say_and_are_measured_on_validation(shop, lite, monkeypatch, tmp_path, capsys):
    folder, _ = shop
    monkeypatch.setattr(grocery_trials, "WORK", tmp_path)
    monkeypatch.setattr(grocery_trials, "FOLDER", tmp_path / "report")
    monkeypatch.setattr(own_study, "PRETRAINED", replace(own_study.FROM_NOTHING, epochs=1))
    space = own_study.RESNET | {"widths": [8], "depths": [1], "stem_stride": 4}
    monkeypatch.setattr(grocery_trials, "TRIALS", {"small": {"space": space, "search.pool": 6, "training.epochs": 2}})
    monkeypatch.setattr(grocery_trials, "STARTS", {"small": lambda: grocery_trials.TRIALS["small"] | BUDGETS})
    monkeypatch.setattr(grocery_trials, "EPOCHS", {grocery_trials.ONCE: 1, grocery_trials.EACH: 1})
    monkeypatch.setattr(grocery_trials, "RATES", (0.02,))
    monkeypatch.setattr(grocery_trials, "BATCHES", (4,))
    images_of = own_kit.images_of
    nothing = data.Split(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    monkeypatch.setattr(own_kit, "images_of", lambda workspace: replace(images_of(workspace), test=nothing))
    assert grocery_trials.main([str(folder)]) == 0, capsys.readouterr().err
    written = (tmp_path / "trials" / "small.yaml").read_text()
    assert "epochs: 2" in written and "stem_stride: 4" in written
    table = grocery_page.trials_table(pd.read_csv(tmp_path / "report" / "trials.csv")).set_index("trial")
    finetuned = {f"finetuned-{how}-0.02{batch}" for how in ("once", "each") for batch in ("", "-batch-4")}
    assert set(table.index) == {"small", *finetuned} and (table.groups == 3).all()
    assert table.loc["small", "top-1 at 100%"] >= 0
    assert grocery_trials.main([str(folder), "none"]) == 1
    assert "no trial none: there are small" in capsys.readouterr().err


def test_a_start_may_learn_other_photographs_first(shop, lite, monkeypatch, tmp_path):
    folder, _ = shop
    monkeypatch.setattr(grocery_trials, "WORK", tmp_path)
    monkeypatch.setattr(own_study, "PRETRAINED", replace(own_study.FROM_NOTHING, epochs=1))
    small = {
        "data.selection": 0.2,
        "training.epochs": 2,
        "space": own_study.RESNET | {"widths": [8], "depths": [1], "stem_stride": 4},
    } | BUDGETS
    monkeypatch.setattr(grocery_trials, "BOTH_CHANGES", small)
    others = shutil.copytree(folder, tmp_path / "others")
    shutil.copytree(others / "test", others / "val")
    monkeypatch.setattr(grocery_trials, "BOTH_PHOTOS", others)
    monkeypatch.setattr(grocery_trials, "BOTH_GROUPS", None)
    start = grocery_trials.from_both()["training.start"]
    first = load_file(start["weights"])
    study = yaml.safe_load(grocery_trials.study_of(grocery_trials.BOTH, folder, None).read_text())
    assert study["training"]["start"] == start and not start["sort_channels"]
    assert any(tensor.ndim == 4 for tensor in first.values())


BUDGETS = {"scenarios.budgets": [0.1, 0.3]}


def made_up(seeds=3):
    rows = []
    for seed in range(seeds):
        for kind, names in (("group", ["milk", "bread"]), ("pair", ["milk+bread"]), ("folder", ["Food"])):
            for name in names:
                base = {"seed": seed, "scenario": name, "kind": kind, "images": 100, "machine": "a machine"}
                base |= {"parameters": 1000, "seconds": 60.0, "weights": "shared"}
                for share in grocery.SHARES:
                    top1 = 70 + 10 * share + seed * (name != "milk")
                    own = {"method": "eas", "share": share, "madds": 70e6 * share, "top1": top1, "minutes_before": 20}
                    rows.append(base | own | {"seconds": 0.1})
                for method in ("finetuned_once", "finetuned_each")[: 1 + (kind == "group")]:
                    top1 = 76 + (method == "finetuned_each")
                    own = {"method": method, "share": 1.0, "madds": 70e6, "top1": top1, "minutes_before": 0.0}
                    rows.append(base | own)
                for share in grocery.PRUNED if kind == "group" else ():
                    own = {"method": "pruned", "share": share, "madds": 70e6 * share, "top1": 60, "minutes_before": 0.0}
                    rows.append(base | own | {"seconds": 60 / share})
    return pd.DataFrame(rows)


def test_the_page_tells_what_was_measured(tmp_path):
    made_up().to_csv(tmp_path / "networks.csv", index=False)
    grocery_page.render(tmp_path)
    page, numbers = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "metrics.json").read_text())
    # Milk has 70 + 10 / 2, bread the mean of the seeds' 0, 1, 2 more; those that were fine-tuned for each have 77.
    assert numbers["top1_eas_0.5"][0] == pytest.approx(75.5) and numbers["top1_finetuned_each_1"] == [77, 77, 77]
    assert numbers["eas_0.5_minus_finetuned_each"] == pytest.approx([-1.5, -7.853, 4.853])
    assert "Lite0 fine-tuned for each, the better of the fine-tuned networks, the kit's are level at the whole" in page
    assert "pruned for each group they are ahead at half and at a quarter**: +15.5 [" in page
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    table = {row[0]: row[1:] for row in rows if row}
    # Two groups, each of 240 seconds when it was pruned to a quarter, 120 to half.
    assert table["pruned for each, tuned"] == ["4", "2.0", "8.0"]
    assert table["milk"][:4] == ["100", "80.0", "75.0", "72.5"] and "the mean of all pairs" in table
    assert "branches serve 0 of 12: 4 sets of classes, 3 seeds" in page
    assert (tmp_path / "figures" / "groups.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("half", "quarter", "told"),
    [
        ((1.0, 0.5, 1.5), (2.0, 1.0, 3.0), "ahead at half and at a quarter"),
        ((1.0, -0.5, 2.5), (-2.0, -3.0, -1.0), "level at half, behind at a quarter"),
    ],
)
def test_ahead_and_behind_is_what_all_groups_agree_on(half, quarter, told):
    numbers = {"eas_0.5_minus_pruned": Interval(*half), "eas_0.25_minus_pruned": Interval(*quarter)}
    assert grocery_page.standing(numbers, "pruned") == told


def test_there_is_no_page_before_every_method_has_every_group(tmp_path):
    networks = made_up(1)
    networks[(networks.method != "finetuned_each") | (networks.scenario != "milk")].to_csv(tmp_path / "networks.csv")
    with pytest.raises(ValueError, match="networks.csv lacks finetuned_each: the same command"):
        grocery_page.render(tmp_path)


def test_a_method_is_told_of_over_the_seeds_that_it_has(tmp_path):
    networks = made_up(3)
    begun = (networks.seed == 2) & ((networks.method != "eas") | (networks.scenario == "milk"))
    begun |= (networks.seed == 1) & (networks.method == "pruned")
    networks[~begun].to_csv(tmp_path / "networks.csv")
    grocery_page.render(tmp_path)
    page, numbers = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "metrics.json").read_text())
    # Seeds add 0 and 0.5 to the kit's mean of two groups; pruning has the first seed only.
    assert numbers["top1_eas_1"][0] == 80.25 and numbers["eas_0.5_minus_pruned"] == [15, 15, 15]
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    assert {tuple(row[4:6]) for row in cells if len(row) == 7} >= {("80.2", "2"), ("77.0", "2"), ("60.0", "1")}


def test_trials_of_other_groups_are_compared_on_those_that_they_share(tmp_path):
    each = "finetuned-each-0.02"
    found = {each: (50, 70), f"{each}-batch-16": (60, None), "finetuned-each-0.1": (None, 90), "suggested": (80, 80)}
    cells = [(name, *cell) for name, pair in found.items() for cell in zip(("milk", "bread"), pair, strict=True)]
    rows = pd.DataFrame(cells, columns=["trial", "group", "top1"]).dropna().assign(share=1.0)
    rows = pd.concat([rows, rows[:1].assign(trial=f"{each}-batch-16", group="juice")])
    rows.to_csv(tmp_path / "trials.csv")
    told = grocery_page.trials(tmp_path / "trials.csv")
    line = next(line for line in told.splitlines() if "rate 0.1 " in line)
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["fine-tuned each, rate 0.1", "1", "90.0"]
    assert told.endswith(
        "Top-1 on the 1 groups that these share: fine-tuned each, rate 0.02, 50.0 %; "
        "fine-tuned each, rate 0.02, images a step: 16, 60.0 %."
    )


def test_minutes_are_those_of_one_machine_that_has_every_method(tmp_path):
    networks = made_up(3)
    slow = (networks.seed == 0) | (networks.method == "eas") & (networks.seed == 1)
    networks.loc[slow, "machine"], networks.loc[slow, "seconds"] = "a slow machine", 6000.0
    networks = networks[~((networks.seed == 0) & (networks.method == "pruned"))]
    networks.to_csv(tmp_path / "networks.csv", index=False)
    grocery_page.render(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "On a machine, a core each" in page
    assert [cell.strip() for cell in page[page.index("minutes to all") :].splitlines()[5].split("|")[2:5]] == [
        "4",
        "2.0",
        "8.0",
    ]


def test_a_group_may_have_any_name(tmp_path):
    made_up(1).replace({"scenario": {"milk": "banana"}}).to_csv(tmp_path / "networks.csv", index=False)
    grocery_page.render(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| banana " in page and "| nan" not in page and " nan |" not in page


def test_a_single_seed_has_no_intervals(tmp_path):
    made_up(1).to_csv(tmp_path / "networks.csv", index=False)
    grocery_page.render(tmp_path)
    assert "nan" not in (tmp_path / "README.md").read_text().lower()


def test_without_results_there_is_no_page(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(grocery, "FOLDER", tmp_path)
    assert grocery.main(["--render"]) == 1
    assert "networks.csv is missing: measure first" in capsys.readouterr().err
    assert grocery.main([]) == 1 and "name the folder of photographs" in capsys.readouterr().err
