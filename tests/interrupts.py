"""A child process that can be interrupted."""

import signal


def hear_interrupts() -> None:
    """For ``preexec_fn``: a shell ignores SIGINT in what it puts in the background, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
