"""`lmms-flow doctor`: what works is found to work, what does not is named with what to do, and the status says so."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import lmms_flow
from lmms_flow import cli, versions
from lmms_flow.doctor import checks as doctor
from lmms_flow.doctor import videos as doctor_videos
from lmms_flow.doctor.checks import Finding
from lmms_flow.errors import SampleError
from lmms_flow.harness import host

ROOT = Path(lmms_flow.__file__).parent.parent


def of(part: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.PARTS[part]()}


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    def choose(*parts: str) -> None:
        monkeypatch.setattr(doctor, "PARTS", {part: doctor.PARTS[part] for part in parts})

    return choose


def test_a_machine_that_passes_the_tests_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    parts = {finding["part"] for finding in report["findings"]}
    assert parts == set(doctor.PARTS)
    named = {finding["name"] for finding in report["findings"]}
    assert {"transformers", "lmms-eval", "codec H.264", "reader pyav", "models", "tasks", "records"} <= named
    assert sum(finding["part"].startswith("self-check") for finding in report["findings"]) >= 8


def test_a_machine_without_decord_works(capsys: pytest.CaptureFixture[str], only: Any) -> None:
    """Where it could be installed and is not: a note of who would need it."""
    only("versions")
    tried = versions.tried()
    with pytest.MonkeyPatch.context() as patch:
        without = [replace(one, installed=None) if one.name == "decord" else one for one in tried]
        patch.setattr(versions, "tried", lambda: without)
        found = of("versions")["decord"]
        assert cli.main(["doctor"]) == 0
    if found.status != "ok":  # a platform that has no decord at all needs none
        assert found.status == "note"
        assert "PyAV reads videos instead" in found.todo
    assert "Everything works." in capsys.readouterr().out


def test_the_report_for_people(capsys: pytest.CaptureFixture[str], only: Any) -> None:
    only("platform", "versions")
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "Everything works." in printed
    assert re.search(
        rf"transformers +{re.escape(versions.installed_version('transformers') or '')}; tried: >=", printed
    )


def fake(requirement: str, monkeypatch: pytest.MonkeyPatch) -> Finding:
    monkeypatch.setattr(versions, "requirements", lambda: (Requirement(requirement),))
    (finding,) = of("versions").values()
    return finding


def test_a_package_outside_of_what_was_tried_is_a_note_and_a_missing_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = versions.installed_version("rich")
    assert fake("rich>=1", monkeypatch).status == "ok"
    newer = fake("rich>=1,<2", monkeypatch)
    assert (newer.status, newer.detail) == ("note", f"{here}; tried: >=1,<2")
    assert newer.todo.startswith('pip install "rich>=1,<2"')
    missing = fake("no-such-package>=3", monkeypatch)
    assert (missing.status, missing.todo) == ("fails", 'pip install "no-such-package>=3"')
    elsewhere = fake('no-such-package>=3; platform_machine == "none"', monkeypatch)
    assert elsewhere.status == "ok"


def test_bounds_are_what_the_package_declares() -> None:
    declared = {requirement.name for requirement in versions.requirements()}
    assert {"lmms-eval", "transformers", "torch", "filelock"} <= declared
    assert "pytest" not in declared, "extras are not needed to run"
    assert versions.tried_range("lmms_eval") == versions.tried_range("lmms-eval") != ""
    assert versions.tried_range("no-such-package") == ""
    assert "declares no versions" in versions.what_to_install("no-such-package")


def test_a_part_that_breaks_is_a_finding(only: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def breaks() -> Iterator[Finding]:
        raise RuntimeError("no\nluck")
        yield

    monkeypatch.setattr(doctor, "PARTS", {"platform": doctor._platform, "device": breaks})
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "RuntimeError: no luck" in printed
    assert "FAILS: device, all of it: tell us, with this report" in printed
    assert "1 findings keep something from working" in printed


def test_a_host_that_is_built_otherwise_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from lmms_eval.tasks import TaskManager

    monkeypatch.delattr(TaskManager, "_get_config")
    (finding,) = of("lmms-eval").values()
    assert finding.status == "fails"
    assert str(host.GET_CONFIG) in finding.detail


def test_a_plug_in_that_the_host_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["lmms_eval.models"], "list_available_models", lambda include_aliases: ["other"]
    )
    found = of("lmms-eval")["models"]
    assert (found.status, "entry point is not found" in found.todo) == ("fails", True)


def test_a_folder_that_can_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda place, mode: not str(place).startswith(str(tmp_path)))
    records = of("folders")["records"]
    assert (records.status, "records=FOLDER" in records.todo) == ("fails", True)
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1 << 60)
    assert {finding.status for finding in of("folders").values()} == {"note"}


def test_a_common_codec_that_can_not_be_read_fails_and_others_are_notes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(file: Path, reader: str) -> Any:
        raise SampleError(f"the codec of {file.suffix} is not supported")

    monkeypatch.setattr(doctor_videos, "_read", refuse)
    found = of("videos")
    written = {
        name: finding
        for name, finding in found.items()
        if name.startswith("codec") and "written" not in finding.detail
    }
    assert written["codec H.264"].status == "fails"
    assert {finding.status for name, finding in written.items() if name != "codec H.264"} == {"note"}
    assert "the codec of .mp4 is not supported" in written["codec H.264"].detail


def test_other_frames_than_were_written_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (codec,) = (codec for codec in doctor_videos.CODECS if codec.name == "H.264")
    assert doctor_videos.try_codec(codec, tmp_path).reader
    read = doctor_videos._read

    def backwards(file: Path, reader: str) -> Any:
        frames = read(file, reader)
        return replace(frames, pixels=frames.pixels[::-1])

    monkeypatch.setattr(doctor_videos, "_read", backwards)
    assert "came back as others" in doctor_videos.try_codec(codec, tmp_path).problem


@pytest.mark.skipif(not (ROOT / ".github").is_dir(), reason="an installed package has no templates")
def test_the_bug_report_asks_for_it() -> None:
    template = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text())
    (asked,) = (part for part in template["body"] if part.get("id") == "doctor")
    assert "`lmms-flow doctor`" in asked["attributes"]["label"]
    assert asked["validations"]["required"] is True
