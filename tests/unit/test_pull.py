"""`imagen models pull`, against a hub on this machine: what is missing, is there room, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cli_kit import imagen
from tests.hub_kit import TOKEN, Hub, local_hub

from imagen.backends.comfyui.address import Address
from imagen.backends.comfyui.folders import folders as comfy_folders
from imagen.core.errors import (
    Conflict,
    DiskFull,
    ImagenError,
    MissingFile,
    NotConfigured,
    RateLimited,
    RequestError,
    SetupError,
    Unreachable,
    Unwritable,
)
from imagen.core.model import Model, ModelFile
from imagen.engine.weights import hub as engine_hub
from imagen.engine.weights.pull import MARGIN_BYTES, Folders, Item, Plan, World, fetch, planned

VAE = "org/one/split_files/vae/ae.safetensors"
UNET = "org/one/net.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "")
    with local_hub() as told:
        monkeypatch.setenv("HF_ENDPOINT", told.url)
        told.files = {VAE: b"vae" * 100_000, UNET: os.urandom(3_000_000)}
        yield told
    engine_hub.close()


def model(name: str = "one", *files: ModelFile) -> Model:
    return Model(name=name, backend="comfyui", device="d", files=files or (file_of(UNET, "unet"), file_of(VAE, "vae")))


def file_of(path: str, folder: str, **more: object) -> ModelFile:
    return replace(ModelFile(path=Path(path).name, folder=folder, hub=path, licence="MIT"), **more)  # type: ignore[arg-type]


def folders(root: Path, *names: str) -> Folders:
    return {name: (root / name,) for name in names or ("unet", "vae")}


def plan(root: Path, *models: Model, world: World | None = None, where: Folders | None = None, **more: object) -> Plan:
    models = models or (model(),)
    return planned(
        models,
        {one.name: where or folders(root) for one in models},
        world=world or World(),
        **more,  # type: ignore[arg-type]
    )


def run(told: Plan) -> list[Item]:
    return fetch(told, lambda _item, _count: None, lambda _item: None)


def test_what_is_missing_is_fetched_once_and_checked(tmp_path: Path, hub: Hub) -> None:
    """Every byte is there, under its own name, and nothing else lies beside it."""
    told = plan(tmp_path)
    assert [(item.state, item.exact, item.size) for item in told.items] == [
        ("missing", True, 3_000_000),
        ("missing", True, 300_000),
    ]
    assert [item.place for item in run(told)] == [tmp_path / "unet/net.safetensors", tmp_path / "vae/ae.safetensors"]
    assert (tmp_path / "vae/ae.safetensors").read_bytes() == hub.files[VAE]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["ae.safetensors", "net.safetensors"]
    hub.asked.clear()
    again = plan(tmp_path)
    assert [item.state for item in again.items] == ["there", "there"]
    assert run(again) == []
    assert hub.asked == []


def test_a_file_of_two_models_is_fetched_once(tmp_path: Path, hub: Hub) -> None:
    """Also when each says another place to fetch it from."""
    other = replace(file_of(VAE, "vae"), hub="org/two/ae.safetensors")
    told = plan(tmp_path, model("one"), model("two", other))
    assert [(item.file.path, item.models) for item in told.items] == [
        ("net.safetensors", ("one",)),
        ("ae.safetensors", ("one", "two")),
    ]
    run(told)
    assert [path for path, _ in hub.sent] == [UNET, VAE]


def test_a_broken_line_is_taken_up_where_it_broke(tmp_path: Path, hub: Hub) -> None:
    """Within one run: of what had come, at most the block that was on its way is sent again."""
    hub.files[UNET] = os.urandom(25_000_000)
    hub.drop_after, hub.drops = 15_000_000, 1
    run(plan(tmp_path, model("one", file_of(UNET, "unet"))))
    assert (tmp_path / "unet/net.safetensors").read_bytes() == hub.files[UNET]
    (first, start), (second, resumed) = hub.sent
    assert (first, second, start) == (UNET, UNET, 0)
    assert 0 < resumed <= 15_000_000


def test_a_killed_run_is_taken_up_by_the_next(tmp_path: Path, hub: Hub) -> None:
    """Half a file never has the file's name, and the next run asks for the rest of it only."""
    target = tmp_path / "unet/net.safetensors"
    known = engine_hub.ask(UNET)
    part = engine_hub.part_of(target, known)
    part.parent.mkdir()
    part.write_bytes(hub.files[UNET][:1_234_567])
    told = plan(tmp_path, model("one", file_of(UNET, "unet")))
    assert told.items[0].part == 1_234_567
    assert told.missing_bytes == 3_000_000 - 1_234_567
    counted: list[int] = []
    fetch(told, lambda _item, count: counted.append(count), lambda _item: None)
    assert hub.sent == [(UNET, 1_234_567)]
    assert counted == sorted(counted)
    assert target.read_bytes() == hub.files[UNET]
    assert not part.exists()


def test_a_real_process_that_is_interrupted_leaves_what_it_has(tmp_path: Path, hub: Hub) -> None:
    """Ctrl-C in the middle of a file ends the command at once; the second one brings the rest."""
    home = tmp_path / "home"
    write_model(home, UNET)
    hub.files[UNET] = os.urandom(150_000_000)
    environ = {**os.environ, "IMAGEN_HOME": str(home), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "imagen", "models", "pull", "mine", "--to", str(tmp_path / "w"), "--yes"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (parts := [path for path in tmp_path.glob("w/unet/.net*.part") if path.stat().st_size]):
            if process.poll() is not None:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, told
    assert 0 < parts[0].stat().st_size < 150_000_000
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(tmp_path / "w/unet/net.safetensors")
    assert ran.stderr == ""
    assert hub.sent[-1][1] > 0
    assert (tmp_path / "w/unet/net.safetensors").read_bytes() == hub.files[UNET]


def test_a_hub_that_cannot_go_on_from_the_middle_sends_all_again(tmp_path: Path, hub: Hub) -> None:
    """Then what was there before is not left in front of it."""
    part = engine_hub.part_of(tmp_path / "unet/net.safetensors", engine_hub.ask(UNET))
    part.parent.mkdir()
    part.write_bytes(b"x" * 500_000)
    hub.ranges = False
    run(plan(tmp_path, model("one", file_of(UNET, "unet"))))
    assert (tmp_path / "unet/net.safetensors").read_bytes() == hub.files[UNET]


@pytest.mark.parametrize("why", ["spoiled on the way", "half of another file", "too long"])
def test_a_wrong_file_is_never_taken(why: str, tmp_path: Path, hub: Hub) -> None:
    """Its hash is not the hub's: it is removed, and the next try begins anew."""
    part = engine_hub.part_of(tmp_path / "unet/net.safetensors", engine_hub.ask(UNET))
    part.parent.mkdir()
    if why == "spoiled on the way":
        hub.spoiled = {UNET}
    else:
        part.write_bytes(b"x" * (3_000_001 if why == "too long" else 500_000))
    told = plan(tmp_path, model("one", file_of(UNET, "unet")))
    if why == "too long":
        run(told)
    else:
        with pytest.raises(SetupError, match="came damaged"):
            run(told)
        assert list((tmp_path / "unet").iterdir()) == []
        hub.spoiled = set()
        run(plan(tmp_path, model("one", file_of(UNET, "unet"))))
    assert (tmp_path / "unet/net.safetensors").read_bytes() == hub.files[UNET]


def test_the_hash_of_the_model_s_file_holds_too(tmp_path: Path, hub: Hub) -> None:
    """Known before a byte is fetched where the hub says a hash, and after it where it says none."""
    wrong = "0" * 64
    told = plan(tmp_path, model("one", file_of(UNET, "unet", sha256=wrong)))
    with pytest.raises(SetupError, match="is not the file that the model wants"):
        run(told)
    assert hub.sent == []
    hub.small = {VAE}
    with pytest.raises(SetupError, match="came damaged"):
        run(plan(tmp_path, model("one", file_of(VAE, "vae", sha256=wrong))))
    assert not (tmp_path / "vae/ae.safetensors").exists()
    run(plan(tmp_path, model("one", file_of(VAE, "vae", sha256=hub.sha256(VAE)))))
    assert (tmp_path / "vae/ae.safetensors").exists()


def test_without_room_nothing_is_fetched(tmp_path: Path, hub: Hub) -> None:
    """Both files and the margin have to fit; what is there already needs no room."""
    need = 3_300_000 + MARGIN_BYTES
    with pytest.raises(DiskFull, match="free there") as full:
        run(plan(tmp_path, world=World(free=lambda _path: need - 1)))
    assert "--file" in full.value.hint
    assert hub.sent == []
    assert not (tmp_path / "vae").exists()
    run(plan(tmp_path, world=World(free=lambda _path: need)))
    plan(tmp_path, world=World(free=lambda _path: 0)).check()


def test_the_first_folder_that_can_be_written_to_gets_the_file(tmp_path: Path, hub: Hub) -> None:
    """And a file that lies in any of them is there."""
    places = {"vae": (tmp_path / "shared/vae", tmp_path / "own/vae"), "unet": (tmp_path / "shared/unet",)}
    world = World(writable=lambda path: "shared" not in str(path))
    (tmp_path / "shared").mkdir()
    told = plan(tmp_path, model("one", file_of(VAE, "vae")), world=world, where=places)
    assert told.items[0].place == tmp_path / "own/vae/ae.safetensors"
    refused = plan(tmp_path, model("one", file_of(UNET, "unet")), world=world, where=places)
    with pytest.raises(Unwritable, match=r"shared/unet cannot be written to"):
        run(refused)
    (tmp_path / "shared/vae").mkdir(parents=True)
    (tmp_path / "shared/vae/ae.safetensors").write_bytes(b"x")
    assert plan(tmp_path, model("one", file_of(VAE, "vae")), world=world, where=places).items[0].state == "there"


def test_a_folder_that_refuses_in_the_end_is_said(tmp_path: Path, hub: Hub) -> None:
    """A name that is taken by a file, as on a disk that looked writable."""
    (tmp_path / "unet").write_text("not a folder")
    with pytest.raises(Unwritable, match="cannot be written to"):
        run(plan(tmp_path, model("one", file_of(UNET, "unet"))))


def test_a_file_of_another_size_is_left_alone(tmp_path: Path, hub: Hub) -> None:
    """It is somebody's own; a rounded size in the model's file is no other size."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/net.safetensors").write_bytes(b"mine")
    told = plan(tmp_path, model("one", file_of(UNET, "unet", size=3_000_000)))
    assert [item.state for item in told.items] == ["other"]
    assert run(told) == []
    (tmp_path / "unet/net.safetensors").write_bytes(hub.files[UNET])
    assert plan(tmp_path, model("one", file_of(UNET, "unet", size=3_010_000))).items[0].state == "there"


@pytest.mark.parametrize("path", ["../x.safetensors", "/etc/x", "a/../../x", "a\\..\\x", "C:/x", "", "x\0y"], ids=repr)
@pytest.mark.parametrize("key", ["path", "folder"])
def test_no_file_lands_outside_its_folder(path: str, key: str, tmp_path: Path, hub: Hub) -> None:
    """Model files come from others."""
    file = replace(file_of(UNET, "unet"), path=path) if key == "path" else file_of(UNET, path)
    with pytest.raises(SetupError, match="does not stay inside"):
        plan(tmp_path, model("one", file))
    assert hub.asked == []


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ({"gated": {"org/one"}}, NotConfigured, "accepted its licence"),
        ({"files": {"org/other/x": b""}}, MissingFile, "has no org/one"),
        ({"files": {"org/one/x": b""}}, MissingFile, "has no file net.safetensors"),
        ({"status": 500}, Unreachable, "trouble of its own"),
        ({"status": 429}, RateLimited, "patience"),
        ({"status": 403}, NotConfigured, "refuses"),
        ({"status": 200}, Unreachable, "does not answer like a hub"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_hub_refuses_is_said_before_anything_is_fetched(
    trouble: Mapping[str, object], kind: type[ImagenError], said: str, tmp_path: Path, hub: Hub
) -> None:
    """Each with what to do about it."""
    for name, value in trouble.items():
        setattr(hub, name, value)
    told = plan(tmp_path, model("one", file_of(UNET, "unet", size=3_000_000)))
    assert [(item.size, item.exact) for item in told.items] == [(3_000_000, False)]
    with pytest.raises(kind, match=said) as refused:
        run(told)
    assert refused.value.hint
    assert hub.sent == []


def test_a_gated_file_needs_a_token_which_is_never_shown(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, with one whose owner did not accept, with a wrong one; then with a good one."""
    hub.gated = {"org/one"}
    gated = model("one", file_of(UNET, "unet"))
    told: list[ImagenError] = []
    for token, accepted in ((None, True), (TOKEN, False), ("hf_wrong", True)):
        monkeypatch.setenv("HF_TOKEN", token or "")
        hub.accepted = accepted
        with pytest.raises(NotConfigured) as refused:
            run(plan(tmp_path, gated))
        told.append(refused.value)
    assert f"{hub.url}/org/one" in told[0].hint
    assert "HF_TOKEN" in told[0].hint
    assert "accepted" in told[1].message
    assert "does not know the token" in told[2].message
    assert "hf_" not in "".join(error.message + error.hint for error in told)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert [item.size for item in run(plan(tmp_path, gated))] == [3_000_000]
    assert hub.leaked == 0


def test_a_hub_that_is_away_is_said_and_sizes_are_the_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look needs no network; a fetch does."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told = plan(tmp_path, model("one", file_of(UNET, "unet", size=3_000_000)))
    assert told.missing_bytes == 3_000_000
    assert told.notes == ("the hub cannot be reached: http://127.0.0.1:9",)
    with pytest.raises(Unreachable):
        run(told)
    engine_hub.close()


def test_two_at_once_do_not_write_into_one_file(tmp_path: Path, hub: Hub) -> None:
    """The second is told to wait."""
    import fcntl

    told = plan(tmp_path, model("one", file_of(UNET, "unet")))
    assert told.items[0].known is not None
    part = engine_hub.part_of(told.items[0].place, told.items[0].known)
    part.parent.mkdir()
    with part.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match=r"fetching net.safetensors now"):
            run(told)
    run(told)


def test_what_other_keys_replaced_is_not_fetched(tmp_path: Path, hub: Hub) -> None:
    """A model that goes on from another with weights of its own; those nobody listed are named."""
    graph = {"1": {"class_type": "Load", "inputs": {"unet": "${model}", "vae": "${vae}"}}}
    keys = {"model": "mine.gguf", "vae": "ae.safetensors", "url": None}
    told = plan(tmp_path, replace(model(), graph=graph, keys=keys))
    assert [item.file.path for item in told.items] == ["ae.safetensors"]
    assert told.notes == ("mine.gguf of one is not among its `files`: where to get it is not known",)


def test_one_file_can_be_asked_for(tmp_path: Path, hub: Hub) -> None:
    """By the path in the model's file; another name is refused with those that are."""
    assert [item.file.path for item in plan(tmp_path, only=["ae.safetensors"]).items] == ["ae.safetensors"]
    with pytest.raises(RequestError, match="no file 'x'") as refused:
        plan(tmp_path, only=["x"])
    assert "ae.safetensors, net.safetensors" in refused.value.hint


def test_a_file_without_a_place_to_fetch_it_from_is_named(tmp_path: Path, hub: Hub) -> None:
    """With the folder to put it into."""
    with pytest.raises(NotConfigured, match="no place is known") as told:
        run(plan(tmp_path, model("one", file_of(UNET, "unet", hub=""))))
    assert str(tmp_path / "unet") in told.value.hint


def test_a_kind_the_engine_has_no_folder_for_is_named(tmp_path: Path, hub: Hub) -> None:
    """With those it has."""
    with pytest.raises(MissingFile, match="no folder 'loras'") as told:
        plan(tmp_path, model("one", file_of(UNET, "loras")))
    assert "unet, vae" in told.value.hint


# The command.


def write_model(home: Path, *hubs: str) -> None:
    lines = [f"  - {{path: {Path(hub).name}, folder: unet, hub: {hub}, size: 3000000, licence: MIT}}" for hub in hubs]
    folder = home / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text("backend: mock\nfiles:\n" + "\n".join(lines) + "\n")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("IMAGEN_HOME", str(home))
    write_model(home, UNET, VAE)
    return home


def test_a_dry_run_says_everything_and_does_nothing(home: Path, hub: Hub, tmp_path: Path) -> None:
    """Files, sizes, licences, where they would go and how much it is; the same as JSON."""
    ran = imagen("models", "pull", "mine", "--dry-run", "--to", str(tmp_path / "w"))
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[:4] == [
        "FILE             SIZE     STATE    LICENCE",
        "net.safetensors  2.9 MiB  missing  MIT",
        "ae.safetensors   293 KiB  missing  MIT",
        f"unet in {tmp_path / 'w/unet'}",
    ]
    assert ran.out.splitlines()[4].startswith("2 of 2 files to fetch, 3.1 MiB; ")
    told = json.loads(imagen("models", "pull", "mine", "--dry-run", "--to", str(tmp_path / "w"), "--json").out)
    assert told["missing_bytes"] == 3_300_000
    assert [file["state"] for file in told["files"]] == ["missing", "missing"]
    assert hub.sent == []
    assert not (tmp_path / "w").exists()


def test_in_a_pipe_it_wants_a_yes_and_says_only_the_files(home: Path, hub: Hub, tmp_path: Path) -> None:
    """Gigabytes are not fetched because somebody left a word out."""
    to = ("--to", str(tmp_path / "w"))
    ran = imagen("models", "pull", "mine", *to)
    assert ran.code == 2
    assert "--yes" in ran.err
    assert hub.sent == []
    ran = imagen("models", "pull", "mine", *to, "--yes")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        str(tmp_path / "w/unet/net.safetensors"),
        str(tmp_path / "w/unet/ae.safetensors"),
    ]
    ran = imagen("models", "pull", "mine", *to)
    assert (ran.code, ran.out) == (0, "")
    assert "nothing to fetch" in ran.err


def test_a_model_that_keeps_no_files_needs_none(home: Path, hub: Hub) -> None:
    """The mock has none, and its folder is asked of nobody."""
    ran = imagen("models", "pull", "mock", "--yes")
    assert ran.code == 0
    assert "mock names no files" in ran.err


def test_weights_that_are_a_repository_are_not_called_there(home: Path, hub: Hub) -> None:
    """Exit 3 with the command that fetches it, until it is here: an exit of 0 would say that it can draw."""
    model = {"backend": "diffusers", "weights": "somebody/nothing"}
    (home / "config.yaml").write_text(json.dumps({"models": {"theirs": model}}))
    ran = imagen("models", "pull", "theirs")
    assert ran.code == 3
    assert "hint: hf download somebody/nothing " in ran.err


def test_without_the_library_it_says_what_to_install(home: Path, tmp_path: Path) -> None:
    """A look works all the same, with the sizes of the model's file."""
    code = (
        "import sys; sys.modules['huggingface_hub'] = None; sys.argv[0] = 'imagen'\n"
        "from imagen.surfaces.cli.main import main; main()"
    )
    base = [sys.executable, "-c", code, "models", "pull", "mine", "--to", str(tmp_path / "w")]
    environ = {**os.environ, "IMAGEN_HOME": str(home)}
    looked = subprocess.run([*base, "--dry-run"], env=environ, capture_output=True, text=True, check=False)
    assert looked.returncode == 0, looked.stderr
    assert "about 5.7 MiB" in looked.stdout
    ran = subprocess.run([*base, "--yes"], env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert "pip install 'imagen-platform[hub]'" in ran.stderr


# Where a ComfyUI keeps its files.


class Told:
    """A server that says where its files lie, or does not."""

    def __init__(self, answer: object, address: str = "http://127.0.0.1:8188") -> None:
        self.address = Address.of(address)
        self.url = self.address.url
        self._answer = answer

    async def get_json(self, path: str) -> object:
        assert path == "/internal/folder_paths"
        if isinstance(self._answer, ImagenError):
            raise self._answer
        return self._answer


async def comfy(told: Told, models_folder: Path | None = None) -> Folders:
    return await comfy_folders(told, str(models_folder) if models_folder else None)  # type: ignore[arg-type]


async def test_the_server_says_where_its_files_lie(tmp_path: Path) -> None:
    """The folder called like the kind comes first, because people look there; what is no path is left out."""
    (tmp_path / "unet").mkdir()
    answer = {"diffusion_models": [f"{tmp_path}/unet", f"{tmp_path}/diffusion_models"], "vae": [7], "odd": "text"}
    found = await comfy(Told(answer))
    assert found["diffusion_models"] == (tmp_path / "diffusion_models", tmp_path / "unet")
    assert (found["vae"], found["odd"]) == ((), ())


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Told({}, "http://render-box:8188"), "another machine"),
        (Told(Unreachable("nobody answers", hint="start it")), "nobody answers"),
        (Told({"vae": ["/no/such/place/models/vae"]}), "container"),
    ],
    ids=["elsewhere", "away", "in a container"],
)
async def test_a_server_whose_folders_are_not_known_here_can_be_told(told: Told, said: str, tmp_path: Path) -> None:
    """The error names the setting, and with it neither the server nor its machine matters."""
    with pytest.raises(NotConfigured, match=said) as refused:
        await comfy(told)
    assert "models_folder" in refused.value.hint
    (tmp_path / "clip").mkdir()
    (tmp_path / "mine").mkdir()
    found = await comfy(told, tmp_path)
    assert found["text_encoders"] == (tmp_path / "text_encoders", tmp_path / "clip")
    assert found["diffusion_models"] == (tmp_path / "diffusion_models",)
    assert found["mine"] == (tmp_path / "mine",)


async def test_a_models_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A disk that is not mounted must not be written beside."""
    with pytest.raises(NotConfigured, match="is not there"):
        await comfy(Told({}), tmp_path / "gone")
