"""``sage gateway``: one OpenAI-compatible server in front of all endpoints."""

from __future__ import annotations

import signal
from pathlib import Path

import click
import msgspec

from sage import settings
from sage.cli.commands import debug_option, whole_number
from sage.cli.files import check_file
from sage.cli.limits import allow_open_files
from sage.cli.stderr import say
from sage.cli.waiting import wait_for_interrupt
from sage.errors import UsageError
from sage.gateway import EndpointConfig, Gateway, GatewayConfig, load_config, new_key


def usage_file(named: str | None) -> Path:
    """Where usage is written down: the file named, or SAGE's own."""
    return Path(named) if named else settings.load().data_dir / "usage.sqlite"


def _new_key(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    key, entry = new_key(name)
    say("the key, shown this once:")
    click.echo(key)
    say("for gateway.toml:")
    say(f'\n[[key]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"\n')
    context.exit()


@click.command("gateway")
@click.option("--endpoint", "endpoints", multiple=True, metavar="URL", help="In front of this one; may be repeated.")
@click.option("--config", metavar="FILE", help="Endpoints, keys and limits, in TOML.")
@click.option("--host", metavar="ADDRESS", help="Default 127.0.0.1; another than this machine's needs keys.")
@click.option("--port", callback=whole_number, metavar="PORT", help="Default 8900; 0: any that is free.")
@click.option(
    "--new-key", is_eager=True, expose_value=False, callback=_new_key, metavar="NAME",
    help="Make a key, show it and its entry for the configuration, and end.",
)  # fmt: skip
@debug_option
def gateway(endpoints: tuple[str, ...], config: str | None, host: str | None, port: int | None) -> None:
    """Serve OpenAI's API in front of endpoints, shared fairly, until Ctrl-C.

    \b
    sage gateway --endpoint http://127.0.0.1:8001
    SAGE_GATEWAY_URL=http://127.0.0.1:8900 sage run faq.py
    """
    chosen = _config(endpoints, config, host, port)
    allow_open_files()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Gateway(chosen, usage_file(chosen.usage_file)) as running:
        try:
            click.echo(f"{running.url}/v1")
            say(f"usage is written to {running.usage_file}")
            wait_for_interrupt()
        except KeyboardInterrupt:
            say("stopped")


def _config(endpoints: tuple[str, ...], file: str | None, host: str | None, port: int | None) -> GatewayConfig:
    if file is None and not endpoints:
        raise UsageError("E103", "an option is missing", at="sage gateway", expected="--endpoint URL or --config FILE")
    if port is not None and port > 65_535:
        raise UsageError("E104", "bad number", at="--port", got=port, expected="at most 65535")
    config = GatewayConfig()
    if file is not None:
        check_file(file, "configuration", (".toml",), any_name=True)
        config = load_config(Path(file))
    added = tuple(EndpointConfig(url) for url in endpoints)
    return msgspec.structs.replace(
        config,
        endpoint=config.endpoint + added,
        host=config.host if host is None else host,
        port=config.port if port is None else port,
    )
