"""Reads the YAML that people write: a key given twice, a tab, another encoding are one sentence."""

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, where a key given twice is refused and not silently its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    told = f"the key {key.value!r} is given twice; keep one of them"
                    raise yaml.constructor.ConstructorError(None, None, told, key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Content of the YAML file of a preset.

    Raises:
        ValueError: it is not UTF-8 or not valid YAML, or gives a key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"preset {path.name} is not UTF-8 ({error}); save it as UTF-8") from error
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a safe loader)
    # Values that a tag of YAML does not suit end in errors of Python's own.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        told = " ".join(str(error).replace('"<unicode string>", ', "").split())
        remedy = "; indent with spaces, not with a tab" if r"'\t'" in told else ""
        raise ValueError(f"preset {path.name} is not valid YAML: {told}{remedy}") from error
