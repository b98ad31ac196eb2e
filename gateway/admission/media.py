"""What images and sounds of a prompt take in tokens, from their headers alone: nothing is ever decoded. Pure.

An image of a size that its first bytes tell is reckoned as OpenAI's tile models do: fitted into 2048², its short side
to 768, then 85 tokens and 170 for each square of 512. Everything else is a flat guess. Reported usage corrects it.
"""

import base64
import binascii
import math
from typing import Final

import msgspec

IMAGE_TOKENS: Final = 1000
"""Of an image that only the backend sees, or that cannot be read."""
LOW_TOKENS: Final = 85
"""Of an image with `detail: low`, whatever its size."""
SOUND_TOKENS: Final = 1000
FILE_TOKENS: Final = 3000

_TILE: Final = 512
_TILE_TOKENS: Final = 170
_LONG_SIDE: Final = 2048
_SHORT_SIDE: Final = 768
_HEAD_CHARS: Final = 1 << 17
"""Of base64: a JPEG may have 64 KiB of other things before its size."""


class Media(msgspec.Struct, frozen=True):
    """What in a prompt is not text."""

    tokens: int = 0
    size: int = 0
    """Bytes of it in the request, which tell nothing of tokens."""


NO_MEDIA: Final = Media()


class _Link(msgspec.Struct):
    url: str = ""
    detail: str | None = None


class _Data(msgspec.Struct):
    data: str = ""
    file_data: str = ""


class _Part(msgspec.Struct):
    image_url: _Link | None = None
    input_audio: _Data | None = None
    file: _Data | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


_decoder: Final = msgspec.json.Decoder(list[_Message])


def media_of(messages: msgspec.Raw) -> Media:
    """What is not text in the messages of a chat, in OpenAI's shape; of those that cannot be read, one image."""
    try:
        decoded = _decoder.decode(messages)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Media(IMAGE_TOKENS, 0)
    tokens = size = 0
    for message in decoded:
        for part in message.content if isinstance(message.content, list) else ():
            if part.image_url is not None:
                tokens += _image_tokens(part.image_url)
                size += len(part.image_url.url)
            for data, flat in ((part.input_audio, SOUND_TOKENS), (part.file, FILE_TOKENS)):
                if data is not None:
                    tokens += flat
                    size += len(data.data) + len(data.file_data)
    return Media(tokens, size)


def _image_tokens(image: _Link) -> int:
    if image.detail == "low":
        return LOW_TOKENS
    head, comma, data = image.url[: _HEAD_CHARS + 256].partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return IMAGE_TOKENS
    try:
        begin = base64.b64decode(data[: len(data) - len(data) % 4], validate=False)
    except (binascii.Error, ValueError):
        return IMAGE_TOKENS
    found = size_of(begin)
    return IMAGE_TOKENS if found is None else tile_tokens(*found)


def tile_tokens(width: int, height: int) -> int:
    """Tokens of an image of that size in pixels."""
    scale = min(1.0, _LONG_SIDE / max(width, height))
    scale = min(scale, _SHORT_SIDE / min(width, height))
    across, down = (math.ceil(max(1, round(side * scale)) / _TILE) for side in (width, height))
    return LOW_TOKENS + _TILE_TOKENS * across * down


def size_of(begin: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, from the first bytes of a PNG, JPEG, GIF or WebP; None when they do not tell."""
    found: tuple[int, int] | None = None
    if begin.startswith(b"\x89PNG\r\n\x1a\n") and begin[12:16] == b"IHDR" and len(begin) >= 24:  # noqa: PLR2004
        found = int.from_bytes(begin[16:20]), int.from_bytes(begin[20:24])
    elif begin[:6] in (b"GIF87a", b"GIF89a") and len(begin) >= 10:  # noqa: PLR2004
        found = int.from_bytes(begin[6:8], "little"), int.from_bytes(begin[8:10], "little")
    elif begin.startswith(b"\xff\xd8"):
        found = _jpeg_size(begin)
    elif begin[:4] == b"RIFF" and begin[8:12] == b"WEBP" and len(begin) >= 30:  # noqa: PLR2004
        found = _webp_size(begin)
    return found if found is not None and min(found) > 0 else None


def _jpeg_size(begin: bytes) -> tuple[int, int] | None:
    """From the first frame header, behind any number of other segments."""
    at = 2
    while at + 9 <= len(begin) and begin[at] == 0xFF:  # noqa: PLR2004  # every segment begins with it
        kind = begin[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # noqa: PLR2004  # a frame, but no table
            return int.from_bytes(begin[at + 7 : at + 9]), int.from_bytes(begin[at + 5 : at + 7])
        at += 2 + max(2, int.from_bytes(begin[at + 2 : at + 4]))
    return None


def _webp_size(begin: bytes) -> tuple[int, int] | None:
    form = begin[12:16]
    if form == b"VP8 ":
        return int.from_bytes(begin[26:28], "little") & 0x3FFF, int.from_bytes(begin[28:30], "little") & 0x3FFF
    if form == b"VP8L":
        bits = int.from_bytes(begin[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8X":
        return int.from_bytes(begin[24:27], "little") + 1, int.from_bytes(begin[27:30], "little") + 1
    return None
