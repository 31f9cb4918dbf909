"""Judges an ONNX file before a runtime sees it: what it is made of, and how much it would take.

    reading    from the file's bytes to a Graph: nodes, tensors, declared inputs and outputs
    operators  the operators that detreg exports, and nothing else that a graph may have
    size       from a Graph and the size of its input to memory and time, without running it
    check      what all of this has to be for a file to be opened and run

A file that comes from elsewhere may claim anything. onnxruntime trusts it: it reads files that the
graph names, allocates what a shape says, and computes constants while it opens the file.
"""
