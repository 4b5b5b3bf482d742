"""The wheel carries its configs, and runs where the checkout is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

import ltcam_cli
from ltcam_cli.experiments.config_files import conf_dir

SHIPPED = [
    "ltcam_cli",
    "hydra_plugins",
    "conf",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    ".gitignore",
]


def call(*args: object, folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    command = [str(arg) for arg in args]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_checkout_finds_its_configs() -> None:
    assert Path(ltcam_cli.__file__).resolve() == REPOSITORY / "ltcam_cli/__init__.py"
    assert conf_dir() == REPOSITORY / "conf"


FAKE_PYTHON = """\
#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in *"config list"*) echo "$SETTINGS" ;; esac
"""


@pytest.mark.parametrize(
    ("args", "settings", "installed"),
    [
        ([], "", ["--editable ."]),
        (["dev"], "", ["--editable .[dev]"]),
        (
            ["--cpu", "all"],
            "global.timeout='60'",
            [
                "--index-url https://download.pytorch.org/whl/cpu torch torchvision",
                "--editable .[all]",
            ],
        ),
        (
            ["--cpu"],
            ":env:.index-url='https://user.example'",
            ["torch torchvision", "--editable ."],
        ),
        (["--cpu"], "global.extra-index-url='x'", ["torch torchvision", "--editable ."]),
    ],
)
def test_setup_takes_the_cpu_build_if_asked_and_no_index_is_configured(
    tmp_path: Path, args: list[str], settings: str, installed: list[str]
) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts/setup", tmp_path / "scripts")
    for name in ("python", "ltcam"):
        program = tmp_path / ".venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(FAKE_PYTHON)
        program.chmod(0o755)
    log = tmp_path / "log"
    environment = {**os.environ, "LOG": str(log), "SETTINGS": settings}
    subprocess.run([tmp_path / "scripts/setup", *args], env=environment, check=True)
    pip = "-m pip install --quiet --disable-pip-version-check "
    calls = log.read_text().splitlines()
    assert [call for call in calls if " install " in call] == [pip + words for words in installed]


def test_dockerfile_copies_what_it_installs() -> None:
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    words = [name for name, _ in steps]
    assert words[0] == "FROM" and words.count("FROM") == 1 and words.count("RUN") <= 4
    given = dict(steps)
    image, _, tag = given["FROM"].partition(":")
    assert image == "python" and re.fullmatch(r"3\.1[0-3]-slim-\w+", tag)
    assert given["USER"] not in {"root", "0"} and words.index("USER") > words.index("RUN")
    assert given["ENTRYPOINT"] == '["ltcam"]'
    copied = set()
    for name, rest in steps:
        if name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                assert (REPOSITORY / source).exists()
                assert target in {"/src/", f"/src/{source}"}
                copied.add(source)
        if name == "RUN":
            assert set(re.findall(r"/src\S*", rest)) <= {'/src[report,deploy]"'}
            assert set(re.findall(r"https?://\S+", rest)) <= {
                "https://download.pytorch.org/whl/cpu"
            }
    assert copied == {*SHIPPED} - {".gitignore"}


def test_nothing_is_imported_that_only_posix_has(tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, sys\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "import ltcam_cli\n"
        "for module in pkgutil.walk_packages(ltcam_cli.__path__, 'ltcam_cli.'):\n"
        "    importlib.import_module(module.name)\n"
        "from pathlib import Path\n"
        "from ltcam_cli.files import exclusive, write_text\n"
        "with exclusive(Path('a')): write_text(Path('b'), 'written')\n"
        "from ltcam_cli.cli import app; app(['--version'])\n"
    )
    assert call(sys.executable, "-c", program, folder=tmp_path).startswith("ltcam ")
    assert (tmp_path / "b").read_text() == "written"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout that also holds images and results."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SHIPPED:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    for name in ("data/kos01/Part0.jpg", "outputs/run/results.csv", "ltcam_cli/x.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("not to be shipped")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    call(*build, source, folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_package_and_configs_alone(wheel: Path) -> None:
    assert wheel.name == f"ltcam-{ltcam_cli.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (metadata,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "ltcam = ltcam_cli.__main__:main" in content.read(metadata).decode()
    inside = {name for name in names if ".dist-info/" not in name}
    inside.remove("hydra_plugins/ltcam_ray.py")
    assert all(name.startswith("ltcam_cli/") for name in inside)
    shipped = {name for name in inside if name.endswith(".yaml")}
    assert shipped == {
        f"ltcam_cli/conf/{path.relative_to(REPOSITORY / 'conf').as_posix()}"
        for path in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert "ltcam_cli/conf/base.yaml" in shipped
    pages = (REPOSITORY / "ltcam_cli/report/page").iterdir()
    page = {f"ltcam_cli/report/page/{path.name}" for path in pages}
    others = {name for name in inside if not name.endswith((".py", ".yaml", "py.typed"))}
    assert others == page | {"ltcam_cli/report/paper.csv"}


@pytest.mark.slow
def test_wheel_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    fresh, elsewhere = tmp_path / "fresh", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(fresh)
    scripts = fresh / ("Scripts" if os.name == "nt" else "bin")
    python, ltcam = scripts / "python", scripts / "ltcam"
    # The dependencies are lent by this environment: their folder, but not what its .pth files add,
    # so that the checkout cannot be found.
    libraries = call(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=elsewhere
    )
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(libraries.strip(), "lent.pth").write_text("\n".join(lent))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    call(*pip, "--quiet", wheel, folder=elsewhere)

    where = "from ltcam_cli.experiments.config_files import conf_dir; print(conf_dir())"
    found = Path(call(python, "-c", where, folder=elsewhere).strip())
    assert found == Path(libraries.strip()).resolve() / "ltcam_cli/conf"
    assert "evaluate" in call(ltcam, "--help", folder=elsewhere)
    for program in ([ltcam], [python, "-m", "ltcam_cli"]):
        shown = call(*program, "config", "evaluate", "--method", "ltgradcam", folder=elsewhere)
        assert yaml.safe_load(shown)["method"]["delta"] == 50
    assert "ltfullgrad" in call(ltcam, "methods", folder=elsewhere)
    launcher = [ltcam, "evaluate", "hydra/launcher=ray", "--run", "nobody"]
    refused = subprocess.run(launcher, cwd=elsewhere, capture_output=True, text=True)
    assert refused.stderr.startswith("ltcam: run=nobody: no such run")  # the launcher is known
    numbers = "from ltcam_cli.report.paper import printed_numbers as p; print(len(p()))"
    assert call(python, "-c", numbers, folder=elsewhere).strip() == "20"
