"""The test Hub, as the real client sees it."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    ModelCard,
    constants,
    get_session,
    hf_hub_download,
    list_repo_tree,
    model_info,
    snapshot_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, ResNetConfig

REPO = "org/name"
WEIGHTS = bytes(range(256)) * 1024
FILES = {"config.json": b'{"model_type": "resnet", "depths": [1, 1]}', "sub/model.safetensors": WEIGHTS}


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files on disk, one regular and one for LFS."""
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def read_folder(path: str | Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}


def download(path: str, **options) -> bytes:
    return Path(hf_hub_download(REPO, path, **options)).read_bytes()


class TestRepos:
    def test_create_and_delete(self, hub, api):
        assert not api.repo_exists(REPO)
        assert api.create_repo(REPO).repo_id == REPO
        assert api.repo_exists(REPO)
        assert not api.repo_exists(REPO, repo_type="dataset")
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_repo(REPO)
        assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
        api.delete_repo(REPO)
        assert not api.repo_exists(REPO)
        with pytest.raises(RepositoryNotFoundError):
            api.delete_repo(REPO)

    def test_a_name_alone_belongs_to_the_user(self, hub, api):
        assert api.create_repo("name").repo_id == f"{api.whoami()['name']}/name"

    def test_branches_and_tags(self, hub, api):
        old = hub.put(REPO, {"a.txt": b"old"})
        api.create_tag(REPO, tag="v1")
        api.create_branch(REPO, branch="try/this", revision=old)
        with pytest.raises(HfHubHTTPError, match="409"):
            api.create_branch(REPO, branch="try/this")
        commit = api.upload_file(path_or_fileobj=b"tried", path_in_repo="a.txt", repo_id=REPO, revision="try/this")
        hub.put(REPO, {"a.txt": b"new"})

        assert [download("a.txt", revision=name) for name in ("main", "v1", "try/this")] == [b"new", b"old", b"tried"]
        refs = api.list_repo_refs(REPO)
        assert {ref.name: ref.target_commit for ref in refs.branches}["try/this"] == commit.oid
        assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", old)]
        with pytest.raises(RevisionNotFoundError):
            download("a.txt", revision="v2")

    def test_listings(self, hub, api):
        sha = hub.put(REPO, {**FILES, "README.md": b"---\nlicense: mit\ntags:\n- a\n---\n# Card"})
        info = model_info(REPO, files_metadata=True)
        assert (info.sha, info.card_data.license, info.tags, info.private) == (sha, "mit", ["a"], False)
        assert {file.rfilename: file.size for file in info.siblings}["sub/model.safetensors"] == len(WEIGHTS)
        assert [entry.path for entry in list_repo_tree(REPO)] == ["README.md", "config.json", "sub"]
        assert [entry.path for entry in list_repo_tree(REPO, "sub", recursive=True)] == ["sub/model.safetensors"]
        with pytest.raises(RemoteEntryNotFoundError):
            list(list_repo_tree(REPO, "none"))
        found = api.get_paths_info(REPO, ["sub/", "sub/model.safetensors", "none"])
        assert [entry.path for entry in found] == ["sub", "sub/model.safetensors"]
        assert found[1].lfs.size == len(WEIGHTS)


class TestUploads:
    def test_folder(self, hub, api, folder):
        api.create_repo(REPO)
        commit = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="first")
        assert hub.files(REPO) == FILES
        assert [commit.title for commit in hub.commits(REPO)] == ["first", "initial commit"]
        assert hub.commits(REPO)[0].sha == commit.oid
        stored = hub.repos[REPO].find("main").files
        assert {path: file.is_lfs for path, file in stored.items()} == {
            "config.json": False,
            "sub/model.safetensors": True,
        }
        (upload,) = hub.requests.matching("PUT", "/lfs/")
        assert "authorization" not in upload.headers

    def test_what_has_not_changed_makes_no_commit(self, hub, api, folder):
        api.create_repo(REPO)
        first = api.upload_folder(repo_id=REPO, folder_path=folder)
        hub.requests.clear()
        assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first.oid
        assert len(hub.commits(REPO)) == 2
        assert not hub.requests.matching("PUT")
        assert not hub.requests.matching("POST", "/commit/")

    def test_deletions(self, hub, api):
        hub.put(REPO, {**FILES, "sub/more.txt": b"", "a.txt": b""})
        api.delete_folder("sub", repo_id=REPO)
        api.delete_file("a.txt", repo_id=REPO)
        assert list(hub.files(REPO)) == ["config.json"]
        with pytest.raises(RemoteEntryNotFoundError):
            api.delete_file("a.txt", repo_id=REPO)

    def test_a_pull_request_leaves_main_alone(self, hub, api):
        sha = hub.put(REPO, FILES)
        options = {"path_or_fileobj": b"{}", "path_in_repo": "config.json", "repo_id": REPO}
        assert api.upload_file(**options, create_pr=True).pr_revision == "refs/pr/1"
        assert hub.commits(REPO)[0].sha == sha
        assert download("config.json", revision="refs/pr/1") == b"{}"

    def test_a_commit_on_another_than_its_parent_is_refused(self, hub, api):
        parent = hub.put(REPO, {"a.txt": b"1"})
        hub.put(REPO, {"a.txt": b"2"})
        addition = CommitOperationAdd("a.txt", b"3")
        with pytest.raises(HfHubHTTPError, match="412"):
            api.create_commit(REPO, [addition], commit_message="late", parent_commit=parent)
        assert hub.files(REPO) == {"a.txt": b"2"}

    def test_a_chunked_body_is_decoded(self, hub, api):
        sent = json.dumps({"name": "name", "organization": "org"}).encode()
        url, headers = f"{hub.endpoint}/api/repos/create", {"authorization": f"Bearer {hub.token}"}
        assert get_session().post(url, headers=headers, content=iter([sent[:10], sent[10:]])).status_code == 200
        assert list(hub.repos) == [REPO]

    def test_an_upload_that_breaks_leaves_no_commit(self, hub, api, folder):
        api.create_repo(REPO)
        hub.drop("PUT", "/lfs/", times=99, after_bytes=1000)
        with pytest.raises(RuntimeError, match=r"Error while uploading 'sub/model\.safetensors'"):
            api.upload_folder(repo_id=REPO, folder_path=folder)
        hub.heal()
        hub.drop("POST", "/commit/", after_bytes=10)
        with pytest.raises(Exception, match="(?i)disconnected|reset|broken pipe"):
            api.upload_folder(repo_id=REPO, folder_path=folder)
        assert hub.files(REPO) == {}
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert hub.files(REPO) == FILES

    def test_an_upload_that_breaks_once_is_sent_again(self, hub, api, folder):
        api.create_repo(REPO)
        hub.drop("PUT", "/lfs/", after_bytes=1000)
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert hub.files(REPO) == FILES
        assert [request.status for request in hub.requests.matching("PUT")] == [0, 200]


class TestCards:
    CARD = "---\n{}\n---\n# Card"

    def test_a_good_card_is_pushed(self, hub, api):
        api.create_repo(REPO)
        ModelCard(self.CARD.format("license: mit")).push_to_hub(REPO)
        assert list(hub.files(REPO)) == ["README.md"]
        assert "authorization" not in hub.requests.matching("POST", "validate-yaml")[0].headers

    @pytest.mark.parametrize(
        ("metadata", "problem"),
        [
            ("license: [mit]", "license"),
            ("model-index: {name: a}", "model-index"),
            ("- a", "mapping"),
            ("a: [", "invalid yaml"),
        ],
    )
    def test_a_bad_card_is_not(self, hub, api, metadata, problem):
        api.create_repo(REPO)
        with pytest.raises(ValueError, match=problem):
            upload_card(api, self.CARD.format(metadata))
        assert hub.files(REPO) == {}

    def test_a_card_without_metadata_is_warned_of(self, hub, api):
        api.create_repo(REPO)
        with pytest.warns(UserWarning, match="empty or missing yaml"):
            upload_card(api, "# Card")
        assert list(hub.files(REPO)) == ["README.md"]


def upload_card(api: HfApi, content: str) -> None:
    api.upload_file(path_or_fileobj=content.encode(), path_in_repo="README.md", repo_id=REPO)


class TestDownloads:
    def test_main_and_an_older_commit(self, hub):
        old = hub.put(REPO, FILES)
        new = hub.put(REPO, {"config.json": b"{}", "sub/model.safetensors": WEIGHTS[::-1]})
        assert download("config.json") == b"{}"
        assert download("config.json", revision=old) == FILES["config.json"]
        assert read_folder(snapshot_download(REPO)) == hub.files(REPO) == hub.files(REPO, new)
        assert read_folder(snapshot_download(REPO, revision=old)) == FILES == hub.files(REPO, old)

    def test_missing_things(self, hub):
        with pytest.raises(RepositoryNotFoundError):
            download("config.json")
        hub.put(REPO, FILES)
        with pytest.raises(RemoteEntryNotFoundError):
            download("none.json")

    def test_the_cache_serves_when_the_server_is_gone(self, hub):
        hub.put(REPO, FILES)
        assert AutoConfig.from_pretrained(REPO).depths == [1, 1]
        snapshot_download(REPO)
        hub.stop()
        assert AutoConfig.from_pretrained(REPO).depths == [1, 1]
        assert read_folder(snapshot_download(REPO)) == FILES
        with pytest.raises(LocalEntryNotFoundError):
            download("none.json")

    @pytest.mark.parametrize("hub", [{"cdn": True}], indirect=True)
    def test_the_other_origin_gets_no_token(self, hub):
        hub.put(REPO, FILES, private=True)
        assert read_folder(snapshot_download(REPO)) == FILES
        (served,) = (request for request in hub.requests if request.on_cdn)
        assert (served.method, served.status) == ("GET", 200)
        assert "authorization" not in served.headers
        assert all("authorization" in request.headers for request in hub.requests if not request.on_cdn)

    def test_ranges(self, hub):
        hub.put(REPO, {"a.txt": b"0123456789"})
        url = f"{hub.endpoint}/{REPO}/resolve/main/a.txt"

        def part(byte_range: str) -> tuple[int, bytes, str | None]:
            reply = get_session().get(url, headers={"Range": f"bytes={byte_range}"})
            return reply.status_code, reply.content, reply.headers.get("Content-Range")

        assert part("2-4") == (206, b"234", "bytes 2-4/10")
        assert part("7-") == part("-3") == (206, b"789", "bytes 7-9/10")
        assert part("10-") == (416, b"", "bytes */10")


class TestTokens:
    def test_a_private_repo_is_read_with_the_token_only(self, hub, api):
        api.create_repo(REPO, private=True)
        hub.put(REPO, FILES)
        assert api.repo_exists(REPO)
        assert download("config.json") == FILES["config.json"]
        assert not api.repo_exists(REPO, token=False)
        with pytest.raises(RepositoryNotFoundError):
            download("sub/model.safetensors", token=False)

    def test_writes_need_it(self, hub, api):
        hub.put(REPO, FILES)
        assert download("config.json", token=False) == FILES["config.json"]
        with pytest.raises(HfHubHTTPError, match="401"):
            api.create_repo("org/other", token="hf_wrong")
        with pytest.raises(HfHubHTTPError, match="401"):
            api.upload_file(path_or_fileobj=b"", path_in_repo="a.txt", repo_id=REPO, token=False)
        assert hub.files(REPO) == FILES


class TestFaults:
    def test_an_unavailable_server_is_asked_again(self, hub, api, client_waits, folder):
        api.create_repo(REPO)
        hub.fail("POST", "/preupload/", times=2)
        hub.fail("POST", "/lfs/objects/batch", status=429, retry_after=7)
        api.upload_folder(repo_id=REPO, folder_path=folder)
        assert hub.files(REPO) == FILES
        assert [request.status for request in hub.requests.matching("POST", "/preupload/")] == [503, 503, 200]
        assert client_waits == [1, 2, 8]  # two steps back, and what the server asked for with one second more

    def test_a_broken_download_is_asked_for_again(self, hub):
        hub.put(REPO, FILES)
        hub.drop("GET", r"\.safetensors$", times=2, after_bytes=1000)
        assert download("sub/model.safetensors") == WEIGHTS
        assert [request.status for request in hub.requests.matching("GET", "safetensors")] == [0, 0, 200]

    @pytest.mark.parametrize("hub", [{}, {"cdn": True}], indirect=True, ids=["direct", "cdn"])
    def test_a_broken_download_goes_on_where_it_broke(self, hub, monkeypatch):
        # The client only keeps whole chunks of 10 MB, more than a test should send.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        hub.put(REPO, FILES)
        hub.drop("GET", r"\.safetensors$", after_bytes=2500)
        assert download("sub/model.safetensors") == WEIGHTS
        dropped, resumed = hub.requests.matching("GET", "safetensors")
        assert (dropped.status, resumed.status, resumed.headers["range"]) == (0, 206, "bytes=2000-")
        assert dropped.on_cdn == resumed.on_cdn == hub.cdn

    def test_a_corrupted_download_keeps_the_etag(self, hub):
        hub.put(REPO, FILES)
        hub.corrupt(r"\.safetensors$", lambda content: b"\0" + content[1:])
        path = Path(hf_hub_download(REPO, "sub/model.safetensors"))
        assert path.read_bytes() == b"\0" + WEIGHTS[1:]
        assert path.resolve().name == hub.repos[REPO].find("main").files["sub/model.safetensors"].sha256

    def test_a_download_of_the_wrong_size_is_refused(self, hub):
        hub.put(REPO, FILES)
        hub.corrupt(r"\.safetensors$", lambda content: content[:-1])
        with pytest.raises(OSError, match="Consistency check failed"):
            download("sub/model.safetensors")
        hub.heal()
        assert download("sub/model.safetensors") == WEIGHTS


class TestFixtures:
    def test_transformers_pushes_and_loads(self, hub):
        ResNetConfig(depths=[3, 1]).push_to_hub(REPO, private=True)
        ResNetConfig(depths=[2, 1]).push_to_hub(REPO, revision="dev")
        assert AutoConfig.from_pretrained(REPO).depths == [3, 1]
        assert AutoConfig.from_pretrained(REPO, revision="dev").depths == [2, 1]

    def test_a_dataset_goes_there_and_back(self, hub):
        rows = {"label": [0, 1, 2]}
        datasets.Dataset.from_dict(rows).push_to_hub("org/rows")
        assert "data/train-00000-of-00001.parquet" in hub.files("org/rows", repo_type="dataset")
        assert datasets.load_dataset("org/rows", split="train").to_dict() == rows
        assert list(datasets.load_dataset("org/rows", split="train", streaming=True))[2] == {"label": 2}

    def test_a_subprocess_is_a_client(self, hub, hub_environment):
        hub.put(REPO, FILES, private=True)
        program = f"from huggingface_hub import hf_hub_download; print(hf_hub_download({REPO!r}, 'config.json'))"
        ran = subprocess.run([sys.executable, "-c", program], env=hub_environment, stdout=subprocess.PIPE, check=True)
        assert Path(ran.stdout.decode().strip()).read_bytes() == FILES["config.json"]
        # It filled the cache of this process.
        hub.stop()
        assert download("config.json") == FILES["config.json"]

    def test_the_client_is_what_it_was_without_the_fixture(self):
        assert constants.HF_HUB_OFFLINE
        assert datasets.config.HF_HUB_OFFLINE
        assert "127.0.0.1" not in constants.ENDPOINT + datasets.config.HF_ENDPOINT + HfApi().endpoint
        assert "hf_home" not in constants.HF_HUB_CACHE + str(datasets.config.HF_DATASETS_CACHE)
