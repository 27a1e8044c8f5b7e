"""The run folder: what is published is whole, whatever was killed when."""

from pathlib import Path

import pytest

from cluster import run_folder
from cluster.run_folder import (
    BrokenFolder,
    RunFolder,
    newest_complete,
    publish,
    published_steps,
    read_manifest,
    recover,
    remove_step,
    staging_folder,
    verify,
    write_text,
)
from tests.kills import killed_at_each


def make_folder(parent: Path, step: int, text: str = "weights") -> Path:
    final = parent / run_folder.step_name(step)
    staging = staging_folder(final, attempt=0)
    (staging / "below").mkdir(parents=True)
    (staging / "below" / "weights").write_text(text)
    (staging / "config").write_text("{}")
    publish(staging, final, {"step": step})
    return final


def test_a_published_folder_agrees_with_its_manifest(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, 5)
    manifest = verify(folder)
    assert manifest["step"] == 5
    assert list(manifest["files"]) == ["below/weights", "config"]
    assert (tmp_path / "LATEST").read_text().strip() == folder.name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config").unlink(), "config is missing"),
        (lambda f: (f / "config").write_text("{}}"), "has 3 bytes, the manifest says 2"),
        (lambda f: (f / "config").write_text("[]"), "its SHA-256 differs"),
        (lambda f: (f / "manifest.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "manifest.json").write_text("{}"), "lists no files"),
        (lambda f: (f / "manifest.json").unlink(), "was never published"),
    ],
)
def test_a_folder_that_differs_from_its_manifest_is_broken_and_named(
    spoil: object, message: str, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, 5)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(BrokenFolder, match=message) as caught:
        verify(folder)
    assert folder.name in str(caught.value)


def test_the_newest_whole_folder_is_found_and_the_others_are_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make_folder(tmp_path, step)
    (tmp_path / "step-00000003" / "config").unlink()
    folder, passed_over = newest_complete(tmp_path)
    assert folder == tmp_path / "step-00000002"
    assert len(passed_over) == 1
    assert "step-00000003/config is missing" in passed_over[0]


def test_what_is_still_being_written_does_not_count(tmp_path: Path) -> None:
    staging = staging_folder(tmp_path / "step-00000007", attempt=2)
    staging.mkdir()
    (staging / "weights").write_text("half")
    assert published_steps(tmp_path) == []
    assert newest_complete(tmp_path) == (None, [])
    recover(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_publishing_a_step_again_replaces_it_whole(tmp_path: Path) -> None:
    make_folder(tmp_path, 5, "old")
    folder = make_folder(tmp_path, 5, "new")
    assert (folder / "below" / "weights").read_text() == "new"
    verify(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LATEST", "step-00000005"]


def publish_anew(parent: Path) -> None:
    make_folder(parent, 5, "new")


def test_a_kill_at_any_moment_of_publishing_anew_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    make_folder(tmp_path / "steps", 5, "old")
    found = []
    for parent in killed_at_each(publish_anew, tmp_path / "steps"):
        recover(parent)
        folder = parent / "step-00000005"
        assert newest_complete(parent) == (folder, []), parent
        assert sorted(path.name for path in parent.iterdir()) == ["LATEST", folder.name]
        assert (parent / "LATEST").read_text() == "step-00000005\n"
        found.append((folder / "below" / "weights").read_text())
    assert len(found) > 10
    assert found == sorted(found, reverse=True)  # old, old … new, new
    assert set(found) == {"old", "new"}


def remove_first(parent: Path) -> None:
    remove_step(parent / "step-00000001")


def test_a_kill_at_any_moment_of_a_removal_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    for step in (1, 2):
        make_folder(tmp_path / "steps", step)
    numbers = []
    for parent in killed_at_each(remove_first, tmp_path / "steps"):
        for _, folder in published_steps(parent):
            verify(folder)
        recover(parent)
        names = [folder.name for _, folder in published_steps(parent)]
        assert sorted(path.name for path in parent.iterdir()) == ["LATEST", *names]
        numbers.append(len(names))
    assert len(numbers) > 5
    assert numbers == [2, *[1] * (len(numbers) - 1)]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    def disk_full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_attempts_are_numbered_and_never_shared(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.last_attempt() is None
    assert [run.begin_attempt() for _ in range(3)] == [0, 1, 2]
    assert run.last_attempt() == 2


def test_who_asked_to_stop_first_is_remembered(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.request_stop("the time is up")
    run.request_stop("impatience")
    assert run.stop_request.read_text() == "the time is up\n"
    run.clear_stop_request()
    assert not run.stop_request.exists()


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run folder: it holds no recipe\.yaml"):
        RunFolder.existing(tmp_path)


def test_a_manifest_is_read_without_its_files(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, 1)
    (folder / "config").unlink()
    assert read_manifest(folder)["step"] == 1
