"""The one error a user may see: what is wrong, where, and what to do, in one line (exit status 2)."""

__all__ = ["UserError"]


class UserError(Exception):
    """Bad input from outside. The command prints the message as one line and exits with 2."""
