"""YAML text and `a.b=c` overrides -> plain values that know their file and line; errors as sentences.

Strict where YAML is lax: duplicate keys are refused, `1e-4` is a number, nothing but plain data is built.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ssl_retina.addresses import masked
from ssl_retina.errors import ConfigError, InputError

Key = tuple[str, ...]
T = TypeVar("T", bound=BaseModel)


_WORDS = re.compile(
    "(?:"
    "files?|names?|paths?|relative|full|images?|img|photo(?:graph)?s?|pictures?|fundus|key|id|ids|pid|uid|code|number"
    "|no|nr|index|idx|patients?|subjects?|participants?|persons?|eyes?|laterality|side|devices?|models?|cameras?"
    "|manufacturer|visits?|exam|study|acquisition|date|time|split|subset|partition|fold|set|modality|type|site"
    "|labels?|grades?|class|classes|diagnosis|diagnoses|disease|targets?|task|score|quality|risk|stage|severity"
    "|retinopathy|macular|edema|oedema|glaucoma|amd|dr|dme|hr|gon|age|sex|gender|remarks?|comments?|notes?"
    "|of|the|is|has|left|right|level|status|value|normal|adjudicated|referable|gradable"
    ")+"
)
"""Words that columns are called by, alone or run together; none of them is a person's name."""


_BOOLEAN, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `1e-4` is a number, and only `true` and `false` are booleans, not `off` or `no`."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name for its table
        letter: [(tag, pattern) for tag, pattern in rules if tag != _BOOLEAN]
        for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(true|false|True|False|TRUE|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass(frozen=True)
class Source:
    """Values as written, where each stands, and what was wrong already while reading."""

    name: str
    values: dict[str, Any]
    places: Mapping[Key, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def place(self, *keys: Key) -> str:
        """Where the first known of `keys`, or its nearest parent, stands: `[file:line]`."""
        for key in keys:
            for length in range(len(key), 0, -1):
                if key[:length] in self.places:
                    return f"[{self.places[key[:length]]}]"
        return f"[{self.name}]"


def read(path: Path, overrides: Sequence[str], shipped: str = "ones are in configs/pretrain/") -> Source:
    """Read one YAML file and lay the overrides over it; `shipped`: what comes with the program."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a YAML file in it")
    if not path.is_file():
        raise InputError(f"config {path} does not exist; the shipped {shipped}")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "not UTF-8 text"
        raise ConfigError(path.name, [f"{reason}   [{path.name}{line}]"]) from None
    places: dict[Key, str] = {}
    problems: list[str] = []
    values = _value(node, (), _Notes(path.name, places, problems)) if node else {}
    if not isinstance(values, dict):
        raise ConfigError(path.name, [f"a config is a mapping of sections   [{path.name}:1]"])
    for override in overrides:
        _override(override, values, places, problems)
    return Source(path.name, values, places, tuple(problems))


def from_values(content: Mapping[str, Any]) -> Source:
    """Values without a file."""
    return Source("config", dict(content))


@dataclass(frozen=True)
class _Notes:
    file: str
    places: dict[Key, str]
    problems: list[str]


def _value(node: yaml.Node, at: Key, notes: _Notes) -> Any:
    line = node.start_mark.line + 1
    notes.places.setdefault(at, f"{notes.file}:{line}")
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        notes.problems.append(
            f"{'.'.join(at) or 'config'}: only plain values, not {node.tag}   [{notes.file}:{line}]"
        )
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, notes)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*at, str(i)), notes) for i, child in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: yaml.MappingNode, at: Key, notes: _Notes) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        key = str(_scalar(key_node))
        line = key_node.start_mark.line + 1
        if key in values:
            first = notes.places[(*at, key)].rsplit(":", 1)[1]
            notes.problems.append(
                f"{'.'.join((*at, key))}: given twice, first in line {first}   [{notes.file}:{line}]"
            )
            continue
        notes.places[(*at, key)] = f"{notes.file}:{line}"
        values[key] = _value(child, (*at, key), notes)
    return values


def _scalar(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _override(text: str, values: dict[str, Any], places: dict[Key, str], problems: list[str]) -> None:
    name, equals, raw = text.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key) or "://" in name:
        problems.append(f"{masked(text)!r}: an override is written section.key=value   [command line]")
        return
    try:
        value = yaml.load(raw, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        value = raw
    target = values
    for part in key[:-1]:
        child = target.get(part)
        if not isinstance(child, dict):
            child = target[part] = {}
        target = child
    target[key[-1]] = value
    shown = f"override {masked(text)}"
    for length in range(1, len(key)):
        places.setdefault(key[:length], shown)
    places[key] = shown


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """`; did you mean 'x'?` where one of the choices is near, else nothing."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def tame_columns(names: Sequence[str]) -> list[str]:
    """A table's column names for a message: those made of common words, `column 3` for any other.

    A file without a header has a patient's cells for column names (law 8).
    """
    return [name if _is_common(name) else f"column {number}" for number, name in enumerate(names, 1)]


def _is_common(name: str) -> bool:
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    for text in (spaced[:80], name[:80]):
        words = [word for word in re.split(r"[\W_]+", text.casefold()) if word]
        known = [word for word in words if _WORDS.fullmatch(word)]
        if known and all(word in known or re.fullmatch(r"\d{1,2}", word) for word in words):
            return True
    return False


def check(model: type[T], source: Source, skip: Sequence[str] = ()) -> tuple[T | None, list[str]]:
    """Validate strictly; give the object, or every problem as one line. `skip`: sections not looked at."""
    try:
        text = json.dumps(source.values, default=str)
        return model.model_validate_json(text), []
    except ValidationError as error:
        problems = [
            _sentence(model, dict(problem), source)
            for problem in error.errors(include_url=False)
            if not (problem["loc"] and problem["loc"][0] in skip)
        ]
        return None, problems


def _sentence(model: type[BaseModel], problem: dict[str, Any], source: Source) -> str:
    key = tuple(str(part) for part in problem["loc"])
    name = ".".join(key) or "config"
    place = source.place(key)
    kind = problem["type"]
    if kind == "extra_forbidden":
        hint = did_you_mean(key[-1], list(_fields(model, key[:-1])))
        return f"{name}: unknown key{hint}   {place}"
    if kind == "missing":
        at = f"[{source.name}]" if place.startswith("[override ") else place  # another key's, or no one's
        return f"{name}: required, not given   {at}"
    if kind == "value_error":
        text = str(problem["ctx"]["error"])
        own = (*key, text.partition(": ")[0])
        if own[-1] in _fields(model, key):  # of several keys together; this one is to be changed
            return f"{'.'.join(key + ('',))}{text}   {source.place(own)}"
        return f"{name}: {text}   {place}"
    message = problem["msg"].replace("Input should", "should")
    return f"{name}: {message}, got {masked(repr(problem['input']))}   {place}"


def _fields(model: type[BaseModel], key: Key) -> Mapping[str, Any]:
    """The fields of the section that a key names."""
    for part in key:
        if part.isdecimal():  # a place in a list: its items are of the same section
            continue
        known = model.model_fields.get(part)
        if known is None:
            return {}
        types = (known.annotation, *get_args(known.annotation))
        nested = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not nested:
            return {}
        model = nested[0]
    return model.model_fields
