"""A schema is its names in their order, by one hash; a vector of another schema is read by name."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from predictor.features.schema import Features, Schema, align


@given(st.lists(st.sampled_from("abcdef"), unique=True, min_size=2))
def test_another_name_or_order_is_another_schema(names: list[str]) -> None:
    """Equal names in equal order have one id; any change has another."""
    schema = Schema.of(names)
    assert Schema.of(tuple(names)) == schema
    assert Schema.of(names[::-1]).id != schema.id
    assert Schema.of(names[1:]).id != schema.id
    assert Schema.of([*names, "g"]).id != schema.id
    assert Schema.of(["".join(names[:2]), *names[2:]]).id != schema.id


@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=3, max_size=3))
def test_a_logged_vector_comes_back_by_name(values: list[float]) -> None:
    """Bytes to floats to the columns of another schema: moved columns are found, absent ones are NaN."""
    old = Schema.of(("a", "b", "gone"))
    vector = Features(schema=old, values=np.array(values, dtype=np.float32))
    read = np.frombuffer(vector.to_bytes(), dtype="<f4")
    new = Schema.of(("b", "added", "a"))
    aligned = align(read.astype(np.float32), old.names, new)
    np.testing.assert_array_equal(aligned, np.array([values[1], np.nan, values[0]], dtype=np.float32))
