from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.tiny import TINY_MODEL
from vatt.batch import Batch
from vatt.evaluation.reading.features import extract_features
from vatt.models.vatt import Vatt
from vatt.params import ClipParams

CLIP = ClipParams(num_frames=2, frame_size_px=16, num_samples=1024, num_tokens=4, num_candidates=1)
MODEL = TINY_MODEL
NUM_CLIPS, NUM_WINDOWS = 5, 3


def make_networks() -> list[Vatt]:
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(Vatt(MODEL, CLIP, vocab_size=50).eval())
    return networks


def make_batches() -> Iterator[Batch]:
    """Clips in batches of 2, 2 and 1; an iterator, so that a second pass finds nothing."""
    torch.manual_seed(3)
    for num_clips in (2, 2, 1):
        rows = num_clips * NUM_WINDOWS
        yield Batch(
            video=torch.rand(rows, 2, 16, 16, 3) * 2 - 1,
            audio=torch.rand(rows, 1024) * 2 - 1,
            text=torch.zeros(rows, 1, 4, dtype=torch.int64),
            audio_mask=torch.ones(rows, dtype=torch.bool),
            text_mask=torch.zeros(rows, 1, dtype=torch.bool),
        )


def test_it_equals_a_slow_loop_over_single_windows() -> None:
    networks = make_networks()
    tokens = torch.randint(1, 50, (NUM_CLIPS, 4))
    extracted = extract_features(networks, make_batches(), tokens, NUM_WINDOWS)
    videos = torch.cat([batch.video for batch in make_batches()])
    audios = torch.cat([batch.audio for batch in make_batches()])
    for network, features in zip(networks, extracted, strict=True):
        for clip in range(NUM_CLIPS):
            windows = range(clip * NUM_WINDOWS, (clip + 1) * NUM_WINDOWS)
            with torch.no_grad():
                video = [network.encode_video(videos[window][None]) for window in windows]
                audio = [network.encode_audio(audios[window][None]) for window in windows]
                spaces = [network.project_video(feature) for feature in video]
                heard = [network.project_audio(feature) for feature in audio]
                text = network.project_text(network.encode_text(tokens[clip][None]))
            expected = {
                "video": sum(video) / NUM_WINDOWS,
                "audio": sum(audio) / NUM_WINDOWS,
                "video_va": sum(space[0] for space in spaces) / NUM_WINDOWS,
                "video_vt": sum(space[1] for space in spaces) / NUM_WINDOWS,
                "audio_va": sum(heard) / NUM_WINDOWS,
                "text_vt": text,
            }
            for name, value in expected.items():
                np.testing.assert_allclose(
                    getattr(features, name)[clip], torch.as_tensor(value)[0], atol=2e-5
                )


def test_the_two_networks_see_different_things() -> None:
    first, second = extract_features(
        make_networks(), make_batches(), torch.ones(NUM_CLIPS, 4, dtype=torch.int64), NUM_WINDOWS
    )
    assert not np.allclose(first.video, second.video)


def test_texts_for_other_clips_are_refused() -> None:
    tokens = torch.zeros(NUM_CLIPS + 1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="5 clips, there are texts for 6"):
        extract_features(make_networks(), make_batches(), tokens, NUM_WINDOWS)


def test_a_split_without_clips_has_no_features() -> None:
    tokens = torch.zeros(0, 4, dtype=torch.int64)
    features = extract_features(make_networks(), [], tokens, NUM_WINDOWS)
    assert [len(values) for view in features for values in view] == [0] * 12
