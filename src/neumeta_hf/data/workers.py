"""What processes that load data do about signals."""

import signal


def leave_signals_to_parent(worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM in a process that loads data, as `worker_init_fn` of a DataLoader.

    A terminal and most schedulers signal all processes of a run: without its data the main one could not end its step.

    Args:
        worker: Number of the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
