"""What each kernel of a compiled program reads and writes, counted from the text of XLA."""

import math
import re
from typing import NamedTuple

NOT_RUN = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"}
NOT_FOLLOWED = {"while", "conditional", "call"}
SLICES = {"slice", "dynamic-slice"}
_ARRAY = re.compile(r"\b(pred|bf16|f8\w+|[sufc]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z\d\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")


class Kernel(NamedTuple):
    """An instruction of the program's entry.

    Attributes:
        name: of XLA.
        bytes: of its operands and results; of an operand of which it reads slices alone, the slices.
        library: whose kernel it is, as cuDNN's; "" for XLA's own.
        source: the operation of JAX that it began as.
    """

    name: str
    bytes: int
    library: str
    source: str


class _Line(NamedTuple):
    type: str
    operation: str
    operands: list[str]
    text: str


def kernels(hlo: str) -> list[Kernel]:
    """Of the entry of a compiled module, in the order of its text.

    Raises:
        ValueError: if it has loops or branches, whose work is that of what they call.
    """
    bodies = _bodies(hlo)
    entry, found = bodies[""], []
    for name, line in entry.items():
        if line.operation in NOT_FOLLOWED:
            raise ValueError(f"the program has a {line.operation}, {name}: kernels within it are not counted")
        if line.operation in NOT_RUN or line.operation.endswith(("-done", "-update")):
            continue
        reads = [bytes_of(entry[operand].type) for operand in line.operands]
        if line.operation == "fusion":
            body = bodies[_said(r"calls=%([\w.\-]+)", line)]
            reads = [size * _share_read(body, i) for i, size in enumerate(reads)]
        elif line.operation.endswith("-start"):  # its result has its operands beside what it will write
            reads = []
        library, source = _said('custom_call_target="([^"]*)"', line), _said('op_name="([^"]*)"', line)
        found.append(Kernel(name, bytes_of(line.type) + round(sum(reads)), library, source))
    return found


def bytes_of(type_: str) -> int:
    """Of an array, or a tuple of them: "f32[2,3]{1,0}" has 24."""
    bits = lambda kind: 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return sum(bits(kind) * count for kind, count in _arrays(type_)) // 8


def _arrays(type_):
    """(type, elements) of each array."""
    return [(kind, math.prod(int(n) for n in sides.split(",") if n)) for kind, sides in _ARRAY.findall(type_)]


def _said(pattern, line) -> str:
    match = re.search(pattern, line.text)
    return match.group(1) if match else ""


def _bodies(hlo: str) -> dict[str, dict[str, _Line]]:
    """The instructions of each computation, by their names; the entry is ""."""
    bodies, body = {}, {}
    for text in hlo.splitlines():
        if begun := re.match(r"(ENTRY )?%([\w.\-]+) \(.*\{$", text):
            body = bodies["" if begun.group(1) else begun.group(2)] = {}
        elif instruction := _INSTRUCTION.match(text):
            name, type_, operation, rest = instruction.groups()
            body[name] = _Line(type_, operation, _NAME.findall(rest.split("), ")[0]), text)
    return bodies


def _share_read(body: dict[str, _Line], parameter: int) -> float:
    """The part of a parameter that a fusion reads."""
    is_it = lambda line: line.operation == "parameter" and f" parameter({parameter})" in line.text
    return _share_used(body, next(name for name, line in body.items() if is_it(line)))


def _share_used(body, name) -> float:
    """Less than 1 where only slices are taken of it, or of what it is cast or renamed to."""
    uses = {user: line for user, line in body.items() if name in line.operands}
    sliced = lambda line: line.operation in SLICES and line.operands[0] == name
    if not uses or not all(sliced(line) or line.operation in ("convert", "bitcast") for line in uses.values()):
        return 1.0
    elements = lambda line: sum(count for _, count in _arrays(line.type))
    shares = (
        elements(line) / elements(body[name]) if sliced(line) else _share_used(body, user)
        for user, line in uses.items()
    )
    return min(1.0, sum(shares))
