"""First weights from exports of other words and sizes, from word vectors, from towers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.interpolate import CubicSpline
from torch import Tensor

from tests.model.networks import VIDEO, WAVEFORM
from tests.model.original import AGNOSTIC
from tests.train.tasks import TASK
from tests.weights.test_export import CLASSIFIER, PARAMS, export
from vatt.core.errors import StageError
from vatt.corpus.tokenizer import Tokenizer, train_tokenizer
from vatt.model.classifier import Classifier, ClassifierParams, Network, build_network
from vatt.model.towers import collect_weights, restore_weights
from vatt.params import ClipParams, TaskName, TaskParams
from vatt.weights.export import ExportedParams, build_untrained, save_export
from vatt.weights.initial import (
    Demand,
    describe_classifier,
    find_source,
    write_first_weights,
    write_initial_weights,
    write_word_vectors,
)

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


CLIP = PARAMS.clip
AGNOSTIC_MODEL = PARAMS.model.model_copy(update={"shared_encoder": True, "text_style": "bert"})
SPECIFIC_PARAMS = PARAMS.model_copy(update={"tokenizer": None})
EXPORTS = {
    "specific": SPECIFIC_PARAMS,
    "agnostic": SPECIFIC_PARAMS.model_copy(update={"model": AGNOSTIC_MODEL}),
}
TASK_NAMES: tuple[TaskName, ...] = ("video", "audio", "image", "audio_visual")


def demand(name: TaskName, task: TaskParams = TASK, clip: ClipParams = CLIP) -> Demand:
    """Return the demand for five classes of a task."""
    fusion = "concatenation" if name == "audio_visual" else None
    return Demand(name, task.model_copy(update={"fusion": fusion}), clip, 5)


def start(source: Path, target: Demand) -> Network:
    """Return the network that fine-tuning would start from, in evaluation."""
    params = describe_classifier(source, PARAMS.model, target)
    write_first_weights(source, params, 3, source / "first")
    network = build_network(params)
    restore_weights(network, load_file(source / "first"))
    return network.eval()


def start_one_tower(source: Path, target: Demand) -> Classifier:
    network = start(source, target)
    assert isinstance(network, Classifier)
    return network


def draw_clips(clip: ClipParams = CLIP) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = clip.frame_size_px
    video = torch.rand(2, clip.num_frames, size, size, 3, generator=generator) * 2 - 1
    return video, torch.rand(2, clip.num_samples, generator=generator) * 2 - 1


@pytest.mark.parametrize("kind", EXPORTS)
def test_towers_give_the_features_of_the_pretrained_model(tmp_path: Path, kind: str) -> None:
    model = export(tmp_path, EXPORTS[kind])
    video, audio = draw_clips()
    expected = {"video": model.encode_video(video), "audio": model.encode_audio(audio)}
    for name in ("video", "audio", "audio_visual"):
        network = start(tmp_path, demand(name))
        for modality, tower in zip(network.modalities, network.towers, strict=True):
            found = tower({"video": video, "audio": audio}[modality])[:, 0]
            assert torch.equal(found, expected[modality]), (name, modality)
    joint = start(tmp_path, demand("audio_visual"))
    features = torch.cat([expected["video"], expected["audio"]], dim=1)
    torch.testing.assert_close(joint(video, audio), joint.head(features))


@pytest.mark.parametrize("name", ["video", "audio_visual"])
def test_the_head_is_drawn_from_the_seed(tmp_path: Path, name: TaskName) -> None:
    export(tmp_path, SPECIFIC_PARAMS)
    params = describe_classifier(tmp_path, PARAMS.model, demand(name))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for file, seed in (("0", 0), ("1", 1), ("again", 0)):
        write_first_weights(tmp_path, params, seed, tmp_path / file)
    assert torch.equal(torch.rand(1), expected)  # the caller's random numbers are left alone
    one, other = (load_file(tmp_path / file) for file in ("0", "1"))
    assert {key for key in one if not torch.equal(one[key], other[key])} == {"head.weight"}
    assert (tmp_path / "again").read_bytes() == (tmp_path / "0").read_bytes()


def test_other_sizes_get_positions_on_a_natural_spline(tmp_path: Path) -> None:
    small = CLIP.model_copy(update={"num_frames": 8, "frame_size_px": 40})
    model = export(tmp_path, SPECIFIC_PARAMS.model_copy(update={"clip": small}))
    clip = CLIP.model_copy(update={"num_frames": 12, "frame_size_px": 64})
    network = start_one_tower(tmp_path, demand("video", clip=clip))
    video, _ = draw_clips(clip)
    # The pre-trained tower interpolates on the fly.
    torch.testing.assert_close(network.tower(video)[:, 0], model.encode_video(video))
    for axis, (num_knots, num_places) in enumerate(((4, 6), (5, 8), (5, 8))):
        old = model.video.stem.positions.tables[axis].table.detach().double().numpy()
        new = network.tower.stem.positions.tables[axis].table.detach().numpy()
        assert (len(old), len(new)) == (num_knots, num_places)
        spline = CubicSpline(range(num_knots), old, bc_type="natural")
        places = np.arange(num_places) * num_knots / num_places
        inside = np.minimum(places, num_knots - 1)
        beyond = (places - inside)[:, None] * spline(num_knots - 1, 1)
        np.testing.assert_allclose(new, spline(inside) + beyond, rtol=1e-4, atol=1e-6)


def test_sound_at_half_the_rate_keeps_its_positions(tmp_path: Path) -> None:
    """Clips twice as long at every second sample have as many samples, and the same table."""
    model = export(tmp_path, SPECIFIC_PARAMS)
    clip = CLIP.model_copy(update={"num_samples": 2 * CLIP.num_samples})
    task = TASK.model_copy(update={"audio_stride": 2})
    network = start_one_tower(tmp_path, demand("audio", task, clip))
    _, audio = draw_clips()
    assert torch.equal(network.tower(audio)[:, 0], model.encode_audio(audio))


def test_an_image_has_the_first_position_in_time(tmp_path: Path) -> None:
    model = export(tmp_path, SPECIFIC_PARAMS)
    network = start_one_tower(tmp_path, demand("image"))
    tables = [table.table for table in network.tower.stem.positions.tables]
    trained = [table.table for table in model.video.stem.positions.tables]
    assert len(trained[0]) > 1
    assert torch.equal(tables[0], trained[0][:1])
    assert torch.equal(tables[1], trained[1])
    patch_frames = PARAMS.model.video_patch[0]
    image = draw_clips()[0][:, :1].expand(-1, patch_frames, -1, -1, -1)
    # One patch in time: the pre-trained tower stretches its table to one place, too.
    torch.testing.assert_close(network.tower(image)[:, 0], model.encode_video(image))


def save_imported(path: Path, params: ClassifierParams) -> Classifier:
    exported = CLASSIFIER.model_copy(update={"classifier": params})
    classifier = build_untrained(exported)
    assert isinstance(classifier, Classifier)
    save_export(path, classifier, exported)
    return classifier


@pytest.mark.parametrize(("name", "params"), [("video", VIDEO), ("audio", WAVEFORM)])
def test_a_classifier_lends_a_tower(
    tmp_path: Path, name: TaskName, params: ClassifierParams
) -> None:
    old = save_imported(tmp_path / name, params)
    clip = CLIP.model_copy(update={"num_samples": 96})
    network = start_one_tower(tmp_path / name, demand(name, clip=clip))
    video, audio = draw_clips(clip)
    signal = video if name == "video" else audio
    assert torch.equal(network.tower(signal), old.tower(signal))
    assert network(signal).shape == (2, 5)
    assert old(signal).shape == (2, 7)


def test_without_a_source_the_network_is_that_of_the_parameters(tmp_path: Path) -> None:
    export(tmp_path, SPECIFIC_PARAMS)
    for name in TASK_NAMES:
        scratch = describe_classifier(None, PARAMS.model, demand(name))
        assert scratch == describe_classifier(tmp_path, AGNOSTIC, demand(name))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("audio", {}, "has a tower for video, none for audio: .* to the task audio$"),
        ("audio_visual", {}, "none for audio: it cannot be fine-tuned to the task audio_visual"),
        ("video", {"frame_size_px": 18}, r"finetune.video: a clip of 4 x 18 x 18 is not whole"),
        ("video", {"num_frames": 1}, r"a clip of 1 x 16 x 16 is not whole patches of 2 x 4 x 4"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: TaskName, change: dict[str, int], message: str
) -> None:
    save_imported(tmp_path / "classifier", VIDEO)
    with pytest.raises(StageError, match=message):
        start(tmp_path / "classifier", demand(name, clip=CLIP.model_copy(update=change)))


def test_weights_of_another_network_are_refused_with_their_names(tmp_path: Path) -> None:
    export(tmp_path / "export", SPECIFIC_PARAMS)
    params = describe_classifier(tmp_path / "export", PARAMS.model, demand("video"))
    save_imported(tmp_path / "other", VIDEO)
    with pytest.raises(
        StageError,
        match=r"other: video: is another network, \d+ tensors do not fit: "
        r"encoder.blocks.0.attention.key_value.bias is torch.float32 .64,., expected .*256",
    ):
        write_first_weights(tmp_path / "other", params, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_folders_and_more_frozen_layers_are_refused_with_their_keys(tmp_path: Path) -> None:
    def describe(source: Path | None, **changes: object) -> None:
        task = TASK.model_copy(update=changes)
        describe_classifier(source, PARAMS.model, demand("audio", task))

    expected = (
        r"^finetune.audio.initial_weights = nowhere: .*nowhere: is not an export: there is no"
    )
    with pytest.raises(StageError, match=expected):
        describe(tmp_path / "nowhere", initial_weights="nowhere")
    most = PARAMS.model.audio_size.num_layers
    describe(None, freeze=most)
    expected = rf"^finetune.audio.freeze = {most + 1}: there are {most} layers; accepted"
    with pytest.raises(StageError, match=expected):
        describe(None, freeze=most + 1)


def test_a_source_is_a_folder_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def find(initial: str | None) -> Path | None:
        task = TASK.model_copy(update={"initial_weights": initial})
        return find_source(task, Path("data/pretrain"))

    assert find(None) is None
    assert find("pretrain") == Path("data/pretrain")
    assert find("imported") == Path("imported")
    with pytest.raises(StageError, match="there is no champion yet"):
        find("champion")
    champion = Path("data/promote/champion")
    champion.mkdir(parents=True)
    assert find("champion") == champion
