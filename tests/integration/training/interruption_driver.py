"""What test_interruptions.py starts once: a process that has run all once, and forks one for each command.

    python interruption_driver.py RECIPE

It reads one JSON object a line: "argv" of the command, and what is to happen at which of its events. An event is an
optimiser's step, or a change of the file system through Python, at the moment before it is done:

- "kill": number of the event at which the process is killed;
- "at": a list of `[pattern, number, action]`: the action at that event of those whose name holds the pattern. An action
  is the number of a signal, `["all", number]` for one to the processes that load data as well, `["full", bytes]` for
  files that may have so many bytes and no more, or `["move", path]` for a folder that is moved away.

It answers with a JSON object: exit code (negative: the signal that killed it), what it wrote to stderr, its events.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import traceback

import torch
from tiny_runs import reset_accelerate
from torch.optim.optimizer import register_optimizer_step_post_hook

from neumeta_hf.cli import main

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def watch(command):
    """Have the events of this process counted, and do at them what the command says."""
    events = []

    def note(name):
        events.append(name)
        if len(events) == command.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        for pattern, number, action in command.get("at", ()):
            if pattern in name and sum(pattern in event for event in events) == number:
                act(action)

    def act(action):
        if isinstance(action, int):
            os.kill(os.getpid(), action)
        elif action[0] == "all":
            os.killpg(0, action[1])
        elif action[0] == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (action[1], resource.RLIM_INFINITY))
        else:
            os.rename(action[1], f"{action[1]}-elsewhere")

    def audit(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            note(f"open {arguments[0]}")
        elif event in CHANGES:
            note(f"{event} {arguments[0]}")

    sys.addaudithook(audit)
    register_optimizer_step_post_hook(lambda *_: note("optimizer.step"))
    return events


def run(command):
    said, speak = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(speak, 1)
        os.dup2(speak, 2)
        for descriptor in (said, speak, told):
            os.close(descriptor)
        code = 99
        try:
            events = watch(command)
            code = main(command["argv"])
            os.write(tell, json.dumps(events).encode())
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(speak)
    os.close(tell)
    with os.fdopen(said, encoding="utf-8") as text, os.fdopen(told) as events:
        stderr, noted = text.read(), events.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"code": code, "stderr": stderr, "events": json.loads(noted or "[]")}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        assert main(["-q", "train", "--config", sys.argv[1], f"--set=output_dir={folder}/run"]) == 0
    reset_accelerate()
    gc.collect()
    gc.freeze()  # what is there stays, and need not be looked through again in every fork
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
        sys.stdout.flush()
