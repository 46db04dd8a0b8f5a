"""Notebook: what cells need on a server with few rights, and to speak to one by hand."""

import ast
import asyncio
import os
import re
from collections.abc import Iterator
from typing import Any

import hiredis
from IPython.core.getipython import get_ipython
from redis.exceptions import NoPermissionError

from mpim_lab.errors import CommandRejected, FaultUnavailable, LoginRejected, NotConnected
from mpim_lab.lab.faults.injector import DESCRIPTIONS
from mpim_lab.lab.faults.relay import open_streams
from mpim_lab.mq.connection.address import Address

ANSWER_TIMEOUT_S = 5.0
_SHOWN = "_mpim_lab_shown"
# no name in the notebook: `%reset` forgets those
_SKIPPING = f"__import__({__name__!r}, fromlist=['*']).skipping()"


def skip_unavailable() -> None:
    """Leave out, from now on, the cells that need what the reader's own server does not offer.

    Each says so, and so do the cells that use what it would have made; all others run. On a server
    of the lab's own nothing is changed.
    """
    shell: Any = get_ipython()
    if shell is None or not os.environ.get("MPIM_REDIS_URL", "").strip():
        return
    if skipping() is None:
        begun = Skipping(shell.user_ns)
        shell.input_transformers_post.append(begun.read)
        shell.ast_transformers.append(begun)


def skipping() -> "Skipping | None":
    """Return what skips cells in this kernel, if anything does."""
    shell: Any = get_ipython()
    return next((each for each in shell.ast_transformers if isinstance(each, Skipping)), None)


class Skipping:
    """A wrapper of each cell: one whose needs the server refuses ends with a sentence."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._comment = ""
        self._missing: set[str] = set()

    def read(self, lines: list[str]) -> list[str]:
        """Look at a cell's source: a comment on its first line says what it shows."""
        first = lines[0].strip() if lines else ""
        self._comment = first.lstrip("# ") if first.startswith("#") and "NBVAL" not in first else ""
        return lines

    def visit(self, cell: ast.Module) -> ast.Module:
        """Put a cell into `try`; leave it out, but for its imports, if it uses what is not made."""
        made = set(_names(cell, ast.Store))
        lacking = sorted(name for name in set(_names(cell, ast.Load)) & self._missing - made)
        if lacking:
            self._missing |= made
            imports = [line for line in cell.body if isinstance(line, ast.Import | ast.ImportFrom)]
            sentence = (
                f"Left out: it uses {', '.join(lacking)}, which the server did not let us make."
            )
            return _fixed([*imports, *ast.parse(f"print({sentence!r})").body], cell)
        self._missing -= made
        return _fixed(self._wrapped(cell, made), cell)

    def _wrapped(self, cell: ast.Module, made: set[str]) -> list[ast.stmt]:
        first = next(
            (place for place, line in enumerate(cell.body) if not _is_future(line)), len(cell.body)
        )
        lines, last = cell.body[first:], cell.body[-1] if cell.body[first:] else None
        shown = ast.parse("None", mode="eval").body
        if isinstance(last, ast.Expr):
            lines[-1] = ast.Assign([ast.Name(_SHOWN, ast.Store())], last.value)
            shown = last.value if isinstance(last.value, ast.Name) else shown
        refused = f"{_SKIPPING}.refused({_SHOWN}_error, {sorted(made)!r}, {self._what(cell)!r})"
        whole = ast.parse(
            f"{_SHOWN} = None\n"
            "try:\n    pass\n"
            f"except Exception as {_SHOWN}_error:\n    {refused}\n    {_SHOWN} = None\n"
            f"globals().get({_SHOWN!r})"
        ).body
        attempt = whole[1]
        assert isinstance(attempt, ast.Try)
        attempt.body = lines or attempt.body
        attempt.orelse = ast.parse(f"{_SKIPPING}.ended({sorted(made)!r})").body
        if isinstance(shown, ast.Name):  # a panel is of use for whatever else it offers
            attempt.handlers[0].body[-1] = ast.parse(
                f"{_SHOWN} = globals().get({shown.id!r})"
            ).body[0]
        return [*cell.body[:first], *whole]

    def refused(self, error: Exception, made: list[str], what: str) -> None:
        """Say what is left out, and why. Raises the error if it is not for want of a right."""
        code = error.code if isinstance(error, CommandRejected) else ""
        if not isinstance(error, FaultUnavailable | NoPermissionError) and code != "NOPERM":
            raise error
        self._missing |= set(made)
        print(f"Left out{': ' + what if what else ''}: {error}.")

    def ended(self, made: list[str]) -> None:
        """Note which names have no value, because a panel of this cell was refused its run."""
        values = {name: self._names.get(name) for name in made}
        refusals = [
            error for value in values.values() if (error := getattr(value, "refused", None))
        ]
        if refusals and isinstance(refusals[0], Exception):
            self.refused(refusals[0], [name for name, value in values.items() if value is None], "")

    def _what(self, cell: ast.Module) -> str:
        if self._comment:
            return self._comment
        texts = [node.value for node in ast.walk(cell) if isinstance(node, ast.Constant)]
        if faults := [f'"{text}" ({DESCRIPTIONS[text]})' for text in texts if text in DESCRIPTIONS]:
            return faults[0]
        awaited = [node.value for node in ast.walk(cell) if isinstance(node, ast.Await)]
        called = [node.func for node in awaited if isinstance(node, ast.Call)]
        imported = _imported(cell)
        for name in (each.id for each in called if isinstance(each, ast.Name)):
            if (
                said := getattr(self._names.get(name), "__doc__", None)
                if name not in imported
                else imported[name]
            ):
                return re.split(r"[.:]?\n|\.$", said.strip())[0]
        return ""


def _imported(cell: ast.Module) -> dict[str, str]:
    """The docstrings of what a cell imports from this package, by name."""
    found: dict[str, str] = {}
    for line in cell.body:
        if isinstance(line, ast.ImportFrom) and (line.module or "").startswith("mpim_lab"):
            module = __import__(line.module or "", fromlist=["*"])
            found |= {
                each.name: getattr(getattr(module, each.name, None), "__doc__", None) or ""
                for each in line.names
            }
    return found


def _names(cell: ast.Module, context: type[ast.expr_context]) -> Iterator[str]:
    for node in ast.walk(cell):
        if isinstance(node, ast.Name) and isinstance(node.ctx, context):
            yield node.id
        if context is ast.Store and isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            yield node.name


def _is_future(line: ast.stmt) -> bool:
    """It must be the first of a file, and not inside of anything."""
    return isinstance(line, ast.ImportFrom) and line.module == "__future__"


def _fixed(lines: list[ast.stmt], cell: ast.Module) -> ast.Module:
    return ast.fix_missing_locations(ast.Module(lines, cell.type_ignores))


async def raw_connection(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a bare socket, TLS included, and log in as the URL says.

    Raises NotConnected, LoginRejected.
    """
    address = Address.parse(url)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await open_streams(address)
            for command in _login(address):
                writer.write(hiredis.pack_command(command))  # type: ignore[arg-type]
                if not (answer := await reader.readline()).startswith(b"+"):
                    writer.close()
                    raise LoginRejected(
                        f"{address}: {answer.decode(errors='replace').strip() or 'it hung up'}"
                    )
    except (OSError, TimeoutError) as error:
        raise NotConnected(f"{address}: {str(error) or 'no answer in time'}") from error
    return reader, writer


def _login(address: Address) -> Iterator[tuple[str, ...]]:
    if address.username or address.password:
        yield "AUTH", *([address.username] if address.username else []), address.password or ""
    if address.db:
        yield "SELECT", str(address.db)
