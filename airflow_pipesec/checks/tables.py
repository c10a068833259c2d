"""Tables: a file becomes a frame, a frame answers SQL, and the rows that fail are set aside."""

from __future__ import annotations

import codecs
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from airflow_pipesec.errors import ConfigurationError, PipesecError, StorageError, unique_keys
from airflow_pipesec.findings import printable
from airflow_pipesec.manifest import Digest
from airflow_pipesec.storage import Store
from airflow_pipesec.verified import private_copy

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["FRAME", "QUARANTINE_COLUMN", "Unreadable", "exact", "quoted", "read_frame", "set_aside", "sql_on"]

QUARANTINE_COLUMN = "pipesec_failed_expectations"
FRAME = "pipesec_data"
"""The name under which :func:`sql_on` offers a frame to SQL."""

MAX_CSV_ROW_BYTES = 64 << 20
_CSV, _PARQUET, _LINES = (".csv",), (".parquet", ".pq"), (".jsonl", ".ndjson", ".json")


class Unreadable(NamedTuple):
    """Why a file could not be read as a table; no content of it."""

    reason: str


def read_frame(store: Store) -> tuple[pd.DataFrame | Unreadable, Digest]:
    """Read a CSV, Parquet or JSON-lines file whole, and return what it holds and the digest of just the bytes that were read.

    The file is copied first, to memory or an unlinked temporary file, and the copy is what is read: a file is read more than
    once here, and nobody shall change it in between. The extension says which kind it is. Compressed text is not read: a small
    file could hold more than the worker's memory. Raises :class:`ConfigurationError` for another extension and
    :class:`StorageError` when the file can't be had.
    """
    import pandas as pd

    extension = Path(store.name).suffix.lower()
    if extension not in (*_CSV, *_PARQUET, *_LINES):
        raise ConfigurationError(
            f"{printable(store.url)} ends in {printable(extension) or 'no extension'}, which says no known format. "
            f"Use {', '.join((*_CSV, *_PARQUET, *_LINES))}, or configure_dataframe= for anything else."
        )
    with private_copy(store) as (file, digest):
        try:
            if extension in _CSV:
                return _read_csv(file), digest
            if extension in _PARQUET:
                return _read_parquet(file), digest
            return _read_lines(file), digest
        except pd.errors.EmptyDataError:
            return pd.DataFrame(), digest
        except PipesecError:
            raise
        except OSError as error:
            if error.errno is None:  # pyarrow's word for a file that is no Parquet
                return Unreadable(type(error).__name__), digest
            raise StorageError(f"{printable(store.url)}: {error.strerror}. Run the guard again.") from error
        except Exception as error:
            # Parsers raise what they like, and their messages quote the data.
            return Unreadable(type(error).__name__), digest


def _read_csv(file: IO[bytes]) -> pd.DataFrame | Unreadable:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv

    # A name given twice would be mangled, and every rule about it see one of the two columns.
    first = pd.read_csv(file, header=None, nrows=1, dtype=str, compression=None, keep_default_na=False)
    names = [str(name) for name in first.iloc[0].tolist()]
    if len({name.strip() for name in names}) != len(names):
        return Unreadable("the header gives a name twice")
    # In a file of one column a blank line is a row without its value; in any other it is no row.
    single = len(names) == 1
    file.seek(0)
    if single and not file.readline().removeprefix(codecs.BOM_UTF8).strip(b"\r\n"):
        return Unreadable("it begins with a blank line")
    # pandas fills short rows up, and where the first row is longer than the header it shifts every column. Arrow counts.
    file.seek(0)
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_binary()), strings_can_be_null=False)
    parsing = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not single)
    blocks = csv.ReadOptions(block_size=MAX_CSV_ROW_BYTES)
    try:
        rows = sum(batch.num_rows for batch in csv.open_csv(file, blocks, parsing, as_text))
    except pa.ArrowInvalid as error:
        if "straddling" in str(error):
            return Unreadable(f"a row is longer than {MAX_CSV_ROW_BYTES >> 20} MB")
        return Unreadable("a row has more or fewer fields than the header")
    file.seek(0)
    frame = pd.read_csv(file, low_memory=False, compression=None, skip_blank_lines=not single)
    if len(frame) != rows:
        return Unreadable("its rows can be counted in two ways")
    long = [name for name, dtype in frame.dtypes.items() if dtype.kind == "f" and 2**53 <= frame[name].abs().max() < 2**63]
    for name in long:
        # Long integers beside missing values became floats: read them again as what they are, if they are.
        file.seek(0)
        try:
            whole = pd.read_csv(
                file, usecols=[name], dtype={name: "Int64"}, low_memory=False, compression=None, skip_blank_lines=not single
            )
        except (ValueError, OverflowError, TypeError):
            continue
        column = whole[name]
        frame[name] = column.astype("object").where(column.notna(), None)
    return frame


def _read_parquet(file: IO[bytes]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # The file's own pandas metadata could hide a column as an index, or give one the name of another.
    table = pq.read_table(file)
    # As floats, the integers of a column with missing values would lose their last digits.
    long = any(
        column.null_count and pa.types.is_integer(column.type) and _is_long(*pc.min_max(column).as_py().values())
        for column in table.columns
    )
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=long)
    return frame


def _is_long(*numbers: float | None) -> bool:
    """Whether an integer is too long for a float to hold it exactly."""
    return any(number is not None and abs(number) >= 2**53 for number in numbers)


def _read_lines(file: IO[bytes]) -> pd.DataFrame | Unreadable:
    """Read one JSON object a line. pandas' own reader joins lines, takes several objects in one, and the last of equal keys."""
    import json

    import pandas as pd

    def no_constant(_: str) -> None:
        raise ValueError

    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            row = json.loads(text, object_pairs_hook=unique_keys, parse_constant=no_constant)
            json.dumps(row, ensure_ascii=False).encode()  # a lone surrogate, written as an escape, is no text
        except (ValueError, RecursionError):
            return Unreadable(f"line {number} is not one JSON object")
        if not isinstance(row, dict):
            return Unreadable(f"line {number} is not one JSON object")
        rows.append(row)
    # Row by row as objects, so that a missing key does not turn the integers of the others into floats.
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        plain = pd.Series(values, dtype="object")
        inferred = plain.infer_objects()
        long = inferred.dtype.kind == "f" and _is_long(*[value for value in values if type(value) is int])
        columns[name] = plain if long else inferred
    return pd.DataFrame(columns)


@contextmanager
def sql_on(frame: pd.DataFrame) -> Iterator[Callable[[str], Any]]:
    """Give a function that returns the one value of a query over ``FRAME``, evaluated by DuckDB in memory.

    DuckDB compares like with like: text beside a number raises, where SQLite would order the two by their types. The SQL can
    reach no file and no network. Raises :class:`ConfigurationError` for column names that SQL, which ignores case, can't tell
    apart.
    """
    import duckdb

    names = Counter(str(name).lower() for name in frame.columns)
    if twice := sum(number for number in names.values() if number > 1):
        # Where a file has no header, names are cells.
        raise ConfigurationError(f"{twice} columns differ only in case, which SQL rules cannot tell apart. Rename them.")
    locked: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "lock_configuration": True,
    }
    with closing(duckdb.connect(":memory:", config=locked)) as connection:

        def takes(table: pa.Table) -> None:
            connection.register("pipesec_probe", table.slice(0, 0))
            connection.unregister("pipesec_probe")

        connection.register(FRAME, _arrow(frame, takes))

        def value_of(query: str) -> Any:
            row = connection.execute(query).fetchone()
            return None if row is None else row[0]

        yield value_of


def quoted(name: str) -> str:
    """Return a column's name as DuckDB wants it."""
    return '"' + name.replace('"', '""') + '"'


def exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame that computes as its values do.

    Integers can be added, along a column or a row, without wrapping round: Python's own where numpy's are too short. Not-a-number
    is a missing value in every type of column, and categories stand in the order of their values, not in their own.
    """
    for position in range(len(frame.columns)):
        column = frame.iloc[:, position]
        plain = _exact_integers(_plain(column), max(frame.shape))
        if plain is not column:
            frame = frame.copy(deep=False)
            frame.isetitem(position, plain.array)
    return frame


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column whose values are written out, floats as numpy's, in which NaN is missing."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    dtype: Any = column.dtype
    if isinstance(dtype, pd.ArrowDtype) and (
        pa.types.is_dictionary(dtype.pyarrow_dtype) or pa.types.is_run_end_encoded(dtype.pyarrow_dtype)
    ):
        column = pd.Series(pd.arrays.ArrowExtensionArray(_decoded(pa.Array.from_pandas(column))))
    elif isinstance(dtype, pd.ArrowDtype) and not _is_known(dtype):
        column = pd.Series(pa.Array.from_pandas(column).to_pylist(), dtype="object")
    elif isinstance(dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column))
    elif isinstance(dtype, pd.CategoricalDtype):
        # Integers beside missing values would become floats.
        short = dtype.categories.dtype.kind in "iub" and column.isna().any()
        written = column.astype("object" if short else dtype.categories.dtype)
        column = written.where(written.notna(), None) if short else written
    dtype = column.dtype
    if dtype.kind == "f" and not isinstance(dtype, np.dtype):
        column = pd.Series(column.to_numpy(dtype.numpy_dtype, na_value=np.nan))
    return column


def _is_known(dtype: Any) -> bool:
    """Whether pandas knows the Python type of an Arrow column's values; it can do next to nothing with others."""
    try:
        return dtype.type is not None
    except NotImplementedError:
        return False


def _exact_integers(column: pd.Series[Any], terms: int) -> pd.Series[Any]:
    import numpy as np

    dtype: Any = column.dtype
    if dtype.kind not in "iu" or not len(column):
        return column
    present = column if isinstance(dtype, np.dtype) else column.dropna()
    if len(present) < len(column):
        objects = column.astype("object")
        return objects.where(objects.notna(), None)
    most = max(abs(int(column.min())), abs(int(column.max())))
    wide: Any = "object" if most * terms >= 2**62 else "int64"
    return column if dtype == wide else column.astype(wide)


def set_aside(frame: pd.DataFrame, failing: Mapping[int, Collection[str]], target: Store) -> int:
    """Write the failing rows to ``target`` as Parquet, read it again, and return how many rows it holds.

    ``failing`` maps row positions to the expectations that the row failed; these come as one more column. The file is written
    even when it holds no row, so that one from an earlier try never looks like this one's.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    if QUARANTINE_COLUMN in frame.columns:
        raise ConfigurationError(f"the data has a column {QUARANTINE_COLUMN} of its own. Rename it before validating.")
    positions = sorted(failing)
    aside = {str(name): _rows_of(frame.iloc[:, number], positions) for number, name in enumerate(frame.columns)}
    aside[QUARANTINE_COLUMN] = pd.Series(["; ".join(sorted(failing[position])) for position in positions], dtype="object")

    def takes(table: pa.Table) -> None:
        pq.write_table(table.slice(0, 0), io.BytesIO())

    buffer = io.BytesIO()
    pq.write_table(_arrow(pd.DataFrame(aside), takes, flat=True), buffer)
    target.write(buffer.getvalue())
    with target.open() as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _rows_of(column: pd.Series[Any], positions: list[int]) -> pd.Series[Any]:
    import pandas as pd

    try:
        return column.iloc[positions].reset_index(drop=True)
    except Exception:
        # Of some of its types Arrow can only take the values one by one.
        return pd.Series([_text(column.iloc[position]) for position in positions], dtype="object")


def _arrow(frame: pd.DataFrame, takes: Callable[[pa.Table], None], *, flat: bool = False) -> pa.Table:
    """Turn a frame into a table. Columns of mixed types, which is where bad rows come from, are kept as text; so are those that
    ``takes`` raises at, and nested ones where the table has to be ``flat``. Not-a-number is no value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    arrays = []
    for position in range(len(frame.columns)):
        column = frame.iloc[:, position]
        try:
            array = _decoded(pa.Array.from_pandas(column))
            if pa.types.is_float16(array.type):
                array = array.cast(pa.float32())
            if pa.types.is_floating(array.type):
                array = pc.if_else(pc.is_nan(array), None, array)
            takes(pa.table([array], names=["column"]))
        except Exception:
            array = None
        if array is None or (flat and pa.types.is_nested(array.type)):
            array = pa.array([_text(value) for value in column], pa.string())
        arrays.append(array)
    return pa.table(arrays, names=[str(name) for name in frame.columns])


def _decoded(array: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _text(value: Any) -> str | None:
    import pandas as pd

    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value):
        return None
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"<{type(value).__name__}>"  # what an object says of itself when asked for text is its own affair
