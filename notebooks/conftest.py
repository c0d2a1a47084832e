"""How the notebooks' tiny profile is run: so that it prints the same for everyone.

pytest --nbval notebooks/                            compares the outputs with the committed ones
python notebooks/conftest.py notebooks/*.ipynb       runs notebooks in place, for fresh outputs to commit
"""

import os
import platform
import shutil
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent
PLAIN = NOTEBOOKS.parent / "build" / "plain"


def plain_environment() -> dict[str, str]:
    """Forget earlier runs of the tiny profile, which may be another version's, and make all runs alike.

    No progress bars, no GPU, one thread, and git-ignored settings instead of those in the user's home.
    Sums are rounded differently by wider vector instructions: x86-64 stays with those of the last ten years.
    """
    shutil.rmtree(NOTEBOOKS.parent / "build" / "tiny", ignore_errors=True)
    PLAIN.mkdir(parents=True, exist_ok=True)
    homes = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "MPLCONFIGDIR": "matplotlib"}
    variables = {"TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if platform.machine() in ("x86_64", "AMD64"):
        variables |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    return variables | {name: str(PLAIN / folder) for name, folder in homes.items()}


def pytest_configure(config):
    """Set what would otherwise have to be said on the command line."""
    config.option.nbval_current_env = True
    config.option.nbval_cell_timeout = 300
    config.option.nbval_sanitize_with = str(NOTEBOOKS / "sanitize.cfg")
    if getattr(config.option, "nbval", False):  # otherwise only the tests of eas run, in the user's environment
        os.environ |= plain_environment()


def pytest_collectstart(collector):
    """Warnings are no results: the engine drops them from committed outputs, so nbval must not miss them there."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def refresh(path: Path) -> None:
    """Run one notebook and, if it succeeds, replace it by what came out.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the notebook stays as it was.
    """
    import papermill

    fresh = PLAIN / path.name
    where = {"cwd": NOTEBOOKS, "kernel_name": "python3", "language": "python"}
    papermill.execute_notebook(path.resolve(), fresh, engine_name="eas", progress_bar=False, **where)
    path.write_bytes(fresh.read_bytes())
    fresh.unlink()
    print(f"{path}: fresh outputs", flush=True)


if __name__ == "__main__":
    os.environ |= plain_environment()
    for argument in sys.argv[1:]:
        refresh(Path(argument))
