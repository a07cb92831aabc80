"""Campaign files: YAML read with the place of every field, so that complaints can name file, line and column.

YAML as its version 1.2 defines it: `true` and `false` are the only booleans, a date is text. One file can hold several
documents, separated by `---`. No anchors, no tags.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from stream.campaigns.problems import Path, Problem, show_path
from stream.campaigns.validate import validate

FILE_BYTES_MAX = 1 << 20


class Place(NamedTuple):
    """Where something stands in a file; both count from 1."""

    line: int
    column: int


class Fault(NamedTuple):
    """One thing that is wrong in a file."""

    file: str
    place: Place
    path: Path
    message: str

    def __str__(self) -> str:
        field = show_path(self.path)
        return f"{self.file}:{self.place.line}:{self.place.column}: {field + ': ' if field else ''}{self.message}"


class Loaded(NamedTuple):
    """What a file holds."""

    documents: list[dict[str, Any]]
    """Those that are valid."""
    faults: list[Fault]


def load(file: FilePath, currency: str = "") -> Loaded:
    """Read and validate a campaign file.

    Args:
        file: to read.
        currency: the shop's, "" = any.

    Raises:
        OSError: it cannot be read.
    """
    data = file.read_bytes()
    name = str(file)
    if len(data) > FILE_BYTES_MAX:
        text = f"a campaign file has at most {FILE_BYTES_MAX} bytes, this has {len(data)}"
        return Loaded([], [Fault(name, Place(1, 1), (), text)])
    documents: list[dict[str, Any]] = []
    faults: list[Fault] = []
    try:
        for node in yaml.compose_all(data, Loader=_Loader):
            reader = _Reader()
            document = reader.value(node, ())
            problems = reader.problems or validate(document, currency)
            faults += sorted(Fault(name, reader.place(problem.path), *problem) for problem in problems)
            if not problems:
                documents.append(document)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        faults.append(Fault(name, place, (), f"not YAML: {error.problem or error.context}"))
    except yaml.reader.ReaderError as error:
        line = data[: error.position].count(b"\n") + 1
        faults.append(Fault(name, Place(line, 1), (), f"not YAML in UTF-8: {error.reason}"))
    except RecursionError:
        faults.append(Fault(name, Place(1, 1), (), "nested too deeply"))
    if not documents and not faults:
        faults.append(Fault(name, Place(1, 1), (), "the file holds no campaign"))
    return Loaded(documents, faults)


class _Loader(yaml.SafeLoader):
    """Only the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 how PyYAML is extended

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 PyYAML's signature
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not supported", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


_INT, _FLOAT, _BOOL, _NULL, _STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "str"))
_Loader.add_implicit_resolver(_NULL, re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,30})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?$"),
    list("-+.0123456789"),
)

_SCALARS: dict[str, Callable[[str], Any]] = {
    _STR: str,
    _INT: int,
    _FLOAT: float,
    _BOOL: lambda text: text == "true",
    _NULL: lambda _: None,
}


class _Reader:
    """Turns the nodes of one document into plain values and notes where each stands."""

    def __init__(self) -> None:
        self._places: dict[Path, Place] = {}
        self.problems: list[Problem] = []

    def place(self, path: Path) -> Place:
        """Of a field, its name; of what is not there, what should hold it."""
        while path not in self._places:
            path = path[:-1]
        return self._places[path]

    def value(self, node: yaml.Node, path: Path) -> Any:  # noqa: ANN401 whatever the document holds
        mark = node.start_mark
        self._places.setdefault(path, Place(mark.line + 1, mark.column + 1))
        if isinstance(node, yaml.MappingNode):
            return dict(self._entries(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        scalar = _SCALARS.get(node.tag)
        if scalar is None:
            self.problems.append(Problem(path, f"the tag {node.tag} is not supported"))
            return None
        return scalar(str(node.value))

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        for key, child in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            at = (*path, name)
            again = at in self._places
            self._places[at] = Place(key.start_mark.line + 1, key.start_mark.column + 1)
            if again:
                self.problems.append(Problem(at, "this field is given twice"))
            yield name, self.value(child, at)
