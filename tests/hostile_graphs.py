"""ONNX files that a stranger might send: each a small change of the toy model.

`GRAPHS` maps a name to a function that changes the model (a ModelProto) in place, or returns bytes
in its place; `RUNS_CODE` names those that need another file or foreign operators.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Change = Callable[[onnx.ModelProto], bytes | None]

HUGE = 10**10
INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


def add_nodes(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes first, in this order."""
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])


def constant(name: str, values: object, dtype: npt.DTypeLike = np.int64) -> onnx.NodeProto:
    tensor = numpy_helper.from_array(np.array(values, dtype), name)
    return helper.make_node("Constant", [], [name], value=tensor)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def add_chain(*nodes: onnx.NodeProto) -> Change:
    return lambda model: add_nodes(model, *nodes)


def double_for_ever(model: onnx.ModelProto) -> None:
    nodes = [constant("d0", [1.0] * 32, np.float32)]
    for step in range(40):
        nodes.append(node("Concat", f"d{step} d{step}", f"d{step + 1}", axis=0))
    add_nodes(model, *nodes)


def convolve_for_ever(model: onnx.ModelProto) -> None:
    weights = np.zeros((64, 64, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    nodes = [
        constant("sides", [1, 64, 1024, 1024]),
        node("ConstantOfShape", "sides", "c0"),
    ]
    for step in range(3000):
        nodes.append(node("Conv", f"c{step} weights", f"c{step + 1}"))
    add_nodes(model, *nodes)


def make_body(operator: str) -> onnx.GraphProto:
    """Return a graph for an operator that runs one."""
    keep_going = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", INT, [])
    out = helper.make_tensor_value_info("go_out", TensorProto.BOOL, [])
    inputs = [count, keep_going] if operator == "Loop" else []
    first = "go" if inputs else "yes"
    return helper.make_graph([node("Identity", first, "go_out")], "body", inputs, [out])


def loop(model: onnx.ModelProto) -> None:
    add_nodes(
        model,
        constant("trips", 2**62),
        constant("yes", True, np.bool_),
        helper.make_node("Loop", ["trips", "yes"], [], body=make_body("Loop")),
    )


def nest_ifs(model: onnx.ModelProto) -> None:
    body = make_body("If")
    for level in range(20):
        out = helper.make_tensor_value_info(f"out{level}", TensorProto.BOOL, [])
        branch = helper.make_node(
            "If", ["yes"], [f"out{level}"], then_branch=body, else_branch=make_body("If")
        )
        body = helper.make_graph([branch], f"level{level}", [], [out])
    add_nodes(
        model,
        constant("yes", True, np.bool_),
        helper.make_node("If", ["yes"], ["x"], then_branch=body, else_branch=make_body("If")),
    )


def add_foreign_operator(domain: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        add_nodes(model, node("Relu", "images", "foreign", domain=domain))
        model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def import_foreign_operators(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil.corp", 1))


def add_function(model: onnx.ModelProto) -> None:
    function = helper.make_function(
        "", "Twice", ["x"], ["y"], [node("Add", "x x", "y")], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)


def make_external(location: str, data_location: Any = TensorProto.EXTERNAL) -> TensorProto:
    tensor = TensorProto(name="secret", data_type=TensorProto.UINT8, dims=[16])
    tensor.data_location = data_location
    tensor.external_data.add(key="location", value=location)
    return tensor


def read_env_file(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(make_external(".env"))


def read_file_in_constant(model: onnx.ModelProto) -> None:
    add_nodes(model, helper.make_node("Constant", [], ["c"], value=make_external("/etc/passwd")))


def read_file_without_saying_so(model: onnx.ModelProto) -> None:
    tensor = make_external(".env", TensorProto.DEFAULT)
    tensor.raw_data = bytes(16)
    model.graph.initializer.append(tensor)


def add_tensor(dims: list[int], data: bytes, data_type: int = FLOAT) -> Change:
    tensor = TensorProto(name="t", data_type=data_type, dims=dims, raw_data=data)
    return lambda model: model.graph.initializer.extend([tensor])


def add_texts(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"x"]))


def add_data_twice(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="t", data_type=FLOAT, dims=[1], raw_data=bytes(4), float_data=[1])
    model.graph.initializer.append(tensor)


def add_many_numbers(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="t", data_type=INT, dims=[200_000], int64_data=[1] * 200_000)
    model.graph.initializer.append(tensor)


def change_output(name: str, dtype: int, shape: list[object]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for value in model.graph.output:
            if value.name == name:
                value.CopyFrom(helper.make_tensor_value_info(name, dtype, shape))

    return change


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "x2"


def flatten_boxes(model: onnx.ModelProto) -> None:
    rename_made(model, "boxes", "deep")
    model.graph.node.append(node("Flatten", "deep", "boxes"))


def rename_made(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in model.graph.node:
        value.output[:] = [new if name == old else name for name in value.output]


def repeat_rows(model: onnx.ModelProto) -> None:
    """Return 30,000 rows where three are declared."""
    for value in model.graph.node:
        value.output[:] = ["few" if name == "boxes" else name for name in value.output]
    model.graph.node.extend([constant("times", [1, 10_000, 1]), node("Tile", "few times", "boxes")])


def add_outputs(model: onnx.ModelProto) -> None:
    for _ in range(1000):
        model.graph.output.append(helper.make_tensor_value_info("x2", INT, ["n"]))


def add_inputs(count: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for number in range(count):
            model.graph.input.append(helper.make_tensor_value_info(f"i{number}", FLOAT, [1]))

    return change


def change_input(dtype: int, shape: list[object]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", dtype, shape))

    return change


def set_opset(*versions: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", version) for version in versions])

    return change


def shuffle_nodes(model: onnx.ModelProto) -> None:
    reversed_nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(reversed_nodes)


def add_many_nodes(model: onnx.ModelProto) -> None:
    add_nodes(model, *[node("Identity", "images", f"n{number}") for number in range(10_100)])


def add_attribute_twice(model: onnx.ModelProto) -> None:
    cast = node("Cast", "images", "cast", to=1)
    cast.attribute.append(helper.make_attribute("to", 7))
    add_nodes(model, cast)


def add_graph_attribute(model: onnx.ModelProto) -> None:
    add_nodes(model, helper.make_node("Relu", ["images"], ["r"], body=make_body("If")))


def add_sparse_tensor(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", FLOAT, [1], [1.0])
    indices = helper.make_tensor("s_indices", INT, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [HUGE])
    model.graph.sparse_initializer.append(sparse)


def add_training(model: onnx.ModelProto) -> None:
    model.training_info.add()


def append(suffix: bytes) -> Change:
    return lambda model: model.SerializeToString() + suffix


def replace_by(content: bytes) -> Change:
    return lambda _: content


def hide_input_name(model: onnx.ModelProto) -> bytes:
    """Let a node's first input stand in a field that protobuf skips and a careless reader reads."""
    add_nodes(model, node("Relu", "images", "r"))
    # Field 1 (input) of a node as four bytes of a number instead of a text.
    hidden = node("Relu", "images", "r2").SerializeToString() + b"\x0dabcd"
    length = len(hidden)
    graph = model.graph.SerializeToString() + bytes([0x0A, length]) + hidden
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    size = len(graph)
    return rest.SerializeToString() + b"\x3a" + _varint(size) + graph


def _varint(number: int) -> bytes:
    encoded = b""
    while number >= 0x80:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


MANY = constant("many", [HUGE])
ONE = constant("one_float", [1.0], np.float32)
LINE = (
    constant("first", 0),
    constant("last", 10**6),
    constant("step", 1),
    node("Range", "first last step", "line"),
    constant("axis0", [0]),
    constant("axis1", [1]),
    node("Unsqueeze", "line axis0", "row_of_line"),
    node("Unsqueeze", "line axis1", "column_of_line"),
)
MAPS = (constant("four", [1, 1, 4, 4]), node("ConstantOfShape", "four", "maps"))

RUNS_CODE: dict[str, Change] = {
    "foreign operator": add_foreign_operator("evil.corp"),
    "foreign operator of onnxruntime": add_foreign_operator("com.microsoft"),
    "foreign operators imported": import_foreign_operators,
    "external data: .env": read_env_file,
    "external data in a constant": read_file_in_constant,
    "external data that denies it": read_file_without_saying_so,
}

GRAPHS: dict[str, Change] = RUNS_CODE | {
    "Loop of 2**62": loop,
    "If, 20 deep": nest_ifs,
    "function": add_function,
    "sparse tensor of 10**10": add_sparse_tensor,
    "training steps": add_training,
    "ConstantOfShape of 10**10": add_chain(MANY, node("ConstantOfShape", "many", "x")),
    "ConstantOfShape of a product": add_chain(
        constant("a", [10**5]), node("Mul", "a a", "b"), node("ConstantOfShape", "b", "x")
    ),
    "Expand to 10**10": add_chain(MANY, ONE, node("Expand", "one_float many", "x")),
    "Tile 10**10 times": add_chain(MANY, ONE, node("Tile", "one_float many", "x")),
    "Range to 10**10": add_chain(
        constant("from", 0),
        constant("to", HUGE),
        constant("by", 1),
        node("Range", "from to by", "x"),
    ),
    "Range to 2**31 - 1": add_chain(
        constant("from", 0),
        constant("to", 2**31 - 1),
        constant("by", 1),
        node("Range", "from to by", "x"),
    ),
    "Resize by 10**5": add_chain(
        *MAPS,
        constant("scales", [1, 1, 1e5, 1e5], np.float32),
        helper.make_node("Resize", ["maps", "", "scales"], ["x"], mode="nearest"),
    ),
    "Resize to 10**5": add_chain(
        *MAPS,
        constant("new_sizes", [1, 1, 10**5, 10**5]),
        helper.make_node("Resize", ["maps", "", "", "new_sizes"], ["x"], mode="nearest"),
    ),
    "Pad of 10**10": add_chain(
        ONE, constant("pads", [0, HUGE]), node("Pad", "one_float pads", "x")
    ),
    "Concat doubling 40 times": double_for_ever,
    "Add of a row and a column of 10**6": add_chain(
        *LINE, node("Add", "row_of_line column_of_line", "x")
    ),
    "MatMul of a column and a row of 10**6": add_chain(
        *LINE,
        node("Cast", "row_of_line", "row_float", to=1),
        node("Cast", "column_of_line", "column_float", to=1),
        node("MatMul", "column_float row_float", "x"),
    ),
    "Gather of rows, 10**6 times": add_chain(
        *LINE, node("Mul", "line first", "same"), node("Gather", "row_of_line same", "x", axis=0)
    ),
    "Conv with pads of 10**6": add_chain(
        *MAPS,
        constant("w", np.zeros((1, 1, 1, 1)), np.float32),
        node("Conv", "maps w", "x", pads=[10**6] * 4),
    ),
    "MaxPool with pads of 10**6": add_chain(
        *MAPS, node("MaxPool", "maps", "x", kernel_shape=[1, 1], pads=[10**6] * 4)
    ),
    "RoiAlign to 10**5": add_chain(
        *MAPS,
        constant("regions", [[0, 0, 1, 1]], np.float32),
        constant("of", [0]),
        node("RoiAlign", "maps regions of", "x", output_height=10**5, output_width=10**5),
    ),
    "3000 convolutions": convolve_for_ever,
    "size from pixels": add_chain(
        node("Cast", "images", "wide", to=7),
        node("ReduceMax", "wide", "brightest", axes=[0, 1, 2], keepdims=0),
        node("ConstantOfShape", "brightest", "x"),
    ),
    "size from a count": add_chain(
        MANY,
        node("NonZero", "images", "found"),
        node("Shape", "found", "counts"),
        node("Sub", "many counts", "left"),
        node("ConstantOfShape", "left", "x"),
    ),
    "-2**63 / -1": add_chain(
        constant("lowest", [-(2**63)]), constant("minus", [-1]), node("Div", "lowest minus", "x")
    ),
    "integers divided by pixels": add_chain(
        node("Cast", "images", "wide", to=7), node("Div", "wide wide", "x")
    ),
    "negative size": add_chain(constant("minus", [-5]), node("ConstantOfShape", "minus", "x")),
    "axis that is not there": add_chain(*MAPS, node("Concat", "maps maps", "x", axis=9)),
    "position that is not there": add_chain(
        constant("few", [1, 2]), constant("ninth", 9), node("Gather", "few ninth", "x")
    ),
    "100 axes": add_chain(
        constant("axes", list(range(60))), ONE, node("Unsqueeze", "one_float axes", "x")
    ),
    "tensor larger than its data": add_tensor([HUGE], bytes(4)),
    "tensor of 2**62 elements without data": add_tensor([2**31, 2**31], b""),
    "tensor with a negative side": add_tensor([-1], bytes(4)),
    "tensor with more data": add_tensor([1], bytes(400)),
    "tensor of an unknown type": add_tensor([1], bytes(2), TensorProto.BFLOAT16),
    "tensor of texts": add_texts,
    "tensor with its data twice": add_data_twice,
    "200,000 numbers one by one": add_many_numbers,
    "output of wrong rank": change_output("boxes", FLOAT, ["n", 3]),
    "output of wrong type": change_output("labels", FLOAT, ["n", 3]),
    "output of another rank than declared": flatten_boxes,
    "output of wrong name": rename_output,
    "output of 30,000 rows": repeat_rows,
    "1000 outputs": add_outputs,
    "two inputs": add_inputs(1),
    "1001 inputs": add_inputs(1000),
    "input of floats": change_input(FLOAT, ["n", "h", "w", 3]),
    "input with two axes": change_input(TensorProto.UINT8, ["n", 3]),
    "input with sides of 10**9": change_input(TensorProto.UINT8, [1, 10**9, 10**9, 3]),
    "input with no side": change_input(TensorProto.UINT8, [1, 0, 64, 3]),
    "operators of version 9": set_opset(9),
    "operators of version 9999": set_opset(9999),
    "operators of two versions": set_opset(17, 18),
    "unknown operator": add_chain(node("Einsum", "images", "x", equation="i")),
    "unknown attribute": add_chain(*MAPS, node("MaxPool", "maps", "x", auto_pad="SAME_UPPER")),
    "attribute of wrong type": add_chain(node("Cast", "images", "x", to="float")),
    "attribute twice": add_attribute_twice,
    "attribute that is a graph": add_graph_attribute,
    "two arrays of one name": add_chain(node("Identity", "images", "pixels")),
    "array that is not there": add_chain(node("Identity", "nowhere", "x")),
    "nodes in the wrong order": shuffle_nodes,
    "10,100 nodes": add_many_nodes,
    "two graphs in one file": lambda model: model.SerializeToString() * 2,
    "unknown field": append(b"\xf8\x01\x01"),
    "group": append(b"\x0b"),
    "number without an end": append(b"\x08" + b"\xff" * 20),
    "text that is longer than the file": append(b"\x12\xff\xff\xff\xff\x7f"),
    "name in a field of numbers": hide_input_name,
    "half of a file": lambda model: model.SerializeToString()[: model.ByteSize() // 2],
    "empty file": replace_by(b""),
    "photograph": replace_by(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20),
    "graph twice, the second empty": append(b"\x3a\x00"),
}
