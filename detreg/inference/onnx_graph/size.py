"""How much memory and time a graph takes for images of one size, found without running it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from detreg.errors import DataError
from detreg.inference.onnx_graph.arrays import Array, Inputs, Shape
from detreg.inference.onnx_graph.operators import OPERATORS
from detreg.inference.onnx_graph.structure import Graph, Node

_MAX_PEAK_BYTES = 1 << 40
_MAX_RANK = 8


@dataclass(frozen=True)
class GraphSize:
    """What running a graph takes at most.

    `peak_bytes` is the memory of the arrays that exist at the same time, beside the constants;
    `operations` counts multiply-adds, and other work as so many of them as take as long.
    """

    peak_bytes: int
    operations: int
    output_shapes: Mapping[str, Shape]


def measure_graph(graph: Graph, input_shape: Shape) -> GraphSize:
    """Follow the sizes of all arrays of a checked graph for input of `input_shape`.

    Raises DataError where a size depends on what is in the images, or an operator cannot work.
    """
    last_uses = _find_last_uses(graph)
    live: dict[str, int] = {}
    live_bytes = peak_bytes = operations = 0
    shapes: dict[str, Shape] = {}
    for position, (node, inputs, outputs) in enumerate(follow_graph(graph, input_shape)):
        operations += OPERATORS[node.operator].count_cost(node, inputs, outputs)
        for name, array in zip(node.outputs, outputs, strict=False):
            live[name] = array.num_bytes
            live_bytes += array.num_bytes
            shapes[name] = array.shape
        peak_bytes = max(peak_bytes, live_bytes)
        # Far too much for anyone: the numbers would double with each node that follows.
        if peak_bytes > _MAX_PEAK_BYTES:
            break
        for name in {*node.inputs, *node.outputs}:
            if last_uses.get(name, position) <= position:
                live_bytes -= live.pop(name, 0)

    output_names = [output.name for output in graph.outputs if output.name in shapes]
    return GraphSize(peak_bytes, operations, {name: shapes[name] for name in output_names})


def follow_graph(
    graph: Graph, input_shape: Shape
) -> Iterator[tuple[Node, Inputs, tuple[Array, ...]]]:
    """Yield each node with what goes in and what comes out. Raises DataError as above."""
    arrays: dict[str, Array] = {}
    for tensor in graph.initializers:
        arrays[tensor.name] = Array(tensor.shape, tensor.dtype, tensor.values)
    arrays[graph.inputs[0].name] = Array(input_shape, np.dtype(np.uint8))

    for node in graph.nodes:
        inputs = [arrays[name] if name else None for name in node.inputs]
        outputs = _follow_node(node, inputs)
        arrays.update(zip(node.outputs, outputs, strict=False))
        yield node, inputs, outputs


def _follow_node(node: Node, inputs: Inputs) -> tuple[Array, ...]:
    """Return the outputs of a node. Raises DataError where it cannot work."""
    try:
        outputs = OPERATORS[node.operator].rule(node, inputs)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # numpy refuses to move values as a broken graph asks for.
        raise DataError(f"{node.operator} cannot work: {str(error)[:200]}") from error
    if isinstance(outputs, Array):
        outputs = (outputs,)
    if len(node.outputs) > len(outputs):
        raise DataError(f"{node.operator} has {len(node.outputs)} outputs")
    if any(len(array.shape) > _MAX_RANK for array in outputs):
        raise DataError(f"{node.operator} makes an array with more than {_MAX_RANK} axes")
    return outputs


def _find_last_uses(graph: Graph) -> dict[str, int]:
    """Return the position of the last node that reads each array; outputs are never let go."""
    last_uses: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_uses[name] = position
    for output in graph.outputs:
        last_uses[output.name] = len(graph.nodes)
    return last_uses
