"""What a speech recogniser hears against what was said, and how fast it is.

Usage: python -m benchmarks.transcription CLIPS MODEL, with a folder whose manifest.csv has the
columns path, text and task (audio_speech is read), and a model as in `preprocess.asr`.
"""

import argparse
import csv
import re
import tempfile
import time
from pathlib import Path

from vatt.params import AsrParams
from vatt.preprocess.recognition import open_recogniser

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPOKEN = {"mr": "mister"} | {str(number): word for number, word in enumerate(DIGITS)}


def count_word_errors(said: str, heard: str) -> tuple[int, int]:
    """Return the least number of words to insert, leave out or replace, and the words said."""
    words, others = _list_words(said), _list_words(heard)
    costs = list(range(len(others) + 1))
    for place, word in enumerate(words, start=1):
        row = [place]
        for number, other in enumerate(others, start=1):
            row.append(min(row[-1] + 1, costs[number] + 1, costs[number - 1] + (word != other)))
        costs = row
    return costs[-1], len(words)


def _list_words(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower().replace("'", ""))
    return [SPOKEN.get(word, word) for word in words]


def main() -> None:
    """Print each text beside what was heard, then the word error rate and the speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path)
    parser.add_argument("model")
    arguments = parser.parse_args()
    with (arguments.clips / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "audio_speech"]
    num_errors = num_words = num_left_out = 0
    with tempfile.TemporaryDirectory() as folder:
        recogniser = open_recogniser(AsrParams(model=arguments.model), Path(folder))
        begin_s = time.process_time()
        for row in rows:
            path = arguments.clips / row["path"]
            transcript = recogniser.transcribe(path, row["path"], Path(folder))
            heard = " ".join(line.text for line in transcript.lines)
            errors, words = count_word_errors(row["text"], heard)
            num_errors, num_words = num_errors + errors, num_words + words
            num_left_out += len(transcript.left_out)
            print(f"{errors:3}/{words:<3} {transcript.language} {row['text']} | {heard}")
    cpu_s = time.process_time() - begin_s
    rate = num_errors / num_words
    print(
        f"word error rate {rate:.3f} ({num_errors}/{num_words}), {num_left_out} left out, ", end=""
    )
    print(f"{cpu_s:.1f} s of CPU for {len(rows)} files")


if __name__ == "__main__":
    main()
