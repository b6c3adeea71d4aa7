"""Parameters of the stage download: the sources that make up the corpus, and how to fetch them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vatt.params.section import Rate, Section


class FetchParams(Section):
    """Limits of everything that is fetched over http or from a video site."""

    connections: int = Field(default=16, ge=1, le=256)
    """The number of files that are fetched at once."""
    connections_per_host: int = Field(default=4, ge=1, le=256)
    """The number of files that are fetched at once from one host."""
    tries: int = Field(default=5, ge=1)
    """The tries of a file before it is left to the next run; one that brought 8 MiB is not
    counted."""
    backoff_s: float = Field(default=1.0, ge=0)
    """The wait after a first failure; it doubles with each further one, up to a minute."""
    stall_s: float = Field(default=60.0, gt=0)
    """A try ends where no byte came for so long, or fewer than 1000 a second."""
    patience_s: float = Field(default=3600.0, ge=0)
    """A host that answered nothing of use for so long is left to the next run."""
    min_free_gb: float = Field(default=2.0, ge=0)
    """The space (10^9 bytes) that stays free on the disk; fetching stops with an error instead."""
    ask_gone_again: bool = False
    """Whether files that their host called gone (404, 410, a removed video) are asked for again."""
    site_height_px: int = Field(default=360, ge=144)
    """The height of the videos of sites: the largest that a site has up to this one."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Address = Annotated[str, Field(min_length=1)]


class DemoSource(Section):
    """The generated demo corpus."""

    kind: Literal["demo"]
    name: Name = "demo"
    num_videos: int = Field(ge=3)


class MediaSource(Section):
    """Files that may have captions."""

    captions: Literal["files", "asr"] = "files"
    """`asr` transcribes what is said in every file that has no captions, see
    `preprocess.asr`."""


class LabelledSource(MediaSource):
    """Any videos or audio files, captions beside them, perhaps with labels."""

    name: Name
    labels_csv: str | None = None
    """A CSV among the files with columns path,task[,label,start,end,text,split]."""
    labels_from_folders: str | None = None
    """The name of a task for which the label of a file is the name of the folder that holds it."""
    validation_rate: Rate = 0.1
    test_rate: Rate = 0.2
    """The shares of videos in both splits, drawn by a hash of their names unless the CSV names a
    split."""

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.validation_rate + self.test_rate > 1:
            raise ValueError(
                f"validation_rate + test_rate = {self.validation_rate + self.test_rate}: "
                "must be at most 1"
            )
        return self


class FolderSource(LabelledSource):
    """A local or remote directory."""

    kind: Literal["folder"]
    url: Address
    """A path, or any fsspec address: file, s3, gs, http."""


class UrlsSource(LabelledSource):
    """Files, archives of files and videos of sites by their addresses."""

    kind: Literal["urls"]
    addresses: Address
    """A file with one address a line, or a CSV with columns address[,name,sha256,md5,start,end]."""


class CatalogueSource(MediaSource):
    """A data set of the paper: its official lists, and its media as they were obtained.

    docs/data_sets.md says for each kind which lists it needs and how media may be named.
    """

    kind: str
    """Which data set; `vatt.download.datasets` names the reader of its lists."""
    name: Name
    """The folder below data/download, and the name of the task of the data set's labels."""
    annotations: Address
    """The folder of the official annotation files, unpacked: a path or any fsspec address."""
    media: Address | None = None
    """The folder of the media files: a path or any fsspec address."""
    addresses: Address | None = None
    """A file that lists addresses of media files, archives or site videos, in place of `media`."""
    validation_rate: Rate = 0.0
    """The share of training recordings that become the split validation, which `tune` needs and
    most official lists lack; they are drawn by a hash of their names."""

    @model_validator(mode="after")
    def _check_media(self) -> Self:
        ways = {"media": self.media, "addresses": self.addresses}
        if isinstance(self, SiteSource):
            ways["site"] = self.site
        if sum(way is not None for way in ways.values()) != 1:
            raise ValueError(f"{self.name}: give one of {', '.join(ways)}")
        return self


class SiteSource(CatalogueSource):
    """A data set whose lists name videos of a site."""

    site: Literal["youtube"] | None = None
    """The site to fetch what the lists name from, in place of `media`; needs the extra `sites`."""


class HowTo100MSource(SiteSource):
    """HowTo100M: HowTo100M_v1.csv and captions; all of it is training data."""

    kind: Literal["howto100m"]


class AudioSetSource(SiteSource):
    """AudioSet: the segments CSVs that are there, and class_labels_indices.csv."""

    kind: Literal["audioset"]


class UCF101Source(CatalogueSource):
    """UCF101: trainlist0k.txt and testlist0k.txt."""

    kind: Literal["ucf101"]
    fold: int = Field(default=1, ge=1, le=3)
    """The number of the official split, of three."""


class HMDB51Source(CatalogueSource):
    """HMDB51: <class>_test_split<k>.txt."""

    kind: Literal["hmdb51"]
    fold: int = Field(default=1, ge=1, le=3)
    """The number of the official split, of three."""


class KineticsSource(SiteSource):
    """Kinetics-400, 600 or 700: the CSVs of the splits."""

    kind: Literal["kinetics"]


class KineticsSoundsSource(SiteSource):
    """Kinetics-Sounds: the CSVs of Kinetics, of which 32 classes are used."""

    kind: Literal["kinetics_sounds"]


class MomentsInTimeSource(CatalogueSource):
    """Moments in Time: trainingSet.csv and validationSet.csv."""

    kind: Literal["moments_in_time"]


class ESC50Source(CatalogueSource):
    """ESC-50: esc50.csv."""

    kind: Literal["esc50"]
    fold: int = Field(default=1, ge=1, le=5)
    """The fold to test on; the other four are training data."""


class YouCook2Source(SiteSource):
    """YouCook2: youcookii_annotations_trainval.json."""

    kind: Literal["youcook2"]


class MSRVTTSource(CatalogueSource):
    """MSR-VTT: the JSON files of video data, or the lists of the 1k-A split."""

    kind: Literal["msrvtt"]
    protocol: Literal["1k_a", "full"] = "1k_a"
    """1k_a has 1,000 test pairs (JSFUSION) and 9k training videos, full the three official
    splits."""


class ImageNetSource(CatalogueSource):
    """ImageNet: train/<wnid> and val/<wnid> as folders, or the lists of ILSVRC."""

    kind: Literal["imagenet"]


class CharadesSource(CatalogueSource):
    """Charades: Charades_v1_train.csv and Charades_v1_test.csv."""

    kind: Literal["charades"]


Source = Annotated[
    DemoSource
    | FolderSource
    | UrlsSource
    | HowTo100MSource
    | AudioSetSource
    | UCF101Source
    | HMDB51Source
    | KineticsSource
    | KineticsSoundsSource
    | MomentsInTimeSource
    | ESC50Source
    | YouCook2Source
    | MSRVTTSource
    | ImageNetSource
    | CharadesSource,
    Field(discriminator="kind"),
]


class DownloadParams(Section):
    """The sources that make up the corpus."""

    sources: tuple[Source, ...] = Field(min_length=1)
    fetch: FetchParams = FetchParams()
