"""Numbers of the papers stand beside ours where the data set is theirs."""

from vatt.evaluate.published import list_published


def test_they_are_found_by_the_names_of_sources() -> None:
    rows = list_published(["UCF-101", "esc50", "demo", "inbox"], ["demo", "inbox"])
    assert {row.data_set for row in rows} == {"ucf101", "esc50"}
    values = {(row.data_set, row.model): row.value for row in rows}
    assert values["ucf101", "VATT-Medium, LRC"] == 0.896
    assert values["esc50", "VATT-Medium, SVM"] == 0.825
    assert list_published(["demo"], ["demo"]) == []


def test_videos_and_pictures_have_two_measures() -> None:
    rows = list_published(["Kinetics-400", "Kinetics-700", "ImageNet", "Moments in Time"], [])
    found = {(row.data_set, row.model, row.measure): row.value for row in rows}
    assert found["kinetics400", "VATT-Base", "accuracy"] == 0.796
    assert found["kinetics400", "VATT-Base", "top5"] == 0.949
    assert found["kinetics400", "VATT from scratch", "top5"] == 0.518
    assert found["kinetics700", "VATT-Large", "top5"] == 0.905
    assert found["momentsintime", "VATT-MA-Medium", "top5"] == 0.659
    assert found["imagenet", "VATT-Base", "top5"] == 0.939
    assert len(found) == len(rows) == 2 * (5 + 1 + 4 + 2)


def test_sounds_have_three_measures_and_ranks_are_no_shares() -> None:
    sounds = [row for row in list_published(["audioset"], []) if row.model == "VATT-Base"]
    assert {row.measure: row.value for row in sounds} == {
        "map": 0.394,
        "auc": 0.971,
        "d_prime": 2.895,
    }
    found = {(row.model, row.measure): row.value for row in list_published([], ["YouCook2"])}
    assert found["VATT-MBS", "r10"] == 0.455
    assert found["VATT-MBS", "median_rank"] == 13


def test_retrieval_of_several_sources_stands_beside_no_published_number() -> None:
    names = ["youcook2", "demo"]
    assert list_published(names, names) == []
    assert {row.task for row in list_published(names, ["youcook2"])} == {"text_to_video"}
