"""DVC's stages follow the steps: their parameters, what they read and write, and what a bare `dvc repro` makes."""

import os
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.repo import Repo
from study_cases import NOTEBOOKS
from test_source import copy_repository

from pipeline import steps
from pipeline.steps import STEPS

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value")  # inside of DVC
ROOT = Path(__file__).parents[2]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
RUN = PARAMS["run"]
STAGES = {notebook.partition("_")[2]: notebook for notebook in NOTEBOOKS}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    root = copy_repository(tmp_path_factory.mktemp("dvc"))
    return Repo.init(str(root), no_scm=True)


@pytest.fixture(scope="module")
def stages(repo):
    """All stages by name, those of pipeline/dvc.yaml."""
    return {stage.name: stage for stage in repo.index.stages if Path(stage.path).parent.name == "pipeline"}


def params(stage):
    """The dotted names of a stage's parameters."""
    return {name for each in stage.deps for name in (getattr(each, "params", None) or ())}


def paths(parts, repo):
    """Of dependencies or outputs, relative to the repository's root."""
    return {os.path.relpath(part.fs_path, repo.root_dir) for part in parts}


def test_every_listed_study_has_every_stage_once(stages, repo):
    expected = {"source"} | {f"{name}@{study}" for name in (*STAGES, "report") for study in RUN}
    assert set(stages) == expected and "tiny" not in RUN and RUN[0] == "glyphs"
    for stage in stages.values():
        assert stage.wdir == repo.root_dir and not stage.frozen
    outs = [path for stage in stages.values() for path in paths(stage.outs, repo)]
    assert len(outs) == len(set(outs))


def test_there_is_no_other_file_of_stages():
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith(".") and name not in ("build", "data", "__pycache__")]
        found += [Path(folder, file).relative_to(ROOT) for file in files if file == "dvc.yaml"]
    assert sorted(map(str, found)) == ["dvc.yaml", "pipeline/dvc.yaml"]
    first, second = (yaml.safe_load((ROOT / path).read_text())["stages"] for path in found)
    assert not set(first) & set(second)


@pytest.mark.parametrize("study", RUN)
@pytest.mark.parametrize("name", STAGES)
def test_a_stages_parameters_cover_those_of_its_steps_and_of_their_jobs(name, study, stages):
    listed = params(stages[f"{name}@{study}"])
    own = [step for step in STEPS.values() if step.notebook == STAGES[name]]
    needed = set().union({"data"}, *(steps.all_params(step) for step in own))
    if own:
        needed |= {"seeds", "dropout", "branches", "scenarios"}  # which jobs; and a budget is checked before any work
    for param in needed:
        assert any(f"studies.{study}.{param}.".startswith(f"{each}.") for each in listed), param
    assert all(each == f"studies.{study}" or each.startswith(f"studies.{study}.") for each in listed)


def test_every_parameter_that_a_stage_lists_is_there(stages):
    """Or DVC fails after the stage has run."""
    for stage in stages.values():
        for name in params(stage):
            section = PARAMS
            for part in name.split("."):
                assert part in section, f"{stage.name} lists {name}"
                section = section[part]


@pytest.mark.parametrize("study", RUN)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_its_notebook_and_depends_on_that_and_its_code(name, study, stages, repo):
    stage, notebook = stages[f"{name}@{study}"], STAGES[name]
    source, written = f"build/source/{notebook}.ipynb", f"build/{study}/{notebook}.ipynb"
    assert stage.cmd.startswith(f"papermill {source} {written} -p study {study} -p root . --engine eas")
    assert {source, f"build/source/{notebook}.code"} <= paths(stage.deps, repo)
    assert written in paths(stage.outs, repo) and written in paths(stages[f"report@{study}"].deps, repo)
    if name != "superclasses":
        assert f"build/{study}/dataset.safetensors" in paths(stage.deps, repo)


@pytest.mark.parametrize("study", RUN)
def test_results_are_written_where_stages_say_and_read_from_stages_that_write_them(study, stages, repo):
    tops = {name: f"build/{study}/{step.path.split('/')[0]}" for name, step in STEPS.items()}
    stage_of = {notebook: stages[f"{name}@{study}"] for name, notebook in STAGES.items()}
    for name, step in STEPS.items():
        stage = stage_of[step.notebook]
        (out,) = [out for out in stage.outs if paths([out], repo) == {tops[name]}]
        assert out.persist and out.use_cache  # a killed stage's results are found by the next run
        for each in step.inputs:
            at_hand = stage.outs if STEPS[each].notebook == step.notebook else stage.deps
            assert tops[each] in paths(at_hand, repo)


def test_a_bare_repro_makes_the_embedded_study_and_no_other(repo, stages):
    roots = [stage for stage in repo.index.stages if Path(stage.path).parent == Path(repo.root_dir)]
    assert roots
    needed = {each.name for stage in roots for each in networkx.descendants(repo.index.graph, stage)}
    embedded = {f"{name}@glyphs" for name in (*STAGES, "report")} | {"source"}
    assert needed - {stage.name for stage in roots} == embedded


def test_only_cheap_outputs_are_kept_in_git_and_the_others_in_the_cache(stages, repo):
    for name, stage in stages.items():
        for out in stage.outs:
            report = paths([out], repo).pop().startswith("reports/")
            assert out.use_cache != report and report == name.startswith("report@")
    embedded = paths(stages["report@glyphs"].outs, repo)
    notebooks = {f"reports/glyphs/{notebook}.ipynb" for notebook in NOTEBOOKS}
    assert (
        notebooks | {f"reports/glyphs/{name}" for name in ("README.md", "metrics.json", "comparison.csv")} <= embedded
    )


def test_bytecode_and_what_a_killed_process_leaves_are_no_dependency_and_no_output(repo):
    root = Path(repo.root_dir)
    for path in (
        "eas/__pycache__/files.pyc",
        "build/tiny/supernets/.x1y2.part/none-0.json",
        "notebooks/.ipynb_checkpoints/a",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
        assert repo.dvcignore.is_ignored_file(str(root / path))
    assert not repo.dvcignore.is_ignored_file(str(root / "eas" / "files.py"))
