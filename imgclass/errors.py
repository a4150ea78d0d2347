"""Errors that a person caused and a person can mend.

Their message is the whole story: what is wrong, where, and what to do. The entry points print it
without a traceback and exit with `exit_status`. Anything else that escapes is a bug.
"""


class UserError(Exception):
    """Something outside the program went wrong: a missing file, a bad picture, a full disk."""

    exit_status = 1


class UsageError(UserError):
    """The program was asked for something that cannot be: a bad key, value or argument."""

    exit_status = 2


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an allocation failed, on the host or on a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
