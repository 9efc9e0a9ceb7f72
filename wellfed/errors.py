"""The one error a user may see: what is wrong, where, and what to do, in one line (exit status 2)."""

import re

__all__ = ["UserError", "bare"]

_USERINFO = re.compile(r"(?<=://)[^/\s]*@")


def bare(text: str) -> str:
    """The text with the `user:password@` of every address in it left out."""
    return _USERINFO.sub("", text)


class UserError(Exception):
    """Bad input from outside. The command prints the message as one line and exits with 2.

    Passwords in addresses never get into it, whoever wrote the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(bare(message))
