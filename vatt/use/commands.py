"""The commands `embed`, `search` and `classify`: their arguments, and what they print.

A person reads lines and tables, a program the JSON of `--json`.
"""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from vatt.core.errors import StageError
from vatt.use.classify import Classified, classify, classify_by_texts
from vatt.use.embed import embed
from vatt.use.library import Library
from vatt.use.places import find_files
from vatt.use.search import Searcher, Sense
from vatt.weights.inference import Exported, load_any
from vatt.weights.registry import find_export

SHOWN_PROBLEMS = 10


def run(arguments: argparse.Namespace) -> None:
    """Run the command of a command line.

    Raises:
        StageError: it cannot be done; the message says why.
    """
    {"embed": run_embed, "search": run_search, "classify": run_classify}[arguments.stage](arguments)


def run_embed(arguments: argparse.Namespace) -> None:
    """Embed files, print what became of them, and write them to a Parquet file if asked for."""
    counts = embed(
        arguments.places,
        find_export(arguments.model),
        arguments.library,
        arguments.passage_s,
        arguments.ray_address,
    )
    library = Library.open(arguments.library)
    if arguments.out is not None:
        library.write_parquet(arguments.out)
    quarantine = library.read_quarantine()
    if arguments.json:
        print(json.dumps(counts | {"quarantine": quarantine}, ensure_ascii=False))
        return
    for name, reason in sorted(quarantine.items())[:SHOWN_PROBLEMS]:
        print(f"embed: left out: {name}: {reason}")
    if len(quarantine) > SHOWN_PROBLEMS:
        print(f"embed: and {len(quarantine) - SHOWN_PROBLEMS} more: see --json")
    print(f"embed: {arguments.library}: {', '.join(f'{n} {name}' for name, n in counts.items())}")


def run_search(arguments: argparse.Namespace) -> None:
    """Search a library and print what was found, the best first."""
    searcher = Searcher.open(arguments.library, arguments.model)
    sense: Sense = arguments.sense or ("sound" if arguments.sound else "pictures")
    if arguments.sound:
        found = searcher.search_like(arguments.sound, "sound", sense, arguments.top)
    elif arguments.video:
        found = searcher.search_like(arguments.video, "video", sense, arguments.top)
    elif sense == "sound":
        raise StageError(
            "--in sound: a text finds pictures; sounds are found by --sound or --video"
        )
    else:
        found = searcher.search_text(arguments.text, arguments.top)
    if arguments.json:
        print(json.dumps([passage._asdict() for passage in found], ensure_ascii=False))
        return
    if not found:
        print(f"search: {arguments.library}: has nothing to search in")
    for number, passage in enumerate(found, start=1):
        times = f"{format_time(passage.start_s)} to {format_time(passage.end_s)}"
        print(f"{number:3d}  {passage.score:5.2f}  {times}  {passage.path}")


def run_classify(arguments: argparse.Namespace) -> None:
    """Classify files and print the most probable labels of each."""
    exported = load_any(find_export(arguments.model))
    if isinstance(exported, Exported) and not arguments.texts:
        raise StageError(
            f"{arguments.model}: is no classifier: name one that finetune wrote "
            "(--model data/finetune/video/model), or give --texts to choose from"
        )
    texts = list(dict.fromkeys(arguments.texts or ()))
    files, reasons = find_files(arguments.places)
    results: dict[str, Classified] = {}
    for file in tqdm(files, desc="classify", unit="file", disable=len(files) < 2):
        try:
            if isinstance(exported, Exported):
                results[file.name] = classify_by_texts(
                    exported, file.address, texts, arguments.passage_s
                )
            else:
                results[file.name] = classify(exported, file.address, arguments.passage_s)
        except StageError as error:
            reasons[file.name] = str(error).removeprefix(f"{file.address}: ")
    if arguments.json:
        shown: dict[str, Any] = {name: to_json(result) for name, result in results.items()}
        shown |= {name: {"reason": reason} for name, reason in reasons.items()}
        print(json.dumps(shown, ensure_ascii=False))
        return
    for name, result in results.items():
        best = result.rank(arguments.top)
        print(f"{name}: " + ", ".join(f"{label} {share:.0%}" for label, share in best.items()))
    for name, reason in reasons.items():
        print(f"{name}: left out: {reason}")


def to_json(result: Classified) -> Mapping[str, Any]:
    """Return a result as JSON shows it."""
    rows = zip(result.start_s, result.end_s, result.passages.tolist(), strict=True)
    return {
        "classes": result.classes,
        "whole": result.whole.tolist(),
        "passages": [{"start_s": s, "end_s": e, "probabilities": p} for s, e, p in rows],
        "problem": "; ".join(result.problems) or None,
    }


def format_time(seconds: float) -> str:
    """Return a time as players show it, to the tenth of a second."""
    tenths = round(abs(seconds) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and tenths else ""
    shown = f"{minutes:02d}:{rest / 10:04.1f}"
    return f"{sign}{hours}:{shown}" if hours else f"{sign}{shown.removeprefix('0')}"
