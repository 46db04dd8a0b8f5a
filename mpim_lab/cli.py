"""mpim-lab: doctor, demo, serve, progress, reset, bench, notebooks."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from mpim_lab.terminal import exit_quietly, replace_unencodable

_SERVE_OPTIONS = (
    ("--gateways", 2, "how many"),
    ("--port", 8800, "the first one's port, on this machine only; 0: any"),
    ("--first", 1, "the first one's number: each gateway has a name of its own"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return the exit status."""
    replace_unencodable()
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "bench":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    with exit_quietly():
        return _run(arguments, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mpim-lab", description="Learn message queues by running one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what is present, what is missing, and what to do")
    commands.add_parser("bench", help="how fast, beside the peers, on this machine", add_help=False)
    notebooks = commands.add_parser("notebooks", help="run every notebook and store its outputs")
    notebooks.add_argument("paths", nargs="*", help="notebooks; all of notebooks/ by default")
    notebooks.add_argument(
        "--check", action="store_true", help="run nothing: are they stored as they should be?"
    )
    commands.add_parser("demo", help="the whole system in half a minute, shown in the terminal")
    progress = commands.add_parser("progress", help="which challenges you have passed")
    progress.add_argument("--forget", action="store_true", help="remove all of it")
    reset = commands.add_parser(
        "reset", help="a chapter as it was; your notebook is kept beside it"
    )
    reset.add_argument("chapter", help="its number, such as 03")
    reset.add_argument("--yes", action="store_true", help="do not ask")
    commands.add_parser("copy", help="notebooks of your own in my_notebooks/, where there are none")
    serving = commands.add_parser(
        "serve", help="gateways with a web page, each in a process of its own, until Ctrl-C"
    )
    for option, default, meaning in _SERVE_OPTIONS:
        serving.add_argument(option, type=int, default=default, help=f"{meaning} ({default})")
    return parser


def _run(arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run it; what it needs is imported late, so that the others need not wait for that."""
    from mpim_lab.errors import InvalidParameter, MpimError

    try:
        if arguments.command == "bench":
            from mpim_lab.bench.command import run_bench_command

            return run_bench_command(rest)
        if arguments.command == "doctor":
            from mpim_lab.doctor import report

            return report()
        if arguments.command == "demo":
            from mpim_lab.demo import demo

            return asyncio.run(demo())
        if arguments.command == "serve":
            from mpim_lab.lab.system.launcher import serve

            return asyncio.run(
                serve(arguments.gateways, port=arguments.port, first=arguments.first)
            )
        if arguments.command == "progress":
            return _show_progress(forget=arguments.forget)
        if arguments.command == "copy":
            return _copy()
        if arguments.command == "reset":
            return _reset(arguments.chapter, asks=not arguments.yes)
        from mpim_lab.notebook_store import check_all, store_all

        return check_all(arguments.paths) if arguments.check else store_all(arguments.paths)
    except MpimError as error:
        print(f"mpim-lab: {type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidParameter) else 1
    except ModuleNotFoundError as error:  # the core alone is installed, or an environment is broken
        name = (error.name or "mpim_lab").partition(".")[0]
        if name == "mpim_lab":
            raise
        print(f"mpim-lab: {name} is not installed: pip install 'mpim_lab[lab]'", file=sys.stderr)
        return 1


def _show_progress(*, forget: bool) -> int:
    from mpim_lab.chapters.catalog import progress_table
    from mpim_lab.lab.exercise.progress import forget_progress

    if forget:
        forget_progress()
    print(progress_table().to_string())
    return 0


def _copy() -> int:
    from mpim_lab.lab.exercise.working_copy import make_copy

    print(f"your notebooks: {make_copy()}")
    return 0


def _reset(chapter: str, *, asks: bool) -> int:
    from mpim_lab.lab.exercise.working_copy import reset

    def ask(question: str) -> str:
        try:
            return input(question) if asks else "yes"
        except EOFError:  # nobody is there to answer
            return "no"

    kept = reset(chapter, ask)
    print("nothing was there to keep, or nothing was changed" if kept is None else f"kept: {kept}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
