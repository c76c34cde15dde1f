"""The step journal of a host that sees the job directory: it opens the file itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sage.errors import SageError, StorageError
from sage.flow.graph import StepPlan
from sage.runtime.durability.blobs import Blobs
from sage.runtime.durability.journals import Journals
from sage.runtime.durability.manifest import of_bytes
from sage.runtime.durability.opening import BLOBS, CALLS, JOURNAL, MANIFEST
from sage.runtime.durability.recording import Recorder
from sage.runtime.durability.reuse import Reuse
from sage.runtime.durability.row import RowKind
from sage.runtime.durability.rows import Rows
from sage.runtime.durability.slots import Slots
from sage.runtime.durable import Branch


class StepJournals(Journals):
    """The step journal, as a host that is not the driver's has it: everything else is at home.

    `failed` gets the first error of the journal, from another thread.
    """

    def __init__(
        self, folder: Path, epoch: int, failed: Callable[[SageError], None], *,
        begun: bool = False, reuse: Path | None = None,
    ) -> None:  # fmt: skip
        """Results are looked for if the job has `begun`; those of other jobs are in the folder `reuse`."""
        self.folder = folder
        super().__init__(epoch, str(os.getpid()))
        self._reuse_folder = reuse
        self._reuse: Reuse | None = None if reuse is None else Reuse(reuse)
        try:
            self._open(begun=begun)
        except BaseException:
            self._close_reuse()
            raise
        self._blobs: Blobs = Blobs(folder / BLOBS)
        self._recorder = Recorder(self._rows, self._blobs, failed)

    def _open(self, *, begun: bool) -> None:
        folder, epoch = self.folder, self.epoch
        self._rows: Rows = Rows(folder / JOURNAL, epoch=epoch)
        try:
            self.manifest = of_bytes(self._meta(MANIFEST))
            self._begun = begun or epoch > 1
            self._look_up()
            self._slots = Slots(folder / f"{CALLS}{epoch}-{os.getpid()}")
        except BaseException:
            self._rows.close()
            raise

    @property
    def job(self) -> str:
        return self.manifest.job

    def branch(self) -> Branch:
        reuse = None if self._reuse_folder is None else str(self._reuse_folder.absolute())
        return Branch(str(self.folder.absolute()), self.epoch, self._begun, reuse)

    def _look_up(self) -> None:
        self._known = {key for key, _ in self._rows.each(RowKind.RESULT)} if self._begun else set()
        self._deaths = {key: int(value.split(b"\n")[0]) for key, value in self._rows.each(RowKind.DEATHS)}

    def close(self) -> None:
        """Store what is left, and let go of everything."""
        try:
            if bill := self._bill():
                self._recorder.record(bill)
            self._recorder.close()
        finally:
            self._slots.close()
            self._rows.close()
            self._close_reuse()

    def _close_reuse(self) -> None:
        if self._reuse is not None:
            self._reuse.close()

    def _version(self, plan: StepPlan) -> str:
        return self.manifest.steps[plan.name].version

    def _meta(self, key: bytes) -> bytes:
        value = self._rows.get(RowKind.META, key)
        if value is None:
            raise StorageError("E604", "a journal is damaged", at=str(self.folder), got=f"no {key.decode()}")
        return value
