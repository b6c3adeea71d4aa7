"""Which files of the library a module uses, found by reading the source, not by running it.

A name that a package's `__init__` only passes on counts as a use of the file that defines it, so a
stage does not depend on all parameter sections because it reads one. Imports inside functions
count, and so does a module's name as a string (`torchrun -m vatt.train...`).
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files_used_by(path: Path) -> set[Path]:
    """Return `path`, every file of vatt/ that it uses, and the templates beside each of them."""
    found: set[Path] = set()
    waiting: set[Path | None] = {path}
    while waiting:
        current = waiting.pop()
        if current is None or current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                waiting |= {_definition(node.module or "", name.name) for name in node.names}
            elif isinstance(node, ast.Import):
                waiting |= {_module_file(name.name) for name in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                waiting.add(_module_file(node.value) if "." in node.value else None)
    templates = {file.with_suffix(suffix) for file in found for suffix in (".html", ".md")}
    return found | {template for template in templates if template.is_file()}


def _definition(module: str, name: str) -> Path | None:
    """Return the file that defines what `from module import name` gives, if it is ours."""
    submodule, file = _module_file(f"{module}.{name}"), _module_file(module)
    if submodule is not None or file is None or file.name != "__init__.py":
        return submodule or file
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return _definition(node.module or "", name)
    return file


def _module_file(name: str) -> Path | None:
    parts = name.split(".")
    if parts[0] != "vatt" or not all(part.isidentifier() for part in parts):
        return None
    path = ROOT.joinpath(*parts)
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)
