"""A hash of the code that a result depends on, so that a change re-runs what it touches and nothing else.

Of the file of an experiment: the function, and what it uses of the file's other definitions, and so on; a claim, a
figure or another experiment may change freely. Of the modules that these import from the study's package and from
assay: the whole file, and what it imports in turn; where a package's `__init__` only hands a name on, the module that
it comes from. Comments, docstrings, the annotations of functions, and layout do not count. What is not imported by name
must be declared in `Study.parts`. The parts of the laboratory that describe and judge what is run do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from assay._errors import InputError

_Import = ast.Import | ast.ImportFrom


def fingerprint(function: Callable[..., Any], parts: Sequence[str] = ()) -> str:
    """32 hexadecimal digits. O(size of the code reached).

    Raises `InputError` for a function without a file, and for a part that does not exist.
    """
    own = _source(function.__module__)
    if own is None or function.__name__ not in own.bindings:
        raise InputError(f"experiment {function.__name__!r}: expected a function at the top level of a file")
    reach = _Reach(own)
    digest = hashlib.sha256()
    for code in reach.definitions(function.__name__):
        digest.update(code.encode())
    for name in parts:
        if _source(name) is None:
            raise InputError(f"parts names {name!r}; expected a module written in Python")
        reach.module(name)
    for name in sorted(reach.modules):
        digest.update(f"\n# {name}\n{reach.modules[name]}".encode())
    return digest.hexdigest()[:32]


_DESCRIBES = {f"assay.lab.{name}" for name in ("claims", "config", "figure", "resources", "study")}
"""What says what is run and judges it, and computes no rows: a change of it is no change of an experiment."""


class _Source:
    """One file: its statements, and what each name at its top level is bound by."""

    def __init__(self, name: str, file: Path) -> None:
        self.name, self.file = name, file
        self.tree = _Bare().visit(ast.parse(file.read_text("utf-8")))
        self.is_package = file.name == "__init__.py"

    @cached_property
    def bindings(self) -> dict[str, list[ast.stmt]]:
        found: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            for name in _bound(statement):
                found.setdefault(name, []).append(statement)
        return found

    def targets(self, node: _Import) -> Iterator[tuple[str, str | None]]:
        """(module, name taken from it or None for the module itself)."""
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
        yield from ((base, alias.name) for alias in node.names)


class _Reach:
    """What is reached from a study's file; `modules` has the code of the other files."""

    def __init__(self, own: _Source) -> None:
        self.own = own
        self.roots = {"assay", own.name.partition(".")[0]}
        self.modules: dict[str, str] = {}

    def definitions(self, name: str) -> list[str]:
        """The statements of the study's file that `name` needs, in their order; what they import is followed."""
        wanted = {id(statement) for statement in self.own.tree.body if not _bound(statement)}  # they just run
        queue = [statement for statement in self.own.tree.body if id(statement) in wanted]
        queue += self.own.bindings[name]
        wanted |= {id(statement) for statement in queue}
        while queue:
            statement = queue.pop()
            self._follow(self.own, [statement])
            for used in (node.id for node in ast.walk(statement) if isinstance(node, ast.Name)):
                new = [one for one in self.own.bindings.get(used, []) if id(one) not in wanted]
                wanted |= {id(one) for one in new}
                queue += new
        return [ast.unparse(statement) for statement in self.own.tree.body if id(statement) in wanted]

    def module(self, name: str) -> None:
        """A whole file, and what it imports."""
        if name in self.modules or name == self.own.name or (source := self._ours(name)) is None:
            return
        self.modules[name] = ast.unparse(source.tree)
        self._follow(source, [one for one in source.tree.body if not _only_for_types(one)])

    def _follow(self, source: _Source, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            for node in ast.walk(statement):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    for module, name in source.targets(node):
                        self._import(module, name)

    def _import(self, module: str, name: str | None) -> None:
        if (source := self._ours(module)) is None:
            return
        if name is None or not source.is_package:
            self.module(module)
        elif self._ours(f"{module}.{name}") is not None:
            self.module(f"{module}.{name}")
        elif origin := _handed_on(source, name):
            self._import(*origin)
        else:
            self.module(module)

    def _ours(self, name: str) -> _Source | None:
        """The module, where it is of assay, of the study's package, or in the folder of a study that is in none."""
        if name in _DESCRIBES:
            return None
        beside = "." not in self.own.name and (self.own.file.parent / f"{name}.py").is_file()
        return _source(name) if name.partition(".")[0] in self.roots or beside else None


_LOADED: WeakKeyDictionary[ModuleType, _Source] = WeakKeyDictionary()
"""Modules as they were when they were first met: a file that is edited later is not what this process runs."""


def _source(name: str) -> _Source | None:
    if (loaded := sys.modules.get(name)) is not None and loaded in _LOADED:
        return _LOADED[loaded]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # no such parent; a module without a spec, such as __main__
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    source = _Source(name, Path(spec.origin))
    if (loaded := sys.modules.get(name)) is not None:
        _LOADED[loaded] = source
    return source


def _handed_on(package: _Source, name: str) -> tuple[str, str | None] | None:
    """Where a package's `__init__` takes a name from, also if it does so only for type checkers (and lazily else)."""
    for node in ast.walk(package.tree):
        if isinstance(node, ast.ImportFrom):
            for alias, target in zip(node.names, package.targets(node), strict=True):
                if (alias.asname or alias.name) == name:
                    return target
    return None


def _bound(statement: ast.stmt) -> list[str]:
    """The names that a statement binds, where that is all it does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        goals = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for goal in goals for node in ast.walk(goal) if isinstance(node, ast.Name)]
    return [" types"] if _only_for_types(statement) else []


def _only_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


class _Bare(ast.NodeTransformer):
    """Drops what does not change a result: docstrings, and the annotations of functions and of their variables."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self.generic_visit(_without_docstring(node))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.generic_visit(_without_docstring(node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node = _without_docstring(node)
        node.returns = None
        node.body = [_without_annotation(statement) for statement in node.body]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


_Block = TypeVar("_Block", ast.Module, ast.ClassDef, ast.FunctionDef)


def _without_docstring(node: _Block) -> _Block:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]
    return node


def _without_annotation(statement: ast.stmt) -> ast.stmt:
    if not isinstance(statement, ast.AnnAssign):
        return statement
    bare = ast.Pass() if statement.value is None else ast.Assign([statement.target], statement.value)
    return ast.fix_missing_locations(ast.copy_location(bare, statement))
