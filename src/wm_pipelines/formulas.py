"""Formulas that a user writes in a parameter file, evaluated and differentiated without ever running the text.

The text is parsed by Python's own parser and walked once against a whitelist: numbers, known names, ``+ - * / **``,
parentheses and a few functions; everything else is an error. What remains is a tape of elementary operations, equal
subexpressions shared, which is evaluated forwards for the value and backwards for the gradient (reverse-mode
differentiation; Griewank & Walther, *Evaluating Derivatives*, 2008, ch. 3), on numpy arrays and torch tensors alike.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from array_api_compat import array_namespace

from wm_pipelines.errors import UserError

Array = Any  # numpy.ndarray or torch.Tensor

_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}
_APPLY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "abs": abs,
}
FUNCTIONS = tuple(_FUNCTIONS)
_ALLOWED = f"allowed: numbers, names, + - * / **, parentheses, {', '.join(FUNCTIONS)}"
_LONGEST = 20_000  # characters


def _log(xp: Any, u: Any) -> Any:
    if isinstance(u, float):
        return math.log(u) if u > 0 else math.nan
    return xp.log(u)


# One operation of the tape: a number, a variable's index, or an operator with its operands' places on the tape.
_Node = tuple[str, Any, Any]


class Formula:
    """A scalar function of several variables, given as text.

    ``Formula("p1**2/(2*m) + 0.5*k*q1**2", ["q1", "p1"], {"m": 1.0, "k": 2.0})``

    Args:
        text: the formula.
        variables: names of the entries of the argument, in order.
        constants: names with fixed values; ``pi`` is always known.

    Raises:
        UserError: the text is not a formula, uses an unknown name, or divides by zero before any data is seen.
    """

    def __init__(self, text: str, variables: Sequence[str], constants: Mapping[str, float] | None = None) -> None:
        self.text, self.variables = text, tuple(variables)
        self._constants = {"pi": math.pi, **(constants or {})}
        self._tape: list[_Node] = []
        self._places: dict[_Node, int] = {}
        tree = _parsed(text)
        try:
            self._root = self._walk(tree)
        except RecursionError:
            raise self._error("nested too deeply") from None
        except ArithmeticError:
            raise self._error("a part without variables divides by zero or overflows") from None

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    @property
    def used(self) -> frozenset[str]:
        """The variables that the formula reads."""
        return frozenset(self.variables[a] for kind, a, _ in self._tape if kind == "variable")

    def __call__(self, x: Array) -> Array:
        """The value: ``[..., n] -> [...]``."""
        return self._forward(x)[self._root] + 0.0 * x[..., 0]

    def on(self, values: Mapping[str, Array]) -> Array:
        """The value from arrays (or numbers) by name, which broadcast against each other."""
        given = [values[name] for name in self.variables]
        found: list[Any] = []
        for kind, a, b in self._tape:
            if kind == "number":
                found.append(a)
            elif kind == "variable":
                found.append(given[a])
            elif b is not None:
                found.append(_APPLY[kind](found[a], found[b]))
            elif isinstance(found[a], float):
                found.append(_FUNCTIONS[kind](found[a]))
            else:
                found.append(getattr(array_namespace(found[a]), kind)(found[a]))
        return found[self._root]

    def gradient(self, x: Array) -> Array:
        """The partial derivatives: ``[..., n] -> [..., n]``."""
        xp = array_namespace(x)
        values = self._forward(x)
        adjoints: list[Any] = [0.0] * len(values)
        adjoints[self._root] = 1.0
        partials: list[Any] = [0.0 * x[..., 0]] * len(self.variables)
        for place in range(len(values) - 1, -1, -1):
            kind, a, b = self._tape[place]
            if kind == "variable":
                partials[a] = partials[a] + adjoints[place]
            elif kind != "number":
                for operand, slope in self._slopes(xp, kind, a, b, values, values[place]):
                    adjoints[operand] = adjoints[operand] + adjoints[place] * slope
        return xp.stack(partials, axis=-1)

    # ------------------------------------------------------------ text to tape

    def _walk(self, node: ast.expr) -> int:
        """Append the operations of one subexpression; return the place of its value."""
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return self._place(("number", float(number), None))
            case ast.Name(id=name) if name in self.variables:
                return self._place(("variable", self.variables.index(name), None))
            case ast.Name(id=name) if name in self._constants:
                return self._place(("number", float(self._constants[name]), None))
            case ast.Name(id=name):
                known = ", ".join((*self.variables, *self._constants))
                raise self._error(f"unknown name '{name}'; known: {known}")
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._walk(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._place(("*", self._place(("number", -1.0, None)), self._walk(operand)))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._place((_BINARY[type(op)], self._walk(left), self._walk(right)))
            case ast.BinOp(op=ast.BitXor()):
                raise self._error("'^' is not a power; write **")
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                return self._place((name, self._walk(argument), None))
            case _:
                raise self._error(f"'{ast.unparse(node)[:40]}' is not allowed; {_ALLOWED}")

    def _place(self, node: _Node) -> int:
        """The place of an operation on the tape, appended if it is new; operations on numbers are done at once."""
        node = self._folded(node)
        if node not in self._places:
            self._places[node] = len(self._tape)
            self._tape.append(node)
        return self._places[node]

    def _folded(self, node: _Node) -> _Node:
        kind, a, b = node
        if kind == "variable":
            return node
        if kind == "number":
            value = a
        else:
            operands = [self._tape[i] for i in (a, b) if i is not None]
            if kind == "/" and operands[1][:2] == ("number", 0.0):
                raise self._error("divides by zero")  # in Python's numbers an exception, long after this line is read
            if any(operand[0] != "number" for operand in operands):
                return node
            numbers = [operand[1] for operand in operands]
            try:
                value = _FUNCTIONS[kind](*numbers) if b is None else _APPLY[kind](*numbers)
            except ValueError:  # the logarithm or the root of a negative number
                value = math.nan
        if isinstance(value, complex) or not math.isfinite(value):
            raise self._error("a part without variables has no finite real value")
        return ("number", value, None)

    def _error(self, reason: str) -> UserError:
        return _fault(self.text, reason)

    # ------------------------------------------------------------ tape to numbers

    def _forward(self, x: Array) -> list[Any]:
        xp = array_namespace(x)
        values: list[Any] = []
        for kind, a, b in self._tape:
            if kind == "number":
                values.append(a)
            elif kind == "variable":
                values.append(x[..., a])
            elif b is not None:
                values.append(_APPLY[kind](values[a], values[b]))
            else:
                values.append(getattr(xp, kind)(values[a]))
        return values

    def _slopes(self, xp: Any, kind: str, a: int, b: int | None, values: list[Any], y: Any) -> list[tuple[int, Any]]:
        """Partial derivatives of one operation's result ``y`` by its operands, numbers left out."""
        u: Any = values[a]
        v: Any = None if b is None else values[b]
        rules: dict[str, tuple[Callable[[], Any], ...]] = {
            "+": (lambda: 1.0, lambda: 1.0),
            "-": (lambda: 1.0, lambda: -1.0),
            "*": (lambda: v, lambda: u),
            "/": (lambda: 1.0 / v, lambda: -y / v),
            "**": (lambda: v * u ** (v - 1.0), lambda: y * (_log(xp, u))),
            "sin": (lambda: xp.cos(u),),
            "cos": (lambda: -xp.sin(u),),
            "tan": (lambda: 1.0 + y * y,),
            "exp": (lambda: y,),
            "log": (lambda: 1.0 / u,),
            "sqrt": (lambda: 0.5 / y,),
            "tanh": (lambda: 1.0 - y * y,),
            "abs": (lambda: xp.sign(u),),
        }
        operands = (a,) if b is None else (a, b)
        return [
            (operand, rule())
            for operand, rule in zip(operands, rules[kind], strict=True)
            if self._tape[operand][0] != "number"
        ]


def names_in(text: str) -> tuple[str, ...]:
    """Names that a formula reads, functions and ``pi`` left out, in alphabetical order.

    Raises:
        UserError: the text is not Python's syntax of an expression.
    """
    names = {node.id for node in ast.walk(_parsed(text)) if isinstance(node, ast.Name)}
    return tuple(sorted(names - set(FUNCTIONS) - {"pi"}))


def _parsed(text: str) -> ast.expr:
    """Python's syntax tree of one expression.

    Raises:
        UserError: the text has none.
    """
    if len(text) > _LONGEST:
        raise _fault(text, f"longer than {_LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, about text that is refused or harmless here
            return ast.parse(" ".join(text.split()), mode="eval").body
    except SyntaxError as error:
        place = f" at character {error.offset}" if error.offset else ""
        raise _fault(text, f"not a formula{place}; {_ALLOWED}") from None
    except (RecursionError, MemoryError):  # Python's parser says so of deep nesting
        raise _fault(text, "nested too deeply") from None
    except ValueError:  # characters that are no text: NUL, halves of surrogate pairs
        raise _fault(text, f"not a formula; {_ALLOWED}") from None


def _fault(text: str, reason: str) -> UserError:
    shown = text if len(text) <= 60 else text[:57] + "…"
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(shown.split()))
    return UserError(f"formula '{printable}': {reason}")
