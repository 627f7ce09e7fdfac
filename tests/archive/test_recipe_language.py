"""Globs, path patterns and templates of recipes; all mistakes of a recipe at once, each with its line."""

from pathlib import Path

import pytest

from ssl_retina.archive import recipe
from ssl_retina.archive.recipe import text
from ssl_retina.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("glob", "fitting", "other"),
    [
        ("**/*.jpg", ["a.jpg", "x/y/a.JPG"], ["a.jpeg", "a.jpg/b"]),
        ("train/*.png", ["train/1.png", "TRAIN/1.png"], ["train/x/1.png", "test/train/1.png"]),
        ("**/Ground truth/**", ["Ground truth/a", "x/ground truth/y/a"], ["Ground truths/a"]),
        ("**/*_2101[56]_?.png", ["1_21015_0.png"], ["1_21017_0.png", "1_21015_10.png"]),
        ("**/[!t]*.jpg", ["a.jpg"], ["t.jpg"]),
        ("a(1)+.txt", ["a(1)+.txt"], ["a1.txt"]),
    ],
)
def test_globs(glob: str, fitting: list[str], other: list[str]) -> None:
    compiled = text.glob(glob)
    assert all(compiled.fullmatch(path) for path in fitting)
    assert not any(compiled.fullmatch(path) for path in other)


@pytest.mark.parametrize(
    ("pattern", "path", "parts"),
    [
        (r"**/{number:\d+}_{side:left|right}.*", "train/x/10_left.jpeg", {"number": "10", "side": "left"}),
        ("{clinic}/{_}/{name_}.jpg", "a/b/c.jpg", {"clinic": "a", "name_": "c"}),
        ("{all:.+}.jpg", "a/b/c.jpg", {"all": "a/b/c"}),
        ("{clinic}/{x}.jpg", "a/b/c.jpg", None),
    ],
)
def test_path_patterns(pattern: str, path: str, parts: dict[str, str] | None) -> None:
    match = text.path_pattern(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == parts


@pytest.mark.parametrize("wrong", ["", "/etc/*.jpg", "../*.jpg", "a/../../b", "a\\b"])
def test_paths_stay_below_the_source(wrong: str) -> None:
    with pytest.raises(ValueError, match="no path below the source"):
        text.glob(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{a}/{a}", "stands twice"),
        ("{path}.jpg", "a part is named by"),
        ("{Number}.jpg", "a part is named by"),
        ("{a:(}.jpg", "not a regular expression"),
    ],
)
def test_mistakes_of_patterns(wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        text.path_pattern(wrong)


def test_templates_are_filled_whole_or_not_at_all() -> None:
    template = text.template("{site}-{file|stem}!")
    assert template.fill({"site": " b ", "file": "x\\y/1.2.JPG"}) == "b-1.2!"
    assert template.fill({"site": "b", "file": ""}) == ""
    assert template.fill({"site": "b"}) == ""
    assert text.template("constant").fill({}) == "constant"
    for wrong in ("{a", "a}", "{a|name}"):
        with pytest.raises(ValueError, match="brace|filter"):
            text.template(wrong)


WRONG = """\
name: other
title: t
licence: l
citation: c
page: ftp://x
verified: true
imagse: '*.jpg'
images: '../*.jpg'
skip:
  - files: '*.bmp'
    why: Patient 4711's mask
paths:
  - fits: '{number}.jpg'
    states: {patient: '{nummer}', eye: links}
tables:
  - table: t.csv
    rows: image
    fits: '{grade}'
    state: {patient: '{grade}'}
labels:
  - table: t.csv
    file: image
    tasks: [dr]
"""


def test_all_mistakes_at_once_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(WRONG)
    with pytest.raises(ConfigError) as refused:
        recipe.read(path)
    said = "\n".join(refused.value.problems)
    for line in (
        "name: a recipe is named by its file, leave it out   [mine.yaml:1]",
        "[mine.yaml:5]",
        "imagse: unknown key; did you mean 'images'?   [mine.yaml:7]",
        "no path below the source, with / between folders and without ..   [mine.yaml:8]",
        "[mine.yaml:11]",
        "tables.0.state: unknown key; did you mean 'states'?   [mine.yaml:19]",
        "tables.0.states: required, not given   [mine.yaml:16]",
        "[mine.yaml:23]",
    ):
        assert line in said, said


def test_mistakes_between_fields_have_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    mended = {
        "name: other\n": "",
        "ftp://x": "none",
        "imagse: '*.jpg'\n": "values: {eyes: {a: b}, eye: {'0': links}}\n",
        "'../*.jpg'": "'*.jpg'",
        "Patient 4711's mask": "masks",
        "    state:": "    states:",
        "[dr]": "['dr=grade>=2']",
    }
    content = WRONG
    for old, new in mended.items():
        content = content.replace(old, new)
    path.write_text(content + "no_labels: none\n")
    with pytest.raises(ConfigError) as refused:
        recipe.read(path)
    said = "\n".join(refused.value.problems)
    for line in (
        "paths.0.states.patient: no part 'nummer' here; there are: folder, name, number, path, stem   [mine",
        "paths.0.states.eye: 'links' is no known eye   [mine.yaml:13]",
        "values.eyes: no such attribute",
        "values.eye.0: 'links' is no known eye   [mine.yaml:6]",
        "tables.0.rows: names no column, such as {image}   [mine.yaml:16]",
        "tables.0.fits: no part 'grade' here",
        "labels: either labels, or no_labels",
        "tables.0.states.patient: 'grade' is a label of this recipe: labels never go into shards   [mine",
    ):
        assert line in said, said


def test_a_name_that_is_unknown_is_told_what_is_near() -> None:
    with pytest.raises(InputError, match="no recipe 'hydg'; did you mean 'hygd'"):
        recipe.load("hydg")
    with pytest.raises(InputError, match="is not a file"):
        recipe.load("./absent.yaml")
