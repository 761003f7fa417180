import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.names import record_id, shard_of

HOSTILE = [
    "../../etc/passwd",
    "..",
    ".",
    "",
    "CON",
    "con",
    "nul.txt",
    "a\x00b",
    "x" * 300,
    "X" * 300,
    "aspirin",
    "Aspirin",
    "a/b",
    "a\\b",
    "a:b",
    " ",
    "\n",
    "-rf",
    "=cmd()",
    "<script>",
    "Ωmega-β",
    "日本語",
    "\ud800",
    "$(rm -rf ~)",
    "a b",
    "a-b",
]


def is_safe(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,47}-[0-9a-f]{10}", name) is not None


def test_hostile_names_become_distinct_safe_names():
    """Every name gets its own id, also where the file system ignores case; none leaves its folder."""
    ids = [record_id(name, "CCO", 0) for name in HOSTILE]
    assert all(is_safe(name) for name in ids)
    assert len({name.casefold() for name in ids}) == len(HOSTILE)


def test_content_and_occurrence_tell_namesakes_apart():
    """Hand table: two molecules of one name, and one record given twice, get three ids."""
    ids = {record_id("a", "C", 0), record_id("a", "CC", 0), record_id("a", "C", 1)}
    assert len(ids) == 3
    assert record_id("a", "C", 0) in ids


@given(st.text(), st.text(), st.integers(min_value=0, max_value=10**6))
def test_any_text_gives_a_safe_name(name, content, occurrence):
    """Property: whatever the text, the id is safe, stable, and its shard is two hex digits."""
    found = record_id(name, content, occurrence)
    assert is_safe(found)
    assert found == record_id(name, content, occurrence)
    assert re.fullmatch("[0-9a-f]{2}", shard_of(found))


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_the_hash_covers_where_one_field_ends(first, second):
    """Property: moving text from the name to the content gives another id."""
    same = record_id(*first, 0) == record_id(*second, 0)
    assert same == (first == second)


@pytest.mark.parametrize("name", ["ligand", ""])
def test_shards_of_a_large_library_stay_small(name):
    """100,000 records: mean 391 per folder; 1,000 is 30 standard deviations away."""
    counts = Counter(shard_of(record_id(name, "C", n)) for n in range(100_000))
    assert max(counts.values()) < 1000
