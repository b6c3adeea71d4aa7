"""`dagster dev` with a real run: cancelled without leftovers, and started from the page."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from orchestration.pipeline import load_pipeline
from tests.orchestration.conftest import Server
from tests.orchestration.miniature import out_hash, set_params
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
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
LATEST = """
{ assetNodes { assetKey { path }
  assetMaterializations(limit: 1) { tags { key value } } } }"""


def launch(server: Server, job: str) -> str:
    selector = {
        "repositoryLocationName": "orchestration.definitions",
        "repositoryName": "__repository__",
        "pipelineName": job,
    }
    answer = server.query(LAUNCH, selector=selector)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    run_id: str = answer["run"]["runId"]
    return run_id


def wait_for(server: Server, run_id: str, status: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (now := server.query(STATUS, id=run_id)["runOrError"]["status"]) != status:
        assert time.monotonic() < deadline, now
        assert now not in {"SUCCESS", "FAILURE", "CANCELED"}, now
        time.sleep(0.2)


def stage_processes(root: Path) -> list[str]:
    """Return the command lines of DVC, the stage and its children; Dagster's own are left out."""
    lines = [" ".join(process.cmdline()) for process in processes_in(root)]
    return [line for line in lines if "dagster" not in line and "multiprocessing" not in line]


def test_cancelled_run_leaves_no_process(server: Server) -> None:
    set_params(server.root, "download", children="polite", sleep_s=600)
    run_id = launch(server, "everything")
    deadline = time.monotonic() + 60
    while sum("sleep" in line for line in stage_processes(server.root)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.query(TERMINATE, id=run_id)
    wait_for(server, run_id, "CANCELED", 60)
    set_params(server.root, "download", children=None, sleep_s=0)
    assert stage_processes(server.root) == []


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("NO BROWSER: chromium was not found, so the Dagster UI was not tested")
    quiet = ["background-networking", "component-update", "sync", "gpu"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)],
        )
        yield browser.new_page(viewport={"width": 1600, "height": 1000})
        browser.close()


@pytest.mark.browser
def test_materialize_all_from_the_page(server: Server, page: Page, tmp_path: Path) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{server.url}/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    for name in load_pipeline(server.root).stages:
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
            version = out_hash(server.root, asset["assetKey"]["path"][0])
            assert tags["dagster/data_version"] == version
