"""What can go wrong, in two kinds: the user's input, and the run."""


class GarnerError(Exception):
    """Root of every error that garner raises on purpose; its text says wanted, found, and what to do."""


class InputError(GarnerError, ValueError):
    """The user's input is wrong; nothing was started. Exit code 2."""


class RunError(GarnerError, RuntimeError):
    """Something failed while running: damaged data, non-finite values, machines lost. Exit code 1."""
