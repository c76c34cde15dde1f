"""What click complains about, in the one form of SAGE's errors."""

from __future__ import annotations

import difflib

import click

from sage.errors import UsageError


def usage_error(error: click.ClickException) -> UsageError:
    """`error` in SAGE's words."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    at = context.command_path if context is not None else "sage"
    if isinstance(error, click.NoSuchOption):
        return UsageError("E102", "there is no such option", at=at, got=error.option_name, try_=_near_option(error, at))
    if isinstance(error, click.BadOptionUsage):
        return UsageError("E103", _sentence(error.message))
    if isinstance(error, click.MissingParameter):
        name = error.param.human_readable_name if error.param is not None else "argument"
        usage = " ".join(context.command.collect_usage_pieces(context)) if context is not None else ""
        return UsageError("E103", f"{name} is missing", at=at, try_=f"{at} {usage}".strip())
    if isinstance(error, click.BadParameter):
        name = error.param.opts[0] if error.param is not None else at
        return UsageError("E104", _sentence(error.message), at=name, try_=f"{at} --help")
    return UsageError("E100", _sentence(error.format_message()), at=at, try_=f"{at} --help")


def _near_option(error: click.NoSuchOption, at: str) -> str:
    given = error.option_name.partition("=")[0][:100]
    parameters = error.ctx.command.get_params(error.ctx) if error.ctx is not None else []
    options = [name for parameter in parameters if isinstance(parameter, click.Option) for name in parameter.opts]
    near = difflib.get_close_matches(given, options, n=1)
    return near[0] if near else f"{at} --help"


def _sentence(message: str) -> str:
    """Without capital and full stop, on one line, and not too long: it may quote what was typed."""
    text = "".join(c if c.isprintable() else "?" for c in message.strip().rstrip("."))
    text = text if len(text) <= 200 else text[:197] + "..."
    return text[:1].lower() + text[1:]
