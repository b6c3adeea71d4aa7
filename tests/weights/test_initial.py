"""First weights from an export whose tokenizer knows other words, and from word vectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.weights.test_export import PARAMS
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer
from vatt.model.towers import collect_weights, restore_weights
from vatt.weights.export import ExportedParams, build_untrained, save_export
from vatt.weights.initial import write_initial_weights, write_word_vectors


def make_tokenizer(path: Path, words: list[str]) -> tuple[Tokenizer, ExportedParams]:
    train_tokenizer(path, [f"{word} {other}" for word in words for other in words], 300)
    tokenizer = Tokenizer(path)
    return tokenizer, PARAMS.model_copy(update={"vocab_size": tokenizer.vocab_size})


def test_known_words_keep_their_vectors_and_new_ones_start_at_random(tmp_path: Path) -> None:
    old, old_params = make_tokenizer(tmp_path / "old", ["bird", "sings", "drum"])
    new, new_params = make_tokenizer(tmp_path / "new", ["zebra", "sings", "quiz", "walks"])
    model = build_untrained(old_params)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    save_export(tmp_path / "export", model, old_params, tmp_path / "old")

    write_initial_weights(str(tmp_path / "export"), new_params, new, tmp_path / "out")

    found, trained = load_file(tmp_path / "out"), model.state_dict()
    fresh = build_untrained(new_params).state_dict()["text.stem.words.weight"]
    words = found.pop("text.stem.words.weight")
    known = [piece for piece in new.pieces if piece in old.pieces]
    assert 0 < len(known) < len(new.pieces)
    for number, piece in enumerate(new.pieces):
        if piece in known:
            expected = trained["text.stem.words.weight"][old.pieces.index(piece)]
        else:
            expected = fresh[number]
        assert torch.equal(words[number], expected), piece
    for name, weight in found.items():
        assert torch.equal(weight, trained[name]), name


TABLE = torch.randn(9, PARAMS.model.word_width, generator=torch.Generator().manual_seed(0))
NINE_WORDS = PARAMS.model_copy(update={"vocab_size": 9})


def test_word_vectors_take_the_place_of_the_random_table_alone(tmp_path: Path) -> None:
    save_file({"words": TABLE}, tmp_path / "vectors")
    write_word_vectors(tmp_path / "vectors", NINE_WORDS, tmp_path / "out")
    found = load_file(tmp_path / "out")
    assert torch.equal(found["text.stem.words.weight"], TABLE)
    random = collect_weights(build_untrained(NINE_WORDS))
    assert found.keys() == random.keys()
    for name, weight in random.items():
        assert torch.equal(found[name], weight) == (name != "text.stem.words.weight"), name


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embeddings": TABLE}, r"expected one tensor `words`, got \['embeddings'\]"),
        (
            {"words": TABLE, "more": TABLE + 1},
            r"expected one tensor `words`, got \['more', 'words'\]",
        ),
        ({"words": TABLE[1:]}, r"expected torch.float32 \(9, 16\).* got torch.float32 \(8, 16\)"),
        ({"words": TABLE.T.contiguous()}, r".*got torch.float32 \(16, 9\)"),
        ({"words": TABLE.half()}, r".*got torch.float16 \(9, 16\)"),
        (
            {"words": TABLE / (torch.arange(9) != 4)[:, None]},
            "1 rows are not finite, the first is 4",
        ),
    ],
)
def test_unfit_word_vectors_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    save_file(tensors, tmp_path / "vectors")
    with pytest.raises(StageError, match=f"pretrain.word_vectors = .*/vectors: {message}"):
        write_word_vectors(tmp_path / "vectors", NINE_WORDS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(StageError, match="vectors: is not a safetensors file"):
        write_word_vectors(tmp_path / "vectors", NINE_WORDS, tmp_path / "out")


def test_larger_clips_get_stretched_position_tables(tmp_path: Path) -> None:
    """A network with larger tables sees what the old one sees when it interpolates on the fly."""
    tokenizer, params = make_tokenizer(tmp_path / "words", ["bird", "sings"])
    old = build_untrained(params)
    save_export(tmp_path / "export", old, params, tmp_path / "words")
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
    save_export(tmp_path / "export", build_untrained(params), params, tmp_path / "words")
    other = params.model_copy(
        update={"model": params.model.model_copy(update={"space_kind": "mmv_disjoint"})}
    )
    with pytest.raises(StageError, match=r"model.space_kind = fac, params.yaml says mmv_disjoint"):
        write_initial_weights(str(tmp_path / "export"), other, tokenizer, tmp_path / "out")
    trained_so = {"drop_token_draw": "batch", "train_word_table": False, "drop_token_rate": 0.0}
    same = params.model_copy(update={"model": params.model.model_copy(update=trained_so)})
    write_initial_weights(str(tmp_path / "export"), same, tokenizer, tmp_path / "out")
