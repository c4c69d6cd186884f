"""Papermill in a process that ends with the runner however that ends: child.py SECONDS, then papermill's arguments."""

import os
import select
import signal
import sys
import threading
import time


def follow(timeout: float) -> None:
    """End this process when its standard input closes, as a pipe does with its writer, or when the time is up."""
    closed, *_ = select.select([0], [], [], timeout)
    os.kill(os.getpid(), signal.SIGINT if closed else signal.SIGALRM)  # lets papermill end its kernel
    time.sleep(10)
    os._exit(1)  # a kernel looks for its parent, too


if __name__ == "__main__":
    limit = sys.argv.pop(1)
    signal.signal(signal.SIGINT, lambda *_: sys.exit("interrupted"))
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"stopped after {limit} s"))
    threading.Thread(target=follow, args=[float(limit)], daemon=True).start()
    # nbformat's checker of schemas would make of it a grammar of addresses, for two seconds, and never ask it anything
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    from nbclient import NotebookClient
    from papermill.cli import papermill

    NotebookClient.shutdown_kernel.default_value = "immediate"  # it has said all: seconds that nobody need wait for
    papermill()
