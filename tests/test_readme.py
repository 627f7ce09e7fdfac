"""What the README and the pages say can be run: verbs, options, targets, files; the README stays short."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ssl_retina.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*.md")])


def test_make_takes_folders_with_blanks(tmp_path: Path) -> None:
    """The Makefile itself, with a stand-in for the program that says what it was given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    program = tmp_path / ".venv" / "bin" / "ssl-retina"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
    program.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()

    def said(*words: str) -> list[str]:
        done = subprocess.run(
            ["make", "-s", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    assert said("real", "DATA=eyes of 2019") == ["<real>", "<eyes of 2019>", "<--out>", "<out/real>"]
    assert said("real") == ["<real>", "<--out>", "<out/real>"], "so that the program says what is missing"
    wanted = ["<real>", "<d>", "<--methods>", "<mae,simclr>", "<--seeds>", "<2>", "<--out>", "<out/real>"]
    assert said("real", "DATA=d", "METHODS=mae,simclr", "SEEDS=2") == wanted
    assert said("demo", "OUT=a b") == ["<demo>", "<--out>", "<a b>"]


def _commands(text: str) -> Iterator[list[str]]:
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split("  #")[0].strip()
            if re.match(r"(\S*/)?ssl-retina ", line):
                yield shlex.split(line)[1:]


def _documented() -> Iterator[tuple[str, list[str]]]:
    for page in dict.fromkeys(PAGES):
        for words in _commands(page.read_text(encoding="utf-8")):
            yield page.name, words


def _shown_in_help() -> Iterator[tuple[str, list[str]]]:
    group = typer.main.get_command(app)
    for verb, command in group.commands.items():  # type: ignore[attr-defined]
        texts = [" ".join((text or "").split()) for text in (command.epilog, command.help)]
        found = re.search(r"Example: ssl-retina (.*)$", "\n".join(texts), flags=re.M)
        assert found, f"{verb} has no example in its --help"
        yield f"help of {verb}", shlex.split(found.group(1))


@pytest.mark.parametrize(
    ("page", "words"), [*_documented(), *_shown_in_help()], ids=lambda value: str(value)[:80]
)
def test_documented_commands_parse(page: str, words: list[str]) -> None:
    group = typer.main.get_command(app)
    verb, *arguments = words
    assert verb in group.commands, f"{page}: no verb {verb}"  # type: ignore[attr-defined]
    command = group.commands[verb]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):  # a group, such as bench
        verb, *arguments = arguments
        command = command.commands[verb]
    try:
        assert command.make_context(verb, [*arguments]).params
    except typer.Exit:  # an option that answers and ends, such as --recipe list
        return
    except typer.BadParameter as error:
        if "does not exist" not in str(error):  # the reader's own folder; everything else must be right
            raise


def test_an_unknown_option_would_be_noticed() -> None:
    group = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        group.commands["shard"].make_context("shard", ["a", "--outt", "b"])  # type: ignore[attr-defined]


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short_and_its_targets_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 200
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make ([a-z]+)", text)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
