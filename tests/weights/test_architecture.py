"""Networks worked out from the shapes of a checkpoint, at the sizes that the authors released."""

import re
from collections.abc import Mapping

import pytest
import torch

from tests.model.original import CLIP, SIZE, Original
from vatt.core.errors import StageError
from vatt.model.classifier import ClassifierParams
from vatt.model.towers import collect_weights
from vatt.weights import original
from vatt.weights.architecture import ImportOptions, read_architecture
from vatt.weights.export import ExportedClassifierParams, ExportedParams, build_untrained

Shapes = dict[str, tuple[int, ...]]
ROOT = "model/layer_with_weights-0/"
TINY = ImportOptions(head_width=8, text_max_distance=6, num_tokens=6)
BASE, MEDIUM, LARGE = (12, 768, 3072), (12, 1024, 4096), (24, 1024, 4096)
GRIDS = {"temporal": 8, "vertical": 14, "horizontal": 14}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}


def dense(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def encoder(prefix: str, size: tuple[int, int, int]) -> Shapes:
    """The tensors of a released encoder, written down from the list of its names."""
    num_layers, width, mlp_width = size
    shapes = norm(f"{prefix}/final_layer_norm", width)
    for layer in (f"{prefix}/layers/{index}" for index in range(num_layers)):
        shapes |= norm(f"{layer}/layer_norm", width)
        for part in "qkvo":
            shapes |= dense(f"{layer}/mha/{part}", width, width)
        shapes |= norm(f"{layer}/feed_forward/layer_norm", width)
        shapes |= dense(f"{layer}/feed_forward/mlp/wi", width, mlp_width)
        shapes |= dense(f"{layer}/feed_forward/mlp/wo", mlp_width, width)
    return shapes


def positions(prefix: str, grid: Mapping[str, int], width: int) -> Shapes:
    tables = {
        f"{prefix}/{axis}_position_embeddings/embeddings": (size, width)
        for axis, size in grid.items()
    }
    return {**tables, **norm(f"{prefix}/layernorm", width)}


def video_tower(prefix: str, size: tuple[int, int, int], grid: Mapping[str, int]) -> Shapes:
    width = size[1]
    patches = {
        f"{prefix}/voxel_to_patch/kernel": (4, 16, 16, 3, width),
        f"{prefix}/voxel_to_patch/bias": (width,),
        f"{prefix}/agg_embedding": (width,),
    }
    lookup = positions(f"{prefix}/pos_embedding_lookup", grid, width)
    return {**patches, **lookup, **encoder(f"{prefix}/tx", size)}


def released(video: tuple[int, int, int], audio: tuple[int, int, int]) -> Shapes:
    """The shapes of a released modality-specific checkpoint."""
    base, head = ROOT + "_base_layer", ROOT + "_head_layer/_bridge_heads/0"
    shapes = video_tower(f"{base}/vid_backbone/_base", video, GRIDS)
    tower, width = f"{base}/aud_backbone/_base", audio[1]
    shapes |= {
        f"{tower}/wave_to_patch/kernel": (128, 1, width),
        f"{tower}/wave_to_patch/bias": (width,),
        f"{tower}/agg_embedding": (width,),
    }
    shapes |= positions(f"{tower}/pos_embedding_lookup", {"temporal": 1200}, width)
    shapes |= encoder(f"{tower}/tx", audio)
    text = f"{base}/txt_backbone"
    shapes |= {
        f"{text}/embedding/embeddings": (65536, 300),
        f"{text}/agg_embedding": (300,),
        f"{text}/pre_proj/kernel": (300, 512),
        f"{text}/base_lm/final_layer_norm/weight": (512,),
    }
    for index in range(6):
        layer = f"{text}/base_lm/layers/{index}"
        attention = f"{layer}/self_attention/attention"
        shapes |= {f"{attention}/{part}/kernel": (512, 512) for part in "qkvo"}
        shapes[f"{layer}/self_attention/layer_norm/weight"] = (512,)
        shapes |= norm(f"{layer}/feed_forward/layer_norm", 512)
        shapes[f"{layer}/feed_forward/mlp/wi/kernel"] = (512, 2048)
        shapes[f"{layer}/feed_forward/mlp/wo/kernel"] = (2048, 512)
        if index == 0:
            shapes[f"{attention}/relative_attention_bias/embeddings"] = (32, 8)
    shapes |= {f"{head}/vid_to_hid/kernel": (video[1], 512)}
    shapes |= dense(f"{head}/aud_to_va", width, 512) | dense(f"{head}/txt_to_vat", 512, 256)
    for place, space in (("hid_to_va/pre_bn", 512), ("hid_to_va/bn", 512), ("va_to_vat/bn", 256)):
        shapes |= norm(f"{head}/{place}", space)
        shapes |= {f"{head}/{place}/moving_{part}": (space,) for part in ("mean", "variance")}
    shapes[f"{head}/hid_to_va/dense/kernel"] = (512, 512)
    shapes[f"{head}/va_to_vat/dense/kernel"] = (512, 256)
    return shapes


@pytest.mark.parametrize(
    ("video", "audio", "names"),
    [
        (BASE, BASE, ("base", "base", "small")),  # BBS
        (MEDIUM, BASE, ("medium", "base", "small")),  # MBS
        (LARGE, BASE, ("large", "base", "small")),  # LBS
    ],
)
def test_released_checkpoints_are_the_papers_networks(
    video: tuple[int, int, int], audio: tuple[int, int, int], names: tuple[str, str, str]
) -> None:
    shapes = released(video, audio)
    network = read_architecture(shapes, ImportOptions())
    assert isinstance(network, ExportedParams)
    model, clip, vocab_size = network.model, network.clip, network.vocab_size
    assert (model.video, model.audio, model.text) == names
    assert (model.video_patch, model.audio_patch, model.word_width) == ((4, 16, 16), 128, 300)
    assert (model.space_va_width, model.space_vt_width, vocab_size) == (512, 256, 65536)
    assert (clip.num_frames, clip.frame_size_px) == (32, 224)
    assert (clip.num_samples, clip.num_tokens) == (153_600, 16)
    with torch.device("meta"):
        ours = collect_weights(build_untrained(network))
    sources = original.find_originals(ours, shapes)
    for name, keys in sources.items():
        rows = [original.find_shape(key, shapes[key]) for key in keys]
        assert (sum(shape[0] for shape in rows), *rows[0][1:]) == tuple(ours[name].shape), name


def read_shapes(name: str) -> Shapes:
    return {key: value.shape for key, value in Original(name).group("w::").items()}


def test_small_checkpoints_give_the_networks_they_were_made_with() -> None:
    expected = Original("ms").build_model().state_dict()
    network = read_architecture(read_shapes("ms"), TINY)
    assert isinstance(network, ExportedParams)
    assert (network.model.video, network.model.text_buckets) == (SIZE, 8)
    clip = network.clip
    assert (clip.num_frames, clip.frame_size_px, clip.num_samples) == (4, 16, 96)
    assert clip.num_tokens == CLIP.num_tokens
    assert {name: value.shape for name, value in build_untrained(network).state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_a_shared_encoder_is_seen_with_its_table_of_words() -> None:
    network = read_architecture(read_shapes("ma"), ImportOptions(head_width=8, num_tokens=99))
    assert isinstance(network, ExportedParams)
    assert network.model.shared_encoder
    assert network.model.text_style == "bert"
    assert (network.model.post_projection_width, network.clip.num_tokens) == (24, 6)


@pytest.mark.parametrize(
    ("name", "kind", "patch", "grid"),
    [
        ("cls_vit", "video", (2, 4, 4), (2, 4, 4)),
        ("cls_wat", "waveform", (8,), (12,)),
        ("cls_spt", "spectrogram", (4, 5), (3, 2)),
    ],
)
def test_classifiers(name: str, kind: str, patch: tuple[int, ...], grid: tuple[int, ...]) -> None:
    params = read_architecture(read_shapes(name), TINY)
    assert isinstance(params, ExportedClassifierParams)
    assert isinstance(params.classifier, ClassifierParams)
    classifier = params.classifier
    assert (classifier.input, classifier.size, classifier.num_classes) == (kind, SIZE, 7)
    assert (classifier.patch, classifier.grid) == (patch, grid)
    assert classifier.post_projection_width is None


def test_a_released_classifier_of_larger_pictures() -> None:
    grid = {"temporal": 8, "vertical": 20, "horizontal": 20}
    shapes = video_tower(f"{ROOT}_base", MEDIUM, grid) | dense(f"{ROOT}_ops/cls", 1024, 600)
    params = read_architecture(shapes, ImportOptions())
    assert isinstance(params, ExportedClassifierParams)
    assert isinstance(params.classifier, ClassifierParams)
    classifier = params.classifier
    assert (classifier.grid, classifier.size.num_heads, classifier.num_classes) == (
        (8, 20, 20),
        16,
        600,
    )


@pytest.mark.parametrize(
    ("name", "key", "shape", "message"),
    [
        ("ms", "embedding/embeddings", None, "{}: is missing"),
        ("ms", "voxel_to_patch/kernel", (4, 4), "{}: has shape .4, 4., expected 5 axes"),
        ("ms", "voxel_to_patch/kernel", (2, 4, 4, 1, 32), "{}: has 1 channels, expected 3"),
        (
            "ms",
            "vid_backbone/_base/tx/layers/0/mha/q/kernel",
            (32, 30),
            "multiple of head_width = 8",
        ),
        ("ms", "relative_attention_bias/embeddings", (8, 5), "32 columns, but {} has 5 heads"),
        (
            "ms",
            "relative_attention_bias/embeddings",
            (2, 4),
            "fit together: text_buckets: .*, got 2",
        ),
        ("ms", "vertical_position_embeddings/embeddings", (3, 32), "are 16 x 12 pixels"),
        ("ma", "post_proj/video/kernel", None, "{}: is missing"),
        ("ma", "video/temporal_position_embeddings/embeddings", (0, 32), "{}: has shape .0, 32."),
        ("cls_vit", "cls/kernel", None, "{}: is missing"),
    ],
)
def test_shapes_that_make_no_network_are_refused_by_name(
    name: str, key: str, shape: tuple[int, ...] | None, message: str
) -> None:
    shapes = read_shapes(name)
    (found,) = [known for known in shapes if known.endswith(key)]
    del shapes[found]
    if shape is not None:
        shapes[found] = shape
    with pytest.raises(StageError, match=message.replace("{}", re.escape(found))):
        read_architecture(shapes, TINY)


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(StageError, match=r"holds none of VATT's models: .* got bert/a, bert/b"):
        read_architecture({"bert/a": (1,), "bert/b": (2, 2)}, ImportOptions())
    with pytest.raises(StageError, match="got none"):
        read_architecture({}, ImportOptions())


def test_the_default_width_of_a_head_does_not_fit_the_small_ones() -> None:
    with pytest.raises(
        StageError, match=r"32 columns are no multiple of head_width = 64.*--head-width"
    ):
        read_architecture(read_shapes("ms"), ImportOptions())
