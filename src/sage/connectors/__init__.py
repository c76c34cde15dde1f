"""Sources and sinks.

::

    files.py      which files a path means, their partition ids; input.py: their bytes
    output.py     an output file appears whole or not at all (output_file.py, output_errors.py)
    lines.py      a record a line: text.py, jsonlines.py (json_text.py: what can be written as JSON)
    csv.py, parquet.py (parquet_writer.py; parquet_spool.py: for jobs that may be killed), directory.py
    items.py      Python iterables
    first.py      the beginning of any source
    stdio.py      standard input and output
    sqlite.py     a table with one row per rid (sqlite_table.py: the database's side; cells.py: single values)
    keyvalue.py   the last value of each key, in one file (keyvalue_file.py)
    sql.py        the same in databases that SQLAlchemy reaches (sql_target.py, sql_table.py, sql_errors.py)

Codes. The source: E301 not there, E302 changed, E303 no regular file, E304 no permission, E305 broken gzip, E306 cannot
be read, E307 another format, E308 wrong header, E309 an iterable raised. A record: E401 not JSON, E402 null, E403 not
UTF-8, E404 too large, E405 not CSV, E406 cannot be written, E408 a file of a tree cannot be read, E409 refused by the
database. The sink: E550 no folder, E551 not writable, E552 no space, E553 in use by another run, E554 what is there
does not fit, E555 locked, E556 any other error, E557 nobody reads, E558 gone since, E559 cannot be reached.

Importing this package is cheap: what a connector needs (msgspec, sqlite3, pyarrow, sqlalchemy) is imported when it is
first used.
"""

from sage.connectors.csv import Csv
from sage.connectors.directory import Directory
from sage.connectors.first import First
from sage.connectors.items import Items
from sage.connectors.jsonlines import JsonLines
from sage.connectors.keyvalue import KeyValue
from sage.connectors.parquet import Parquet
from sage.connectors.sql import SQL
from sage.connectors.sqlite import SQLite
from sage.connectors.stdio import Stdin, Stdout
from sage.connectors.text import Text

__all__ = [
    "Csv", "Directory", "First", "Items", "JsonLines", "KeyValue", "Parquet", "SQL", "SQLite", "Stdin", "Stdout",
    "Text",
]  # fmt: skip
