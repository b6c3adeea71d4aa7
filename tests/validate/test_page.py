"""The page is the same every time, needs no network, and shows the data as text."""

import json
import re
from pathlib import Path

import numpy as np

from tests.validate.clean import PARAMS, clean_index, corpus, duplicates, quarantine
from vatt.validate.tables import Corpus, read_quarantine
from vatt.validate.verdict import validate_corpus


def test_what_does_not_exist_is_shown_as_not_judged() -> None:
    index = clean_index()
    index[["caption_offset_s", "caption_score"]] = np.nan
    verdict, page = validate_corpus(corpus(index), PARAMS)
    rules = {rule["name"]: rule for rule in verdict["expectations"]}
    assert rules["captions_fit"]["judged"] == 0
    assert page.count("nothing to judge") == 4


def test_the_page_is_the_same_every_time_and_needs_no_network() -> None:
    index = clean_index()
    index.loc[3:9, "silent_rate"] = 1.0
    judged = corpus(index, num_refused=9)
    pages = [validate_corpus(judged, PARAMS)[1] for _ in range(2)]
    assert pages[0] == pages[1]
    assert not re.findall(r"https?://|<script|<link", pages[0])
    assert "failed: the pipeline stops here" in pages[0]
    assert index["key"][3] in pages[0]
    assert "cut" in pages[0]  # the reason of the quarantine


def test_names_and_reasons_of_a_corpus_are_text_on_the_page() -> None:
    refused = quarantine(9).assign(video_id="<script>1</script>.mp4", reason="no <b>video</b> & no")
    refused["source"] = [f"s{n}" for n in range(9)]
    index = clean_index()
    index.loc[:1, "split"] = "<i>dev</i>"
    _, page = validate_corpus(Corpus(index, refused, duplicates(0)), PARAMS)
    assert not re.findall("<script|<b>|<i>", page)
    assert "no &lt;b&gt;video&lt;/b&gt; &amp; no" in page


def test_a_quarantine_list_may_be_empty_and_keeps_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    path.write_text("", encoding="utf-8")
    assert list(read_quarantine(path).columns) == ["source", "video_id", "reason"]
    assert len(read_quarantine(path)) == 0
    name = "a\u2028b\u0085 \U0001f600.mp4"
    row = {"source": "inbox", "video_id": name, "path": None, "reason": "empty"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_quarantine(path)["video_id"].tolist() == [name]
