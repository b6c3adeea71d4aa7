"""HowTo100M's file of all captions, 10 GB of JSON, read as a stream: one video at a time.

ijson is not used: it refuses NaN, which such files hold where a text is missing, and then the rest
of the file is lost.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from vatt.params import StageError

CHUNK = 1 << 20
MAX_VIDEO = 1 << 26
"""No video has captions of so many characters."""
KEY = re.compile(r'\s*,?\s*("(?:[^"\\]|\\.)*")\s*:\s*(?=\{)', re.DOTALL)
END = re.compile(r"\s*\}\s*")


def stream_captions(file: BinaryIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield the id of each video and its captions, as the JSON text that stands in the file.

    Raises:
        StageError: it is not a JSON object of objects; the place is named.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    try:
        head = re.match(r"\s*\{", buffer := text.read(CHUNK))
        if head is None:
            raise _broken(name, 0)
        position, offset = head.end(), 0
        while True:
            try:
                key = KEY.match(buffer, position)
                if key is None:
                    raise ValueError  # noqa: TRY301
                _, end = decoder.raw_decode(buffer, key.end())
            except (ValueError, RecursionError) as error:
                rest = buffer[position:]
                more = text.read(max(CHUNK, len(rest))) if len(rest) < MAX_VIDEO else ""
                if more:
                    buffer, position, offset = rest + more, 0, offset + position
                    continue
                if END.fullmatch(rest):
                    return
                raise _broken(name, offset + position) from error
            yield json.loads(key[1]), buffer[key.end() : end]
            position = end
    except UnicodeDecodeError as error:
        raise StageError(f"{name}: is not text in UTF-8: {error}") from error
    finally:
        text.detach()


def _broken(name: str, position: int) -> StageError:
    return StageError(
        f'{name}: is not of the form {{"video id": {{"start": [...], ...}}, ...}}: '
        f"broken or cut off in what follows character {position}"
    )
