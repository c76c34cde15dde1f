"""``sage endpoint``: a simulated LLM endpoint."""

from __future__ import annotations

import signal
from typing import Any

import click

from sage.cli.commands import Group, debug_option, whole_number
from sage.cli.files import read_file
from sage.cli.limits import allow_open_files
from sage.cli.stderr import say
from sage.cli.waiting import wait_for_interrupt
from sage.errors import PipelineError, UsageError
from sage.llm.simulated import PROFILES, Fault, Profile, SimulatedEndpoint

DEFAULT_PROFILE = "a100-qwen2.5-3b"


@click.group("endpoint", cls=Group)
def endpoint() -> None:
    """Simulate an LLM endpoint, without a GPU."""


def _list_profiles(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        for profile in PROFILES.values():
            click.echo(_description(profile))
        context.exit()


def _secret(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The value, or with ``@`` before it the content of that file: what is typed here, others can see in ``ps``."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return read_file(value[1:], "text file with a key", ("",)).decode().strip()
    except UnicodeDecodeError as error:
        raise UsageError("E124", "this is not a text file", at=parameter.opts[0], got=value[1:]) from error


def _faults(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            Fault.parse(value)
        except PipelineError as error:
            raise UsageError("E104", error.what, at="--fault", got=value, expected=error.expected) from error
    return values


@endpoint.command("simulate")
@click.option("--profile", default=DEFAULT_PROFILE, type=click.Choice(list(PROFILES)), help="What it simulates.")
@click.option(
    "--list-profiles", is_flag=True, is_eager=True, expose_value=False, callback=_list_profiles,
    help="Describe the profiles, and end.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Another one than this machine's needs --api-key.")
@click.option("--port", default="8001", callback=whole_number, metavar="PORT", help="0: any that is free.")
@click.option("--seed", default="0", callback=whole_number, metavar="N", help="Of the texts and the dice.")
@click.option("--max-num-seqs", callback=whole_number, metavar="N", help="Requests at once, in place of the profile's.")
@click.option("--answer-tokens", default="128", callback=whole_number, metavar="N", help="Median length of an answer.")
@click.option("--api-key", callback=_secret, metavar="KEY", help="Needed for /v1; @FILE reads it from a file.")
@click.option("--admin-token", callback=_secret, metavar="TOKEN", help="Opens /admin to change faults while it runs.")
@click.option(
    "--fault", "faults", multiple=True, callback=_faults, metavar="FAULT",
    help="KIND[=VALUE][@RATE][*COUNT]: 500@0.1, 429=2*5, silence, half, stall, cut, reset, drip=0.5, garbage.",
)  # fmt: skip
@debug_option
def simulate(host: str, port: int, **options: Any) -> None:
    """Serve OpenAI's API as vLLM does, with its timing and its metrics but without a model, until Ctrl-C.

    \b
    sage endpoint simulate --profile tiny --fault 429=2@0.05
    SAGE_LLM_URL=http://127.0.0.1:8001 sage run faq.py
    """
    if port > 65_535:
        raise UsageError("E104", "bad number", at="--port", got=port, expected="at most 65535")
    allow_open_files()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with SimulatedEndpoint(host=host, port=port, **options) as running:
        try:
            click.echo(f"{running.url}/v1")
            say(f"simulated, no GPU: {_description(running.profile)}")
            wait_for_interrupt()
        except KeyboardInterrupt:
            say("stopped")


def _description(profile: Profile) -> str:
    tokens = profile.blocks * 16
    return (
        f"{profile.name}: {profile.model}, {profile.max_seqs} requests at once, {tokens:,} tokens of KV cache, "
        f"{profile.cost_s(1, 0, 0, 1) * 1e3:.1f} ms a token alone"
    )
