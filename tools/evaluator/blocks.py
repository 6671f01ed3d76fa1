"""blocks: how arrays cross between processes: raw bytes in memory files, described by bounded JSON.

Nothing is pickled and nothing that a child wrote is believed: weights travel in the safetensors format, whose
header `weights_in` checks to the last byte; rows and scores share a `Page` whose layout both sides compute
from the schema of the log. Sizes of memory files are sealed by the parent, so no child can grow or shrink
what the parent has mapped.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ToolError
from evorank.model.system import Feature, Float32, LogSchema, Rows, Weights

if sys.platform == "linux":
    import errno
import fcntl

__all__ = [
    "Block",
    "Page",
    "memory_file",
    "npy_block",
    "schema_as_json",
    "schema_from_json",
    "seal",
    "weights_in",
    "write_weights",
]

DTYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""The numbers that weights may be: names of the safetensors format -> numpy's."""
MAX_HEADER = 1 << 22
MAX_NAME = 200
MAX_DIMENSIONS = 32
ALIGNMENT = 64
CHUNK = 1 << 26


@dataclass(frozen=True)
class Block:
    """One array within a file: where, of which type and shape."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def within(self, buffer: mmap.mmap, start: int = 0) -> npt.NDArray[Any]:
        """The array in a buffer that begins at byte `start` of the file."""
        count = math.prod(self.shape)
        if count == 0:
            return np.empty(self.shape, self.dtype)
        return np.frombuffer(buffer, self.dtype, count, self.offset - start).reshape(self.shape)

    def mapped(self, descriptor: int) -> npt.NDArray[Any]:
        """The array as read-only pages of a file; nothing of the file is mapped but its pages."""
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        length = self.offset + self.size - start
        return self.within(mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=start), start)

    def as_json(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "shape": self.shape, "offset": self.offset}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Block:
        return cls(str(told["dtype"]), tuple(told["shape"]), int(told["offset"]))


def memory_file(name: str, size: int | None = None) -> int:
    """Descriptor of a file in memory: of `size` bytes for ever, or, with None, empty and free to grow."""
    if sys.platform == "linux":
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:  # no seals: such a machine is `degraded` anyhow
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    if size is not None:
        os.ftruncate(descriptor, size)
        if sys.platform == "linux":
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return descriptor


PATIENCE = (0.001, 0.01, 0.1, 0.5)
"""Seconds between tries to seal a file."""


def seal(descriptor: int) -> None:
    """From now on nobody can change the content of a memory file. OSError while it is mapped for writing."""
    if sys.platform == "linux":
        seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
        for patience in (*PATIENCE, None):
            try:
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
                return
            except OSError as error:  # the kernel holds a page for a moment, e.g. to move it
                if error.errno != errno.EBUSY or patience is None:
                    raise
                time.sleep(patience)


def npy_block(path: Path, rows: slice) -> tuple[int, Block]:
    """An open descriptor of a .npy file, and the block of some of its rows."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject or rows.stop > shape[0]:
            raise ToolError(
                f"{path} must hold at least {rows.stop:,} rows in C order, got {shape} {dtype}. Encode again."
            )
        width = math.prod(shape[1:]) * dtype.itemsize
        block = Block(dtype.str, (rows.stop - rows.start, *shape[1:]), file.tell() + rows.start * width)
        return os.dup(file.fileno()), block


# --------------------------------------------------------------------------- weights


def write_weights(descriptor: int, weights: Weights) -> None:
    """Write named arrays as a safetensors file. ToolError for what is not an array of plain numbers."""
    codes = {numpy: name for name, numpy in DTYPES.items()}
    header: dict[str, Any] = {}
    arrays = []
    for name, value in weights.items():
        array = np.asarray(value, order="C")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str not in codes or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise ToolError(
                "`fit` must return arrays of numbers by name (bool, int, float16 to float64; at most "
                f"{MAX_NAME} characters a name), got {array.dtype} for {str(name)[:MAX_NAME]!r}. "
                "Text goes in as uint8."
            )
        arrays.append((name, array))
    # Each lies on a multiple of its numbers' size, and the largest, which is costly to copy, on one of 64.
    arrays.sort(key=lambda each: (-each[1].dtype.itemsize, -each[1].nbytes, each[0]))
    end = 0
    for name, array in arrays:
        place = [end, end := end + array.nbytes]
        header[name] = {"dtype": codes[array.dtype.str], "shape": list(array.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    _write(descriptor, memoryview(len(text).to_bytes(8, "little") + text))
    for _, array in arrays:
        if array.nbytes:
            _write(descriptor, array.reshape(-1).view(np.uint8).data)


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content[:CHUNK]) :]


def weights_in(descriptor: int) -> dict[str, Block]:
    """The arrays of a safetensors file that a child wrote. ToolError unless every byte is accounted for."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise ToolError(f"The training ended without weights: {size} bytes are no safetensors file.")
    try:
        header = json.loads(os.pread(descriptor, length, 8))
        if not isinstance(header, dict):
            raise ValueError("the header is no object")
        blocks = {name: _block(name, told, 8 + length) for name, told in header.items()}
        end = 8 + length
        for block in sorted(blocks.values(), key=lambda each: (each.offset, each.size)):
            if block.offset != end:
                raise ValueError("arrays overlap or leave gaps")
            end += block.size
        if end != size:
            raise ValueError(f"arrays end at byte {end} of {size}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ToolError(f"The training wrote weights that cannot be read: {str(error)[:200]}.") from None
    return blocks


def _block(name: str, told: Any, start: int) -> Block:
    if not 0 < len(name) <= MAX_NAME or set(told) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"array {name[:MAX_NAME]!r} is described wrongly")
    begin, end = told["data_offsets"]
    shape = told["shape"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"array {name!r} has no shape")
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in (begin, end, *shape)):
        raise ValueError(f"array {name!r} has numbers that are no sizes")
    block = Block(DTYPES[told["dtype"]], tuple(shape), start + begin)
    if block.size != end - begin:
        raise ValueError(f"array {name!r} has {end - begin} bytes for shape {shape}")
    return block


def open_weights(descriptor: int, blocks: Mapping[str, Block]) -> dict[str, npt.NDArray[Any]]:
    """Arrays over a private mapping: their pages are the file's until somebody writes to them."""
    size = os.fstat(descriptor).st_size
    content = mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    return {name: block.within(content) for name, block in blocks.items()}


# --------------------------------------------------------------------------- rows in, scores out


@dataclass(frozen=True)
class Page:
    """The memory that a scorer and its parent share: up to `capacity` encoded rows, and their scores."""

    features: tuple[Feature, ...]
    capacity: int

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """Where the matrices, histories and scores lie, in this order."""
        kinds = [feature.kind for feature in self.features]
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {
            "categorical": ("<i4", (self.capacity, kinds.count("categorical"))),
            "numeric": ("<f4", (self.capacity, kinds.count("numeric"))),
        }
        for feature in self.features:
            if feature.kind == "history":
                wanted[f"history-{feature.name}"] = ("<i4", (self.capacity, feature.length))
        wanted["scores"] = ("<f4", (self.capacity,))
        blocks, end = {}, 0
        for name, (dtype, shape) in wanted.items():
            blocks[name] = Block(dtype, shape, end)
            end += blocks[name].size + -blocks[name].size % ALIGNMENT
        return blocks

    @property
    def size(self) -> int:
        """Bytes."""
        scores = self.blocks["scores"]
        return scores.offset + scores.size

    def over(self, content: mmap.mmap) -> tuple[Rows, Float32]:
        """All rows and all scores of the page, as views of shared memory."""
        arrays = {name: block.within(content) for name, block in self.blocks.items()}
        scores = arrays.pop("scores")
        return rows_of(self.features, arrays), scores


def rows_of(features: tuple[Feature, ...], arrays: Mapping[str, npt.NDArray[Any]]) -> Rows:
    """Rows around arrays named as their files are: categorical, numeric, history-NAME."""
    histories = {f.name: arrays[f"history-{f.name}"] for f in features if f.kind == "history"}
    return Rows(features, arrays["categorical"], arrays["numeric"], histories)


def schema_as_json(schema: LogSchema) -> dict[str, Any]:
    return {
        "features": [dict(vars(feature)) for feature in schema.features],
        "columns": dict(schema.columns),
        "training_rows": schema.training_rows,
    }


def schema_from_json(told: Mapping[str, Any]) -> LogSchema:
    features = tuple(Feature(**feature) for feature in told["features"])
    return LogSchema(features, dict(told["columns"]), int(told["training_rows"]))
