"""How a run ended, in the terms of its result."""

from __future__ import annotations

from collections.abc import Sequence

from sage.errors import InternalError, RecordError, SageError, StorageError
from sage.runtime.account import Account
from sage.runtime.deadletters import reason_of
from sage.runtime.outcome import Status


def imbalance(pipeline: str, account: Account, open_records: int, stuck: Sequence[str]) -> SageError | None:
    """The proof that is due before a run may say that it succeeded."""
    if account.missing == 0 and open_records == 0 and not stuck:
        return None
    return InternalError(
        "E901", "the account of records does not balance", at=f"pipeline {pipeline!r}",
        got=f"{account}, {account.missing} missing, {open_records} open in the ledger, not ended: {stuck or '-'}",
        expected="every record to have exactly one end", try_="please report it; the outputs were not put in place",
    )  # fmt: skip


def status_of(error: SageError | None, *, lettered: bool, cancelled: bool) -> Status:
    if error is not None:
        return Status.FAILED
    if cancelled:
        return Status.CANCELLED
    return Status.SUCCEEDED_WITH_DEAD_LETTERS if lettered else Status.SUCCEEDED


def error_of(failure: BaseException) -> SageError:
    """The same in the terms of SAGE."""
    if isinstance(failure, SageError):
        return failure
    if isinstance(failure, OSError):
        error: SageError = StorageError("E650", f"the operating system refused: {reason_of(failure)}")
    elif isinstance(failure, Exception):
        error = RecordError("E411", f"an operator failed outside a record: {reason_of(failure)}")
    else:
        error = RecordError("E411", f"an operator ended its thread: {failure!r}")
    error.__cause__ = failure
    return error
