"""Mutants of the reference solutions: does a challenge notice one wrong word in a right class?

`python -m tests.mutants ch03/do_it_once` makes every mutant of its references, one change each, and
checks it; what passes is printed. `--from 40` goes on with the 40th. Tools that
mutate a whole module and run a test command for each do not reach the Lua in its strings, and start
Python twice for each mutant; this is an AST walk over one class.
"""

import argparse
import ast
import asyncio
import copy
import importlib
import inspect
import linecache
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from mpim_lab.chapters.catalog import challenge_named, ids
from mpim_lab.lab.exercise.challenge import Challenge

_SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_LUA = (
    ("~=", "=="), ("==", "~="), ("'INCR'", "'DECR'"), ("'NX'", "'XX'"), ("return 0", "return 1"),
    ("KEYS[1]", "KEYS[2]"), ("'PX'", "'EX'"), ("'EX'", "'PX'"),
)  # fmt: skip


def _changes_of(node: Any) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Yield what may be changed at a node: a description, and a function that does it to a copy."""
    if isinstance(node, ast.Compare) and (swap := _SWAPS.get(type(node.ops[0]))):
        yield "comparison", lambda copied: setattr(copied, "ops", [swap(), *copied.ops[1:]])
    if isinstance(node, ast.BinOp | ast.BoolOp) and (swap := _SWAPS.get(type(node.op))):
        yield "operator", lambda copied: setattr(copied, "op", swap())
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not", lambda copied: setattr(copied, "op", ast.UAdd())
    if isinstance(node, ast.If | ast.While):
        negated = ast.UnaryOp(ast.Not(), node.test)
        yield "condition", lambda copied: setattr(copied, "test", copy.deepcopy(negated))
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", lambda copied: setattr(copied, "value", not copied.value)
        elif isinstance(node.value, int | float):
            yield "constant + 1", lambda copied: setattr(copied, "value", copied.value + 1)
            yield "constant to 0", lambda copied: setattr(copied, "value", 0)
        elif isinstance(node.value, bytes) or (
            isinstance(node.value, str) and node.value.isupper()
        ):
            yield (
                "constant",
                lambda copied: setattr(copied, "value", copied.value + copied.value[:1]),
            )
    if isinstance(node, ast.Await):
        yield "await dropped", lambda copied: setattr(copied, "value", _unawaited(copied.value))
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        if isinstance(statements, list) and not isinstance(node, ast.ClassDef):
            for place, statement in enumerate(statements):
                if isinstance(
                    statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.Pass
                ) or _is_doc(statement):
                    continue
                yield f"dropped: {ast.unparse(statement)[:50]}", _without(name, place)
                if place and not _is_doc(statements[place - 1]):
                    yield f"swapped: {ast.unparse(statement)[:50]}", _swapped(name, place)


def _unawaited(call: ast.expr) -> ast.expr:
    """Begin it, and go on without waiting for it."""
    text = "(lambda _: __import__('asyncio').sleep(0))(__import__('asyncio').ensure_future(0))"
    started = ast.parse(text, mode="eval").body
    assert isinstance(started, ast.Call)
    assert isinstance(started.args[0], ast.Call)
    started.args[0].args = [call]
    return started


def _is_doc(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _without(name: str, place: int) -> Callable[[ast.AST], None]:
    def change(copied: ast.AST) -> None:
        statements = getattr(copied, name)
        statements[place] = ast.Pass()

    return change


def _swapped(name: str, place: int) -> Callable[[ast.AST], None]:
    def change(copied: ast.AST) -> None:
        statements = getattr(copied, name)
        statements[place - 1], statements[place] = statements[place], statements[place - 1]

    return change


def mutants(module: types.ModuleType, kind: type) -> Iterator[tuple[str, str]]:
    """Yield a description and the source of the module for each mutant of a class and its scripts."""
    source = inspect.getsource(module)
    tree = ast.parse(source)
    own = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    nodes = list(ast.walk(own))
    for index, node in enumerate(nodes):
        for text, change in _changes_of(node):
            copied = copy.deepcopy(tree)
            place = tree.body.index(own)
            change(list(ast.walk(copied.body[place]))[index])
            line = getattr(node, "lineno", own.lineno)
            yield f"line {line}: {text}", ast.unparse(ast.fix_missing_locations(copied))
    used = ast.unparse(own)
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in used
        ):
            for text, script in _lua_mutants(node.value.value):
                copied = copy.deepcopy(tree)
                assigned = copied.body[tree.body.index(node)]
                assert isinstance(assigned, ast.Assign)
                assigned.value = ast.Constant(script)
                yield (
                    f"{node.targets[0].id}: {text}",
                    ast.unparse(ast.fix_missing_locations(copied)),
                )


def _lua_mutants(script: str) -> Iterator[tuple[str, str]]:
    lines = script.splitlines()
    for place, line in enumerate(lines):
        if line.strip() and len(lines) > 1:
            yield f"dropped: {line.strip()[:50]}", "\n".join(lines[:place] + lines[place + 1 :])
    for old, new in _LUA:
        for found in re.finditer(re.escape(old), script):
            yield (
                f"{old} to {new} at {found.start()}",
                script[: found.start()] + new + script[found.end() :],
            )


async def survives(
    challenge: Challenge, module: types.ModuleType, source: str, name: str, number: int
) -> bool:
    """Say whether a mutant passes the check."""
    filename = f"<mutant {number}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = dict(vars(module), __name__="mutant_of_a_solution")
    try:
        exec(compile(source, filename, "exec"), namespace)
    except Exception:
        return False
    return (await challenge.check(namespace[name])).passed


async def examine(id: str, first: int, count: int, at_once: int) -> None:
    """Check the mutants of one challenge's reference; print what passes."""
    made = challenge_named(id)
    module = importlib.import_module(f"{made.module.rpartition('.')[0]}.solutions")
    kind = module.SOLUTIONS[made.name]
    chosen = [*enumerate(mutants(module, kind))][first : first + count]
    places, passed = asyncio.Semaphore(at_once), list[int]()

    async def one(number: int, text: str, source: str) -> None:
        async with places:
            if await survives(challenge_named(id), module, source, kind.__name__, number):
                passed.append(number)
                print(f"{id} {number}: passes: {text}", flush=True)

    await asyncio.gather(*(one(number, *each) for number, each in chosen))
    print(f"{id}: {len(chosen) - len(passed)} of {len(chosen)} mutants fail", flush=True)


async def main() -> None:
    """Check the mutants of the challenges that are named, or of all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("challenges", nargs="*", help="ch03/do_it_once", default=ids())
    parser.add_argument("--from", dest="first", type=int, default=0, help="go on with this one")
    parser.add_argument("--count", type=int, default=10**6)
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    for each in options.challenges:
        await examine(each, options.first, options.count, options.at_once)


if __name__ == "__main__":
    asyncio.run(main())
