from __future__ import annotations

import json
import mmap
import os
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evorank.model.errors import ToolError
from evorank.model.system import Feature, LogSchema
from evorank.tools.evaluator.blocks import (
    DTYPES,
    Page,
    memory_file,
    npy_block,
    open_weights,
    schema_as_json,
    schema_from_json,
    seal,
    weights_in,
    write_weights,
)

ARRAYS = hnp.arrays(
    dtype=st.sampled_from([*DTYPES.values(), ">f4", ">i8"]).map(np.dtype),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
WEIGHTS = st.dictionaries(st.text(min_size=1, max_size=20), ARRAYS, max_size=6)


@pytest.fixture
def file():
    descriptor = memory_file("weights")
    yield descriptor
    os.close(descriptor)


def written(weights):
    descriptor = memory_file("weights")
    try:
        write_weights(descriptor, weights)
        return os.pread(descriptor, 1 << 20, 0)
    finally:
        os.close(descriptor)


def parsed(content):
    descriptor = memory_file("weights")
    try:
        os.write(descriptor, content)
        seal(descriptor)
        return weights_in(descriptor)
    finally:
        os.close(descriptor)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS)
def test_what_is_written_is_what_safetensors_and_we_read(weights):
    content = written(weights)
    theirs = safetensors.numpy.load(content)
    descriptor = memory_file("weights")
    try:
        write_weights(descriptor, weights)
        ours = open_weights(descriptor, weights_in(descriptor))
        assert set(ours) == set(theirs) == set(weights)
        for name, array in weights.items():
            for read in (ours[name], theirs[name]):
                assert read.shape == array.shape
                assert read.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    finally:
        os.close(descriptor)


@settings(max_examples=300, deadline=None)
@given(WEIGHTS, st.data())
def test_weights_with_a_byte_changed_cut_or_added_are_read_within_the_file_or_refused(weights, data):
    content = bytearray(written(weights))
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["change", "cut", "add"])):
        case "change":
            content[at] = data.draw(st.integers(0, 255))
        case "cut":
            del content[at:]
        case "add":
            content += b"\0" * (at + 1)
    try:
        blocks = parsed(bytes(content))
    except ToolError:
        return
    for block in blocks.values():
        assert 0 <= block.offset <= block.offset + block.size <= len(content)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
        {"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}},
        {"w": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1] * 60, "data_offsets": [0, 4]}},
        {"w" * 300: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} | {"w": {"dtype": "F32", "shape": [1],
         "data_offsets": [0, 4]}},
        {"__metadata__": {"format": "pt"}},
        {"w": None},
        [],
        "w",
        {},
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_header_is_refused(header):
    text = json.dumps(header).encode()
    with pytest.raises(ToolError):
        parsed(len(text).to_bytes(8, "little") + text + b"1234")


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{" * 10, b'{"a": ' * 50_000, b"\xff\xfe", b"9" * 10_000])
def test_a_header_that_is_no_json_is_refused(text):
    with pytest.raises(ToolError):
        parsed(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 8, b"\0" * 8, (1 << 40).to_bytes(8, "little")])
def test_a_file_without_a_header_is_no_weights(content):
    with pytest.raises(ToolError, match="ended without weights"):
        parsed(content)


@pytest.mark.parametrize(
    "weights",
    [{"w": np.array([None])}, {"w": np.array(["text"])}, {"w": np.zeros(2, complex)}, {"": np.zeros(1)},
     {"w" * 300: np.zeros(1)}, {7: np.zeros(1)}],
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_not_written(file, weights):
    with pytest.raises(ToolError, match="arrays of numbers by name"):
        write_weights(file, weights)


def test_a_sealed_file_cannot_be_changed_by_anybody(file):
    write_weights(file, {"w": np.arange(4.0)})
    before = open_weights(file, weights_in(file))
    seal(file)
    for change in (
        lambda: os.pwrite(file, b"x", 0),
        lambda: os.ftruncate(file, 1),
        lambda: os.ftruncate(file, 1 << 20),
        lambda: mmap.mmap(file, 8),
    ):
        with pytest.raises(OSError, match="not permitted"):
            change()
    before["w"][0] = 7  # a copy of its own
    assert open_weights(file, weights_in(file))["w"][0] == 0


def test_a_file_of_a_fixed_size_neither_grows_nor_shrinks():
    descriptor = memory_file("page", 4096)
    try:
        for change in (
            lambda: os.ftruncate(descriptor, 1),
            lambda: os.ftruncate(descriptor, 8192),
            lambda: os.pwrite(descriptor, b"x", 4096),
        ):
            with pytest.raises(OSError, match="not permitted"):
                change()
        assert os.pwrite(descriptor, b"xx", 4095) == 1
    finally:
        os.close(descriptor)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(st.sampled_from(["i4", "f4", "i8"]), hnp.array_shapes(max_dims=2, min_side=0, max_side=2000)),
    st.data(),
)
def test_some_rows_of_a_file_are_mapped_where_they_lie(tmp_path_factory, array, data):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, array)
    start = data.draw(st.integers(0, len(array)))
    stop = data.draw(st.integers(start, len(array)))
    descriptor, block = npy_block(path, slice(start, stop))
    try:
        assert np.array_equal(block.mapped(descriptor), array[start:stop], equal_nan=True)
    finally:
        os.close(descriptor)
    with pytest.raises(ToolError, match="must hold at least"):
        npy_block(path, slice(0, len(array) + 1))


def test_both_ends_of_a_page_see_the_same_rows_and_scores():
    features = (
        Feature("user", "categorical", 10),
        Feature("age", "numeric"),
        Feature("past", "history", length=3, of="user"),
    )
    page = Page(features, 5)
    descriptor = memory_file("page", page.size)
    try:
        ours, theirs = (page.over(mmap.mmap(descriptor, page.size)) for _ in range(2))
        ours[0].categorical[:] = 1
        ours[0].numeric[:] = 2.5
        ours[0].histories["past"][:] = 3
        theirs[1][:] = 0.25
        assert (theirs[0].categorical == 1).all()
        assert (theirs[0].numeric == 2.5).all()
        assert (theirs[0].histories["past"] == 3).all()
        assert (ours[1] == 0.25).all()
        assert theirs[0].categorical.shape == (5, 1)
        assert theirs[0].histories["past"].shape == (5, 3)
    finally:
        os.close(descriptor)


def test_a_schema_is_the_same_after_its_way_through_json():
    features = (Feature("user", "categorical", 10), Feature("past", "history", length=3, of="user"))
    schema = LogSchema(features, {"click": "BOOLEAN"}, 100)
    assert schema_from_json(json.loads(json.dumps(schema_as_json(schema)))) == schema


@pytest.mark.skipif(sys.platform != "linux", reason="seals are Linux's")
def test_sealing_waits_a_moment_for_whoever_still_holds_a_page(file):
    write_weights(file, {"w": np.arange(4.0)})
    held = mmap.mmap(file, 8)  # writable: the kernel refuses the seal while it is there
    threading.Timer(0.05, held.close).start()
    seal(file)
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(file, b"x", 0)
