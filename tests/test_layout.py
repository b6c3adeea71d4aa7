"""The rules of CONTRIBUTING.md that a program can check: sizes, names, docstrings, the README."""

import ast
import re
import subprocess
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["vatt", "orchestration", "tests", "benchmarks"]
FORBIDDEN_MODULES = {"utils", "util", "common", "helpers", "misc"}
FORBIDDEN_WORDS = {"vid", "vids", "aud", "auds", "txt", "txts", "img", "imgs"}

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 400, 50, 6
LISTS = {"vatt/download/datasets", "tests/download/datasets", "benchmarks/model"}
"""Lists of like things: the only folders two levels down."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """All Python files of the project's folders, those not yet committed included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in names.splitlines() if name.endswith(".py")]
    return [path for path in paths if path.is_file()]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in python_files(*FOLDERS)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    }
    assert not long


def test_functions_are_short_and_take_few_arguments() -> None:
    problems = []
    for path in python_files(*FOLDERS):
        for node in (node for node in ast.walk(parse(path)) if isinstance(node, Function)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            num_arguments = sum(argument.arg not in {"self", "cls"} for argument in arguments)
            if lines > MAX_FUNCTION_LINES or num_arguments > MAX_ARGUMENTS:
                place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                problems.append(f"{place}: {lines} lines, {num_arguments} arguments")
    assert not problems, "\n".join(problems)


def test_a_room_has_no_further_rooms() -> None:
    """One level of folders below vatt/ and tests/, so that a newcomer finds a file by its name."""
    deep = {
        str(path.parent.relative_to(ROOT))
        for path in python_files(*FOLDERS)
        if len(path.relative_to(ROOT).parts) > 3
    }
    assert deep <= LISTS


def test_modules_and_public_names_have_docstrings() -> None:
    """A definition at the top of a module, or of a public class there, is public by its name."""
    problems = []
    for path in python_files("vatt", "orchestration", "benchmarks"):
        tree = parse(path)
        if tree.body and not ast.get_docstring(tree):
            problems.append(str(path.relative_to(ROOT)))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        bodies = [tree.body, *(node.body for node in classes if not node.name.startswith("_"))]
        problems += [
            f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            for node in chain(*bodies)
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if "overload" not in map(ast.unparse, node.decorator_list)
            if not ast.get_docstring(node)
        ]
    assert not problems, "\n".join(problems)


def test_names_are_telling_and_words_are_written_out() -> None:
    problems = []
    for path in python_files(*FOLDERS):
        if path.stem in FORBIDDEN_MODULES:
            problems.append(str(path.relative_to(ROOT)))
        for node in ast.walk(parse(path)):
            name = _bound_name(node)
            if FORBIDDEN_WORDS & set(re.split(r"[_\d]+", name.lower())):
                problems.append(f"{path.relative_to(ROOT)}: {name}")
    assert not problems, "\n".join(problems)


def _bound_name(node: ast.AST) -> str:
    """Return the name that a node gives to something of ours; empty for all other nodes."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return ""


def readme_tree() -> dict[str, str]:
    """Return path and text of each line of the tree under the README's heading Layout."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"(?ms)^## Layout$.*?^```\w*\n(.*?)^```", readme)
    assert block, "README.md has no fenced block under the heading Layout"
    tree, folder = {}, ""
    for line in filter(str.strip, block[1].splitlines()):
        name, _, text = line.strip().partition("#")
        indented = line.startswith(" ")
        path = folder + name.strip() if indented else name.strip()
        folder = folder if indented else path
        tree[path] = text.strip()
    return tree


def test_the_readme_tree_is_the_real_one() -> None:
    tree = readme_tree()
    assert [path for path in tree if not (ROOT / path).exists()] == []
    assert [path for path, text in tree.items() if not text] == []
    listed = {path.rstrip("/") for path in tree}
    parts = [path.relative_to(ROOT).parts for path in python_files(".") if path.parent != ROOT]
    folders = {names[0] for names in parts} | {
        f"vatt/{names[1]}" for names in parts if names[0] == "vatt" and len(names) > 2
    }
    assert folders - listed == set()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_commands_in_the_documentation_exist(page: str) -> None:
    path = ROOT / page if (ROOT / page).exists() else ROOT / "docs" / page
    text = path.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", code)) - targets == set()
    for module in re.findall(r"python -m ((?:vatt|orchestration|benchmarks)[\w.]*)", code):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
