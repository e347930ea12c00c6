"""The published tables."""

from pathlib import Path

from proxy.reference import document
from training.dataset import read_dataset
from training.sources import read_source


def test_the_reference_is_made_from_this_code() -> None:
    """REFERENCE.md is what the code says today; `make reference` renews it."""
    committed = Path(__file__).parent.parent / "REFERENCE.md"
    assert committed.read_text(encoding="utf-8") == document()


def test_everything_in_it_is_described() -> None:
    """No setting, error or metric is listed without a word on what it is."""
    rows = [line for line in document().splitlines() if line.startswith(("| `", "| POST"))]
    assert len(rows) > 60
    assert [row for row in rows if row.rstrip(" |").endswith("|")] == []


def test_metrics_are_named_as_prometheus_sees_them() -> None:
    """Counters with their suffix, labels that have no value yet, and what only a proxy with Redis exports."""
    page = document()
    assert "| `headway_requests_total` | counter | api, outcome |" in page
    assert "| `headway_self_predictions_total` | counter | reason, result |" in page
    assert "| `headway_redis_up` | gauge |" in page
    assert "| `headway_proxies` | gauge |" in page


def test_defaults_are_written_as_toml_wants_them() -> None:
    """A default may be copied from the table into the file."""
    assert "| `traffic_log` | `true` |" in document()
    assert "`False`" not in document()


def test_the_published_row_of_a_lengths_file_is_one(tmp_path: Path) -> None:
    """Whoever writes a file as the page shows has rows that can be used."""
    example = document().split("```json\n")[1].split("```")[0]
    (tmp_path / "lengths.jsonl").write_text(example)
    data = read_dataset(read_source(str(tmp_path / "lengths.jsonl")))
    assert (list(data.label), list(data.censored), list(data.model)) == ([3.0], [False], ["m"])
