"""Training from a traffic log in each text mode: numbers alone keep the head, n-grams and text fit a new one."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from predictor.artifact import load_artifact
from predictor.features.grams import Grams, pack_grams
from predictor.lightgbm_ranker import DEFAULT_ARTIFACT, LightGBMRanker
from predictor.records import Outcome, TrafficRecord
from predictor.request import Api, InferenceRequest, body_from_dict
from predictor.traffic_store import open_store, write_records
from training.bundle import write_bundle
from training.dataset import Dataset, read_dataset
from training.evaluate import evaluate
from training.progress import show_progress
from training.sources import DataError, read_source
from training.train import train

WORDS = ("list", "explain", "story", "poem", "word", "yes", "sum", "name")


def rows_in(mode: str, rows: int = 60) -> list[TrafficRecord]:
    """Requests whose length goes by a word of the prompt that says nothing by its size."""
    ranker = LightGBMRanker.load()
    rng = np.random.default_rng(1)
    found = []
    for number in range(rows):
        word = int(rng.integers(len(WORDS)))
        text = f"Request {number % 7}: please {WORDS[word]:<8} this."
        body = body_from_dict({"messages": [{"role": "user", "content": text}]})
        features, _ = ranker.features(InferenceRequest(str(number), Api.CHAT, body, number))
        assert features.grams is not None
        found.append(
            TrafficRecord(
                f"r{number}", number, "chat", Outcome.COMPLETED, output_tokens=10 + 40 * word + int(rng.integers(9)),
                finish_reason="stop", schema=features.schema.id, features=features.to_bytes(),
                grams=pack_grams(features.grams) if mode == "hashed" else None,
                body=body if mode == "full" else None,
            )
        )  # fmt: skip
    return found


def logged(tmp_path: Path, records: list[TrafficRecord]) -> str:
    """A traffic log of them."""
    schema = LightGBMRanker.load().artifact.schema
    database = open_store(tmp_path / "traffic.db")
    write_records(database, records, {schema.id: schema.names})
    database.close()
    return f"sqlite:///{tmp_path}/traffic.db"


def trained(data: Dataset, out: Path) -> dict[str, object]:
    """Train on the data's first part and evaluate on its last."""
    with show_progress() as steps:
        bundle, report = train(
            data, load_artifact(DEFAULT_ARTIFACT).head, objective="cross_entropy", seed=0, steps=steps
        )
    write_bundle(bundle, out, report)
    return report | evaluate(load_artifact(out), data, trained_on_this=True)


@pytest.mark.parametrize(("mode", "head"), [("none", "kept"), ("hashed", "fitted"), ("full", "fitted")])
def test_each_text_mode_teaches(tmp_path: Path, mode: str, head: str) -> None:
    """Numbers alone retrain the ranker; n-grams and text also fit a head of their own, and tau-b is reported."""
    data = read_dataset(read_source(logged(tmp_path, rows_in(mode))))
    assert data.has_text is (mode != "none")
    report = trained(data, tmp_path / "artifact")
    assert report["head"] == head
    tau = report["kendall_tau_b"]
    assert isinstance(tau, float)
    assert tau > (0.5 if head == "fitted" else -1)


def test_hashed_and_full_are_the_same_grams(tmp_path: Path) -> None:
    """The counts of a packed row are those of its text."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    hashed = read_dataset(read_source(logged(tmp_path / "a", rows_in("hashed", 20))))
    full = read_dataset(read_source(logged(tmp_path / "b", rows_in("full", 20))))
    assert (hashed.grams != full.grams).nnz == 0


def test_a_log_of_both_kinds_goes_by_its_numbers(tmp_path: Path) -> None:
    """Where the text mode was changed in between, rows without text do not count as empty prompts."""
    records = rows_in("hashed", 40)
    mixed = [msgspec.structs.replace(one, grams=None) if n < 20 else one for n, one in enumerate(records)]
    data = read_dataset(read_source(logged(tmp_path, mixed)))
    assert not data.has_text


def test_damaged_counts_are_named(tmp_path: Path) -> None:
    """The message says which row."""
    records = rows_in("hashed", 20)
    records[7] = msgspec.structs.replace(records[7], grams=b"\x0f\x01")
    with pytest.raises(DataError, match="row 8: 2 bytes are no packed"):
        read_dataset(read_source(logged(tmp_path, records)))
    odd = Grams(12, np.array([1], dtype=np.uint32))
    records[7] = msgspec.structs.replace(records[7], grams=pack_grams(odd))
    assert len(read_dataset(read_source(logged(tmp_path, records)))) == 20
