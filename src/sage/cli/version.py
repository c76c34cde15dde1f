"""``sage version``."""

from __future__ import annotations

import platform

import click

from sage.version import __version__


@click.command("version")
def version() -> None:
    """Say which version of SAGE and of Python this is."""
    click.echo(f"sage {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
