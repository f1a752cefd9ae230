"""Run once inside the kernel: a pandas DataFrame or Series is displayed as data too, beside its text and HTML. Nothing is imported before the user imports it."""
import json

from IPython.core.formatters import JSONFormatter
from traitlets import ObjectName, Unicode

MIME = "application/vnd.torpor.dataframe+json"
MAX_ROWS = 1000
MAX_COLUMNS = 200


class DataFrameFormatter(JSONFormatter):
    format_type = Unicode(MIME)
    print_method = ObjectName("_repr_torpor_dataframe_")


def of_frame(frame):
    shown = frame.iloc[:MAX_ROWS, :MAX_COLUMNS]
    table = json.loads(shown.to_json(orient="split", date_format="iso", default_handler=str))
    return {
        "columns": table["columns"],
        "index": table["index"],
        "data": table["data"],
        "dtypes": [str(dtype) for dtype in shown.dtypes],
        "shape": list(frame.shape),
        "truncated": shown.shape != frame.shape,
    }


def of_series(series):
    return of_frame(series.to_frame())


formatter = DataFrameFormatter(parent=get_ipython().display_formatter)  # noqa: F821
formatter.for_type_by_name("pandas.core.frame", "DataFrame", of_frame)
formatter.for_type_by_name("pandas.core.series", "Series", of_series)
get_ipython().display_formatter.formatters[MIME] = formatter  # noqa: F821
