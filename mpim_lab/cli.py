"""mpim-lab: doctor, bench, notebooks."""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; gives the exit status."""
    parser = argparse.ArgumentParser(prog="mpim-lab", description="Learn message queues by running one.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what is present, what is missing, and what to do")
    commands.add_parser("bench", help="how fast, beside the peers, on this machine", add_help=False)
    notebooks = commands.add_parser("notebooks", help="run every notebook and store its outputs")
    notebooks.add_argument("paths", nargs="*", help="notebooks; all of notebooks/ by default")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "bench":
        from mpim_lab.bench.command import run_bench_command  # imported late: the others must not wait for its packages

        return run_bench_command(rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if arguments.command == "doctor":
        from mpim_lab.doctor import report

        return report()
    from mpim_lab.notebook_store import store_all

    return store_all(arguments.paths)


if __name__ == "__main__":
    sys.exit(main())
