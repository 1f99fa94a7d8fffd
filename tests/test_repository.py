"""The repository keeps its promises: ladder, notebooks and modules in step, versions, wheel, imports."""
import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import notebooks
import pytest

import mmtutor

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mmtutor"
# Every chapter that the ladder knows, whether it is written yet or not (design: reading order is import order).
LADDER = """index 00_notation 01_attention 02_positions 03_multihead 04_transformer 04_seq2seq 05_data 05_tasks
05_augment 05_reading 05_loading 05_subsets
06_text 06_masked 07_convolution 07_vision 07_looking 08_listening 08_audio
09_pooled 09_crossmodal 09_fusion 10_retrieval 10_objectives 10_multitask 11_binding 11_multimodal 12_transfusion
13_optimiser 13_finetune 14_freezing 14_rates 14_checkpointing 14_lora 15_accumulation
16_conditions 16_evaluation 16_calibration 16_agreement 17_ledger 17_frameworks 17_keras_head
18_processes 18_sharding 18_scaling 19_inputs 19_questions 19_capstone 19_inference 19_verdicts""".split()
ENCODERS = {"text", "vision", "audio"}
SUPPORT = {"files", "weights", "records", "figures", "emoji", "checkpoints", "report", "cli", "dates",
           "interactive", "attention_explorer", "exercises", "outcomes", "cards", "progress",
           "ex_attention", "ex_positions", "ex_multihead", "ex_transformer", "ex_data", "ex_augment", "ex_loading",
           "ex_text", "ex_masked", "ex_vision", "ex_looking", "ex_audio",
           "spectrogram_explorer", "ex_transfusion",
           "tables", "gallery", "patch_explorer", "ex_families", "ex_tasks", "ex_reading", "parts",
           "ex_pooled", "ex_fusion", "ex_binding", "ex_objectives", "ex_multitask", "ex_multimodal", "sketch",
           "similarity_explorer", "fusion_chooser",
           "ex_finetune", "ex_freezing", "ex_rates", "ex_lora", "ex_accumulation", "ex_evaluation", "ex_calibration",
           "ex_agreement", "ex_frameworks", "ex_scaling", "ex_capstone",
           "rating", "watching", "jobs", "card", "merging", "workspace", "check"}
CLI_ONLY = {"cli"}


def exports() -> dict[str, Path]:
    "Module name (with dots, without mmtutor) → the notebook that exports it."
    found = {}
    for path in notebooks.chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                for name in re.findall(r"^#\| (?:default_exp|export) ([\w.]+)", cell.source, re.M):
                    assert found.setdefault(name, path) == path, f"two notebooks export {name}"
    return found


def rung(path: Path) -> int:
    return LADDER.index(path.stem) if path.stem in LADDER else -1


def imports(path: Path) -> list[tuple[str, bool]]:
    "Modules of mmtutor that a file imports, as `text` or `course.files`, and whether with a star."
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            star = any(a.name == "*" for a in node.names)
            module = node.module or ""
            if node.level:  # nbdev writes the package's own imports as relative ones
                package = ("mmtutor", *path.relative_to(PACKAGE).parent.parts)
                module = ".".join([*package[:len(package) - node.level + 1], *filter(None, [module])])
            if module == "mmtutor":
                found += [(a.name, star) for a in node.names]
            elif module == "mmtutor.course":
                found += [(f"course.{a.name}", star) for a in node.names]
            elif module.startswith("mmtutor."):
                found.append((module.removeprefix("mmtutor."), star))
            elif star:
                found.append((module, True))
        elif isinstance(node, ast.Import):
            found += [(a.name.removeprefix("mmtutor."), False) for a in node.names if a.name.startswith("mmtutor.")]
    return found


def modules() -> dict[str, Path]:
    names = {p: ".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in PACKAGE.rglob("*.py")}
    return {n: p for p, n in names.items() if p.name not in ("__init__.py", "_modidx.py", "__main__.py")}


def test_chapters_are_those_of_the_ladder():
    here = {p.stem for p in notebooks.chapters() if p.parent == notebooks.NBS}
    assert here <= set(LADDER), f"not in the ladder: {here - set(LADDER)}"
    support = {p.stem for p in notebooks.chapters() if p.parent != notebooks.NBS}
    assert support <= SUPPORT, f"unknown support notebooks: {support - SUPPORT}"
    pages = {re.sub(r"^\d+_", "", name) for name in LADDER}
    assert len(pages) == len(LADDER), "page names must differ without their numbers"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_climb_the_ladder(name):
    home = exports()
    for target, star in imports(modules()[name]):
        assert not star, f"{name} imports * from {target}"
        if target in ("__version__", "course"):
            continue
        if target.startswith("course."):
            assert target.split(".")[1] not in CLI_ONLY, f"{name} imports the command line"
            continue
        if name.startswith("course."):
            assert name.split(".")[1] in CLI_ONLY, f"support module {name} imports the chapter {target}"
            continue
        assert target in home, f"{name} imports mmtutor.{target}, which no notebook exports"
        ours, theirs = home[name], home[target]
        assert rung(theirs) < rung(ours) or (ours == theirs and name != target), (
            f"{name} ({ours.name}) imports {target} ({theirs.name}): not lower on the ladder")
        assert not ({name, target} <= ENCODERS), f"the encoders {name} and {target} must not import each other"


def test_no_stale_module_and_none_missing():
    assert set(modules()) == set(exports()), "modules and default_exp differ: export, delete what is stale"


def test_modules_stay_small():
    "A module holds one idea. Lists of exercises are content, not code, and may be as long as the exercises are many."
    long = {n: k for n, p in modules().items() if not n.startswith("course.ex_")
            and (k := len(p.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long, f"more than one idea in a module: {long}"


def test_exported_code_is_in_step(tmp_path):
    "Delete everything, export again, compare."
    target = tmp_path / "mmtutor"
    code = ("import sys; from nbdev.export import nb_export\n"
            "for path in sys.argv[2:]: nb_export(path, sys.argv[1])")
    subprocess.run([sys.executable, "-c", code, str(target), *map(str, notebooks.chapters())], check=True, cwd=ROOT)
    fresh = {str(p.relative_to(target)): p.read_text(encoding="utf-8") for p in target.rglob("*.py")}
    def strip(text):  # the comments that hold a path relative to the target
        return re.sub(r"^# %% .*$|File to edit: .*", "", text, flags=re.M)
    for name, path in modules().items():
        relative = str(path.relative_to(PACKAGE))
        assert relative in fresh, f"{name} comes from no notebook"
        assert strip(fresh[relative]) == strip(path.read_text(encoding="utf-8")), f"mmtutor/{relative}: run make export"


def test_version_is_that_of_settings_ini():
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    assert mmtutor.__version__ == ini["DEFAULT"]["version"]
    assert f"## {mmtutor.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {mmtutor.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    wheels = re.findall(r"mmtutor-([\d.]+)-py3", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert wheels and set(wheels) == {mmtutor.__version__}, "the wheel that the README installs"


def test_constraints_satisfy_the_requirements():
    from packaging.requirements import Requirement
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(re.match(r"([\w.-]+)==(\S+)$", line).groups() for line in lines if line and not line.startswith("#"))
    pins = {re.sub(r"[-_.]+", "-", k).lower(): v for k, v in pins.items()}
    for key, text in ini["DEFAULT"].items():
        if key.endswith("requirements"):
            for line in text.split():
                need = Requirement(line)
                if need.name != "pip":
                    pin = pins[need.name.lower()]
                    assert need.specifier.contains(pin), f"{line}: constraints pin {pin}"


def test_the_extra_course_holds_what_the_notebooks_import():
    "A learner has no development packages."
    from importlib.metadata import packages_distributions

    from packaging.requirements import Requirement
    ini = configparser.ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    def named(*keys):
        return {Requirement(r).name.lower() for key in keys for r in ini["DEFAULT"][f"{key}requirements"].split()}
    extra = named("dev_") - named("", "speech_", "course_")
    home = packages_distributions()
    for path in notebooks.chapters():
        code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code")
        for module in set(re.findall(r"^\s*(?:from|import) (\w+)", code, re.M)):
            found = {name.lower() for name in home.get(module, [])}
            assert not found & extra, f"{path.name} imports {module}: move it to course_requirements in settings.ini"


def test_readme_is_the_index():
    import readme
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.from_index(), "run make readme"


def test_import_is_light():
    "Importing the package brings none of the heavy libraries, and importing every chapter none of the optional ones."
    heavy = ["torch", "transformers", "datasets", "lightning", "keras", "sklearn", "matplotlib"]
    code = f"import sys, mmtutor; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    heavy = ["transformers", "datasets", "lightning", "keras", "sklearn", "librosa"]
    names = [f"mmtutor.{n}" for n in modules()]
    code = (f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\n"
            f"print([m for m in {heavy} if m in sys.modules])")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.slow
def test_wheel_holds_the_course(tmp_path):
    "The wheel has every module, every notebook and every recorded run, and nothing of the tests."
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(
        ".venv*", ".git", "_docs", "_proc", "build", "runs", "*.egg-info", "__pycache__", ".ipynb_checkpoints"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
                    "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in notebooks.chapters():
        assert f"mmtutor/notebooks/{path.relative_to(notebooks.NBS)}" in names
    for path in (ROOT / "results").glob("*.json"):
        assert f"mmtutor/results/{path.name}" in names
    for path in modules().values():
        assert str(path.relative_to(ROOT)) in names
    assert not [n for n in names if n.startswith(("tests", "scripts"))]
    out = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(out)
    code = ("import mmtutor.course.records as r\n"
            "print(len(list(r.notebooks_dir().glob('*.ipynb'))), r.results_dir().is_dir())")
    run = subprocess.run([sys.executable, "-c", code], cwd=out, env={"PYTHONPATH": str(out), "PATH": ""},
                         capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(list(notebooks.NBS.glob("*.ipynb")))), "True"]


def test_ruff_is_content():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


def test_no_committed_file_carries_a_machine():
    "No absolute path of one machine in any tracked text file."
    files = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True).stdout.split()
    pattern = re.compile(r"(?<![\w.~/:<])/(?:home/[a-z]+|root|work|tmp/[a-z]{1,12}/)[/\w]")
    assert files or not (ROOT / ".git").exists()
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".toml", ".ini", ".md", ".json", ".yml", ".txt", ".cff", "") and path.is_file():
            if path.name in ("test_notebooks.py", "test_repository.py"):
                continue
            found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name}: {found[0]}"
