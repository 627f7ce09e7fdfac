"""The design, held by syntax trees: imports go downwards, third parties have owners, functions stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ssl_retina"
FILES = sorted(PACKAGE.rglob("*.py"))

ROWS = (
    {
        "addresses",
        "architecture",
        "http_rules",
        "errors",
        "contract",
        "dist",
        "files",
        "locks",
        "scheduler",
        "pseudonyms",
        "positions",
        "shards",
        "shard_index",
        "metrics",
        "config_text",
        "shares",
        "shipped",
    },
    {"config", "sections", "relations", "synthetic", "labels"},
    {"archive", "data", "models", "losses"},
    {"methods"},
    {"train"},
    {"release", "probe"},
    {"report", "plan", "bench", "launch", "demo", "real"},
    {"cli", "__main__"},
)
SIBLINGS_APART = {"archive", "data", "models", "losses", "release", "probe"}
OWNERS = {
    "deepspeed": {"train/engine.py", "train/zero.py"},
    "wandb": {"train/tracking.py"},
    "tensorboard": {"train/tracking.py"},
    "webdataset": {"archive/", "data/", "bench/pipelines.py"},
    "pydicom": {"archive/readers/dicom", "synthetic"},
    "timm": {"models/"},
    "lightly": {
        "models/",
        "losses/",
        "methods/",
        "data/views.py",
        "bench/pipelines.py",
        "bench/examples.py",
    },
    "torchvision": {"bench/pipelines.py"},
    "huggingface_hub": {"release/hub/huggingface.py", "models/origin.py"},
    "httpx2": {"release/hub/", "models/origin.py"},
    "fsspec": {"data/remote/"},
    "aiohttp": {"data/remote/"},
}


def _row(name: str) -> int:
    return next(number for number, row in enumerate(ROWS) if name in row)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def _unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    """A unit imports only lower rows; the stages between shards and methods do not know each other."""
    own = _unit(path)
    if own == "__init__":
        return
    wrong = []
    for line, name in _imports(path):
        parts = name.split(".")
        if parts[0] != "ssl_retina" or len(parts) < 2 or parts[1] == "__version__" or parts[1] == own:
            continue
        same_row = _row(parts[1]) == _row(own)
        if _row(parts[1]) > _row(own) or (same_row and own in SIBLINGS_APART):
            wrong.append(f"{path}:{line}: {own} imports {parts[1]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_parties_have_owners(path: Path) -> None:
    """Each heavy or dangerous library is spoken to in its owning files only."""
    relative = path.relative_to(PACKAGE).as_posix()
    for line, name in _imports(path):
        owners = OWNERS.get(name.split(".")[0])
        if name.startswith("torch.utils.tensorboard"):
            owners = OWNERS["tensorboard"]
        assert owners is None or any(relative.startswith(owner) for owner in owners), f"{path}:{line}: {name}"


def test_methods_do_not_import_each_other() -> None:
    """A method is one file on shared blocks."""
    for path in (PACKAGE / "methods").glob("*.py"):
        for line, name in _imports(path):
            assert not name.startswith("ssl_retina.methods."), f"{path}:{line}: {name}"


def _functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_small() -> None:
    """A body has at most 40 lines, nine in ten at most 25."""
    sizes = [(_body_lines(node), f"{path}:{node.lineno} {node.name}") for path, node in _functions()]
    too_long = [where for size, where in sizes if size > 40]
    assert not too_long, "\n".join(too_long)
    assert sorted(size for size, _ in sizes)[int(0.9 * len(sizes))] <= 25


def test_files_are_small() -> None:
    """A file has at most 300 lines and opens by saying what it does."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, f"{path}: {text.count(chr(10))} lines"
        assert ast.get_docstring(ast.parse(text)), f"{path}: no opening docstring"
        assert path.stem not in {"utils", "common", "misc", "helpers"}, path


def test_arguments_are_few_and_named() -> None:
    """At most six arguments, keyword-only after the second; the command line's functions are exempt."""
    wrong = []
    for path, node in _functions():
        if path.relative_to(PACKAGE).parts[0] == "cli":
            continue
        own = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in {"self", "cls"}]
        if len(own) + len(node.args.kwonlyargs) > 6:
            wrong.append(f"{path}:{node.lineno} {node.name}: more than 6 arguments")
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints_and_catches_everything() -> None:
    """`print` and `except Exception` belong to the command line's border."""
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}: print"
            if isinstance(node, ast.ExceptHandler):
                names = (
                    {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)} if node.type else {"all"}
                )
                assert not names & {"Exception", "BaseException", "all"}, (
                    f"{path}:{node.lineno}: broad except"
                )


def test_inheritance_is_rare() -> None:
    """Classes derive only from torch modules, pydantic, Protocol, exceptions and the frozen Section.

    `Distilling` and `Reconstruction` are sections too: the keys that methods share.
    """
    allowed = {"nn.Module", "Module", "Function", "autograd.Function", "torch.autograd.Function", "BaseModel"}
    allowed |= {"Section", "Protocol", "Exception", "yaml.SafeLoader", "NamedTuple", "StrEnum", "TypedDict"}
    allowed |= {"Distilling", "Reconstruction", "Dataset", "torch.utils.data.Dataset", "json.JSONEncoder"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    name = ast.unparse(base).split("[")[0]
                    assert name in allowed or name.endswith("Error"), (
                        f"{path}:{node.lineno}: {node.name}({name})"
                    )
