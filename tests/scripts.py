"""Scripts in processes of their own, forked off a server that has imported what all of them need."""

import multiprocessing
import multiprocessing.connection
import os
import runpy
import socket
import sys
import time
from unittest.mock import patch

from torch import distributed

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["accelerate", "torch.distributed.fsdp", "shammie.core.model", "shammie.core.generate"])


def _work(line, place, out, environment):
    os.environ.update(environment)
    os.chdir(place)
    for stream in (1, 2):
        os.dup2(os.open(f"{out}{stream}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    sys.argv, sys.path[:0] = line, [os.path.dirname(line[0])]
    with patch("torch.distributed.init_process_group", wraps=distributed.init_process_group) as joined:
        runpy.run_path(line[0], run_name="__main__")
    assert joined.called == ("WORLD_SIZE" in environment), "processes of a group must not each work alone"


def _group(processes):
    """What the processes of a group are told by a launcher; one alone is told nothing."""
    if processes == 1:
        return [{}]
    with socket.socket() as held:
        held.bind(("localhost", 0))
        shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(held.getsockname()[1])}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def run_script(place, *line, processes=1, timeout=200, **environment):
    """Run a script in a directory, in a process or a group of them; what the first one printed."""
    line, started = [str(word) for word in line], []
    for rank, told in enumerate(_group(processes)):
        out = str(place / f"printed-{rank}-")
        started.append(FORKS.Process(target=_work, args=(line, place, out, environment | told)))
        started[-1].start()
    running, end = {process.sentinel for process in started}, time.monotonic() + timeout
    while running and not any(process.exitcode for process in started) and time.monotonic() < end:
        running.difference_update(multiprocessing.connection.wait(list(running), timeout=1))
    for process in started:
        process.kill()  # the others of one that failed wait for it
        process.join()
    for rank, process in enumerate(started):
        said = (place / f"printed-{rank}-2").read_text()[-9000:]
        assert process.exitcode == 0, f"{line} ended with {process.exitcode}:\n{said}"
    return (place / "printed-0-1").read_text()
