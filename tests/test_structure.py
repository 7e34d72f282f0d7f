"""The shape of the repository: who imports whom, what is packaged, and that every example is true."""

import ast
import doctest
import importlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ["compression", "theory", "experiments", "figures"]
SOURCES = [ROOT / "__init__.py", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]

MAY_IMPORT = {
    "__init__.py": ["compression", "theory"],
    "compression": ["compression"],
    "theory": ["theory", "compression.types", "compression.schedules"],
    "experiments": ["experiments", "compression", "theory"],
    "figures": ["figures", "compression.records", "theory"],
    "experiments/command_line.py": ["experiments", "compression", "theory", "figures"],
}


def module_name(path: Path) -> str:
    """compression/rates.py -> purimetry.compression.rates; a package's __init__.py is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["purimetry", *(part for part in parts if part != "__init__")])


def absolute_imports(path: Path) -> Iterator[str]:
    """Every module named by an absolute import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def relative_imports(path: Path) -> Iterator[str]:
    """What relative imports name, seen from the root: `from ..compression import rates` -> compression.rates."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            yield from (".".join(filter(None, [*base, alias.name])) for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_follow_the_design(path):
    relative = path.relative_to(ROOT)
    allowed = MAY_IMPORT.get(relative.as_posix(), MAY_IMPORT[relative.parts[0]])
    wrong = [name for name in relative_imports(path) if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]
    assert wrong == [], f"may import only {allowed}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_inside_the_package_are_relative(path):
    """An absolute `import compression` would also meet Python 3.14's own package of that name."""
    assert [name for name in absolute_imports(path) if name.split(".")[0] in ["purimetry", *FOLDERS]] == []


def test_tests_import_the_package_by_its_name():
    for path in (ROOT / "tests").rglob("*.py"):
        assert [name for name in absolute_imports(path) if name.split(".")[0] in FOLDERS] == [], path.name


def test_compression_does_not_shadow_the_standard_library():
    assert not (ROOT / "compression" / "__init__.py").exists()


def test_package_list_equals_the_folders():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({module_name(path.parent / "__init__.py") for path in SOURCES})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree, because building in place would leave files behind and take in old ones."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ["pyproject.toml", "README.md", "LICENSE", "__init__.py"]:
        shutil.copy(ROOT / name, tree)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, tree)
    (path,) = out.glob("*.whl")
    return path


def pip(*arguments) -> None:
    """Run pip without touching the network."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def test_wheel_holds_exactly_the_tree(wheel):
    """Modules, report templates and packaged weights: all files of the package's folders, and no others."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    tree = {"purimetry/__init__.py"} | {
        f"purimetry/{path.relative_to(ROOT).as_posix()}" for path in files if "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == tree


def test_every_module_imports_from_the_installed_wheel(wheel, tmp_path):
    site = tmp_path / "site"
    pip("install", "--no-deps", "--target", site, wheel)
    code = "import importlib, sys; sys.path.insert(0, sys.argv[1])\n" \
           "for name in sys.argv[2:]: assert importlib.import_module(name).__file__.startswith(sys.argv[1]), name"
    subprocess.run([sys.executable, "-c", code, site, *map(module_name, SOURCES)], check=True, cwd=tmp_path)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_examples_in_docstrings(path, capsys):
    """Docstrings are taken from the source: doctest's own finder passes over functions that the type check wraps."""
    module = importlib.import_module(module_name(path))
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text, name = ast.get_docstring(node) or "", getattr(node, "name", module.__name__)
            runner.run(parser.get_doctest(text, dict(vars(module)), name, str(path), 0))
    assert runner.failures == 0, capsys.readouterr().out


def test_help_answers_without_importing_jax():
    code = (
        "import sys; from purimetry.experiments.command_line import main\n"
        "sys.argv = ['purimetry', '--help']\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "slow = {'jax', 'sklearn', 'scipy', 'matplotlib'} & sys.modules.keys()\n"
        "assert not slow, slow"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE)
    assert "reproduce" in answer.stdout
