"""The group of all commands, each imported when it is asked for, so that ``sage --help`` starts at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

import click

from sage.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_SUMMARY = 300


@dataclass
class Invocation:
    """One call of the command line: what its outermost edge has to know."""

    debug: bool = False
    reported: BaseException | None = None
    """What the user was told already, and so is not told again."""


@dataclass(frozen=True)
class LazyCommand:
    """Where a command is, and its line in the list of commands."""

    module: str
    name: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by name only, until one of them is used."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        command: click.Command = vars(import_module(lazy.module))[lazy.name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self._lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        check_command(self, ctx, args[0])
        return super().resolve_command(ctx, args)


class Group(click.Group):
    """A group whose unknown commands are reported like those of `LazyGroup`, and whose help shortens no sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "no_args_is_help": False})

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [(name, self.commands[name]) for name in self.list_commands(ctx) if not self.commands[name].hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(LONGEST_SUMMARY)) for name, command in shown])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        check_command(self, ctx, args[0])
        return super().resolve_command(ctx, args)


def check_command(group: click.Group, ctx: click.Context, name: str) -> None:
    """Raise `UsageError` if `group` has no command `name` (an option is left to click)."""
    names = group.list_commands(ctx)
    if name in names or name.startswith("-"):
        return
    near = difflib.get_close_matches(name[:100], names, n=1)
    raise UsageError(
        "E101", "there is no such command", at=ctx.command_path, got=name,
        expected=", ".join(names), try_=f"{ctx.command_path} {near[0]}" if near else f"{ctx.command_path} --help",
    )  # fmt: skip


def whole_number(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A callback for options that take a whole number from 0 on, in plain digits."""
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,12}", value):
        expected = "a whole number from 0 on"
        raise UsageError("E104", "bad number", at=parameter.opts[0], got=repr(value), expected=expected)
    return int(value)


def size_bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """A callback for options that take an amount of memory: digits, and a unit if they are not bytes."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,12})(?:\.([0-9]))? ?([KMGT]?)(i?)B?", value, re.IGNORECASE)
    if not found or (found[4] and not found[3]):
        raise UsageError("E104", "bad size", at=parameter.opts[0], got=repr(value), expected="as 512MB, 1.5GiB")
    unit: int = (1024 if found[4] else 1000) ** " KMGT".index(found[3].upper() or " ")
    return int(found[1]) * unit + int(found[2] or 0) * unit // 10


def debug_option(command: F) -> F:
    """Adds ``--debug``."""

    def remember(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:
            invocation_of(context).debug = True

    option = click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks. Also: SAGE_DEBUG=1."
    )
    return option(command)


def invocation_of(context: click.Context) -> Invocation:
    """The invocation that `context` belongs to."""
    return context.ensure_object(Invocation)
