"""YAML that others may have written: bounded before anything is built from it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

from eas.files import read_bytes, reason

MOST_BYTES = 2**18  # a second's work for the parser
MOST_NODES = 100_000  # values, those that aliases stand for counted as often as they are named
CHARACTERS = 32  # of a text that count as another value


def read_yaml(path: str | Path) -> object:
    """What a YAML file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, has a key twice, or is too large; one line that names it.
    """
    text = read_bytes(path, MOST_BYTES)
    try:
        return yaml.load(text.decode(), Bounded)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise ValueError(f"{path} is not YAML: {reason(err)}") from None
    except (LookupError, AttributeError) as err:  # what PyYAML says of `!!int ''` or `!!timestamp x`
        raise ValueError(f"{path} is not YAML: a value does not fit its tag ({reason(err)})") from None


class Bounded(yaml.SafeLoader):
    """A SafeLoader that counts what aliases stand for, which may be exponentially more than the text."""

    def __init__(self, text: str):
        super().__init__(text)
        self.nodes, self.sizes = 0, {}

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        event, before = self.peek_event(), self.nodes
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if node not in self.sizes:
                raise refused("a value holds itself", event)
            self.nodes += self.sizes[node]
        else:
            self.nodes += 1 + len(node.value) // CHARACTERS if isinstance(node, yaml.ScalarNode) else 1
            self.sizes[node] = self.nodes - before
        if self.nodes > MOST_NODES:
            raise refused(f"more than {MOST_NODES:,} values", event)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        counts = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [value for (_, value), count in counts.items() if count > 1]:
            raise refused(f"the key {twice[0]!r} is there twice", node)  # PyYAML would take the last one
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number as everybody reads it: PyYAML takes 010 for 8 and 1:30 for 90."""
        if re.match(r"[-+]?0[0-9_]|.*:", node.value):
            raise refused(f"{node.value} is no plain number: quote it if it is text", node)
        return self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)


for kind in ("int", "float"):
    Bounded.add_constructor(f"tag:yaml.org,2002:{kind}", Bounded.construct_number)


def refused(problem: str, where: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, problem, where.start_mark)
