"""The one error that a user's input can cause."""


class UserError(ValueError):
    """Something the user gave is wrong: one line that says what, where, and what to do about it.

    The command line shows the message alone, without a traceback, and exits with a non-zero status.
    """
