"""What a request is refused with: a status, a word for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that is not answered, and why.

    >>> Refused(404, "unknown_key", "there is no such image").status
    404
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


class Problem(BaseModel):
    """The error of an answer."""

    code: str
    """A word that stays, for programs: ``unknown_key``."""
    message: str
    """What must hold, what came, what to do."""


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Problem
