"""`dagster dev` with a real run: cancelled without leftovers, and started from the page."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from orchestration.pipeline import load_pipeline
from tests.browser import open_page
from tests.orchestration.conftest import Server
from tests.orchestration.miniature import out_hash, set_params, wait_until
from tests.orchestration.test_runner import processes_in

LAUNCH = """
mutation ($selector: JobOrPipelineSelector!) {
  launchRun(executionParams: {selector: $selector}) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"
ERRORS = """
query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
  __typename
  ... on MessageEvent { stepKey message level }
  ... on ErrorEvent { error { message } }
} } } }"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
LATEST = """
{ assetNodes { assetKey { path }
  assetMaterializations(limit: 1) { tags { key value } } } }"""
OBSERVED = """
{ assetNodes { assetKey { path } assetObservations(limit: 9) {
  runId metadataEntries { label ... on FloatMetadataEntry { floatValue }
                          ... on IntMetadataEntry { intValue } } } } }"""


def launch(server: Server, job: str) -> str:
    selector = {
        "repositoryLocationName": "vatt",
        "repositoryName": "__repository__",
        "pipelineName": job,
    }
    answer = server.query(LAUNCH, selector=selector)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id: str = answer["run"]["runId"]
    return run_id


def run_ids(server: Server) -> set[str]:
    return {run["runId"] for run in server.query(RUNS)["runsOrError"]["results"]}


def show_events(server: Server, run_id: str) -> str:
    """Return what a run said, for the message of a failed assertion."""
    events = server.query(ERRORS, id=run_id)["logsForRun"]["events"]
    return "\n".join(str(event) for event in events)


def read_status(server: Server, run_id: str) -> str:
    return str(server.query(STATUS, id=run_id)["runOrError"]["status"])


def wait_for(server: Server, run_id: str, status: str, timeout_s: float) -> None:
    ends = {"SUCCESS", "FAILURE", "CANCELED", status}
    describe = partial(show_events, server, run_id)
    wait_until(lambda: read_status(server, run_id) in ends, timeout_s, describe)
    assert read_status(server, run_id) == status, describe()


def end(server: Server, run_id: str, **values: object) -> None:
    """Cancel a run of the stage download, whose parameters are set back."""
    server.query(TERMINATE, id=run_id)
    wait_for(server, run_id, "CANCELED", 60)
    set_params(server.root, "download", sleep_s=0, **values)


def stage_processes(root: Path) -> list[str]:
    """Return the command lines of DVC, the stage and its children; Dagster's own are left out."""
    lines = [" ".join(process.cmdline()) for process in processes_in(root)]
    return [line for line in lines if "dagster" not in line and "multiprocessing" not in line]


@pytest.fixture
def page() -> Iterator[Page]:
    with open_page() as page:
        yield page


@pytest.mark.browser
def test_materialize_all_from_the_page(server: Server, page: Page, tmp_path: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{server.url}/asset-groups")
    known = run_ids(server)
    stages = {stage.asset: name for name, stage in load_pipeline(server.root).stages.items()}
    # The button stands there before the graph is loaded, and then without the number.
    page.get_by_role("button", name=f"Materialize all ({len(stages)})").click()
    wait_until(lambda: run_ids(server) - known, 60)
    (run_id,) = run_ids(server) - known
    wait_for(server, run_id, "SUCCESS", 240)
    for name in stages:
        row = page.get_by_role("button", name=name, exact=False).first
        expect(row.get_by_role("img", name="run_success")).to_be_visible(timeout=120_000)
    page.screenshot(path=tmp_path / "asset_graph.png")

    page.goto(f"{server.url}/assets/validate?view=checks")
    expect(page.get_by_text("This is a blocking asset check.")).to_be_visible()
    expect(page.get_by_text("key_unique")).to_be_visible()
    assert {url for url in requests if not url.startswith((server.url, "data:", "blob:"))} == set()
    for asset in server.query(LATEST)["assetNodes"]:
        for event in asset["assetMaterializations"]:
            tags = {tag["key"]: tag["value"] for tag in event["tags"]}
            version = out_hash(server.root, stages[asset["assetKey"]["path"][0]])
            assert tags["dagster/data_version"] == version


def test_cancelled_run_leaves_no_process(server: Server) -> None:
    set_params(server.root, "download", children="polite", sleep_s=600)
    run_id = launch(server, "everything")
    wait_until(lambda: sum("sleep" in line for line in stage_processes(server.root)) >= 3, 60)
    end(server, run_id, children=None)
    assert stage_processes(server.root) == []


def observed(server: Server, run_id: str) -> list[dict[str, float]]:
    """Return the numbers that a run has shown so far, newest first."""
    (node,) = (
        node
        for node in server.query(OBSERVED)["assetNodes"]
        if node["assetKey"]["path"] == ["download"]
    )
    return [
        {
            entry["label"]: entry.get("floatValue", entry.get("intValue"))
            for entry in event["metadataEntries"]
        }
        for event in node["assetObservations"]
        if event["runId"] == run_id
    ]


def test_numbers_arrive_while_the_run_goes_on(server: Server) -> None:
    lines = [
        {"kind": "curve", "step": 10, "loss": 2.5},
        {"kind": "speed", "step": 10, "x": 1.5},
    ]
    set_params(server.root, "download", numbers=lines, pause_s=2, says="x", sleep_s=600)
    run_id = launch(server, "everything")
    wait_until(lambda: len(observed(server, run_id)) >= 2, 60, partial(show_events, server, run_id))
    assert read_status(server, run_id) == "STARTED"
    first = {"step": 10, "curve/loss": 2.5}
    assert observed(server, run_id) == [{**first, "speed/x": 1.5}, first]
    end(server, run_id, numbers=[])


COUNT_BLUE = """
() => {
  const canvas = document.querySelector("canvas");
  if (canvas === null) return 0;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 128 && data[i + 2] > data[i] + 64) count += 1;
  return count;
}"""
"""The blue pixels of the first plot."""


@pytest.mark.browser
def test_curves_are_seen_while_the_run_goes_on(server: Server, page: Page, tmp_path: Path) -> None:
    """Also with other numbers in between the curve is one line."""
    lines = [{"kind": "curve", "step": step, "a_loss": 9 / step} for step in (4, 8)]
    lines.insert(1, {"kind": "speed", "step": 4, "x": 1.5})
    set_params(server.root, "download", numbers=lines, pause_s=5, sleep_s=600)
    run_id = launch(server, "everything")
    try:
        describe = partial(show_events, server, run_id)
        wait_until(lambda: len(observed(server, run_id)) >= 3, 120, describe)
        page.goto(f"{server.url}/assets/download?view=events")
        expect(page.get_by_text("curve/a_loss")).to_be_visible(timeout=120_000)
        expect(page.get_by_text("1.125")).to_be_visible(timeout=120_000)
        page.goto(f"{server.url}/assets/download")
        page.get_by_role("button", name="Plots").click(timeout=120_000)
        expect(page.get_by_text("curve/a_loss")).to_be_visible(timeout=120_000)
        page.wait_for_function(f"({COUNT_BLUE})() > 150", timeout=120_000)  # two dots: 50
        page.screenshot(path=tmp_path / "curves.png", full_page=True)
        assert read_status(server, run_id) == "STARTED"
    finally:
        end(server, run_id, numbers=[], pause_s=0)
