"""The only file that uses Delta: create, append, upsert, commit, read a version.

A `Tables` is a folder (on disk or in an object store) that holds one Delta table per name of `schema.TABLES`. Every
write is one atomic commit, so a reader sees all of it or nothing. Large rows are written to Parquet files by the
workers (`write_files`) and become visible when the driver commits the files (`commit_files`). Files of a killed run
stay invisible, and `vacuum` removes them.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction

from pipelines.store import schema
from pipelines.store.filesystems import local_path, open_filesystem, split_options
from pipelines.store.folders import check_output_folder, create_folder


@dataclass(frozen=True)
class UncommittedFile:
    """A Parquet file that a worker wrote and the driver has not committed yet."""

    path: str
    """Relative to the table."""
    bytes: int
    rows: int
    partition: Mapping[str, str]
    ranges: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Smallest and largest value of the columns of `schema.RANGES`."""


@dataclass(frozen=True)
class DataFile:
    """A committed Parquet file of a version of a table."""

    uri: str
    rows: int
    partition: Mapping[str, str]


class Tables:
    """The Delta tables under one address.

    Args:
        root: a folder, or an object-store address such as s3://bucket/tables.

    Raises:
        ValueError: Delta cannot store tables under this name.
    """

    def __init__(self, root: str | Path) -> None:
        local = local_path(root)
        self.folder = None if local is None else Path(local)
        """The folder of the tables; None in an object store."""
        self.root = _delta_address(str(root).rstrip("/")) if local is None else str(self.folder)
        """An absolute path, or the address in an object store."""
        _check_name(self.root if local is None else os.path.realpath(local))

    def uri(self, table: str) -> str:
        """Address of one table."""
        return f"{self.root}/{table}"

    def exists(self, table: str) -> bool:
        """Whether the table has been created."""
        return DeltaTable.is_deltatable(self.uri(table))

    def create(self) -> None:
        """Creates the tables that are missing, and the columns that an older version of the project did not write.

        Raises:
            ValueError: the folder holds other files, or it cannot be written.
        """
        # Columns are added and never removed or retyped, so that an older version of the project can still read the
        # tables.
        names = [name for name in schema.TABLES if not self.exists(name)]
        for name in schema.TABLES.keys() - names:
            table = self._open(name)
            existing = {field.name for field in table.schema().fields}
            missing = [field for field in schema.table_schema(name) if field.name not in existing]
            if missing:
                table.alter.add_columns(DeltaSchema.from_arrow(pa.schema(missing)).fields)
        # If one of the tables exists, the folder is ours: a run may have been killed before it created the others.
        if self.folder is not None:
            if len(names) == len(schema.TABLES):
                check_output_folder(self.folder, "--tables")
            create_folder(self.folder, "--tables")
        for name in names:
            try:
                DeltaTable.create(
                    self.uri(name), schema.table_schema(name), mode="ignore", partition_by=schema.PARTITIONS.get(name)
                )
            except OSError as error:
                raise ValueError(f"cannot write tables at {self.root}: {error}; give another --tables") from error

    def version(self, table: str) -> int:
        """The newest version of a table."""
        return self._open(table).version()

    def _open(self, table: str, version: int | None = None) -> DeltaTable:
        try:
            # Opened anew each time: a `DeltaTable` is a snapshot, which would not show later commits.
            return DeltaTable(self.uri(table), version=version)
        except TableNotFoundError as error:
            raise ValueError(
                f"no table {table!r} at {self.root}; run `nova curate --tables {self.root}` first"
            ) from error
        except Exception as error:  # deltalake has no error of its own for an unknown version
            if version is None or not self.exists(table):
                raise
            newest = DeltaTable(self.uri(table)).version()
            raise ValueError(f"{self.uri(table)} has no version {version}; the newest is {newest}") from error

    def dataset(self, table: str, version: int | None = None) -> pa.dataset.Dataset:
        """A pyarrow dataset of a version, for filtered and streaming reads; compare strings with `text`."""
        # With our own schema, so that types and the order of columns do not depend on the version of the project that
        # wrote a file.
        return self._open(table, version).to_pyarrow_dataset(schema=schema.table_schema(table))

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: pa.dataset.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Reads matching rows of a version into memory."""
        return self.dataset(table, version).to_table(columns=columns and list(columns), filter=where)

    def scan(
        self, table: str, *, columns: Sequence[str], where: pa.dataset.Expression | None = None, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Reads matching rows of the newest version, a bounded batch at a time."""
        scanner = self.dataset(table).scanner(columns=list(columns), filter=where, batch_size=batch_rows)
        return (batch for batch in scanner.to_batches() if batch.num_rows)

    def count(self, table: str, where: pa.dataset.Expression | None = None) -> int:
        """Number of rows of the newest version."""
        return self.dataset(table).count_rows(filter=where)

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows in one commit. Does nothing for no rows."""
        if rows:
            # Without the documentation of the columns: Delta refuses rows whose documentation differs from the table's,
            # which an older version of the project may have created.
            arrow = pa.schema([field.remove_metadata() for field in schema.table_schema(table)])
            write_deltalake(self.uri(table), _table(rows, arrow), mode="append")

    def upsert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Inserts rows, or updates their columns in the table's row with the same id, in one commit.

        All rows have the same columns, including the id; of rows with the same id, the last one counts. Does nothing
        for no rows.
        """
        if not rows:
            return
        names = list(rows[0])
        # The id decides what is a row: a run that repeats work after a crash updates rows and adds none. Delta would
        # insert both of two new rows with one id, and refuse every later merge that touches them.
        key = schema.KEYS[table]
        rows = list({row[key]: row for row in rows}.values())
        source = _table(rows, pa.schema([schema.field(name) for name in names]))
        assignments = {name: f"source.{name}" for name in names}
        # Every merge reads the ids of the table and rewrites the files that it touches, in proportion to the table and
        # not to the rows: 2,000 scattered rows in 200,000 take seconds. Hence `CommitPolicy`, which collects rows.
        merge = self._open(table).merge(
            source, predicate=f"target.{key} = source.{key}", source_alias="source", target_alias="target"
        )
        merge.when_matched_update(assignments).when_not_matched_insert(assignments).execute()

    def delete(self, table: str, ids: Sequence[str]) -> None:
        """Removes rows by id in one commit; older versions keep them. Does nothing for no ids."""
        if ids:
            quoted = ", ".join(f"'{row_id}'" for row_id in ids)  # ids are hexadecimal digits: nothing to escape
            self._open(table).delete(f"{schema.KEYS[table]} IN ({quoted})")

    def write_files(self, table: str, rows: pa.Table) -> list[UncommittedFile]:
        """Writes rows to Parquet files, one per partition, without committing them. Runs in workers."""
        names = schema.PARTITIONS.get(table, [])
        groups = rows.group_by(names).aggregate([]).to_pylist() if names else [{}]
        return [self._write_file(table, rows, group) for group in groups]

    def _write_file(self, table: str, rows: pa.Table, partition: Mapping[str, str]) -> UncommittedFile:
        for name, value in partition.items():
            rows = rows.filter(pa.compute.equal(rows[name], value))
        # A partition's values stand in the path and in the log, and Delta expects them nowhere else.
        stored = rows.select([name for name in schema.TABLES[table] if name not in partition])
        folder = "/".join(f"{name}={value}" for name, value in partition.items())
        # A random name, because several workers write at once, and a retried task must not overwrite the file of the
        # first attempt, which may be committed already.
        path = f"{folder}/part-{uuid.uuid4().hex}.parquet".lstrip("/")
        filesystem, base = open_filesystem(self.uri(table))
        target = f"{base}/{path}"
        # Object stores have no folders, and pyarrow's call does nothing there.
        filesystem.create_dir(os.path.dirname(target), recursive=True)
        # Rows of `examples` are hundreds of kB, so small row groups keep the memory of readers bounded.
        pq.write_table(stored, target, filesystem=filesystem, compression="zstd", row_group_size=64)
        # From the filesystem, as the log states the size of the stored file.
        size = filesystem.get_file_info(target).size
        limits = {name: pc.min_max(rows[name]).as_py() for name in schema.RANGES.get(table, ())}
        ranges = {name: (values["min"], values["max"]) for name, values in limits.items()}
        return UncommittedFile(path=path, bytes=size, rows=rows.num_rows, partition=partition, ranges=ranges)

    def commit_files(self, table: str, files: Sequence[UncommittedFile]) -> None:
        """Makes files visible in one commit. Does nothing for no files."""
        if not files:
            return
        actions = [
            AddAction(
                path=file.path,
                size=file.bytes,
                partition_values=dict(file.partition),
                modification_time=0,
                data_change=True,
                # `files` and `values` read these numbers, so that planning batches opens no file.
                stats=_statistics(file),
            )
            for file in files
        ]
        opened = self._open(table)
        # Appending files to the log costs the same whatever the table holds, about 50 ms; examples are therefore never
        # merged.
        opened.create_write_transaction(
            actions,
            mode="append",
            schema=schema.table_schema(table),
            partition_by=schema.PARTITIONS.get(table),
        )

    def files(self, table: str, version: int | None = None) -> list[DataFile]:
        """The Parquet files of a version with their row counts, in a stable order, without opening them."""
        opened = self._open(table, version)
        actions = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
        names = schema.PARTITIONS.get(table, [])
        files = [
            DataFile(
                uri=f"{self.uri(table)}/{action['path']}",
                rows=action["num_records"],
                partition={name: action[f"partition.{name}"] for name in names},
            )
            for action in actions
        ]
        # Sorted, as the log promises no order, and that of training batches follows from it.
        return sorted(files, key=lambda file: file.uri)

    def values(self, table: str, columns: Sequence[str], version: int | None = None) -> set[tuple[str, ...]]:
        """Distinct combinations of values in a version; from the log for files that hold a single one.

        Args:
            table: the table.
            columns: columns of strings, such as those of `schema.RANGES`.
            version: the newest by default.
        """
        actions = pa.table(self._open(table, version).get_add_actions(flatten=True)).to_pylist()
        filesystem, base = open_filesystem(self.uri(table))
        combinations: set[tuple[str, ...]] = set()
        for action in actions:
            low, high = (tuple(action.get(f"{end}.{name}") for name in columns) for end in ("min", "max"))
            if None not in low and low == high:
                combinations.add(low)
                continue
            # Files of version 0.1, and those of mixed content.
            rows = pq.read_table(f"{base}/{action['path']}", columns=list(columns), filesystem=filesystem)
            groups = rows.group_by(list(columns)).aggregate([]).select(list(columns))
            combinations |= set(zip(*(column.to_pylist() for column in groups.columns), strict=True))
        return combinations

    def vacuum(self, table: str, hours: int = 24 * 7) -> int:
        """Deletes files that no version of the last `hours` needs, such as those of killed runs; returns how many."""
        # A week, as a training may still read a version that has been replaced since.
        return len(self._open(table).vacuum(retention_hours=hours, dry_run=False))


_REFUSED_BY_DELTA = re.compile(r"%[0-9a-fA-F]{2}|[][\\^|\x00-\x1f\x7f]")
"""Delta unquotes paths twice, so that tables in `a%20b` would be read in `a b`, and fails on the other characters."""


def _delta_address(address: str) -> str:
    """The address of tables in an object store in the form that Delta and pyarrow understand alike.

    Raises:
        ValueError: the address has options, which Delta does not read.
    """
    place, options = split_options(address)
    if options:
        raise ValueError(f"{place}: tables take no options ({options}); set AWS_ENDPOINT_URL and the like instead")
    return place.replace("?", "%3F").replace("#", "%23")


def _check_name(root: str) -> None:
    """Raises ValueError where Delta cannot store tables at a path or address."""
    # In an address, quoting is legitimate once.
    refused = _REFUSED_BY_DELTA.search(root if local_path(root) is not None else unquote(root))
    if refused is not None:
        raise ValueError(
            f"{root!r}: Delta cannot store tables below a folder with {refused[0]!r} in its name; rename the folder, "
            "or give another one"
        )


def split_version(address: str) -> tuple[str, int | None]:
    """Splits DIR@VERSION; the name of an existing folder is no version.

    Raises:
        ValueError: the version is not a number.
    """
    root, at, version = address.rpartition("@")
    if not at or "/" in version:
        return address, None
    local = local_path(address)
    if local is not None and os.path.isdir(local):
        return address, None
    if not version.isdigit():
        raise ValueError(f"{address!r}: a version is a number, as in {root}@3")
    return root, int(version)


def text(column: str) -> pa.dataset.Expression:
    """A string column in a filter.

    In files written by Delta's merge, strings have the type `string_view`, and Arrow (25) cannot compare a plain field
    with the minima and maxima of such a column. After a cast it compares rows only.
    """
    return pc.field(column).cast(pa.string())


def _statistics(file: UncommittedFile) -> str:
    """What the log states of a file, as Delta writes it."""
    lows, highs = ({name: limits[end] for name, limits in file.ranges.items()} for end in (0, 1))
    return json.dumps({"numRecords": file.rows, "minValues": lows, "maxValues": highs})


def _table(rows: Sequence[Mapping[str, Any]], arrow: pa.Schema) -> pa.Table:
    unknown = set(rows[0]) - set(arrow.names)
    # from_pylist would drop them without a word.
    assert not unknown, f"columns {unknown} are not in the table"
    return schema.arrow_table(rows, arrow)
