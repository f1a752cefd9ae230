"""Values as JSON that any reader gets exactly: what JSON's numbers cannot hold in every language is
a string. A pandas DataFrame or Series is displayed as data too, beside its text and HTML. Nothing
is imported before the user imports it.
"""

import base64
import math
import sys

from IPython.core.formatters import JSONFormatter
from traitlets import ObjectName, Unicode

DATAFRAME = "application/vnd.torpor.dataframe+json"
MAX_ROWS = 1000
MAX_COLUMNS = 200
# Many readers have only 64-bit floating point, which skips integers above this value.
MAX_SAFE_INTEGER = 2**53 - 1
MAX_DEPTH = 100


def exact(value, nan="NaN", depth=0):
    """As JSON, also within lists and maps; `nan` is what stands for a number that is none."""
    if value is None or isinstance(value, (bool, str)):
        return value
    value = plain(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= MAX_SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        return finite(float(value), nan)
    if depth < MAX_DEPTH and isinstance(value, dict):
        return {str(key): exact(entry, nan, depth + 1) for key, entry in value.items()}
    if depth < MAX_DEPTH and isinstance(value, (list, tuple)):
        return [exact(entry, nan, depth + 1) for entry in value]
    return str(value)


def finite(value, nan):
    if math.isnan(value):
        return nan
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, value)


def plain(value):
    """What numpy, pandas and datetime have of their own, as values that Python has: times in ISO 8601
    to the nanosecond, None for what is missing.
    """
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return list(value) if value.dtype.kind in "mM" else value.tolist()
    if pandas is not None and (value is pandas.NaT or value is pandas.NA):
        return None
    if numpy is not None and isinstance(value, numpy.generic):
        value = value if value.dtype.kind in "mM" or value.dtype.itemsize > 8 else value.item()
    if pandas is not None and type(value).__name__ in ("datetime64", "timedelta64", "timedelta"):
        value = (pandas.Timestamp if type(value).__name__ == "datetime64" else pandas.Timedelta)(
            value
        )
        return None if value is pandas.NaT else value.isoformat()
    return value.isoformat() if hasattr(value, "isoformat") else value


def bundle(data):
    """A display's representations by MIME type: bytes in base64, JSON exact, all else text."""
    return {mime: represented(mime, value) for mime, value in data.items()}


def represented(mime, value):
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if mime == DATAFRAME:
        return value
    if mime == "application/json" or mime.endswith("+json"):
        return exact(value)
    return value if isinstance(value, str) else str(value)


class DataFrameFormatter(JSONFormatter):
    format_type = Unicode(DATAFRAME)
    print_method = ObjectName("_repr_torpor_dataframe_")


def entry_of(value):
    """One value of a table: null where there is none."""
    return exact(value, nan=None)


def column_of(series):
    """The same for a whole column; most need no look at each of their values."""
    import numpy

    dtype = series.dtype
    values = series.tolist()
    if not isinstance(dtype, numpy.dtype) or dtype.kind not in "biufO" or dtype.itemsize > 8:
        return [entry_of(value) for value in values]
    if dtype.kind == "O":
        return [value if type(value) is str else entry_of(value) for value in values]
    is_plain = dtype.kind == "b" or all(abs(value) <= MAX_SAFE_INTEGER for value in values)
    if dtype.kind == "f":
        is_plain = bool(numpy.isfinite(series.to_numpy()).all())
    return values if is_plain else [entry_of(value) for value in values]


def table_of(frame):
    shown = frame.iloc[:MAX_ROWS, :MAX_COLUMNS]
    columns = [column_of(shown.iloc[:, at]) for at in range(shown.shape[1])]
    return {
        "columns": [entry_of(label) for label in shown.columns],
        "index": [entry_of(label) for label in shown.index],
        "data": (
            [list(row) for row in zip(*columns)] if columns else [[] for _ in range(len(shown))]
        ),
        "dtypes": [str(dtype) for dtype in shown.dtypes],
        "shape": list(frame.shape),
        "truncated": shown.shape != frame.shape,
    }


def of_frame(frame):
    """None, and a note, for a table that has columns of a kind that is not known here."""
    try:
        return table_of(frame)
    except Exception as error:
        print(f"[this table could not be given as data: {error!r}]", file=sys.stderr)
        return None


def show_tables(display_formatter):
    formatter = DataFrameFormatter(parent=display_formatter)
    formatter.for_type_by_name("pandas.core.frame", "DataFrame", of_frame)
    formatter.for_type_by_name(
        "pandas.core.series", "Series", lambda series: of_frame(series.to_frame())
    )
    display_formatter.formatters[DATAFRAME] = formatter
