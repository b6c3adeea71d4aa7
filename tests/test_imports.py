"""The library imports without the tools of the pipeline, and the command line without torch."""

import json
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ["dagster", "dvc", "deepspeed", "great_expectations", "optuna"]
OWNERS = {
    *("vatt.validate.expectations", "vatt.validate.verdict", "vatt.stages.validate"),
    *("vatt.tune.outcome", "vatt.tune.search", "vatt.tune.study", "vatt.tune.workers"),
    "vatt.stages.tune",
}
"""The modules that need a tool to be imported; the engine imports DeepSpeed when it starts."""

# Imports every module with some packages hidden; prints those that fail.
IMPORTER = """
import importlib, json, pkgutil, sys
hidden = set(sys.argv[1:])
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"hidden: {name}")
sys.meta_path.insert(0, Blocker())
import vatt
failed = []
for module in pkgutil.walk_packages(vatt.__path__, "vatt."):
    if module.name != "vatt.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert "hidden" in str(error), (module.name, error)
            failed.append(module.name)
print(json.dumps(failed))
"""


def test_the_library_imports_without_the_tools_of_the_pipeline() -> None:
    command = [sys.executable, "-c", IMPORTER, *TOOLS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == OWNERS


def test_help_is_quick_and_does_not_import_torch() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "vatt", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "vatt.params" in imported
    assert imported & {"torch", "pandas", "great_expectations", "av", "deepspeed"} == set()
    assert "preprocess" in done.stdout
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < 1.0
