"""The published tables."""

from pathlib import Path

from proxy.reference import document


def test_the_reference_is_made_from_this_code() -> None:
    """REFERENCE.md is what the code says today; `make reference` renews it."""
    committed = Path(__file__).parent.parent / "REFERENCE.md"
    assert committed.read_text(encoding="utf-8") == document()


def test_everything_in_it_is_described() -> None:
    """No setting, error or metric is listed without a word on what it is."""
    rows = [line for line in document().splitlines() if line.startswith(("| `", "| POST"))]
    assert len(rows) > 60
    assert [row for row in rows if row.rstrip(" |").endswith("|")] == []
