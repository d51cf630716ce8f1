"""The salt changes with everything that KV depends on, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from kv_store.keys import (
    Isolation,
    KVIdentity,
    destination_of,
    domain_of,
    fingerprint,
    salt_of,
)

IDENTITY = KVIdentity(weights="w", dtype="bfloat16", kv_dtype="auto")
CHANGES: list[dict[str, Any]] = [
    {"weights": "v"},
    {"dtype": "float16"},
    {"kv_dtype": "fp8"},
    {"tensor_parallel": 2},
    {"pipeline_parallel": 2},
    {"overrides": {"rope_scaling": {"factor": 2.0}}},
    {"lora": "l"},
    {"layout": "another"},
]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two tensors, large enough that they are sampled and not read in full."""
    return written(tmp_path / "model")


def written(directory: Path, **changed: torch.Tensor) -> Path:
    directory.mkdir(exist_ok=True)
    tensors = {"a": torch.arange(400_000.0), "b": torch.ones(400_000)}
    save_file(tensors | changed, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps({"rope_theta": 10_000}))
    return directory


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_whatever_changes_the_kv_changes_the_salt(change: dict[str, Any]) -> None:
    assert replace(IDENTITY, **change).salt("d") != IDENTITY.salt("d")


def test_lmcache_takes_the_salt() -> None:
    salt = IDENTITY.salt(domain_of(Isolation.TENANT, tenant="a/b@c\\\0" * 100))

    assert len(salt) <= 128
    assert set(salt) <= set(string.hexdigits)


@given(destination=st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True))
def test_a_salt_tells_its_destination(destination: str) -> None:
    own, sent = salt_of("i", "d"), salt_of("i", "d", destination)

    assert (destination_of(own), destination_of(sent)) == ("", destination)
    assert sent.startswith(own)
    assert len(sent) <= 128
    assert not set(sent) & set("@/\\\0")


@pytest.mark.parametrize("isolation", [Isolation.TENANT, Isolation.CONVERSATION])
@given(
    one=st.tuples(st.text(), st.text()),
    other=st.tuples(st.text(), st.text()),
)
def test_two_tenants_never_share(
    isolation: Isolation, one: tuple[str, str], other: tuple[str, str]
) -> None:
    domains = [
        domain_of(isolation, tenant=tenant, conversation=conversation)
        for tenant, conversation in (one, other)
    ]
    if one[0] != other[0]:
        assert domains[0] != domains[1]
    elif isolation is Isolation.TENANT:
        assert domains[0] == domains[1]
    else:
        assert (domains[0] == domains[1]) == (one[1] == other[1])


def test_without_isolation_all_share() -> None:
    assert domain_of(Isolation.NONE, tenant="a") == domain_of(Isolation.NONE, tenant="b")


def test_the_same_weights_elsewhere_have_the_same_fingerprint(
    checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    os.utime(copy / "model.safetensors", (1, 1))

    assert fingerprint(copy) == fingerprint(checkpoint)


def test_a_changed_checkpoint_under_the_same_path_has_another(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)

    written(checkpoint, b=torch.ones(400_000) * 1.001)

    assert fingerprint(checkpoint) != before


@pytest.mark.parametrize("where", [0, 399_999])
def test_one_weight_at_a_tensors_edge_is_seen(checkpoint: Path, where: int) -> None:
    before = fingerprint(checkpoint)
    changed = torch.ones(400_000)
    changed[where] = 2

    written(checkpoint, b=changed)

    assert fingerprint(checkpoint) != before


def test_one_weight_between_the_samples_is_seen_by_the_whole_fingerprint(
    checkpoint: Path,
) -> None:
    before = fingerprint(checkpoint), fingerprint(checkpoint, is_whole=True)
    changed = torch.ones(400_000)
    changed[100_000] = 2

    written(checkpoint, b=changed)

    after = fingerprint(checkpoint), fingerprint(checkpoint, is_whole=True)
    assert after[0] == before[0], "the sampled fingerprint is not known to see this"
    assert after[1] != before[1]


def test_another_configuration_has_another_fingerprint(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)

    (checkpoint / "config.json").write_text(json.dumps({"rope_theta": 500_000}))

    assert fingerprint(checkpoint) != before


def test_a_directory_without_weights_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights"):
        fingerprint(tmp_path)
