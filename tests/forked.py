"""Work in processes of their own, forked off a parent that is warm, to be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress

# A parent that has imported and warmed everything, so that a killed command costs its own work and no imports.
PARENT = """if True:
    import json, os, sys
    import torch
    from shammie.cli.main import main

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, open(os.devnull, "w")
    for line in json.loads(sys.argv[1]):
        main([*line, "--dry-run"])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(main(json.loads(line)))
        print(child, file=answers, flush=True)
        sys.stdin.readline()  # until then the child keeps its number, so that no other process can be hit
        print(os.waitpid(child, 0)[1], file=answers, flush=True)
"""


class Commands:
    """Starts commands in processes of their own."""

    def __init__(self, warm):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        line = [sys.executable, "-c", PARENT, json.dumps(warm)]
        self.parent = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.parent.stdout.readline() == "ready\n"

    def start(self, line):
        self.parent.stdin.write(json.dumps(line) + "\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def wait(self):
        self.parent.stdin.write("\n")
        self.parent.stdin.flush()
        return int(self.parent.stdout.readline())

    def close(self):
        self.parent.stdin.close()
        self.parent.stdout.close()
        self.parent.wait(timeout=30)


WORKER = """
def say(*words):  # in one write, which a kill cannot tear
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

for line in sys.stdin:  # importing once and forking spares a dozen imports of torch
    if not (child := os.fork()):
        say("pid", os.getpid())
        work(line.strip())
        os._exit(0)
    say("ended", os.waitpid(child, 0)[1])
"""


class Worker:
    """Runs a script's `work(directory)` in fresh processes; it calls `say("unit", ...)` as it begins each unit."""

    def __init__(self, script):
        tests = os.path.dirname(__file__)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path]), "OMP_NUM_THREADS": "1"}
        code = "import os, sys\n" + textwrap.dedent(script) + WORKER
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        self.watchdog = threading.Timer(120, self.process.kill)

    def __enter__(self):
        self.watchdog.start()
        return self

    def __exit__(self, *_):
        self.process.communicate(timeout=30)
        self.watchdog.cancel()

    def run(self, directory, *, kill_after=None, pause=0.0, until=lambda: True):
        """The work's exit status; it is killed a moment after it began so many units and, within a second, `until`."""
        self.process.stdin.write(f"{directory}\n")
        self.process.stdin.flush()
        units = 0
        while line := self.process.stdout.readline().split():
            if line[0] == "ended":
                return int(line[1])
            pid = int(line[1]) if line[0] == "pid" else pid
            units += line[0] == "unit"
            if line[0] == "unit" and units == kill_after:
                deadline = time.monotonic() + 1
                while not until() and time.monotonic() < deadline:
                    pass
                time.sleep(pause)
                with suppress(ProcessLookupError):  # it may have ended within the pause
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError("the worker died")
