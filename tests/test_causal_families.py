"""Families of causal language models against plain hooks, as docs/families.md tells."""

import pytest
from causal_families import FAMILIES, PAGE, START, row

FAST = (
    *("bart", "bert", "bloom", "falcon", "gpt_oss", "gptj", "mamba", "olmoe", "opt", "rwkv"),
    *("phi", "starcoder2"),
)


@pytest.mark.parametrize(
    "family", [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
)
def test_the_page_says_what_is_seen(family):
    assert row(family) in PAGE.read_text("utf-8").partition(START)[2]
