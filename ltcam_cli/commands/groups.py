"""Groups of commands: a user's mistake is one line and status 2, a signal 128 and its number."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from ltcam_cli.errors import interrupted_status, user_message


class Group(TyperGroup):
    """Turns a user's mistake into one line and status 2."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            more = "; go on with --resume" if ctx.invoked_subcommand == "train" else ""
            typer.echo(f"ltcam: interrupted; what was complete stays{more}", err=True)
            raise typer.Exit(interrupted_status(interruption)) from None
        except BrokenPipeError:  # ltcam config train | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            typer.echo(f"ltcam: {message}", err=True)
            raise typer.Exit(2) from None


class RunsGroup(TyperGroup):
    """`ltcam runs`, `ltcam runs NAME` are `ltcam runs list`, `ltcam runs list NAME`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Insert `list` where no command is named."""
        named = args and args[0] in {*self.commands, *self.get_help_option_names(ctx)}
        return super().parse_args(ctx, args if named else ["list", *args])
