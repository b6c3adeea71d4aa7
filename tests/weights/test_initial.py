"""First weights from an export whose tokenizer knows other words, and from word vectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.weights.test_export import PARAMS, export
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer
from vatt.model.towers import collect_weights, restore_weights
from vatt.weights.export import ExportedParams, build_untrained
from vatt.weights.initial import write_initial_weights, write_word_vectors

TABLE_NAME = "text.stem.words.weight"
TABLE = torch.randn(9, PARAMS.model.word_width, generator=torch.Generator().manual_seed(0))
NINE_WORDS = PARAMS.model_copy(update={"vocab_size": 9})


def make_tokenizer(path: Path, words: list[str]) -> tuple[Tokenizer, ExportedParams]:
    train_tokenizer(path, [f"{word} {other}" for word in words for other in words], 300)
    tokenizer = Tokenizer(path)
    return tokenizer, PARAMS.model_copy(update={"vocab_size": tokenizer.vocab_size})


def test_known_words_keep_their_vectors_and_new_ones_start_at_random(tmp_path: Path) -> None:
    old, old_params = make_tokenizer(tmp_path / "old", ["bird", "sings", "drum"])
    new, new_params = make_tokenizer(tmp_path / "new", ["zebra", "sings", "quiz", "walks"])
    trained = export(tmp_path / "export", old_params, tmp_path / "old").state_dict()

    write_initial_weights(str(tmp_path / "export"), new_params, new, tmp_path / "out")

    found = load_file(tmp_path / "out")
    fresh = build_untrained(new_params).state_dict()[TABLE_NAME]
    words = found.pop(TABLE_NAME)
    known = set(new.pieces) & set(old.pieces)
    assert 0 < len(known) < len(new.pieces)
    for number, piece in enumerate(new.pieces):
        expected = trained[TABLE_NAME][old.pieces.index(piece)] if piece in known else fresh[number]
        assert torch.equal(words[number], expected), piece
    for name, weight in found.items():
        assert torch.equal(weight, trained[name]), name


def test_word_vectors_take_the_place_of_the_random_table_alone(tmp_path: Path) -> None:
    save_file({"words": TABLE}, tmp_path / "vectors")
    write_word_vectors(tmp_path / "vectors", NINE_WORDS, tmp_path / "out")
    found = load_file(tmp_path / "out")
    assert torch.equal(found[TABLE_NAME], TABLE)
    random = collect_weights(build_untrained(NINE_WORDS))
    assert found.keys() == random.keys()
    for name, weight in random.items():
        assert torch.equal(found[name], weight) == (name != TABLE_NAME), name


NOT_FINITE = TABLE / (torch.arange(9) != 4)[:, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"embeddings": TABLE}, r"expected one tensor `words`, got \['embeddings'\]"),
        ({"words": TABLE, "more": TABLE + 1}, r"expected one .*, got \['more', 'words'\]"),
        ({"words": TABLE[1:]}, r"expected torch.float32 \(9, 16\).* got torch.float32 \(8, 16\)"),
        ({"words": TABLE.T.contiguous()}, r".*got torch.float32 \(16, 9\)"),
        ({"words": TABLE.half()}, r".*got torch.float16 \(9, 16\)"),
        ({"words": NOT_FINITE}, "1 rows are not finite, the first is 4"),
        (None, "is not a safetensors file"),
        (b"", "is not a safetensors file"),
        (b"\x80\x04pickle", "is not a safetensors file"),
    ],
)
def test_unfit_word_vectors_are_refused(
    tmp_path: Path, content: dict[str, Tensor] | bytes | None, message: str
) -> None:
    if isinstance(content, dict):
        save_file(content, tmp_path / "vectors")
    elif content is not None:
        (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(StageError, match=f"pretrain.word_vectors = .*/vectors: {message}"):
        write_word_vectors(tmp_path / "vectors", NINE_WORDS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_larger_clips_get_stretched_position_tables(tmp_path: Path) -> None:
    """A network with larger tables sees what the old one sees when it interpolates on the fly."""
    tokenizer, params = make_tokenizer(tmp_path / "words", ["bird", "sings"])
    old = export(tmp_path / "export", params, tmp_path / "words")
    size = {"num_frames": 6, "frame_size_px": 40, "num_samples": 5 * 512, "num_candidates": 7}
    larger = params.model_copy(update={"clip": params.clip.model_copy(update=size)})

    write_initial_weights(str(tmp_path / "export"), larger, tokenizer, tmp_path / "out")

    new = build_untrained(larger)
    restore_weights(new, load_file(tmp_path / "out"))
    assert new.video.stem.positions.tables[2].table.shape[0] == 5
    video, audio = torch.rand(2, 6, 40, 40, 3), torch.rand(2, 5 * 512)
    torch.testing.assert_close(new.encode_video(video), old.encode_video(video))
    torch.testing.assert_close(new.encode_audio(audio), old.encode_audio(audio))


def test_another_network_is_refused(tmp_path: Path) -> None:
    tokenizer, params = make_tokenizer(tmp_path / "words", ["bird", "sings"])
    export(tmp_path / "export", params, tmp_path / "words")

    def start(change: dict[str, object]) -> None:
        changed = params.model_copy(update={"model": params.model.model_copy(update=change)})
        write_initial_weights(str(tmp_path / "export"), changed, tokenizer, tmp_path / "out")

    with pytest.raises(StageError, match=r"model.space_kind = fac, params.yaml says mmv_disjoint"):
        start({"space_kind": "mmv_disjoint"})
    start({"drop_token_draw": "batch", "train_word_table": False, "drop_token_rate": 0.0})
