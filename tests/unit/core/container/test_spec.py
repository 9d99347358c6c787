# SPDX-License-Identifier: Apache-2.0
"""Containers: what a model's process sees and may do, and when it counts as the same container."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.core.config.model_keys import MODEL_KEYS
from sparkd.core.container import spec as container_specs
from sparkd.core.container.spec import (
    IN_CONTAINER_CODE,
    ContainerSpec,
    Mount,
    container_spec,
    endpoint_of,
    lock_command,
    parse_endpoint,
    spec_hash,
    with_image,
)
from sparkd.core.model import (
    Adapter,
    Client,
    ClientLimits,
    Dialect,
    Engine,
    Evict,
    HostFile,
    Lifecycle,
    ModelSpec,
    Rewrite,
    Status,
    Transport,
    Weights,
)
from sparkd.core.names import Layout, Names
from sparkd.core.observed import Endpoint

LAYOUT = Layout(runtime_dir=Path("/r"), state_dir=Path("/s"))
PLAIN = ModelSpec(model_id="m", image="localhost/i:1")
TCP = replace(PLAIN, transport=Transport.TCP)
SERVED = replace(PLAIN, weights=Weights(path=Path("/w/m")))


def container(spec: ModelSpec, port: int | None = None) -> ContainerSpec:
    return container_spec(spec, LAYOUT, port=port)


def mount(spec: ModelSpec, target: str) -> Mount | None:
    found = [mount for mount in container(spec).mounts if mount.target == target]
    assert len(found) <= 1
    return found[0] if found else None


def flock(mode: str, lock: str) -> tuple[str, ...]:
    return ("flock", "--no-fork", "-n", "-E", "75", mode, f"/run/sparkd/{lock}.lock")


@pytest.mark.parametrize(
    ("lifecycle", "command"),
    [
        (Lifecycle.UTILITY, flock("-s", "gpu")),
        (Lifecycle.NORMAL, flock("-s", "gpu") + flock("-x", "lane")),
        (Lifecycle.EXCLUSIVE, flock("-x", "gpu") + flock("-x", "lane")),
    ],
)
def test_lifecycle_is_the_locks_around_the_command(
    lifecycle: Lifecycle, command: tuple[str, ...]
) -> None:
    assert lock_command(lifecycle) == command
    whole = container(replace(PLAIN, lifecycle=lifecycle)).command
    assert whole[: len(command) + 1] == (*command, "vllm")


def test_lifecycle_that_nobody_thought_of_is_never_run_without_a_lock() -> None:
    with pytest.raises(AssertionError):
        lock_command(cast("Lifecycle", "nonsense"))


def test_server_listens_on_the_socket_of_its_own_directory() -> None:
    assert container(PLAIN).command[-8:] == (
        *("vllm", "serve", "m", "--served-model-name", "m"),
        *("--uds", "/run/sparkd/endpoint/api.sock", "--disable-uvicorn-access-log"),
    )
    assert mount(PLAIN, "/run/sparkd/endpoint") == Mount(
        source="/r/models/m", target="/run/sparkd/endpoint", read_only=False
    )
    assert endpoint_of(PLAIN, LAYOUT, None) == Endpoint(socket=Path("/r/models/m/api.sock"))


def test_server_without_unix_sockets_gets_one_published_port_and_a_network() -> None:
    spec = container(TCP, port=41000)
    assert spec.command[-5:-1] == ("--host", "0.0.0.0", "--port", "8000")
    assert (spec.network, spec.publish_port) == (True, 41000)
    assert mount(TCP, "/run/sparkd/endpoint") is None
    assert endpoint_of(TCP, LAYOUT, 41000) == Endpoint(port=41000)


def test_port_means_nothing_to_a_server_on_a_socket() -> None:
    assert container(PLAIN, port=41000) == container(PLAIN)


def test_arguments_of_the_entry_come_last_and_unchanged() -> None:
    spec = replace(PLAIN, args=("--max-model-len", "8192", "--x={'a': 1}"))
    assert container(spec).command[-3:] == spec.args


def test_another_server_is_started_by_its_own_command() -> None:
    command = ("run", "--path={weights}", "--name", "{model}", "--port", "{port}", '{"a": 1}')
    spec = replace(
        SERVED, transport=Transport.TCP, engine=Engine(command=command), args=("--x", "{model}")
    )
    found = container(spec, port=41000)
    assert found.command[-9:] == (
        *("run", "--path=/models/m", "--name", "m", "--port", "8000", '{"a": 1}'),
        *("--x", "{model}"),
    )
    assert found.command[: -len(command) - 2] == lock_command(spec.lifecycle)
    on_socket = replace(spec, transport=Transport.UNIX, engine=Engine(command=("s", "{socket}")))
    assert container(on_socket).command[-4:-2] == ("s", "/run/sparkd/endpoint/api.sock")


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("health", ["/health", "/v1/ready?deep=1"])
def test_endpoint_comes_back_from_its_label_with_the_path_of_its_health(
    transport: Transport, health: str
) -> None:
    engine = Engine(command=("s", "{socket}", "{port}"), health=health)
    found = container(replace(PLAIN, transport=transport, engine=engine), port=41000)
    labels = dict(found.labels)
    endpoint = parse_endpoint(labels["io.sparkd.endpoint"], labels.get("io.sparkd.health", ""))
    assert endpoint.health == health
    usual = replace(PLAIN, transport=transport, engine=replace(engine, health="/health"))
    same = dict(container(usual, port=41000).labels)["io.sparkd.spec"] == labels["io.sparkd.spec"]
    assert same == (health == "/health")
    assert (endpoint.port == 41000) == (transport is Transport.TCP)
    assert (endpoint.socket is None) == (transport is Transport.TCP)


def test_files_are_seen_read_only_and_fetched_ones_come_from_the_state() -> None:
    spec = replace(
        PLAIN,
        files=(
            HostFile(target="/media", path=Path("/srv/media")),
            HostFile(target="/t/a", path=Path("abc"), url="https://h/a", sha256="abc"),
        ),
    )
    assert mount(spec, "/media") == Mount(source="/srv/media", target="/media", read_only=True)
    assert mount(spec, "/t/a") == Mount(source="/s/files/abc", target="/t/a", read_only=True)


def test_what_engines_compile_is_kept_in_the_cache() -> None:
    environment = dict(container(PLAIN).environment)
    for name in ("VLLM_CACHE_ROOT", "FLASHINFER_WORKSPACE_BASE", "TORCH_EXTENSIONS_DIR"):
        assert environment[name].startswith("/cache")


def test_weights_are_seen_read_only_under_the_models_name() -> None:
    spec = replace(SERVED, model_id="org/m")
    inside = r"/models/org\x2fm"
    assert container(spec).command[container(spec).command.index("serve") + 1] == inside
    assert mount(spec, inside) == Mount(source="/w/m", target=inside, read_only=True)


def test_adapters_are_mounted_read_only_and_named_to_the_server() -> None:
    adapters = (
        Adapter(name="sql", weights=Weights(path=Path("/w/sql"))),
        Adapter(name="org/law", weights=Weights(path=Path("/hf/models--o--l/snapshots/1"))),
    )
    spec = replace(SERVED, adapters=adapters, args=("--max-lora-rank", "64"))
    words = container(spec).command
    begin = words.index("--enable-lora")
    assert words[begin:] == (
        *("--enable-lora", "--lora-modules", "sql=/models/sql"),
        *(r"org/law=/models/org\x2flaw/snapshots/1", "--max-lora-rank", "64"),
    )
    assert mount(spec, "/models/sql") == Mount(
        source="/w/sql", target="/models/sql", read_only=True
    )
    assert mount(spec, r"/models/org\x2flaw").source == "/hf/models--o--l"
    assert container(spec).labels != container(replace(spec, adapters=adapters[:1])).labels


def test_utility_does_not_see_the_lock_that_it_does_not_take() -> None:
    utility = replace(PLAIN, lifecycle=Lifecycle.UTILITY)
    locks = [m.target for m in container(utility).mounts if m.target.endswith(".lock")]
    assert locks == ["/run/sparkd/gpu.lock"]


def test_locks_are_seen_read_only_and_the_cache_is_the_models_own() -> None:
    for name in ("gpu", "lane"):
        target = f"/run/sparkd/{name}.lock"
        expected = Mount(source=f"/r/{name}.lock", target=target, read_only=True)
        assert mount(PLAIN, target) == expected
    assert mount(PLAIN, "/cache") == Mount(source="/s/cache/m", target="/cache", read_only=False)


def test_nothing_else_of_the_host_is_seen() -> None:
    targets = {mount.target for mount in container(SERVED).mounts}
    assert targets == {
        *("/run/sparkd/gpu.lock", "/run/sparkd/lane.lock", "/run/sparkd/endpoint"),
        *("/cache", "/models/m"),
    }


def test_model_has_no_network_unless_it_is_given_one() -> None:
    assert not container(PLAIN).network
    assert container(replace(PLAIN, network=True)).network
    assert dict(container(PLAIN).environment)["VLLM_HOST_IP"] == "127.0.0.1"
    assert "VLLM_HOST_IP" not in dict(container(replace(PLAIN, network=True)).environment)


def test_environment_of_the_entry_wins_and_is_sorted() -> None:
    spec = replace(PLAIN, env=(("ZED", "1"), ("HF_HUB_OFFLINE", "0")))
    environment = container(spec).environment
    assert dict(environment)["HF_HUB_OFFLINE"] == "0"
    assert dict(environment)["ZED"] == "1"
    assert list(environment) == sorted(environment)


def test_gpu_is_named_by_its_cdi_device() -> None:
    assert container(PLAIN).devices == ("nvidia.com/gpu=all",)
    assert container(replace(PLAIN, gpu="0")).devices == ("nvidia.com/gpu=0",)
    without = container(replace(PLAIN, gpu=None))
    assert without.devices == ()
    assert without.ulimits == ()
    assert [limit.name for limit in container(PLAIN).ulimits] == ["stack"]


@pytest.mark.parametrize(("grace_s", "timeout_s"), [(10.0, 10), (0.2, 1), (2.6, 3)])
def test_model_is_asked_by_sigint_and_gets_at_least_a_second(
    grace_s: float, timeout_s: int
) -> None:
    spec = container(replace(PLAIN, stop_grace_s=grace_s))
    assert (spec.stop_signal, spec.stop_timeout_s) == (2, timeout_s)


def test_labels_say_what_the_container_is() -> None:
    labels = dict(container(PLAIN).labels)
    assert labels == {
        "io.sparkd.model": "m",
        "io.sparkd.spec": spec_hash(PLAIN, LAYOUT),
        "io.sparkd.endpoint": "unix:/r/models/m/api.sock",
    }


def test_hash_does_not_depend_on_the_port() -> None:
    one, other = container(TCP, port=1), container(TCP, port=2)
    assert dict(one.labels)["io.sparkd.spec"] == dict(other.labels)["io.sparkd.spec"]
    assert dict(one.labels)["io.sparkd.endpoint"] == "tcp:127.0.0.1:1"


CHANGES: dict[str, Any] = {
    "log_output": False,
    "evict": Evict.SLEEP,
    "model_id": "other",
    "image": "localhost/i:2",
    "lifecycle": Lifecycle.EXCLUSIVE,
    "adapters": (Adapter(name="sql", weights=Weights(path=Path("/w/sql"))),),
    "weights": Weights(path=Path("/w/other")),
    "engine": Engine(command=("serve", "{socket}")),
    "args": ("--enforce-eager",),
    "files": (HostFile(target="/media", path=Path("/srv/media")),),
    "env": (("A", "1"),),
    "gpu": "0",
    "transport": Transport.TCP,
    "network": True,
    "stop_grace_s": 99.0,
    "shm_bytes": 1 << 20,
}
WITHOUT_EFFECT: dict[str, Any] = {
    "aliases": ("other",),
    "dialects": (Dialect.EMBEDDINGS,),
    "max_model_len": 1,
    "rewrite": tuple(Rewrite),
    "context_buffer_tokens": 1,
    "load_timeout_s": 1.0,
    "idle_timeout_s": 1.0,
    "memory_bytes": 1 << 30,
    "memory_max_bytes": 1 << 30,
    "auto_utilization": True,
    "pinned": True,
    "status": Status.DISABLED,
    "reason": "other",
    "vision": True,
    "clients": ((Client.ALL, ClientLimits(context_tokens=1)),),
    "title": "other",
    "facts": ("other",),
    "description": "other",
    "family": "other",
    "source": "other:1",
}


def test_every_key_of_an_entry_is_known_to_matter_to_the_container_or_not() -> None:
    assert {field.name for field in fields(ModelSpec)} == {*CHANGES, *WITHOUT_EFFECT}


def test_keys_that_make_a_running_container_outdated_are_the_documented_ones() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs/models.md").read_text()
    told = text.partition("A change of what the container is made of (")[2].partition(")")[0]
    names = {key.field: key.name for key in MODEL_KEYS.values()}
    assert set(re.findall("`([a-z_]+)`", told)) == {names[one] for one in CHANGES if one in names}


@pytest.mark.parametrize("name", CHANGES)
def test_change_that_the_container_would_feel_changes_the_hash(name: str) -> None:
    changed = replace(SERVED, **{name: CHANGES[name]})
    assert spec_hash(changed, LAYOUT) != spec_hash(SERVED, LAYOUT)


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_change_that_the_container_cannot_feel_keeps_it(name: str) -> None:
    changed = replace(SERVED, **{name: WITHOUT_EFFECT[name]})
    assert spec_hash(changed, LAYOUT) == spec_hash(SERVED, LAYOUT)


segments = st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1, max_size=20)
sockets = st.lists(segments, min_size=1).map(lambda parts: Path("/").joinpath(*parts))


@given(
    sockets.map(lambda path: Endpoint(socket=path))
    | st.integers(1, 65535).map(lambda port: Endpoint(port=port))
)
def test_endpoint_comes_back_from_its_label(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint


def test_sleeper_searches_our_code_first_and_then_where_its_image_says() -> None:
    sleeper = container(replace(PLAIN, evict=Evict.SLEEP))
    image = {"PYTHONPATH": "/opt/engine:/opt/more", "HOME": "/root"}
    assert "PYTHONPATH" not in dict(sleeper.environment)
    assert with_image(sleeper, image)["PYTHONPATH"] == f"{IN_CONTAINER_CODE}:/opt/engine:/opt/more"
    assert with_image(sleeper, {})["PYTHONPATH"] == str(IN_CONTAINER_CODE)
    own = container(replace(PLAIN, evict=Evict.SLEEP, env=(("PYTHONPATH", "/mine"),)))
    assert with_image(own, image)["PYTHONPATH"] == f"{IN_CONTAINER_CODE}:/mine", "the entry decides"
    assert "PYTHONPATH" not in with_image(container(PLAIN), image), "the image keeps its own"


@pytest.mark.parametrize("port", ["", "x", "-1", "99999", "9" * 5000, "\u00b2", "1e3"])
def test_label_without_a_port_is_an_endpoint_that_nobody_reaches(port: str) -> None:
    assert parse_endpoint(f"tcp:127.0.0.1:{port}").port is None


@pytest.mark.parametrize("lifecycle", list(Lifecycle))
def test_container_sees_no_lock_but_those_of_the_gpu(lifecycle: Lifecycle) -> None:
    spec = replace(PLAIN, lifecycle=lifecycle)
    sources = {Path(mount.source) for mount in container(spec).mounts}
    for secret in (LAYOUT.start_lock, LAYOUT.transition_lock(Names("m"))):
        assert not any(source in (secret, *secret.parents) for source in sources)


def test_spec_hash_of_an_entry_stays_as_earlier_releases_computed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another hash would replace running models at an upgrade of the package."""
    installed = Path("/usr/lib/sparkd/sparkd/core/seccomp.json")
    monkeypatch.setattr(container_specs, "SECCOMP_PROFILE", installed)
    layout = Layout(runtime_dir=Path("/run/sparkd"), state_dir=Path("/var/lib/sparkd"))
    spec = ModelSpec(
        model_id="m",
        image="localhost/x:1",
        weights=Weights(path=Path("/w/m")),
        args=("--a", "b"),
    )
    assert spec_hash(spec, layout) == "87ce9512513e"
    assert spec_hash(replace(spec, lifecycle=Lifecycle.EXCLUSIVE), layout) == "b193de6281d5"
    root = Path(__file__).resolve().parents[4]
    assert container_specs.__file__.endswith("sparkd/core/container/spec.py")
    assert (root / "sparkd/core/seccomp.json").is_file()
