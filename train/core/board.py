"""TensorBoard's event files, written by the thread that calls: no queue, no thread, no exit hook.

tensorboardX's own writer does both in the background, where a full disk kills its thread with a
traceback and makes Python's end fail; its protocol buffers and checksum are used here.
"""

import contextlib
import socket
import struct
import time
from pathlib import Path


def record(data: bytes) -> bytes:
    """One record of the TFRecord format: length, its checksum, the data, their checksum."""
    from tensorboardX.record_writer import masked_crc32c

    header = struct.pack("<Q", len(data))
    checks = [struct.pack("<I", masked_crc32c(part)) for part in (header, data)]
    return header + checks[0] + data + checks[1]


class Board:
    """An events file in `folder`; viewers forget what earlier files say of `step` and later.

    Every call may raise OSError; the file is then closed and may end in a torn record, which
    viewers take for its end. ImportError without tensorboardX.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = open(folder / name, "ab")  # noqa: SIM115
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(file_version="brain.Event:2")
        self._write(step=step, session_log=start)

    def scalars(self, step: int, row) -> None:
        """Writes `{name: number}` of a step."""
        values = [self._summary.Value(tag=name, simple_value=row[name]) for name in row]
        self._write(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        """May be called twice; does not raise."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, **fields):
        event = self._event(wall_time=time.time(), **fields)
        try:
            self._file.write(record(event.SerializeToString()))
            self._file.flush()
        except OSError:
            self.close()
            raise
