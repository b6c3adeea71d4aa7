"""Speech recognition with faster-whisper (`pip install .[asr]`), for files without captions.

Whisper writes text for music and silence, too: it repeats itself, or thanks for watching. silero's
speech times skip most of that sound, and `find_fault` finds what is left.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from threadpoolctl import threadpool_limits

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.files import atomic_path, digest_file
from vatt.params import AsrParams
from vatt.preprocess.speech_pieces import SpeechPiece, read_speech_pieces
from vatt.preprocess.transcripts import LeftOut, SpokenLine, Transcript, TranscriptStore, Word

CODE = (
    *("media", "preprocess/analysis.py", "preprocess/recognition.py"),
    *("preprocess/speech_pieces.py", "preprocess/transcripts.py"),
)
LIBRARIES = ("av", "ctranslate2", "faster-whisper", "numpy", "onnxruntime", "silero-vad")
MODEL_FILES = ("config.json", "model.bin", "tokenizer.json")
"""Without the last one faster-whisper would ask the network for it, in every process."""

OPTIONS = {
    "beam_size": 5,
    "temperature": 0.0,  # others draw at random: two runs would hear different words
    "condition_on_previous_text": False,  # a line that is repeated would be repeated for ever
    "no_speech_threshold": None,  # what is left out is counted here
    "word_timestamps": True,
    "vad_filter": True,
}
MAX_COMPRESSION = 2.4
"""Whisper's own limit. Plain speech compresses by 0.8 to 1.4, a loop by up to 24 (measured)."""
MIN_SPEECH_SHARE = 0.3
"""Real lines of the clips measured have 0.42 to 1.0, those of clocks, saws and babies 0 to 0.18."""
CAPTION_S = 5.0
"""The longest line: the captions of HowTo100M last about 4 s, and a clip reads 16 pieces of one."""
SENTENCE_S = 1.0
PAUSE_S = 1.0
MIN_LINE_S = 0.1
ENDS = (".", "?", "!", "。", "？", "！", "؟", "।", "…")
"""What ends a sentence, in the scripts that Whisper punctuates."""


@cache
def digest_recognition_code() -> str:
    """Return a digest of the modules and the libraries that make transcripts, as they are here."""
    try:
        versions = [f"{name} {version(name)}" for name in LIBRARIES]
    except PackageNotFoundError as error:
        raise StageError(
            "a source has captions: asr, which needs faster-whisper: `pip install .[asr]`"
        ) from error
    return digest_code(*CODE, beside=versions)


@dataclass(frozen=True)
class Recogniser:
    """Which model transcribes, and how. It travels to other processes, which open the model."""

    folder: Path
    params: AsrParams
    store: TranscriptStore
    key: str
    """A digest of the model, the parameters and the code: all that decides what is heard."""
    code: str

    def make_key(self, digest: str) -> str:
        """Return the key of the transcript of a file with this digest."""
        return hashlib.blake2b(f"{self.key} {digest}".encode(), digest_size=16).hexdigest()

    def transcribe(self, path: Path, digest: str, folder: Path) -> Transcript:
        """Return what is said in a file, from the store if it is there; `folder` is the caller's.

        Raises:
            MediaError: the file cannot be read.
            OSError: the disk is full or broken.
            StageError: the model cannot be opened, or fails, or this process runs other code: that
                is no fault of the file.
        """
        if digest_recognition_code() != self.code:
            raise StageError(
                f"{os.uname().nodename}: vatt or faster-whisper are not those that started the "
                "stage: another version is installed there, or they were changed meanwhile"
            )
        key = self.make_key(digest)
        transcript = self.store.read(key)
        if transcript is None:
            with threadpool_limits(1):  # no sum may depend on the number of threads
                transcript = self._transcribe(path, folder / "progress")
            self.store.add(key, transcript, folder)
        return transcript

    def _transcribe(self, path: Path, progress_path: Path) -> Transcript:
        """Transcribe piece by piece; with each line the file of progress grows."""
        language, probability = self.params.language, None
        lines: list[SpokenLine] = []
        left_out: list[LeftOut] = []
        with progress_path.open("wb", buffering=0) as progress:
            for piece in read_speech_pieces(path):
                progress.write(b".")
                if piece.measure_speech(0.0, math.inf) == 0:
                    continue
                segments, info = self._hear(piece, language, progress)
                said, faults = judge(segments, piece)
                lines += said
                left_out += faults
                if said and language is None:  # of the first piece in which somebody speaks
                    language, probability = info.language, round(info.language_probability, 4)
        return Transcript(language if lines else None, probability, tuple(lines), tuple(left_out))

    def _hear(
        self, piece: SpeechPiece, language: str | None, progress: IO[bytes]
    ) -> tuple[list[Any], Any]:
        """Return what the model writes of a piece, and what it says of the whole."""
        segments = []
        try:
            model = open_model(self.folder, self.params.device, self.params.compute_type)
            found, info = model.transcribe(piece.samples, language=language, **OPTIONS)
            for segment in found:  # each time another part is heard
                progress.write(b".")
                segments.append(segment)
        except (RuntimeError, ValueError) as error:
            raise StageError(f"preprocess.asr: {self.params!r}: {error}") from error
        return segments, info


def open_recogniser(params: AsrParams, store_dir: Path) -> Recogniser:
    """Find the model, or fetch it to `store_dir` once, and try it.

    Raises:
        StageError: faster-whisper is not installed, or the model cannot be had or opened here.
    """
    code = digest_recognition_code()
    folder = Path(params.model)
    if not folder.is_dir():
        folder = _fetch_model(params.model, store_dir / "models" / params.model.replace("/", "--"))
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise StageError(
            f"preprocess.asr.model = {params.model}: {folder} has no {', '.join(missing)}: a "
            "model for faster-whisper is needed, as ct2-transformers-converter makes it"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file())
    parts = [code, params.model_dump_json(exclude={"model"})]
    parts += [f"{path.name} {digest_file(path)}" for path in files]
    key = hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
    return Recogniser(folder, params, TranscriptStore(store_dir / "transcripts"), key, code)


def _fetch_model(name: str, folder: Path) -> Path:
    """Return the folder of a model of the Hugging Face Hub, which is fetched if it is not here."""
    from faster_whisper.utils import available_models, download_model

    if not folder.is_dir():
        print(f"preprocess: fetches the speech model {name}, once", flush=True)
        try:
            with atomic_path(folder) as partial:
                download_model(name, cache_dir=str(partial))
        except Exception as error:
            reason = " ".join(str(error).split())  # it has several lines
            raise StageError(
                f"preprocess.asr.model = {name}: is no folder, and as a model it cannot be fetched "
                f"({reason}); known are OWNER/NAME and {', '.join(available_models())}"
            ) from error
    return next(folder.glob("*/snapshots/*"), folder)


@cache
def open_model(folder: Path, device: str, compute_type: str) -> Any:
    """Open a model in this process, on one thread or, with several GPUs, on one of them."""
    import ctranslate2
    from faster_whisper import WhisperModel

    num_gpus = ctranslate2.get_cuda_device_count() if device == "cuda" else 1
    return WhisperModel(
        str(folder),
        device=device,
        device_index=os.getpid() % max(1, num_gpus),
        compute_type=compute_type,
        cpu_threads=1,  # each processor has a process
        local_files_only=True,
    )


def judge(segments: Iterable[Any], piece: SpeechPiece) -> tuple[list[SpokenLine], list[LeftOut]]:
    """Return the lines that somebody said, and what the model made up."""
    lines: list[SpokenLine] = []
    left_out: list[LeftOut] = []
    before = ""
    for segment in segments:
        text = segment.text.strip()
        fault = find_fault(segment, before, piece)
        before = text
        if fault is None:
            lines += cut_lines(segment.words, piece.start_s)
        else:
            start_s, end_s = piece.start_s + segment.start, piece.start_s + segment.end
            left_out.append(LeftOut(round(start_s, 3), round(end_s, 3), text, fault))
    return lines, left_out


def find_fault(segment: Any, before: str, piece: SpeechPiece) -> str | None:
    """Return why nobody is likely to have said what the model wrote, None if somebody has.

    `before` is the text before it; the times of the segment begin at the piece.
    """
    text = segment.text.strip()
    if not any(map(str.isalnum, text)):
        return "no words"
    if segment.compression_ratio > MAX_COMPRESSION or text == before:
        return "repeated"
    if piece.measure_speech(segment.start, segment.end) < MIN_SPEECH_SHARE:
        return "without speech"
    return None


def cut_lines(words: Sequence[Any], offset_s: float) -> list[SpokenLine]:
    """Cut what was said where a sentence ends, at pauses, and before it lasts too long.

    The texts of `words` hold the spaces between them, where the language has any.
    """
    groups: list[list[Any]] = []
    for word in words:
        if not groups or _ends(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    return [_join(group, offset_s) for group in groups]


def _ends(group: Sequence[Any], word: Any) -> bool:
    """Return whether a line ends before a word."""
    begin_s, end_s = group[0].start, group[-1].end
    # "And Mr." is no sentence.
    is_sentence = group[-1].word.rstrip().endswith(ENDS) and end_s - begin_s > SENTENCE_S
    is_late = word.start - end_s > PAUSE_S or word.end - begin_s > CAPTION_S
    return bool(is_sentence or is_late)  # times are numpy's


def _join(words: Sequence[Any], offset_s: float) -> SpokenLine:
    """Return words as a line on the time line of the file; it does not end as it starts."""
    timed = tuple(
        Word(round(offset_s + word.start, 3), round(offset_s + word.end, 3), word.word.strip())
        for word in words
    )
    text = "".join(word.word for word in words).strip()
    end_s = max(timed[-1].end_s, round(timed[0].start_s + MIN_LINE_S, 3))
    return SpokenLine(timed[0].start_s, end_s, text, timed)
