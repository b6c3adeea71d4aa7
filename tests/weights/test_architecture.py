"""Networks worked out from the shapes of a checkpoint, at the sizes that the authors released."""

import re

import pytest
import torch

from tests.model.original import Original
from vatt.core.errors import StageError
from vatt.model.classifier import ClassifierParams
from vatt.model.towers import collect_weights
from vatt.weights import original
from vatt.weights.export import ExportedClassifierParams, ExportedParams, build_untrained
from vatt.weights.import_tf import ImportOptions, read_architecture

Shapes = dict[str, tuple[int, ...]]
Size = tuple[int, int, int]
"""Layers, width and width of the MLP."""
TINY = ImportOptions(head_width=8, text_max_distance=6, num_tokens=6)
BASE, MEDIUM, LARGE, TEXT = (12, 768, 3072), (12, 1024, 4096), (24, 1024, 4096), (6, 512, 2048)
PATCHES = {"voxel": (4, 16, 16, 3), "wave": (128, 1)}


def read_shapes(name: str) -> Shapes:
    return {key: value.shape for key, value in Original(name).group("w::").items()}


def enlarge(name: str, video: Size, audio: Size, num_rows: int) -> Shapes:
    """Return the tensors of a small checkpoint with the sizes of a released one."""
    sizes = {"aud_": audio, "txt_": TEXT}
    numbers = {20: 512, 10: 256, 12: 300, 50: 65536, 7: 600}
    grid = {"temporal": 8, "vertical": num_rows, "horizontal": num_rows}
    shapes: Shapes = {}
    for key, small in read_shapes(name).items():
        size = next((size for part, size in sizes.items() if part in key), video)
        num_layers, width, mlp_width = size
        shape = tuple(
            (numbers | {32: width, 64: mlp_width}).get(number, number) for number in small
        )
        if patch := re.search(r"(voxel|wave)_to_patch/kernel", key):
            shape = (*PATCHES[patch[1]], width)
        elif axis := re.search(r"(\w+)_position_embeddings/", key):
            shape = (1200 if "aud_" in key else grid[axis[1]], width)
        elif "relative_attention_bias" in key:
            shape = (32, 8)
        layers = range(num_layers) if "/layers/1/" in key else [0]
        shapes |= {key.replace("/layers/1/", f"/layers/{layer}/"): shape for layer in layers}
    return shapes


@pytest.mark.parametrize(
    ("name", "video"),  # the networks BBS, MBS and LBS
    [("base", BASE), ("medium", MEDIUM), ("large", LARGE)],
)
def test_released_checkpoints_are_the_papers_networks(name: str, video: Size) -> None:
    shapes = enlarge("ms", video, BASE, 14)
    network = read_architecture(shapes, ImportOptions())
    assert isinstance(network, ExportedParams)
    model, clip = network.model, network.clip
    assert (model.video, model.audio, model.text) == (name, "base", "small")
    assert (model.video_patch, model.audio_patch, model.word_width) == ((4, 16, 16), 128, 300)
    assert (model.space_va_width, model.space_vt_width, network.vocab_size) == (512, 256, 65536)
    assert (clip.num_frames, clip.frame_size_px) == (32, 224)
    assert (clip.num_samples, clip.num_tokens) == (153_600, 16)
    with torch.device("meta"):
        ours = collect_weights(build_untrained(network))
    for tensor, keys in original.find_originals(ours, shapes).items():
        rows = [original.find_shape(key, shapes[key]) for key in keys]
        assert (sum(shape[0] for shape in rows), *rows[0][1:]) == tuple(ours[tensor].shape), tensor


def test_a_released_classifier_of_larger_pictures() -> None:
    params = read_architecture(enlarge("cls_vit", MEDIUM, BASE, 20), ImportOptions())
    assert isinstance(params, ExportedClassifierParams)
    found = params.classifier
    assert isinstance(found, ClassifierParams)
    assert (found.grid, found.size.num_heads, found.num_classes) == ((8, 20, 20), 16, 600)
    assert found.post_projection_width is None


BIAS = "relative_attention_bias/embeddings"


@pytest.mark.parametrize(
    ("name", "key", "shape", "message"),
    [
        ("ms", "embedding/embeddings", None, "{}: is missing"),
        ("ms", "voxel_to_patch/kernel", (4, 4), "{}: has shape .4, 4., expected 5 axes"),
        ("ms", "voxel_to_patch/kernel", (2, 4, 4, 1, 32), "{}: has 1 channels, expected 3"),
        ("ms", "vid_backbone/_base/tx/layers/0/mha/q/kernel", (32, 30), "of head_width = 8"),
        ("ms", BIAS, (8, 5), "32 columns, but {} has 5 heads"),
        ("ms", BIAS, (2, 4), "fit together: text_buckets: .*, got 2"),
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
    message = r"32 columns are no multiple of head_width = 64.*--head-width"
    with pytest.raises(StageError, match=message):  # the default does not fit the small ones
        read_architecture(read_shapes("ms"), ImportOptions())
