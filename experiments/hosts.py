"""A run on several hosts: each computes its share of the pieces into one folder, the first joins them.

Every host is given the same command but for its number:

    purimetry reproduce --out /shared/out --cache /shared/cache --coordinator 10.0.0.1:1234 --hosts 2 --host 0

Hosts compute nothing together. `jax.distributed` counts them, lets them wait for each other, and ends all when one
fails; the same commands then resume. On one host everything here does nothing.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .configuration import Configuration

PATIENCE = 7 * 24 * 3600
"""Seconds that a host waits for the others to do their share."""

LEAVE = 20
"""Seconds that a host that failed waits for the others before all are ended."""

SEEN = 90
"""Seconds after which a file of another host is not expected to appear any more; NFS remembers for 60 what was not."""


def join(configuration: Configuration) -> None:
    """Make this process one of the run's hosts; before JAX is first used. OSError if it cannot be."""
    if configuration.coordinator is None:
        return
    import jax

    told = {"coordinator_address": configuration.coordinator, "num_processes": configuration.hosts,
            "process_id": configuration.host}
    try:
        jax.distributed.initialize(**({} if configuration.coordinator == "auto" else told),
                                   shutdown_timeout_seconds=LEAVE)
    except (RuntimeError, ValueError) as error:
        raise OSError(f"cannot join the run's hosts by --coordinator {configuration.coordinator} ({error}); give the "
                      "first host's own address and a free port, with --hosts and --host") from error


def index() -> int:
    """Number of this host; the first is 0."""
    import jax

    return jax.process_index()


def count() -> int:
    """How many hosts there are."""
    import jax

    return jax.process_count()


def wait(moment: str) -> None:
    """Wait until every host has come to this moment of the run; each has a name of its own."""
    if count() > 1:
        from orbax.checkpoint.multihost import sync_global_processes

        sync_global_processes(moment, timeout=PATIENCE, processes=set(range(count())))


def first_opens(folder: Path, opened: Callable[[], Any]) -> Any:
    """`opened()`, which makes the run's folder, on the first host, then on the others, which must see that folder."""
    if index() > 0:
        wait("opened")
        deadline = time.monotonic() + SEEN
        while not (folder / "run.json").exists():
            if time.monotonic() > deadline:
                raise OSError(f"host {index()} does not see the folder {folder} of the first; give --out and --cache "
                              "on a file system that all hosts share")
            time.sleep(1)
        return opened()
    result = opened()
    wait("opened")
    return result
