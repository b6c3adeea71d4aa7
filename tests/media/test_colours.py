"""Colours come out as a player shows them, compared with closed forms and with FFmpeg's own."""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter

from tests.preprocess.runs import PARAMS, preprocess, read_quarantine, read_video
from vatt.corpus.index import read_index
from vatt.corpus.manifest import ManifestEntry, write_manifest
from vatt.media.colours import ColourMap

Values = npt.NDArray[np.float64]
PATCH_PX = 64
COLOURS = np.array(
    [
        *((180, 25, 25), (25, 180, 25), (25, 25, 180), (180, 180, 180), (128, 128, 128)),
        *((160, 40, 40), (40, 150, 60), (60, 60, 170), (170, 170, 30), (40, 40, 40)),
        *((90, 120, 60), (150, 90, 120)),
    ]
)
"""So dark that tone mapping leaves them as they are: below a knee at about 100 cd/m2."""
# ITU-R BT.2087 and SMPTE EG 432-1, rounded to four digits there.
BT709_TO_BT2020 = np.array(
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)
BT709_TO_P3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])
PQ, HLG = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67
WIDE, P3, NARROW = ColorPrimaries.BT2020, ColorPrimaries.SMPTE432, ColorPrimaries.BT709


def encode_pq(nits: Values) -> Values:
    """SMPTE ST 2084."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = (nits / 10_000) ** m1
    code: Values = ((c1 + c2 * power) / (1 + c3 * power)) ** m2
    return code


def encode_hlg(nits: Values) -> Values:
    """ITU-R BT.2100 for a screen of 1,000 cd/m2: the code of the scene that is shown so."""
    luma = nits @ np.array([0.2627, 0.6780, 0.0593]) / 1000
    scene = nits / 1000 * np.maximum(luma, 1e-12)[:, None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    code: Values = np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    return code


def to_light(colours: npt.NDArray[np.int64], matrix: Values = BT709_TO_BT2020) -> Values:
    """Return the linear light, of 0 to 1, of colours of an ordinary screen (ITU-R BT.1886)."""
    light: Values = (colours / 255) ** 2.4 @ matrix.T
    return light.clip(0)


class Tags(NamedTuple):
    """How a file says that its colours are coded."""

    transfer: int
    primaries: int
    matrix: int
    more: str = ""
    """More options of x265."""


def write_patches(path: Path, codes: Values, tags: Tags) -> None:
    """Write patches of RGB of 0 to 1 as HEVC of 10 bits, four in a row."""
    grid = codes.reshape(-1, 4, 3).repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)
    frame = av.VideoFrame(grid.shape[1], grid.shape[0], "gbrp16le")
    for plane, component in zip(frame.planes, (1, 2, 0), strict=True):
        plane.update(np.round(grid[..., component] * 65535).astype(np.uint16).tobytes())
    frame = frame.reformat(
        format="yuv420p10le",
        dst_colorspace=tags.matrix,
        dst_color_range=1,
        interpolation=Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INP,
    )
    with av.open(str(path), "w") as container:
        options = {"x265-params": f"log-level=none:{tags.more}", "crf": "1", "preset": "ultrafast"}
        stream = container.add_stream("libx265", rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p10le"
        stream.codec_context.color_range = 1
        stream.codec_context.color_trc = tags.transfer
        stream.codec_context.color_primaries = tags.primaries
        stream.codec_context.colorspace = tags.matrix
        for number in range(5):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


MASTERED = (
    "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)"
    "L(10000000,50):max-cll=0,0"
)
KINDS: dict[str, tuple[Tags, Values, str | None]] = {
    "hdr10": (Tags(PQ, WIDE, 9, MASTERED), encode_pq(203 * to_light(COLOURS)), None),
    "pq": (
        Tags(PQ, WIDE, 9),
        encode_pq(203 * to_light(COLOURS)),
        "colours: HDR without its peak: 1000 cd/m2 is assumed",
    ),
    "hlg": (Tags(HLG, WIDE, 9), encode_hlg(203 * to_light(COLOURS)), None),
    "bt2020": (Tags(ColorTrc.BT2020_10, WIDE, 9), to_light(COLOURS) ** (1 / 2.4), None),
    "p3": (Tags(ColorTrc.BT709, P3, 1), to_light(COLOURS, BT709_TO_P3) ** (1 / 2.4), None),
    "bt709": (Tags(ColorTrc.BT709, NARROW, 1), COLOURS / 255, None),
}


PEAKS_NITS = (1000, 4000)
SIZES_PX = {(544, 1280): 1, (720, 960): 1, (640, 320): 1, (576, 1024): 5, (320, 480): 5}
"""Height and width, and the matrix that mpv takes: BT.709 or BT.601."""


def draw_highlights(peak_nits: float) -> Values:
    """Return the light of greys from the white of a sheet to the peak."""
    return np.geomspace(203, peak_nits, 12)[:, None].repeat(3, 1)


def write_untagged(path: Path, size_px: tuple[int, int], matrix: int, tag: int) -> None:
    """Write four quarters of colours; the file says nothing of the matrix, or nothing valid."""
    (height_px, width_px), quarters = size_px, COLOURS[5:9].reshape(2, 2, 3).astype(np.uint8)
    rows, columns = np.arange(height_px) * 2 // height_px, np.arange(width_px) * 2 // width_px
    frame = av.VideoFrame.from_ndarray(quarters[rows][:, columns], "rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
    frame.colorspace = 2
    content = BytesIO()
    with av.open(content, "w", "matroska") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content.seek(0)
    with av.open(content) as old, av.open(str(path), "w") as new:
        (source,) = old.streams.video
        target = new.add_stream_from_template(source)
        description = f"h264_metadata=matrix_coefficients={tag}"
        filters = BitStreamFilterContext(description, source, target)
        for packet in old.demux(source):
            for changed in filters.filter(packet if packet.size else None):
                changed.stream = target
                new.mux(changed)


class Shown(NamedTuple):
    """What preprocess makes of a file."""

    picture: Values
    problem: str | None

    @property
    def patches(self) -> Values:
        """The middles of the patches, one after another."""
        step = PATCH_PX
        return self.picture[step // 2 :: step, step // 2 :: step].reshape(-1, 3)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    folder = tmp_path_factory.mktemp("colours")
    for kind, (tags, codes, _) in KINDS.items():
        write_patches(folder / f"{kind}.mp4", codes, tags)
    for peak_nits in PEAKS_NITS:
        light = MASTERED.replace("L(10000000", f"L({peak_nits}0000")
        codes = encode_pq(draw_highlights(peak_nits))
        write_patches(folder / f"{peak_nits}.mp4", codes, Tags(PQ, WIDE, 9, light))
    for (height_px, width_px), matrix in SIZES_PX.items():
        for tag in (2, 3):
            name = f"{tag} {width_px}x{height_px}.mkv"
            write_untagged(folder / name, (height_px, width_px), matrix, tag)
    names = [path.name for path in folder.iterdir()]
    write_manifest(folder, [ManifestEntry("s", name, "train", path=name) for name in names])
    params = PARAMS.model_copy(update={"short_side_px": 3 * PATCH_PX, "video_crf": 1})
    preprocess(folder, folder / "out", params, num_workers=2)
    assert read_quarantine(folder / "out") == {}
    pictures = {}
    for _, row in read_index(folder / "out").iterrows():
        picture = read_video(folder / "out", row)[0]
        problem = None if pd.isna(row["problem"]) else str(row["problem"])
        pictures[row["video_id"]] = Shown(picture.astype(np.float64), problem)
    return pictures


@pytest.mark.parametrize("kind", KINDS)
def test_colours_of_every_kind_are_those_that_were_meant(
    shown: dict[str, Shown], kind: str
) -> None:
    found = shown[f"{kind}.mp4"]
    np.testing.assert_allclose(found.patches, COLOURS, atol=5)
    assert found.problem == KINDS[kind][2]


@pytest.mark.parametrize(("peak_nits", "white"), [(1000, (225, 240)), (4000, (200, 218))])
def test_highlights_are_kept_apart_up_to_the_peak(
    shown: dict[str, Shown], peak_nits: int, white: tuple[int, int]
) -> None:
    found = shown[f"{peak_nits}.mp4"]
    greys = found.patches
    assert found.problem is None
    assert white[0] <= greys[0].mean() <= white[1]
    assert greys[-1].mean() >= 253
    assert (np.diff(greys.mean(1)) >= 0).all()
    assert len(np.unique(greys[:, 1])) >= 8
    assert np.ptp(greys, axis=1).max() <= 2


@pytest.mark.parametrize("tag", [2, 3])
def test_an_untagged_picture_has_the_matrix_of_its_size(shown: dict[str, Shown], tag: int) -> None:
    """2 is "unspecified" and 3 is "reserved", which some recorders write."""
    for height_px, width_px in SIZES_PX:
        found = shown[f"{tag} {width_px}x{height_px}.mkv"]
        height, width, _ = found.picture.shape
        middles = [found.picture[height * y // 4, width * x // 4] for y in (1, 3) for x in (1, 3)]
        np.testing.assert_allclose(middles, COLOURS[5:9], atol=5, err_msg=str(width_px))
        assert found.problem is None


def convert_by_ffmpeg(codes: npt.NDArray[np.uint16], transfer: int, primaries: int) -> Values:
    """Return what FFmpeg's scaler makes of RGB of 16 bits; it leaves no room above white."""
    frame = av.VideoFrame(codes.shape[1], 1, "gbrp16le")
    for plane, component in zip(frame.planes, (1, 2, 0), strict=True):
        row = np.zeros(plane.line_size // 2, np.uint16)
        row[: codes.shape[1]] = codes[component]
        plane.update(row.tobytes())
    frame.color_trc, frame.color_primaries = transfer, primaries
    frame.colorspace, frame.color_range = 0, 2
    converted = VideoReformatter().reformat(
        frame,
        format="rgb24",
        interpolation=Interpolation.BITEXACT | Interpolation.ACCURATE_RND,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
        threads=1,
    )
    colours: Values = converted.to_ndarray()[0].T.astype(np.float64)
    return colours


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_colours_are_those_of_ffmpegs_own_conversion(transfer: int) -> None:
    """A second implementation, libswscale's, inside of both gamuts; it interpolates in a table."""
    rng = np.random.default_rng(0)
    light = to_light(rng.integers(30, 170, (500, 3)))
    values = (encode_pq if transfer == PQ else encode_hlg)(203 * light)
    codes = np.round(values.T * 65535).astype(np.uint16)
    ours = ColourMap(transfer, WIDE, 1000.0).apply(codes[:, None])[:, 0].astype(np.float64)
    difference = np.abs(ours - convert_by_ffmpeg(codes, transfer, WIDE))
    assert difference.max() <= 15
    assert difference.mean() < 1


ZSCALE = {
    # By FFmpeg 5.1 with zimg 3.0: zscale to linear light (npl=203), BT.709, tonemap=clip, BT.709.
    # Bright colours that are in BT.2020 and outside of BT.709: code of 8 bits -> what is shown.
    (200, 40, 40): (246, 0, 18),
    (40, 180, 60): (0, 189, 0),
    (60, 60, 220): (0, 55, 230),
    (230, 230, 20): (237, 231, 0),
    (90, 120, 60): (65, 123, 46),
}


def test_a_wide_gamut_is_converted_as_by_zscale() -> None:
    codes = np.round(np.array(list(ZSCALE)).T / 255 * 65535).astype(np.uint16)
    shown = ColourMap(ColorTrc.BT2020_10, WIDE, 1000.0).apply(codes[:, None])[:, 0].T
    np.testing.assert_allclose(shown.astype(int), list(ZSCALE.values()), atol=1)
