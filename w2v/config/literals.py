"""Literals on the command line, such as `'[(512, 10, 5)] * 2'`: a small grammar, nothing is evaluated."""

from __future__ import annotations

import ast
import math
import re
from typing import Any

MAX_LITERAL_CHARACTERS = 4096
MAX_LITERAL_ITEMS = 1024
MAX_LITERAL_LEAVES = 8192  # of all nested lists together: repeats of repeats multiply

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")


def parse_literal(text: str) -> Any:
    """Read a python literal: numbers, strings, true/false/none, tuples, lists, dicts, `+` and `*` of lists.

    The original hands such strings to `eval`; nothing is evaluated here.

    Raises:
        ValueError: the text is no such literal, or is unreasonably long.
    """
    if len(text) > MAX_LITERAL_CHARACTERS:
        raise ValueError(f"is longer than {MAX_LITERAL_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _read_node(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as e:
        raise ValueError(f"is not a list, tuple or number: {text!r}") from e


def _read_node(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str))):
        if isinstance(node.value, int) and node.value.bit_length() > 63:
            raise ValueError("holds a number of more than 63 bits")
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_read_node(item) for item in node.elts]
        _check_leaves(sum(map(_count_leaves, items)))
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        return {_read_node(key): _read_node(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _read_node(node.operand)
        if isinstance(number, (int, float)):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null", "inf"):
        return {"true": True, "false": False, "null": None, "inf": math.inf}[node.id]
    if isinstance(node, ast.BinOp):
        return _read_operation(node)
    raise ValueError(f"{ast.unparse(node)!r} is not allowed; only numbers, strings, lists, tuples, + and * are")


def _read_operation(node: ast.BinOp) -> Any:
    left, right = _read_node(node.left), _read_node(node.right)
    if isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, (list, tuple)):
        result = left + right
    elif isinstance(node.op, ast.Mult) and isinstance(left, (list, tuple)) and type(right) is int:
        if right > MAX_LITERAL_ITEMS:
            raise ValueError(f"repeats a list {right} times; the limit is {MAX_LITERAL_ITEMS}")
        _check_leaves(_count_leaves(left) * right)
        result = left * right
    else:
        raise ValueError(f"{ast.unparse(node)!r} is not allowed; + joins two lists and * repeats one")
    if len(result) > MAX_LITERAL_ITEMS:
        raise ValueError(f"holds more than {MAX_LITERAL_ITEMS} items")
    return result


def _count_leaves(value: Any) -> int:
    return sum(map(_count_leaves, value)) + 1 if isinstance(value, (list, tuple)) else 1


def _check_leaves(number: int) -> None:
    if number > MAX_LITERAL_LEAVES:
        raise ValueError(f"holds more than {MAX_LITERAL_LEAVES} values")


def _read(value: Any) -> Any:
    return parse_literal(value) if isinstance(value, str) else value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str) and not value.strip().startswith(("[", "(")):
        value = f"[{value}]"
    items = _read(value)
    items = list(items) if isinstance(items, (list, tuple)) else [items]
    # YAML takes 1e-5 for text, as it has no point; Hydra's files are written with it.
    items = [float(item) if isinstance(item, str) and NUMBER.fullmatch(item) else item for item in items]
    if not items or any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in items):
        raise ValueError(f"must be a number or a list of numbers, got {value!r}")
    return items


def float_tuple(value: Any) -> tuple[float, ...]:
    """Parse `0.0005`, `0.1,0.2`, `'[0.1, 10]'` or `'(0.9, 0.98)'`."""
    return tuple(float(item) for item in _numbers(value))


def int_tuple(value: Any) -> tuple[int, ...]:
    """Parse `4`, `1,2,4` or `'[4]'`."""
    items = _numbers(value)
    if any(int(item) != item for item in items):
        raise ValueError(f"must be whole numbers, got {value!r}")
    return tuple(int(item) for item in items)


def float_triple(value: Any) -> tuple[float, float, float]:
    """Parse `'(2,0.5,0.999995)'`."""
    items = float_tuple(value)
    if len(items) != 3:
        raise ValueError(f"must be three numbers, got {value!r}")
    return items[0], items[1], items[2]


def float_pair(value: Any) -> tuple[float, float]:
    """Parse `'(0.9, 0.98)'`."""
    items = float_tuple(value)
    if len(items) != 2:
        raise ValueError(f"must be two numbers, got {value!r}")
    return items[0], items[1]


def str_tuple(value: Any) -> tuple[str, ...]:
    """Parse `'["prob_perplexity","temp"]'`, or names separated by commas."""
    if isinstance(value, str) and not value.strip().startswith(("[", "(")):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    items = _read(value)
    if not isinstance(items, (list, tuple)) or any(not isinstance(item, str) for item in items):
        raise ValueError(f"must be a list of names, got {value!r}")
    return tuple(items)


def byte_size(value: Any) -> int:
    """Return a number of bytes: `1000000`, `500M`, `1G` (of 1024).

    Raises:
        ValueError: it is none.
    """
    text = str(value).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text, re.IGNORECASE)
    if match is None:
        raise ValueError(f"must be a number of bytes, such as 500M or 1G, got {value!r}")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
