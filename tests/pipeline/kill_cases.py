"""Kills: a child process that dies of SIGKILL at a chosen one of its file operations, or after a chosen time."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import RLock

from tqdm import tqdm

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile")


def survives(work, folder, kill_at):
    """Call `work` in a child, which is killed before its `kill_at`th operation below `folder`; whether it lived on.

    Operations: whatever makes, renames or deletes something, opening a file to write, and its first half being written.
    """
    return lived_on(begun(lambda: (count_operations(folder, kill_at), work())))


def begun(work):
    """A child that calls `work`; its process id."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(120)
            tqdm.set_lock(RLock())  # the parent's is shared with all children: with one that dies in it, all would wait
            work()
            os._exit(0)
        finally:
            os._exit(1)  # an error of its own
    return child


def lived_on(child, seconds=None):
    """Whether a child was done; it is killed after so many seconds, where these are given."""
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"the child ended with {code}"
    return code == 0


def count_operations(folder, kill_at):
    """Have this process die before an operation; nothing undoes that."""
    left = kill_at

    def count():
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event in OPERATIONS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            path = str(arguments[0])
            if path.startswith(str(folder)) or not os.path.isabs(path):  # relative ones: within a folder held open
                count()

    def write_in_halves(path, content):
        with path.open("wb") as file:
            count()  # empty
            file.write(content[: len(content) // 2])
            file.flush()
            count()  # half written
            file.write(content[len(content) // 2 :])

    Path.write_bytes = write_in_halves
    sys.addaudithook(watch)
