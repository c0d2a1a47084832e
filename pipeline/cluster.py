"""Independent jobs on many machines: Dask's scheduler and workers, which this only asks.

EAS_CLUSTER=tcp://host:8786 has every step's jobs run there instead of on this machine (see pipeline.jobs). Workers see
the same folder under the same path, have one thread each (`dask worker ... --nworkers 8 --nthreads 1`), and, where they
have a GPU, say so (`--resources GPU=1`). A worker that is lost costs what it was doing: another one does it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from tqdm import tqdm

from pipeline.jobs import in_turn, start_work

PATIENCE = 20  # seconds that a scheduler may take to answer


def run_there(
    function: Callable, arguments: Sequence[Sequence[Any]], label: str, address: str, *, gpu: bool
) -> list[Any]:
    """As pipeline.jobs.run, on the cluster of an address; jobs that use a GPU go to workers that have one, if any has.

    Raises:
        ModuleNotFoundError: the package distributed is missing; says how to install it.
        RuntimeError: nobody answers there, or a job's workers were lost again and again.
    """
    if find_spec("distributed") is None:
        raise ModuleNotFoundError("EAS_CLUSTER needs the package distributed: pip install 'eas[cluster]'")
    from distributed import Client, KilledWorker, as_completed

    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"no scheduler answers at EAS_CLUSTER={address}: {' '.join(str(error).split())}") from None
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        needs = {"resources": {"GPU": 1}} if gpu and any("GPU" in each["resources"] for each in workers) else {}
        options = {"pure": False, **needs}
        futures = [client.submit(there, os.getcwd(), function, *each, **options) for each in arguments]
        try:
            for future in tqdm(as_completed(futures), label, len(futures)):
                future.result()
        except KilledWorker as error:
            raise RuntimeError(
                f"{label}: workers were lost again and again ({error}); what is finished stays"
            ) from None
        except BaseException:
            client.cancel(futures)
            raise
        return client.gather(futures)


def there(folder: str, function: Callable, *arguments: Any) -> Any:
    """A job on a worker, which begins in the folder of the one who asked."""
    os.chdir(folder)
    start_work()
    return in_turn(function, arguments)
