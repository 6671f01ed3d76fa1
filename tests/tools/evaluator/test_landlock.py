from __future__ import annotations

import struct

import pytest

from evorank.tools.evaluator import kernel, landlock


@pytest.mark.parametrize(
    ("version", "size", "rights"),
    [(1, 8, 13), (2, 8, 14), (3, 8, 15), (4, 16, 15), (5, 16, 16), (6, 24, 16), (7, 24, 16), (9, 24, 16)],
)
def test_every_version_forbids_all_that_it_knows(version, size, rights):
    attributes = landlock.ruleset(version)
    assert len(attributes) == size
    words = struct.unpack(f"={size // 8}Q", attributes)
    assert words == ((1 << rights) - 1, 0b11, 0b11)[: len(words)]


def test_this_kernel_takes_the_ruleset_of_its_own_version():
    version = landlock.version()
    if version == 0:
        pytest.skip("this kernel has no Landlock")
    import os

    attributes = landlock.ruleset(version)
    os.close(kernel.syscall(landlock.CREATE_RULESET, attributes, len(attributes), 0))


def test_a_kernel_without_it_is_version_0_and_restricting_there_is_an_error(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(kernel, "syscall", refuse)
    assert landlock.version() == 0
    with pytest.raises(OSError, match="not implemented"):
        landlock.restrict([tmp_path])
