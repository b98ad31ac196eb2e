"""The intents: attempts that have no row in the ledger yet, in a file that is mapped into this process's memory.

A note there costs no system call and waits for nothing, so it is made before the first byte goes out; and the row that
settles an attempt is noted there before its client hears of it, so that nobody waits for the ledger. What a process has
written stays when the process dies, however it dies: the kernel has it. Only the machine's own death may take the last
notes, as it may take the last commits. Whoever opens the ledger next is told what was left.

    file   := header · slot*      each 1 KiB; a slot holds one attempt, and is free while its intent's size is 0
    slot   := intent · row        of 512 bytes each; a long intent takes all of it, and has its row in the ledger alone
    intent := prompt tokens u64 · output tokens u64 · stage u32 · size u32 · intent in MessagePack
    row    := size u32 · row in MessagePack; if its size is not 0, it is what holds

Sizes are written last and cleared first: what was cut short by a death is not there. The disk's space is taken before a
slot is used, because a mapped page that finds no room on the disk ends the process. Used on the event loop's thread.
"""

import contextlib
import mmap
import os
import struct
import sys
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.accounting.rows import Row, entry_of, fits
from gateway.domain.ledger import Intent, LedgerEntry, Note, Stage, orphaned

SUFFIX: Final = ".intents"
"""The file's name is the ledger's with this behind it."""
_MAGIC: Final = b"gateway intents 2\n"
_WITHOUT_ROWS: Final = b"gateway intents 1\n"
"""What older gateways write and read: they know of no rows. A file that holds nothing is left to them."""
_SLOT: Final = 1024
_FIRST_SLOTS = 1024
_HEAD: Final = struct.Struct("<QQII")
_NUMBERS: Final = struct.Struct("<QQI")
_SIZE: Final = struct.Struct("<I")
_SIZE_AT: Final = _NUMBERS.size
_ROW_AT: Final = 512
_ROW_BEGIN: Final = _ROW_AT + _SIZE.size
_MOST_BESIDE_ROW: Final = _ROW_AT - _HEAD.size
_MOST_ROW: Final = _SLOT - _ROW_BEGIN
_FREE: Final = bytes(4)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Intent).decode
_decode_row = msgspec.msgpack.Decoder(Row).decode
_log = structlog.get_logger()

Noted = tuple[Intent, Note] | LedgerEntry
"""An attempt that is not settled, or the row of one that is."""


class IntentsUnreadable(Exception):
    """Raised when the file is not one that this gateway understands; the message names it."""


class Intents:
    """The file, open for this process alone: whoever opens it holds the ledger's lock."""

    __slots__ = ("_free", "_held", "_is_full", "_map", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._free: deque[int] = deque()
        """Where free slots begin; the last one is taken first."""
        self._held: dict[str, tuple[int, ...]] = {}
        """Exchange → where the slots of its attempts begin, in their order; 0 for one that has none."""
        self._is_full = False

    def open(self) -> list[LedgerEntry]:
        """Map the file; the rows of what an earlier process left unsettled.

        They stay in the file until `clear`, to be called once they are on disk. Raises OSError, IntentsUnreadable.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            left = _rows(_all(self._path)) if os.fstat(descriptor).st_size else []
            size = max(os.fstat(descriptor).st_size, _SLOT * (1 + _FIRST_SLOTS))
            _take_space(descriptor, 0, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        return left

    def clear(self) -> None:
        """Forget what an earlier process left."""
        assert self._map is not None  # noqa: S101  # the journal opens before it clears
        for offset in reversed(range(_SLOT, len(self._map), _SLOT)):  # The first ones are taken first.
            if self._map[offset + _SIZE_AT : offset + _HEAD.size] != _FREE:  # Else its page need not be touched.
                self._map[offset + _SIZE_AT : offset + _HEAD.size] = _FREE
            self._free.append(offset)
        self._map[: len(_MAGIC)] = _MAGIC  # Not before: what an older gateway left in a slot may look like a row.

    def close(self) -> None:
        """Unmap the file. What is in it stays."""
        if self._map is not None:
            if (1 + len(self._free)) * _SLOT == len(self._map):
                self._map[: len(_MAGIC)] = _WITHOUT_ROWS
            self._map.close()
            self._map = None

    def put(self, intent: Intent) -> None:
        """Note an attempt that is about to be sent.

        When no space is left on the disk, it is sent all the same: its row depends on this process's life then.
        """
        if self._map is None:
            return
        try:
            offset = self._free.pop()
        except IndexError:
            if not self._grow():
                self._hold(intent.exchange, 0)
                return
            offset = self._free.pop()
        content = _encode(intent)
        begin, end = offset + _HEAD.size, offset + _HEAD.size + len(content)
        if end > offset + _SLOT:
            self._free.append(offset)
            _log.error("intent.too_long", exchange=intent.exchange, bytes=len(content))
            self._hold(intent.exchange, 0)
            return
        self._map[offset + _ROW_AT : offset + _ROW_BEGIN] = _FREE
        self._map[begin:end] = content
        # A backend that has a whole answer to give may bill all of it, whether or not we are there to take it.
        output_tokens = 0 if intent.is_streamed else intent.output_tokens
        _HEAD.pack_into(self._map, offset, intent.prompt_tokens, output_tokens, Stage.SENT, len(content))
        self._hold(intent.exchange, offset)

    def delivered(self, exchange: str, attempt: int, output_tokens: int) -> None:
        """Note that the client has had so many tokens, at least, of that attempt's answer."""
        offset = self._offset_of(exchange, attempt)
        if offset is None or self._map is None:
            return
        prompt_tokens, noted, stage = _NUMBERS.unpack_from(self._map, offset)
        most = max(output_tokens, noted) if stage == Stage.DELIVERED else output_tokens
        _NUMBERS.pack_into(self._map, offset, prompt_tokens, most, Stage.DELIVERED)

    def failed(self, exchange: str, attempt: int, prompt_tokens: int, output_tokens: int) -> None:
        """Note that that attempt is over, and what it is taken to have used."""
        offset = self._offset_of(exchange, attempt)
        if offset is not None and self._map is not None:
            _NUMBERS.pack_into(self._map, offset, prompt_tokens, output_tokens, Stage.FAILED)

    def settle(self, slots: tuple[int, ...], rows: Sequence[Row]) -> bool:
        """Note the rows of all attempts of an exchange whose slots were taken; False, and nothing, where one has none.

        Nor where a row is too long for its place, or fits no column: whoever waits for the ledger will be told.
        """
        noted = self._map
        if noted is None or len(slots) != len(rows):
            return False
        contents = []
        for offset, row in zip(slots, rows, strict=True):
            if not fits(row) or _SIZE.unpack_from(noted, offset + _SIZE_AT)[0] > _MOST_BESIDE_ROW:
                return False
            try:
                content = _encode(row)
            except UnicodeEncodeError:
                return False
            if len(content) > _MOST_ROW:
                return False
            contents.append(content)
        for offset, content in zip(slots, contents, strict=True):
            begin = offset + _ROW_BEGIN
            noted[begin : begin + len(content)] = content
            _SIZE.pack_into(noted, offset + _ROW_AT, len(content))
        return True

    def take(self, exchange: str) -> tuple[int, ...]:
        """The exchange is about to be settled: its slots, to be freed once its rows are on disk."""
        slots = self._held.pop(exchange, ())
        return slots if 0 not in slots else tuple(filter(None, slots))

    def free(self, slots: tuple[int, ...]) -> None:
        """The rows of these slots are on disk."""
        for offset in slots:
            if self._map is not None:
                self._map[offset + _SIZE_AT : offset + _HEAD.size] = _FREE
                self._free.append(offset)

    def overdue(self, now: float) -> list[list[LedgerEntry]]:
        """Of each exchange of this process that should have been settled before `now` and was not, the rows."""
        assert self._map is not None  # noqa: S101  # only an open journal looks
        late = []
        for slots in self._held.values():
            noted = [each for offset in slots if offset and (each := _slot(self._map, offset)) is not None]
            if all(isinstance(each, tuple) and each[0].ends_at < now for each in noted):
                late.append(_rows(noted))
        return late

    def _hold(self, exchange: str, offset: int) -> None:
        held = self._held.get(exchange)
        self._held[exchange] = (offset,) if held is None else (*held, offset)

    def _offset_of(self, exchange: str, attempt: int) -> int | None:
        """Where the attempt's slot begins; None when it has none."""
        slots = self._held.get(exchange, ())
        return slots[attempt - 1] or None if attempt <= len(slots) else None

    def _grow(self) -> bool:
        """Twice as many slots; False when there is no room for them."""
        assert self._map is not None  # noqa: S101  # called by `put`, which looked
        size = len(self._map)
        try:
            with self._path.open("r+b") as file:
                _take_space(file.fileno(), size, size)
            self._map.resize(size * 2)
        except (OSError, SystemError) as error:  # SystemError where the system cannot resize a mapping
            if not self._is_full:
                _log.error("intents.full", path=str(self._path), error=str(error))
            self._is_full = True
            return False
        self._free.extend(reversed(range(size, size * 2, _SLOT)))
        self._is_full = False
        return True


def read(path: Path) -> list[tuple[Intent, Note]]:
    """The attempts in the file that are not settled, in no order. Raises OSError, IntentsUnreadable.

    Of a living gateway: those in flight, give or take what comes and goes meanwhile.
    """
    return [each for each in _all(path) if isinstance(each, tuple)]


def settled(path: Path) -> list[LedgerEntry]:
    """The rows in the file, in no order: the ledger has them, or will within moments. Raises as `read` does."""
    return [each for each in _all(path) if isinstance(each, LedgerEntry)]


def _all(path: Path) -> list[Noted]:
    """What the file holds, in no order; nothing where there is no file. Raises OSError, IntentsUnreadable."""
    content = b""
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
    if not content.strip(b"\0"):
        return []
    with_rows = content.startswith(_MAGIC)
    if not with_rows and not content.startswith(_WITHOUT_ROWS):
        raise IntentsUnreadable(f"{path} is not a list of intents that this gateway understands")
    found = (_slot(content, offset, with_rows=with_rows) for offset in range(_SLOT, len(content) - _SLOT + 1, _SLOT))
    return [each for each in found if each is not None]


def _take_space(descriptor: int, begin: int, size: int) -> None:
    """Have the disk's space for so many bytes of the file, which keeps what it holds. Raises OSError."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, begin, size)
    else:
        missing = begin + size - os.fstat(descriptor).st_size
        os.pwrite(descriptor, bytes(max(0, missing)), begin + size - missing)


def _slot(content: bytes | mmap.mmap, offset: int, *, with_rows: bool = True) -> Noted | None:
    """What a slot holds; None when it is free."""
    prompt_tokens, output_tokens, stage, size = _HEAD.unpack_from(content, offset)
    if size == 0:
        return None
    begin = offset + _HEAD.size
    try:
        if with_rows and size <= _MOST_BESIDE_ROW:
            (row_size,) = _SIZE.unpack_from(content, offset + _ROW_AT)
            if row_size:
                begin = offset + _ROW_BEGIN
                return entry_of(_decode_row(content[begin : begin + row_size]))
        intent = _decode(content[begin : begin + size])
        note = Note(Stage(stage), prompt_tokens, output_tokens)
    except (msgspec.DecodeError, ValueError) as error:
        _log.error("intent.unreadable", offset=offset, error=str(error))
        return None
    return intent, note


def _rows(noted: Sequence[Noted]) -> list[LedgerEntry]:
    """The rows of what is noted, as they were settled, or of attempts that nobody will settle any more."""
    rows = []
    for each in noted:
        if isinstance(each, LedgerEntry):
            rows.append(each)
            continue
        intent, note = each
        try:
            rows.append(orphaned(intent, note))
        except ValueError as error:  # its prices
            _log.error("intent.unreadable", exchange=intent.exchange, error=str(error))
    return sorted(rows, key=attrgetter("exchange", "attempt"))
