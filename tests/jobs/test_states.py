"""The states of a job: which may follow which."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import UsageError
from sage.jobs.job import KEPT_CHANGES, Job, JobSpec
from sage.jobs.states import ACTIVE, ENDS, REFUSALS, TRANSITIONS, Command, State, check_command, check_transition

JOB = Job("0123abcd", JobSpec("/flow.py", "/"), 0.0)


def test_every_state_can_be_reached_and_left_but_for_success() -> None:
    reached = {State.PENDING}
    while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= more
    assert reached == set(State)
    assert {state for state in State if not TRANSITIONS[state]} == {State.SUCCEEDED, State.SUCCEEDED_WITH_DEAD_LETTERS}
    assert {State.PENDING} | ACTIVE | ENDS == set(State)


def test_what_has_ended_runs_again_only_by_way_of_the_queue() -> None:
    assert all(TRANSITIONS[end] <= {State.PENDING} for end in ENDS)


@given(st.lists(st.sampled_from(State), max_size=200))
def test_a_history_is_a_path_through_the_table(wanted: list[State]) -> None:
    job = JOB
    for moment, state in enumerate(wanted):
        if state in TRANSITIONS[job.state]:
            job = job.changed(state, float(moment))
        else:
            with pytest.raises(UsageError, match=f"E144 the job cannot become {state} at .* got {job.state}"):
                job.changed(state, float(moment))
    states = [change.state for change in job.changes]
    assert len(states) <= KEPT_CHANGES
    assert not states or states[-1] is job.state
    assert all(after in TRANSITIONS[before] for before, after in pairwise(states))


@pytest.mark.parametrize("command", Command)
@pytest.mark.parametrize("state", State)
def test_a_command_is_carried_out_or_refused_with_the_reason(command: Command, state: State) -> None:
    if state not in REFUSALS[command]:
        check_command("0123abcd", command, state)
        return
    with pytest.raises(UsageError, match=f"E144 the job cannot {command}: {REFUSALS[command][state]} at job 0123abcd"):
        check_command("0123abcd", command, state)


def test_resume_is_refused_exactly_where_no_transition_leads_back() -> None:
    assert {state for state in State if State.PENDING in TRANSITIONS[state]} == set(State) - set(
        REFUSALS[Command.RESUME]
    )


def test_an_end_cannot_become_another() -> None:
    with pytest.raises(UsageError, match="the job cannot become FAILED at job x: got SUCCEEDED, expected nothing"):
        check_transition("x", State.SUCCEEDED, State.FAILED)
