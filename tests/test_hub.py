"""The loopback hub answers huggingface_hub as the real one would, and serves nothing else."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from tests.support.hub import Hub, serve


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Hub]:
    """A hub of its own: these tests count requests."""
    with serve(tmp_path / "hub") as hub:
        folder = hub.folder("datasets", "org/toy")
        (folder / "json").mkdir()
        (folder / "json" / "rows.json").write_text("[1, 2, 3]")
        (folder / "README.md").write_text("# toy\n")
        yield hub


def test_snapshot_is_complete_and_downloaded_once(toy: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        folder = snapshot_download(
            "org/toy", repo_type="dataset", endpoint=toy.url, cache_dir=tmp_path / "cache"
        )
    assert Path(folder, "json", "rows.json").read_text() == "[1, 2, 3]"
    assert toy.counts["GET datasets/org/toy/json/rows.json"] == 1


def test_a_changed_file_is_a_new_commit(toy: Hub) -> None:
    api = HfApi(endpoint=toy.url)
    before = api.dataset_info("org/toy").sha
    (toy.folder("datasets", "org/toy") / "json" / "rows.json").write_text("[]")
    assert api.dataset_info("org/toy").sha != before


def test_a_branch_by_another_name(toy: Hub, tmp_path: Path) -> None:
    with pytest.raises(RevisionNotFoundError):
        HfApi(endpoint=toy.url).dataset_info("org/toy", revision="video")
    toy.branches["datasets/org/toy"] = "video"
    folder = snapshot_download(
        "org/toy", repo_type="dataset", revision="video", endpoint=toy.url, cache_dir=tmp_path / "cache"
    )
    assert Path(folder, "README.md").read_text() == "# toy\n"


def test_part_of_a_file(toy: Hub) -> None:
    """Archives are read in ranges."""
    with HfFileSystem(endpoint=toy.url).open("datasets/org/toy/json/rows.json", block_size=4) as file:
        file.seek(4)
        assert file.read(2) == b"2,"


def test_what_is_not_there_has_the_hubs_own_error(toy: Hub, tmp_path: Path) -> None:
    api = HfApi(endpoint=toy.url)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/toy")  # it is a data set
    with pytest.raises(RevisionNotFoundError):
        api.dataset_info("org/toy", revision="v2")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("org/toy", "none.json", repo_type="dataset", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/org/toy/resolve/main/../../../../secret.txt",
        "/datasets/org/toy/resolve/main/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "/datasets/org/toy/resolve/main/link.txt",
        "/datasets/../../resolve/main/secret.txt",
        "/api/datasets/../..",
    ],
)
def test_no_path_leaves_the_folder(toy: Hub, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (toy.folder("datasets", "org/toy") / "link.txt").symlink_to(tmp_path / "secret.txt")
    connection = http.client.HTTPConnection(toy.url.removeprefix("http://"))
    connection.request("GET", path)  # as it stands: other clients would shorten the path first
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"secret" not in answer.read().replace(b"secret.txt", b"")
    connection.close()
