"""A job manager that is killed at a chosen moment: just before or after it stores the N-th change of a job.

``python dying.py N before|after`` in an environment as for ``sage jobmanager start --detached``.
"""

import os
import signal
import sys

from sage.cli.main import main
from sage.jobs import daemon
from sage.jobs.job import Job
from sage.jobs.store import Store


class Dying(Store):
    """Counts what is stored."""

    left = int(sys.argv[1])

    def put(self, job: Job) -> None:
        Dying.left -= 1
        if Dying.left == 0 and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(job)
        if Dying.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    daemon.Store = Dying  # type: ignore[misc]
    sys.exit(main(["jobmanager", "start", "--detached"]))
