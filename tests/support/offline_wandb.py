"""Reading back what W&B wrote to disk: an offline run's file holds everything that a server would have been sent."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Offline:
    """The offline files of one folder, once W&B's own process has written the last record of each.

    Attributes:
        records: every protobuf record, in the order of the files' names and then as written.
        starts: the records by which runs began, one a file.
        rows: the logged rows: key → value.
        summary: the last value of each key.
        config: the last value of each key.
        metrics: name or glob → its definition.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.rglob("offline-run-*/run-*.wandb"))
        assert files, f"no offline run in {folder}"
        deadline = time.monotonic() + 60
        while True:
            found = [list(_records(file.read_bytes())) for file in files]
            if all(records and records[-1].HasField("exit") for records in found):
                break
            assert time.monotonic() < deadline, "no end of the run in its file"
            time.sleep(0.1)
        self.records = [record for records in found for record in records]
        self.starts = [next(r.run for r in records if r.HasField("run")) for records in found]
        self.rows = [_values(r.history.item) for r in self.records if r.HasField("history")]
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        for record in self.records:
            if record.HasField("summary"):
                self.summary |= _values(record.summary.update)
            if record.HasField("run"):
                self.config |= _values(record.run.config.update)
            if record.HasField("config"):
                self.config |= _values(record.config.update)
            if record.HasField("metric"):
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric

    def series(self, name: str) -> dict[int, Any]:
        """step → value of one key."""
        return {row["step"]: row[name] for row in self.rows if name in row}

    @property
    def keys(self) -> set[str]:
        """Every key that was logged; of a picture, its own."""
        return {key for row in self.rows for key in row}


def _values(items: Any) -> dict[str, Any]:
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def _records(content: bytes) -> Iterator[Any]:
    """LevelDB blocks of 32 KiB holding protobuf messages. A last one that is not written whole is left out, as in W&B's
    own reader: its service may still be writing how the run ended."""
    from wandb.proto.wandb_internal_pb2 import Record

    assert struct.unpack("<4sHB", content[:7])[0] == b":W&B"
    at, pending = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        if at + 7 + length > len(content):
            return
        if kind == 2:  # the first part of a record
            pending = b""
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record()
            record.ParseFromString(pending)
            pending = b""
            yield record
