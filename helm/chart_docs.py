"""Bring the chart's schema and its README's table up to date: `python helm/chart_docs.py [--check]`.

Written by hand are values.yaml (names, defaults, and above each value its description) and the types in
values.schema.json. Made here: the schema's descriptions, its `config` (which is proxy.settings) and the table.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from proxy.settings import Settings

CHART: Final = Path(__file__).parent / "headway"
README: Final = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- values: made by chart_docs.py -->", "<!-- end of values -->"
# What the chart decides itself: two sources for one setting would contradict each other.
CHART_DECIDES: Final = frozenset(
    {"engine", "host", "port", "admin_host", "admin_port", "state", "engine_api_key_file"}
    | {"redis", "redis_password", "redis_password_file", "redis_ca_file"}
)


class Value(msgspec.Struct, frozen=True):
    """One value of the chart: its dotted path, default and description."""

    path: tuple[str, ...]
    default: Any
    description: str


def main() -> int:
    """Write what has changed; with --check, only say so and return 1."""
    parser = argparse.ArgumentParser(
        description="Keep the chart's schema and README in step with its values."
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 where something is stale"
    )
    check = parser.parse_args().check
    stale = [path for path, text in made().items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            sys.stderr.write(f"{path.name} is stale: run python helm/chart_docs.py\n")
        else:
            path.write_text(made()[path], encoding="utf-8")
    return 1 if check and stale else 0


def made() -> dict[Path, str]:
    """The texts that the files ought to have."""
    values = list(read_values((CHART / "values.yaml").read_text(encoding="utf-8")))
    schema_path = CHART / "values.schema.json"
    schema = json.loads(schema_path.read_text(encoding="utf-8"))
    readme = README.read_text(encoding="utf-8")
    head, tail = readme.split(BEGIN)[0], readme.split(END)[1]
    return {
        schema_path: json.dumps(complete(schema, values), indent=2, ensure_ascii=False) + "\n",
        README: f"{head}{BEGIN}\n{table(values)}\n{END}{tail}",
    }


def read_values(text: str) -> Iterator[Value]:
    """Every described value. Raises ValueError naming a value that has neither description nor members."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from _members(root, (), lines)


def _members(node: yaml.MappingNode, above: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        path = (*above, key.value)
        comment = lines[key.start_mark.line - 1].strip()
        if comment.startswith("#"):
            default = yaml.safe_load(yaml.serialize(child, Dumper=yaml.SafeDumper))
            yield Value(path, default, comment.removeprefix("#").strip())
        elif isinstance(child, yaml.MappingNode) and not child.flow_style:
            yield from _members(child, path, lines)
        else:
            raise ValueError(f"values.yaml: {'.'.join(path)} has no description above it")


def complete(schema: dict[str, Any], values: list[Value]) -> dict[str, Any]:
    """The schema with descriptions and with the proxy's settings as `config`."""
    (reference,), definitions = msgspec.json.schema_components(
        [Settings], ref_template="#/definitions/{name}"
    )
    settings = definitions.pop(reference["$ref"].rpartition("/")[2])
    taken = {name: kind for name, kind in settings["properties"].items() if name not in CHART_DECIDES}
    schema["properties"]["config"] = {"type": "object", "additionalProperties": False, "properties": taken}
    schema["definitions"] = definitions
    for value in values:
        _find(schema, value.path)["description"] = value.description
    return schema


def _find(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        try:
            schema = schema["properties"][name]
        except KeyError as error:
            raise ValueError(f"values.schema.json does not know {'.'.join(path)}") from error
    return schema


def table(values: list[Value]) -> str:
    """The README's table."""
    rows = [
        f"| `{'.'.join(value.path)}` | `{json.dumps(value.default)}` | {_cell(value.description)} |"
        for value in values
    ]
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
