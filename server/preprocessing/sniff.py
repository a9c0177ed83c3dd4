"""What bytes that are no accepted picture seem to be, so that the error can name it."""

from __future__ import annotations

PICTURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x7fELF", "a program"),
    (b"ID3", "an MP3 sound"),
    (b"OggS", "an Ogg sound"),
    (b"{", "JSON text"),
    (b"<svg", "an SVG drawing"),
    (b"<!DOCTYPE html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML document"),
)

HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


def picture_format(data: bytes) -> str | None:
    """Return the name of the accepted format whose signature the bytes carry."""
    for signature, name in PICTURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    if len(data) > 2 and data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    return None


def describe(data: bytes) -> str:
    """Return what the bytes seem to be, in words."""
    picture = picture_format(data)
    if picture is not None:
        return f"a damaged {picture} picture"
    if data[4:8] == b"ftyp":
        return "a HEIC picture" if data[8:12] in HEIF_BRANDS else "an MP4-family file"
    if data[:4] == b"RIFF":
        return "a WAV or AVI file"
    start = data.lstrip()
    for signature, name in OTHERS:
        if data.startswith(signature) or start[: len(signature)].lower() == signature.lower():
            return name
    return "text" if _is_text(data[:512]) else "bytes of an unknown type"


def _is_text(data: bytes) -> bool:
    printable = sum(byte >= 0x20 or byte in b"\t\r\n" for byte in data)
    return printable == len(data) and b"\x7f" not in data
