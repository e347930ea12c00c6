"""LightGBM through its C library: one row scored in about ten microseconds, no Python package imported.

`lightgbm.Booster.predict` costs 30 us a row, and importing the package pulls in scikit-learn and scipy; the
library it carries has a single-row call that costs 11. `tests/test_booster.py` holds the two to one answer.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final, Self

import numpy as np

from predictor.errors import PredictorError
from predictor.features.schema import FloatArray

_FLOAT32: Final = 0
_RAW_SCORE: Final = 1
_PARAMETERS: Final = b"num_threads=1 predict_disable_shape_check=false"


class BoosterError(PredictorError):
    """LightGBM's library is missing, or refuses a model."""


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("lightgbm")
    roots = spec.submodule_search_locations if spec else None
    for root in roots or ():
        for name in ("lib_lightgbm.so", "lib_lightgbm.dylib", "lib_lightgbm.dll"):
            if (path := Path(root) / "lib" / name).exists():
                library = ctypes.CDLL(str(path))
                library.LGBM_GetLastError.restype = ctypes.c_char_p
                return library
    raise BoosterError("LightGBM's library is not installed: pip install lightgbm")


def _check(status: int) -> None:
    if status != 0:
        message = _library().LGBM_GetLastError()
        raise BoosterError(f"LightGBM: {message.decode('utf-8', 'replace')}")


class Booster:
    """One model, scored row by row from one thread.

    Loading takes tens of milliseconds and a corrupted model can abort the process: load off the event loop,
    and only text whose hash is known and which a child process has tried.
    """

    def __init__(self, model_text: str, features: int) -> None:
        library = _library()
        self._handle = ctypes.c_void_p()
        self._config = ctypes.c_void_p()
        iterations = ctypes.c_int()
        _check(
            library.LGBM_BoosterLoadModelFromString(
                model_text.encode(), ctypes.byref(iterations), ctypes.byref(self._handle)
            )
        )
        self._check_shape(features)
        self._row = np.empty(features, dtype=np.float32)
        self._result = ctypes.c_double()
        self._length = ctypes.c_int64()
        _check(
            library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle, _RAW_SCORE, 0, -1, _FLOAT32, features, _PARAMETERS, ctypes.byref(self._config)
            )
        )
        self._predict = library.LGBM_BoosterPredictForMatSingleRowFast
        self._arguments = (
            self._config,
            ctypes.c_void_p(self._row.ctypes.data),
            ctypes.byref(self._length),
            ctypes.byref(self._result),
        )

    def _check_shape(self, features: int) -> None:
        width = ctypes.c_int()
        _check(_library().LGBM_BoosterGetNumFeature(self._handle, ctypes.byref(width)))
        if width.value != features:
            raise BoosterError(f"the model reads {width.value} features, the schema has {features}")
        # LightGBM writes one number per class, and there is room for one.
        classes = ctypes.c_int()
        _check(_library().LGBM_BoosterGetNumClasses(self._handle, ctypes.byref(classes)))
        if classes.value != 1:
            raise BoosterError(f"the model has {classes.value} classes; a ranker has one score")

    def score(self, row: FloatArray) -> float:
        """The raw score of one row of `features` float32 values."""
        self._row[:] = row
        _check(self._predict(*self._arguments))
        return self._result.value

    def columns(self) -> frozenset[int]:
        """The columns that any of its trees looks at."""
        splits = (ctypes.c_double * len(self._row))()
        _check(_library().LGBM_BoosterFeatureImportance(self._handle, 0, 0, splits))
        return frozenset(column for column, count in enumerate(splits) if count)

    @classmethod
    def from_bytes(cls, data: bytes, features: int) -> Self:
        """Load a model file's bytes; raises BoosterError or UnicodeDecodeError where they are not one."""
        return cls(data.decode("utf-8"), features)

    def close(self) -> None:
        """Free the model; `score` must not be called afterwards."""
        if self._config:
            _library().LGBM_FastConfigFree(self._config)
            self._config = ctypes.c_void_p()
        if self._handle:
            _library().LGBM_BoosterFree(self._handle)
            self._handle = ctypes.c_void_p()

    def __del__(self) -> None:
        if hasattr(self, "_config"):
            self.close()
