"""A small preprocessed corpus of known clips, made once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS
from vatt.corpus.manifest import Annotation, ManifestEntry, Split, write_manifest
from vatt.preprocess.corpus import write_corpus

FLASHES_S = (1.0, 5.4, 10.2)
CORPUS_PARAMS = PARAMS.model_copy(update={"frame_rate_hz": 25.0})
CLIPS: dict[str, Clip] = {
    "flashes.mp4": Clip(duration_s=12.6, flash_s=FLASHES_S, width_px=96),
    "more.mkv": Clip(duration_s=9.0, flash_s=(4.6,)),
    "silent.mp4": Clip(duration_s=5.0, audio=False),
    "short.mp4": Clip(duration_s=0.6, flash_s=(0.2,)),
    "untold.mp4": Clip(duration_s=4.0),
    "sound.wav": Clip(duration_s=4.0, video=False),
    "test/held out.mp4": Clip(duration_s=8.0),
    "test/described.mp4": Clip(duration_s=4.0),
    "test/sound.wav": Clip(duration_s=4.0, video=False),
}
ANNOTATIONS = {
    "test/described.mp4": (
        Annotation("shape", "square"),
        Annotation("caption", text="a square that moves"),
        Annotation("shape", "box"),
        Annotation("caption", text="a box on its way"),
    )
}
CAPTIONS = "WEBVTT\n" + "".join(
    f"\n00:{second:02}.000 --> 00:{second:02}.900\nsecond {second}\n" for second in range(20)
)


def write_downloads(download_dir: Path) -> None:
    """Write the clips with captions, and the manifest, as the stage `download` does."""
    entries = []
    for name, clip in CLIPS.items():
        write_clip(download_dir / "known" / name, clip)
        split: Split = "test" if name.startswith("test/") else "train"
        annotations = (Annotation("group", name.partition("/")[0]), *ANNOTATIONS.get(name, ()))
        row = ManifestEntry("known", name, split, path=f"known/{name}", annotations=annotations)
        if name != "untold.mp4":
            (download_dir / f"known/{name}.vtt").write_text(CAPTIONS, encoding="utf-8")
            row = replace(row, captions_path=f"known/{name}.vtt")
        entries.append(row)
    entries.append(ManifestEntry("known", "gone.mp4", "train", "failed", reason="HTTP 404"))
    write_manifest(download_dir, entries)


@pytest.fixture(scope="session")
def download_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("download")
    write_downloads(folder)
    return folder


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory, download_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("preprocess")
    write_corpus(download_dir, folder, CORPUS_PARAMS, num_workers=2)
    return folder
