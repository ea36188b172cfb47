"""Commands in processes of their own, forked off a parent that is warm, to be killed at any moment."""

import json
import os
import subprocess
import sys

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
