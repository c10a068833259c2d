"""Benign models: files that do nothing but build what they hold, as the libraries themselves write them.

`files()` makes what the test environment's own libraries can make; what others wrote lies in tests/vectors/models, and
tests/make_benign_models.py made it. Every one of them must pass the scan with the lists that come with the package.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import importlib.util
import io
import pathlib
import pickle
import tempfile
import uuid
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

VECTORS = Path(__file__).parent / "vectors" / "models"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
COMPRESSIONS = (0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3), ("lz4", 3))


class Benign(NamedTuple):
    """A file, and which library's it is."""

    library: str
    name: str
    data: bytes


Named = Iterator[tuple[str, Any]]


def plain_objects() -> Named:
    """What the standard library has of values."""
    values: list[Any] = [
        None,
        True,
        1,
        -(10**30),
        1.5,
        2j,
        "text",
        "é\ud800",
        b"bytes\xff",
        bytearray(b"x"),
        (1, (2,)),
        [1],
        {"a": 1},
    ]
    values += [{1, 2}, frozenset({1}), range(3), slice(1, 2), Ellipsis, NotImplemented, int, str, dict, OrderedDict(a=1)]
    values += [defaultdict(list, a=[1]), Counter("aab"), deque([1], 3), decimal.Decimal("1.5"), fractions.Fraction(1, 3)]
    values += [datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)]  # noqa: DTZ001, UP017 - both kinds, and Python 3.8
    values += [
        datetime.date(2026, 1, 2),
        datetime.time(3, 4),
        datetime.timedelta(1),
        uuid.UUID(int=5),
        pathlib.PurePosixPath("a/b"),
    ]
    values += [pathlib.PureWindowsPath("a"), b"", bytearray(), set(), frozenset(), "", object()]
    loop: list[Any] = []
    loop.append(loop)
    return iter([(f"value-{place}", value) for place, value in enumerate([*values, loop])])


def arrays() -> Named:
    """Arrays of every type of element, and what else numpy pickles."""
    import numpy as np

    for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?":
        yield f"array-{np.dtype(code).name}-{code}", np.zeros((2, 3), code)
    yield "array-big-endian", np.arange(3, dtype=">f8")
    yield "array-fortran", np.asfortranarray(np.ones((2, 3)))
    yield "array-strided", np.arange(10)[::2]
    yield "array-empty", np.zeros((0, 4))
    yield "array-0d", np.array(3.5)
    yield "array-bytes", np.array([b"a", b"bc"])
    yield "array-text", np.array(["a", "bc"])
    yield "array-objects", np.array([None, "a", 1, [2]], dtype=object)
    yield "array-datetime", np.array(["2026-01-01"], "M8[ns]")
    yield "array-timedelta", np.array([1, 2], "m8[D]")
    yield "array-void", np.zeros(2, "V7")
    yield "array-structured", np.zeros(2, [("a", "i4"), ("b", "f8", (2,)), ("c", [("d", "U3")])])
    yield "array-aligned", np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True))
    yield "array-titled", np.zeros(2, np.dtype([(("title", "a"), "i1")]))
    yield "array-structured-objects", np.zeros(2, [("a", "O"), ("b", "i4")])
    yield "array-records", np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    yield "array-masked", np.ma.masked_array([1.0, 2.0], [True, False])
    yield "array-masked-records", np.ma.masked_array(np.zeros(2, [("a", "i4")]))
    yield "array-matrix", np.matrix([[1.0, 2.0]])
    yield "masked", np.ma.masked
    if hasattr(np, "dtypes") and hasattr(np.dtypes, "StringDType"):
        yield "array-strings", np.array(["a", "bcd" * 20], dtype=np.dtypes.StringDType())
        yield "array-strings-na", np.array(["a", None], dtype=np.dtypes.StringDType(na_object=None))
    for scalar in (np.float64(1), np.float32(1), np.int64(1), np.bool_(True), np.str_("a"), np.bytes_(b"a"), np.complex128(1j)):
        yield f"scalar-{scalar.dtype.name}", scalar
    yield "scalar-datetime", np.datetime64("2026-01-01", "D")
    yield "scalar-record", np.zeros(1, [("a", "i4"), ("b", "O")])[0]
    yield "dtypes", [np.dtype(code) for code in ("f8", "<i2", ">u4", "U5", "S3", "M8[s]", "O", "i4,f8")]
    yield "types", [np.float32, np.int64, np.bool_, np.str_, np.float64]
    yield "ufuncs", [np.log1p, np.exp, np.sqrt, np.add, np.abs]
    yield "functions", [np.mean, np.median, np.nan_to_num]
    bits = [np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64]
    for bit in bits:
        yield f"generator-{bit.__name__}", np.random.Generator(bit(1))
        yield f"bits-{bit.__name__}", bit(1)
    yield "seed-sequence", np.random.SeedSequence(1)
    yield "random-state", np.random.RandomState(1)
    yield "random-state-global", np.random.mtrand._rand
    yield "polynomial", np.polynomial.Polynomial([1.0, 2.0])
    yield "chebyshev", np.polynomial.Chebyshev([1.0, 2.0])
    yield "poly1d", np.poly1d([1.0, 2.0])


def frames() -> Named:
    """Tables, columns and indexes of pandas."""
    import numpy as np
    import pandas as pd

    day = pd.Timestamp("2026-01-02")
    columns: dict[str, Any] = {
        "int": [1, 2],
        "float": [1.0, np.nan],
        "bool": [True, False],
        "text": ["a", "b"],
        "mixed": np.array(["a", None], object),
        "category": pd.Categorical(["a", "b"], ordered=True),
        "when": [day, day],
        "zoned": pd.to_datetime(["2026-01-02", "2026-01-03"]).tz_localize("UTC"),
        "offset": pd.to_datetime(["2026-01-02", "2026-01-03"]).tz_localize("+02:00"),
        "delta": pd.to_timedelta([1, 2]),
        "Int64": pd.array([1, None], "Int64"),
        "UInt8": pd.array([1, 2], "UInt8"),
        "Float64": pd.array([1.5, None], "Float64"),
        "boolean": pd.array([True, None], "boolean"),
        "string": pd.array(["a", None], "string"),
        "period": pd.period_range("2026-01", periods=2, freq="M"),
        "interval": pd.interval_range(0, 2),
        "sparse": pd.arrays.SparseArray([0, 1]),
    }
    for name, values in columns.items():
        yield f"series-{name}", pd.Series(values, name=name)
        yield f"index-{name}", pd.Index(pd.Series(values))
    yield "frame", pd.DataFrame(columns)
    yield "frame-empty", pd.DataFrame()
    yield "frame-multi", pd.DataFrame({("a", 1): [1, 2], ("b", 2): [3, 4]}).set_index(("a", 1))
    yield "frame-dates", pd.DataFrame({"x": [1.0, 2.0]}, index=pd.date_range("2026-01-01", periods=2))
    yield "index-range", pd.RangeIndex(3)
    yield "index-multi", pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])
    yield "scalars", [day, pd.Timedelta(1), pd.Period("2026-01", "M"), pd.Interval(0, 1), pd.NaT, pd.NA]
    yield "zoned-scalar", pd.Timestamp("2026-01-02", tz="UTC")
    yield (
        "types",
        [pd.Int64Dtype(), pd.CategoricalDtype(["a"]), pd.StringDtype(), pd.DatetimeTZDtype("ns", "UTC"), pd.PeriodDtype("M")],
    )
    yield "types-more", [pd.IntervalDtype("int64"), pd.SparseDtype(float), pd.BooleanDtype(), pd.Float32Dtype(), pd.Int8Dtype()]
    yield (
        "offsets",
        [pd.offsets.Day(2), pd.offsets.MonthEnd(), pd.offsets.BusinessDay(), pd.offsets.Hour(3), pd.offsets.Week(weekday=2)],
    )
    yield (
        "offsets-more",
        [pd.offsets.YearEnd(), pd.offsets.QuarterEnd(), pd.offsets.MonthBegin(), pd.DateOffset(months=2), pd.offsets.Minute()],
    )


def scientific() -> Named:
    """Sparse matrices, interpolators, distributions and such of scipy."""
    import numpy as np
    from scipy import interpolate, sparse, spatial, special, stats
    from scipy.spatial.transform import Rotation

    for form in ("csr", "csc", "coo", "bsr", "dia", "lil", "dok"):
        matrix = sparse.eye(3, format=form)
        yield f"matrix-{form}", matrix
        if hasattr(sparse, f"{form}_array"):
            yield f"array-{form}", getattr(sparse, f"{form}_array")(matrix)
    x = np.arange(6.0)
    yield "interp1d", interpolate.interp1d(x, x)
    yield "interp1d-cubic", interpolate.interp1d(x, x, kind="cubic", fill_value="extrapolate")
    yield "interp1d-nearest", interpolate.interp1d(x, x, kind="nearest", bounds_error=False)
    yield "spline-cubic", interpolate.CubicSpline(x, x)
    yield "spline-b", interpolate.make_interp_spline(x, x)
    yield "pchip", interpolate.PchipInterpolator(x, x)
    yield "akima", interpolate.Akima1DInterpolator(x, x)
    yield "ppoly", interpolate.PPoly(np.ones((2, 5)), x)
    yield "spline-univariate", interpolate.UnivariateSpline(x, x)
    yield "spline-bivariate", interpolate.RectBivariateSpline(x, x, np.ones((6, 6)))
    yield "rbf", interpolate.RBFInterpolator(x[:, None], x)
    yield "grid", interpolate.RegularGridInterpolator((x, x), np.ones((6, 6)))
    yield "nearest-nd", interpolate.NearestNDInterpolator(np.random.RandomState(0).rand(6, 2), x)
    yield "tree-kd", spatial.cKDTree(x[:, None])
    yield "tree-kd-python", spatial.KDTree(x[:, None])
    yield "rotation", Rotation.from_quat([0.0, 0.0, 0.0, 1.0])
    yield "kde", stats.gaussian_kde(x)  # no distribution: what one's state holds is executed
    yield "ufuncs", [special.expit, special.logit, special.gammaln]


def estimators() -> Named:
    """Every estimator of scikit-learn, fitted."""
    from tests import benign_estimators

    return benign_estimators.estimators()


OBJECTS = {"python": plain_objects, "numpy": arrays, "pandas": frames, "scipy": scientific, "scikit-learn": estimators}
COMPRESSED_EVERY = 3
"""Of so many objects one is written by joblib, and each time compressed in another way."""


@lru_cache(maxsize=1)
def files() -> tuple[Benign, ...]:
    """Make every file once: each object by pickle in one protocol after the other, and some by joblib and numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(file for library, make in OBJECTS.items() for file in _files(library, make()))


def _files(library: str, objects: Named) -> Iterator[Benign]:
    import joblib
    import numpy as np

    ways = [way for way in COMPRESSIONS if way == 0 or _has(way)]
    for place, (name, made) in enumerate(objects):
        for protocol in _protocols(library, name, place):
            with suppress(TypeError, AttributeError):  # not every class can be pickled in protocols 0 and 1
                yield Benign(library, f"{name}-{protocol}.pkl", pickle.dumps(made, protocol))
        if library != "python" and place % COMPRESSED_EVERY == 0:
            way = ways[place // COMPRESSED_EVERY % len(ways)]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.joblib"
                joblib.dump(made, path, compress=way)
                kind = "" if way == 0 else f".{way[0]}"
                yield Benign(library, f"{name}{kind}.joblib", path.read_bytes())
        if isinstance(made, np.ndarray) and library == "numpy" and not isinstance(made, np.ma.MaskedArray):
            for suffix, save in ((".npy", np.save), (".npz", np.savez), (".compressed.npz", np.savez_compressed)):
                buffer = io.BytesIO()
                with suppress(TypeError, ValueError):
                    save(buffer, made)
                    yield Benign(library, f"{name}{suffix}", buffer.getvalue())


def _protocols(library: str, name: str, place: int) -> Iterable[int]:
    if library == "python":
        return PROTOCOLS
    if name.startswith("interp1d"):
        return (4, 5)  # a bound method, which earlier protocols get by getattr
    return (place % len(PROTOCOLS),) if library == "scikit-learn" else {place % len(PROTOCOLS), 4}


def _has(way: Any) -> bool:
    return way[0] != "lz4" or importlib.util.find_spec("lz4") is not None


def vectors() -> Iterator[Benign]:
    """Yield the files that other libraries wrote; the folders beside them are models of more than one file."""
    for path in sorted(each for each in VECTORS.glob("*/*") if each.is_file()):
        yield Benign(path.parent.name, path.name, path.read_bytes())
