"""The fault matrix: which test injects which fault. ``python tests/faults/matrix.py`` runs all of it (``make faults``).

Rows run one after the other, each as a pytest of its own, in full: progress and figures as they come, a summary at the
end, and an exit code. Arguments choose rows by number: ``python tests/faults/matrix.py 5 8``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
LIMIT_S = 7200
ACROSS = "faults/test_cluster_faults.py"


@dataclass(frozen=True)
class Row:
    """One fault, and the tests that inject it; none where there is none."""

    number: int
    fault: str
    tests: tuple[str, ...]


ROWS = (
    Row(1, "task killed", ("faults/test_kills.py", "engine/test_again.py")),
    Row(2, "clean stop", ("engine/test_durable.py::test_a_job_that_was_stopped_goes_on", "cli/test_interrupt.py")),
    Row(3, "task hung", (
        "engine/test_again.py::test_a_process_that_stands_still_is_replaced --ray=all",
        "engine/test_ray.py::test_a_host_that_stands_still_is_lost --ray=all", "faults/test_frozen.py",
    )),
    Row(4, "driver killed", (
        "faults/test_supervisor.py", "engine/test_ray_programs.py::test_no_host_survives_its_driver",
    )),
    Row(5, "job manager killed, and a crash at each commit", ("jobs/test_survival.py", "faults/test_kills.py")),
    Row(6, "fault during recovery", (
        "faults/test_kills.py::test_a_crash_where_something_becomes_safe_is_survived",
        "engine/test_durable.py::test_two_runs_at_once_are_refused", "jobs/test_survival.py::test_two_managers_at_once",
    )),
    Row(7, "queue host killed", (
        "queues/test_shared_memory.py", "queues/test_rpc.py", "queues/test_sage.py::test_a_killed_owner_leaves_nothing",
        "queues/test_ray.py::test_when_the_actor_is_killed_nobody_hangs", "faults/test_supervisor.py",
    )),
    Row(8, "GCS or raylet killed", ("faults/test_supervisor.py",)),
    Row(9, "node killed", (f"{ACROSS}::test_a_machine_that_is_lost_costs_its_calls_in_flight",)),
    Row(10, "node frozen", (f"{ACROSS}::test_a_machine_that_is_lost_costs_its_calls_in_flight",)),
    Row(11, "partition", (
        f"{ACROSS}::test_a_machine_that_is_lost_costs_its_calls_in_flight",
        f"{ACROSS}::test_a_short_cut_costs_nothing", "queues/test_remote.py",
    )),
    Row(12, "one-way partition", (f"{ACROSS}::test_a_machine_that_is_lost_costs_its_calls_in_flight",)),
    Row(13, "slow, lossy link", (f"{ACROSS}::test_a_slow_and_lossy_network_loses_no_host",)),
    Row(14, "lost, late, doubled messages", (
        "queues/test_remote_stream.py", "engine/test_books.py", "faults/test_simulation.py",
    )),
    Row(15, "LLM down", ("llm/test_outages.py", "engine/test_endpoint_faults.py")),
    Row(16, "LLM 5xx, 429", ("llm/test_faults.py", "engine/test_endpoint_faults.py")),
    Row(17, "half-open streams", ("llm/test_faults.py", "engine/test_endpoint_faults.py")),
    Row(18, "LLM garbage", ("llm/test_faults.py", "llm/test_wire.py")),
    Row(19, "gateway overload", ("gateway/test_bounds.py", "gateway/test_bands.py", "gateway/test_bad_http.py")),
    Row(20, "disk full", (
        "faults/test_full_disk.py", "connectors/test_outputs.py", "jobs/test_survival.py::test_a_full_disk",
    )),
    Row(21, "I/O errors", ("faults/test_io_errors.py",)),
    Row(22, "power loss", ("faults/test_power_loss.py",)),
    Row(23, "memory", ("jobs/test_limits.py",)),
    Row(24, "poison record", (
        "engine/test_durable.py::test_a_record_that_kills_its_process_is_a_dead_letter_after_three_deaths",
        "engine/test_again.py::test_a_record_that_kills_its_process_is_a_dead_letter_after_three_deaths",
        "faults/test_simulation.py",
    )),
    Row(25, "duplicate delivery", ("engine/test_books.py", "connectors/test_conformance.py", "connectors/test_sql.py")),
    Row(26, "clock", ("test_layers.py::test_what_stands_in_one_place_only",)),
    Row(27, "corrupt journal", ("faults/test_corruption.py",)),
    Row(28, "version", ("faults/test_golden.py", "engine/test_durable.py::test_another_job_is_recognised")),
    Row(29, "resources", ("connectors/test_outputs.py::test_a_limit_on_the_size_of_files",)),
    Row(30, "endings", ("engine/test_ends.py", "cli/test_interrupt.py", "cli/test_bad_input.py")),
    Row(31, "sink down", ("connectors/test_sql.py", "connectors/test_sqlite.py", "engine/test_ends.py")),
    Row(32, "soak", ("faults/test_soak.py",)),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the rows with these numbers, or all; tests that several rows have run once. How many files failed."""
    chosen = [row for row in ROWS if not arguments or str(row.number) in arguments]
    done: dict[str, bool] = {}
    began_s = time.monotonic()
    for row in chosen:
        for test in row.tests:
            if test not in done:
                done[test] = _passes(row, test)
    print(f"\n{'row':>3}  {'fault':<60} result   after {time.monotonic() - began_s:.0f} s in all")
    for row in chosen:
        word = "no test" if not row.tests else "passed" if all(done[test] for test in row.tests) else "FAILED"
        print(f"{row.number:>3}  {row.fault:<60} {word}")
    return sum(not passed for passed in done.values())


def _passes(row: Row, test: str) -> bool:
    print(f"row {row.number}, {row.fault}: {test} ", end="", flush=True)
    began_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", *f"tests/{test}".split()]
    ended = subprocess.run(
        command, cwd=TESTS.parent, env={**os.environ, "SAGE_FAULTS": "full"}, text=True, capture_output=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    lines = ended.stdout.splitlines()
    print(f"{lines[-1] if lines else ''} ({time.monotonic() - began_s:.0f} s)")
    for line in lines:
        if " killed: " in line or " later" in line:  # figures that tests print
            print(f"    {line}")
    if ended.returncode != 0:
        print(ended.stdout[-10_000:], ended.stderr[-2000:])
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 100))
