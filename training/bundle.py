"""From a fitted head and ranker to an artifact directory that has proved itself."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from predictor.artifact import Metadata, SelfTest, load_artifact, model_from_bytes, pack_files, save_artifact
from predictor.calibration import Calibration
from predictor.ensemble import Ensemble
from predictor.features.extractor import schema_of
from predictor.features.schema import FloatArray
from predictor.order import Order
from predictor.text_head import TextHead
from training.fit_ranker import FittedRanker


class Bundle(NamedTuple):
    """All that an artifact is made of; `row` is the feature vector of its self-test."""

    head: TextHead
    ranker: FittedRanker
    calibration: Calibration
    row: FloatArray


def write_bundle(
    bundle: Bundle,
    out: Path,
    notes: dict[str, Any],
    extra: dict[str, bytes] | None = None,
    *,
    order: Order | None = None,
) -> None:
    """Write the artifact and load it once. `extra` are further files, by name. Raises ArtifactError."""
    schema = schema_of(bundle.head)
    files = bundle.ranker.files(schema)
    models = {file: model_from_bytes(file, data, schema) for file, data in files.items()}
    score = Ensemble(bundle.ranker.members, models, schema).score(bundle.row)
    selftest = SelfTest(_nulls(bundle.row), score)
    now = datetime.now(UTC)
    metadata = Metadata(
        name=f"{_plain(out.name)}-{now:%Y%m%d%H%M%S}",
        schema_id=schema.id,
        feature_names=list(schema.names),
        members=bundle.ranker.members,
        sha256={},
        created=now.isoformat(timespec="seconds"),
        training=notes,
        order=order,
    )
    packed = pack_files(bundle.head, files, bundle.calibration, selftest)
    save_artifact(out, packed | (extra or {}), metadata)
    load_artifact(out)


def _plain(name: str) -> str:
    """A directory's name as far as a response header can carry it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100] or "artifact"


def _nulls(row: npt.NDArray[np.float32]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in row]
