"""A child process that can be interrupted."""

import signal


def hear_interrupts() -> None:
    """For ``preexec_fn``: children of a job in the background ignore SIGINT, and those of nohup SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
