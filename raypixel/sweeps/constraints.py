"""Conditions on configurations, such as `not model.use_residual or model.num_layers >= 2`.

A small part of Python's expressions over the options of a trial, read from the syntax tree and never executed as code.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_WORDS = {"true": True, "false": False, "null": None}


class Constraint:
    """One condition on the options of a trial.

    Attributes:
        text: As the file has it.
        names: Dotted options that it speaks of.
    """

    def __init__(self, text: str) -> None:
        """Read a condition.

        Raises:
            ValueError: It is not an expression, or of more than comparisons, arithmetic and `and`, `or`, `not`.
        """
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except SyntaxError:
            raise ValueError(f"must be an expression, got {text!r}") from None
        self.names: set[str] = set()
        self._check(self._tree)

    def holds(self, options: Mapping[str, Any]) -> bool:
        """Return whether the options of a trial, by dotted name, meet it.

        Raises:
            ValueError: They are of types that cannot be compared or calculated with.
        """
        try:
            return bool(self._value(self._tree, options))
        except (TypeError, ZeroDivisionError) as error:
            raise ValueError(f"{self.text!r} cannot be decided: {error}") from None

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant() | ast.Name(id="true" | "false" | "null"):
                return
            case ast.Name() | ast.Attribute():
                self.names.add(self._name(node))
                return
            case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                parts = [operand]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                parts = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(
                type(op) in _COMPARE for op in ops
            ):
                parts = [left, *rest]
            case _:
                raise self._refuse(node)
        for part in parts:
            self._check(part)

    def _value(self, node: ast.expr, options: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=word) if word in _WORDS:
                return _WORDS[word]
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(self._value(part, options) for part in parts)
            case ast.BoolOp(values=parts):
                return any(self._value(part, options) for part in parts)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self._value(part, options) for part in parts]
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, options)
            case ast.UnaryOp(operand=operand):
                return -self._value(operand, options)
            case ast.BinOp(left=left, op=op, right=right):
                return _ARITHMETIC[type(op)](
                    self._value(left, options), self._value(right, options)
                )
            case ast.Compare(left=left, ops=ops, comparators=rest):
                values = [self._value(part, options) for part in (left, *rest)]
                triples = zip(ops, values, values[1:], strict=False)
                return all(_COMPARE[type(op)](a, b) for op, a, b in triples)
            case _:
                # an option of another architecture counts as not set
                return options.get(self._name(node))

    def _name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        raise self._refuse(node)

    def _refuse(self, node: ast.expr) -> ValueError:
        part = ast.unparse(node)
        return ValueError(
            f"must use comparisons, arithmetic, and, or, not, lists and options, got {part!r}"
        )
