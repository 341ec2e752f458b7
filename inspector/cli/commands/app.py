"""`inspect app`: the report and the plan as a page for many people."""

from __future__ import annotations

import functools
import os

import click

from inspector.cli.exit_codes import ExitCode
from inspector.cli.group import Work, subcommand

__all__ = ["app"]


def _count_workers() -> int:
    """Return how many workers there are by default: one a core, and enough that a long question blocks nobody."""
    return min(8, max(2, os.cpu_count() or 1))


@subcommand()
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
    help="Where to listen; 0.0.0.0 lets other machines in.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65_535), default=7860, show_default=True, help="0 takes a free one.")
@click.option(
    "--workers", type=click.IntRange(1, 64), metavar="N",
    help="Processes that inspect, each with some 0.6 GB; default: one a core, from 2 to 8.",
)  # fmt: skip
@click.option(
    "--memory", type=click.FloatRange(1, 1024), default=4, show_default=True, metavar="GIB",
    help="Memory that a worker may take, in GiB; it is ended beyond that.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=120, show_default=True, metavar="SECONDS",
    help="Time that a question may take once a worker has it.",
)  # fmt: skip
@click.option(
    "--waiting", type=click.IntRange(0, 1000), default=32, show_default=True, metavar="N",
    help="Questions that wait for a worker; more are sent away.",
)  # fmt: skip
@click.option(
    "--with-token", is_flag=True,
    help="Ask the Hub with the token of this machine, and use its cache: visitors see what it may read.",
)  # fmt: skip
def app(
    host: str, port: int, workers: int | None, memory: float, timeout: float, waiting: int, with_token: bool
) -> Work:
    """Serve a page where many people ask for reports and plans at once, and drop training files.

    It needs gradio: pip install 'model-inspector[app]'. Inspections run in processes with a bound on memory and time.
    What visitors type is read as a Hub id or an address of the Hub, never as a path, and code from repositories does
    not run.

    \b
    inspect app
    inspect app --host 0.0.0.0 --port 8080 --workers 4 --memory 6
    """  # noqa: D301  # click wants the backspace itself: it keeps the lines of the examples
    return functools.partial(
        _serve,
        host=host,
        port=port,
        workers=workers or _count_workers(),
        memory_bytes=int(memory * 2**30),
        seconds=timeout,
        waiting=waiting,
        with_token=with_token,
    )


def _serve(
    *, host: str, port: int, workers: int, memory_bytes: int, seconds: float, waiting: int, with_token: bool
) -> int:
    """Serve until the process is asked to end."""
    from inspector.runtime.isolation import resolve_function

    # By name, since it lies above this layer.
    serve = resolve_function("inspector.app.server:serve")
    serve(
        host=host,
        port=port,
        workers=workers,
        memory_bytes=memory_bytes,
        seconds=seconds,
        waiting=waiting,
        with_token=with_token,
    )
    return ExitCode.DONE
