"""What images and sounds take, from their headers alone."""

import base64
import struct
import zlib
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.media import IMAGE_TOKENS, NO_MEDIA, SOUND_TOKENS, Media, media_of, size_of, tile_tokens


def png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def jpeg(width: int, height: int, *, comment: int = 0) -> bytes:
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8\xff\xe0" + struct.pack(">H", 2 + comment) + bytes(comment) + b"\xff\xc2" + frame


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(8)


def webp(form: bytes, body: bytes) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBP" + form + bytes(4) + body + bytes(30)


@pytest.mark.parametrize(
    ("begin", "size"),
    [
        (png(1024, 768), (1024, 768)),
        (jpeg(640, 480), (640, 480)),
        (jpeg(640, 480, comment=60_000), (640, 480)),
        (gif(320, 200), (320, 200)),
        (webp(b"VP8 ", bytes(6) + struct.pack("<HH", 800, 600)), (800, 600)),
        (webp(b"VP8L", b"\x2f" + struct.pack("<I", 799 | 599 << 14)), (800, 600)),
        (webp(b"VP8X", bytes(4) + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")), (800, 600)),
        (png(0, 5), None),
        (png(9, 9)[:20], None),
        (jpeg(640, 480)[:12], None),
        (b"<svg/>", None),
        (b"", None),
    ],
)
def test_a_size_is_read_from_the_first_bytes(begin: bytes, size: tuple[int, int] | None) -> None:
    assert size_of(begin) == size


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: b"\xff\xd8\xff" + tail)))
def test_no_bytes_break_it(begin: bytes) -> None:
    found = size_of(begin)
    assert found is None or min(found) > 0


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((1024, 1024), 765), ((512, 512), 255), ((2048, 4096), 1105), ((1, 1), 255), ((10_000, 1), 85 + 170 * 4)],
)
def test_an_image_is_reckoned_in_tiles(size: tuple[int, int], tokens: int) -> None:
    """OpenAI's own examples among them."""
    assert tile_tokens(*size) == tokens


def chat(*parts: Mapping[str, object]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode([{"role": "user", "content": "Hi"}, {"role": "user", "content": parts}]))


def image(data: bytes, **more: str) -> dict[str, object]:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_images_and_sounds_are_added_up_and_their_bytes_set_apart() -> None:
    data = png(512, 512) + bytes(300_000)
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 1000, "format": "wav"}}
    found = media_of(chat({"type": "text", "text": "What is this?"}, image(data), image(data, detail="low"), sound))
    assert found.tokens == 255 + 85 + SOUND_TOKENS
    assert found.size == 2 * len("data:image/png;base64," + base64.b64encode(data).decode()) + 1000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,raw"}},
        {"type": "image_url", "image_url": {}},
    ],
)
def test_an_image_of_unknown_size_is_a_flat_guess(part: dict[str, object]) -> None:
    assert media_of(chat(part)).tokens == IMAGE_TOKENS


def test_text_alone_is_no_media_and_what_cannot_be_read_is_one_image() -> None:
    assert media_of(chat({"type": "text", "text": "Hi"})) == NO_MEDIA
    assert media_of(msgspec.Raw(b'"messages"')) == Media(IMAGE_TOKENS, 0)
