"""Artifact directories: written whole, read only after every file's SHA-256 was checked, never unpickled.

metadata.json      what it is: schema, how it was trained, the SHA-256 of every other file
text_head.npz      hashed n-grams -> dense outputs
booster-N.txt.gz   LightGBM models, averaged
smooth-N.npz       kernel regressions beside them
calibration.json   score -> quantile, tokens, spread
selftest.json      one row and the score it must give
"""

import gzip
import hashlib
import io
import re
import stat
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from predictor.booster import Booster
from predictor.calibration import Calibration
from predictor.ensemble import Ensemble, Member, Model
from predictor.errors import ArtifactError, HashMismatchError, SchemaMismatchError
from predictor.features.extractor import FIXED_NAMES, schema_of
from predictor.features.schema import FloatArray, Schema
from predictor.head_file import head_from_bytes, head_to_bytes
from predictor.order import Order, WorkScale
from predictor.prediction import Prediction
from predictor.smooth import SUFFIX, smooth_from_bytes
from predictor.text_head import TextHead

FORMAT_VERSION: Final = 1
METADATA: Final = "metadata.json"
_HEAD: Final = "text_head.npz"
_CALIBRATION: Final = "calibration.json"
_SELFTEST: Final = "selftest.json"
# The fixed features come first in every schema.
_SIZE_COLUMNS: Final = [FIXED_NAMES.index("size.total"), FIXED_NAMES.index("size.token_ids")]
_MAX_FILE_BYTES: Final = 256 << 20
# The name goes out in a response header.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SELFTEST_TOLERANCE: Final = 1e-5


class Metadata(msgspec.Struct, frozen=True):
    """metadata.json. `sha256` covers every file but this one; `training` is free for the trainer's notes.

    `order` is what replay recommends for these predictions; None where nobody has replayed their traffic.
    """

    name: str
    schema_id: str
    feature_names: list[str]
    members: list[Member]
    sha256: dict[str, str]
    format_version: int = FORMAT_VERSION
    created: str = ""
    training: dict[str, Any] = {}
    order: Order | None = None


class SelfTest(msgspec.Struct, frozen=True):
    """A row (NaN written as null) and the score that the ensemble must give it."""

    row: list[float | None]
    score: float


class Artifact(msgspec.Struct, frozen=True):
    """A ranker that is loaded and has passed its self-test; its `id` names its content."""

    id: str
    metadata: Metadata
    schema: Schema
    head: TextHead
    ensemble: Ensemble
    calibration: Calibration

    def predict(self, values: FloatArray) -> Prediction:
        """The prediction of one feature vector, placed by work too where the artifact knows what work costs."""
        prediction = self.calibration.predict(self.ensemble.score(values))
        work = self.work_place(values, prediction.tokens)
        return prediction if work is None else msgspec.structs.replace(prediction, work=work)

    def work_place(self, values: FloatArray, tokens: float) -> float | None:
        """The place of the work that so many tokens make of this request; None where work was never measured."""
        work = self.metadata.order.work if self.metadata.order else None
        return None if work is None else work.place(_prompt_tokens(values, work), tokens)


def read_metadata(directory: Path) -> Metadata:
    """Parse metadata.json alone. Raises ArtifactError."""
    return _parse_metadata(directory, _read(directory, METADATA))


def metadata_id(metadata: bytes) -> str:
    """The id of the artifact whose metadata.json holds these bytes: 16 hex digits of their SHA-256."""
    return hashlib.sha256(metadata).hexdigest()[:16]


def _parse_metadata(directory: Path, data: bytes) -> Metadata:
    try:
        metadata = msgspec.json.decode(data, type=Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(directory, f"{METADATA} is not valid: {error}") from error
    if metadata.format_version != FORMAT_VERSION:
        raise ArtifactError(
            directory, f"format {metadata.format_version}; this version reads format {FORMAT_VERSION}"
        )
    if not _NAME.fullmatch(metadata.name):
        raise ArtifactError(
            directory, f"its name {metadata.name[:80]!r} is not 1 to 128 letters, digits and . _ -"
        )
    return metadata


def load_artifact(directory: Path) -> Artifact:
    """Check hashes, parse, check the schema, run the self-test. Raises ArtifactError or a subclass.

    LightGBM may abort the whole process on a damaged model whose hash is right: try an artifact that is not
    known to be good with `predictor.trial.try_artifact` first.
    """
    data = _read(directory, METADATA)
    metadata = _parse_metadata(directory, data)
    files = {name: _verified(directory, name, digest) for name, digest in metadata.sha256.items()}
    try:
        artifact = _parse(directory, metadata_id(data), metadata, files)
        _run_selftest(directory, artifact, msgspec.json.decode(files[_SELFTEST], type=SelfTest))
    except ArtifactError:
        raise
    except KeyError as error:
        raise ArtifactError(directory, f"has no {error}") from error
    except Exception as error:  # what parsers raise over hostile bytes is no closed list
        raise ArtifactError(directory, f"cannot be read: {error or type(error).__name__}") from error
    return artifact


def save_artifact(directory: Path, files: dict[str, bytes], metadata: Metadata) -> None:
    """Write an artifact beside its destination and move it into place, so that no reader sees half of one.

    Raises ArtifactError where `directory` exists and is not an artifact.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / METADATA).exists():
        raise ArtifactError(directory, "exists and is not an artifact; choose another --out")
    directory.parent.mkdir(parents=True, exist_ok=True)
    listed = msgspec.structs.replace(metadata, sha256={name: _sha256(data) for name, data in files.items()})
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".artifact-") as name:
        staged = Path(name) / "new"
        staged.mkdir()
        for file, data in files.items():
            (staged / file).write_bytes(data)
        (staged / METADATA).write_bytes(msgspec.json.format(msgspec.json.encode(listed), indent=1))
        if directory.exists():
            directory.replace(Path(name) / "old")
        staged.replace(directory)


def pack_booster(text: str) -> bytes:
    """LightGBM's text as a file."""
    return gzip.compress(text.encode(), 9, mtime=0)


def model_from_bytes(file: str, data: bytes, schema: Schema) -> Model:
    """A member's model; the file's name says of which kind it is."""
    if file.endswith(SUFFIX):
        return smooth_from_bytes(data, schema)
    return Booster.from_bytes(_unpack(data), len(schema.names))


def pack_files(
    head: TextHead, models: dict[str, bytes], calibration: Calibration, selftest: SelfTest
) -> dict[str, bytes]:
    """The files of an artifact, by name; `models` are the members' files."""
    files = dict(models)
    files[_HEAD] = head_to_bytes(head)
    files[_CALIBRATION] = msgspec.json.encode(calibration)
    files[_SELFTEST] = msgspec.json.encode(selftest)
    return files


def _parse(directory: Path, artifact_id: str, metadata: Metadata, files: dict[str, bytes]) -> Artifact:
    head = head_from_bytes(files[_HEAD])
    schema = schema_of(head)
    _check_schema(directory, metadata, schema)
    models = {
        member.file: model_from_bytes(member.file, files[member.file], schema)
        for member in metadata.members
        if member.file is not None
    }
    return Artifact(
        id=artifact_id,
        metadata=metadata,
        schema=schema,
        head=head,
        ensemble=Ensemble(metadata.members, models, schema),
        calibration=msgspec.json.decode(files[_CALIBRATION], type=Calibration),
    )


def _unpack(data: bytes) -> bytes:
    """The content of a gzip file; ValueError where it is larger than any model: a few bytes can hold gigabytes."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        content = packed.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError(f"a model unpacks to more than {_MAX_FILE_BYTES >> 20} MiB")
    return content


def _prompt_tokens(values: FloatArray, work: WorkScale) -> float:
    """The prompt's size by its features: characters, and ids of a prompt that came tokenised."""
    characters, ids = np.expm1(values[_SIZE_COLUMNS].astype(np.float64))
    return float(work.tokens_per_character * characters + ids)


def _read(directory: Path, name: str) -> bytes:
    if Path(name).name != name or name.startswith(".") or "\0" in name:
        raise ArtifactError(directory, f"{name!r} is not a plain file name")
    path = directory / name
    try:
        # A device or a pipe has no size and no end.
        if not stat.S_ISREG((found := path.stat()).st_mode):
            raise ArtifactError(directory, f"{name} is not a file")
        if found.st_size > _MAX_FILE_BYTES:
            raise ArtifactError(directory, f"{name} is larger than {_MAX_FILE_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(directory, f"cannot read {name}: {error.strerror}") from error


def _verified(directory: Path, name: str, digest: str) -> bytes:
    try:
        data = _read(directory, name)
    except ArtifactError as error:
        raise HashMismatchError(directory, error.reason) from error
    found = _sha256(data)
    if found != digest:
        raise HashMismatchError(
            directory, f"{name} has SHA-256 {found[:16]}…, metadata.json says {digest[:16]}…"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_schema(directory: Path, metadata: Metadata, schema: Schema) -> None:
    if metadata.schema_id != schema.id:
        raise SchemaMismatchError(directory, artifact_schema=metadata.schema_id, code_schema=schema.id)


def _run_selftest(directory: Path, artifact: Artifact, selftest: SelfTest) -> None:
    if len(selftest.row) != len(artifact.schema.names):
        raise ArtifactError(directory, f"its self-test row has {len(selftest.row)} values")
    row = np.array([np.nan if value is None else value for value in selftest.row], dtype=np.float32)
    score = artifact.ensemble.score(row)
    if not abs(score - selftest.score) <= _SELFTEST_TOLERANCE * max(1.0, abs(selftest.score)):
        raise ArtifactError(directory, f"its self-test row scores {score}, not {selftest.score}")
