"""Encodes the parts of a list on the machines of a Ray cluster."""

import os
import warnings

from quantjax.data.decoding import max_pixels, pixel_limit
from quantjax.errors import load_package
from quantjax.index.encoding import Job, Progress, encode_part

ITEMS_PER_PART = 8192
"""Items of a part: photos of about a minute, so that all workers end at about the same time."""


def encode_parts(job: Job, progress: Progress) -> None:
    """Encodes all parts of a job by Ray: on the cluster of RAY_ADDRESS, or on this machine.

    A part whose worker dies is given to another worker, which goes on after the last chunk. All
    machines need the folder of the parts and the photos at the same paths.

    Args:
      job: The encoding.
      progress: Called with the numbers of items in complete parts and of all items.

    Raises:
      ModuleNotFoundError: if Ray is not installed.
      ValueError, or another error of `encode_part`: if a part raises it.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # sends nothing to anybody
    ray = load_package("ray", extra="ray", purpose="encoding by --ray")
    is_ours = not ray.is_initialized()
    if is_ours:
        # On this machine alone, nobody else is to reach the cluster.
        local = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        with warnings.catch_warnings(action="ignore"):  # JAX's, of forks; Ray's start a program
            ray.init(
                log_to_driver=False,
                logging_level="error",
                **({} if os.environ.get("RAY_ADDRESS") else local),
            )
    try:
        num_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_gpus=num_gpus)(_encode_part)
        shared, limit = ray.put(job), None if job.items.vectors else max_pixels()
        waiting = [task.remote(shared, number, limit) for number in range(job.num_parts)]
        done = 0
        while waiting:
            ready, waiting = ray.wait(waiting)
            done += sum(ray.get(ready))
            progress(done, len(job.items.names))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        if is_ours:
            ray.shutdown()


def _encode_part(job, number, limit):
    """Encodes one part in a worker; returns its number of items."""
    if limit is None:
        part = encode_part(job, number)
    else:
        with pixel_limit(limit):
            part = encode_part(job, number)
    return part.end - part.begin
