"""As much of JSON Schema as docs/*.schema.json use: type, enum, pattern, properties, required, items, $ref."""

from __future__ import annotations

import re
from typing import Any

TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "type", "enum", "pattern", "properties", "required", "items",
    "additionalProperties",
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "$") -> list[str]:
    """Where a value is not as the schema has it; empty where it is."""
    root = root or schema
    assert schema.keys() <= KNOWN, f"this checker does not know {schema.keys() - KNOWN}"
    if "$ref" in schema:
        return violations(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (kind == "integer" and isinstance(value, bool))):
        return [f"{path} is no {kind}: {value!r}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path} is {value!r}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path} does not match: {value!r}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
        if schema.get("additionalProperties") is False:
            found += [f"{path}.{name} is not in the schema" for name in value if name not in known]
        for name, item in value.items():
            if name in known:
                found += violations(item, known[name], root, f"{path}.{name}")
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            found += violations(item, schema["items"], root, f"{path}[{number}]")
    return found
