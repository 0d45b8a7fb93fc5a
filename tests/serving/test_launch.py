"""The strict check of Ray Serve's config files, and of what the service is told."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from ray import serve
from ray.exceptions import ActorDiedError, GetTimeoutError

from raypixel import zoo
from raypixel.config import load_yaml, parse
from raypixel.errors import CheckpointError, ConfigError, RaypixelError, ServingError
from raypixel.runs.tracking import TrackingError
from raypixel.serving import app
from raypixel.serving.autoscaling import RemainingSubPixels
from raypixel.serving.launch import Launch, check, from_config, parse_models
from raypixel.serving.serve_config import check_serve_config, parse_serve_config, read_serve_config
from raypixel.serving.settings import Keys, Settings, is_loopback, read_keys, require_keys

FILE = Path(__file__).parents[2] / "cluster" / "serve.yaml"


@pytest.fixture
def mapping():
    return copy.deepcopy(load_yaml(FILE))


def test_the_clusters_file_is_one_that_ray_and_we_take(mapping):
    assert read_serve_config(FILE) == mapping
    assert parse_serve_config(FILE.read_text(), where="x") == mapping
    launch = from_config(mapping, where="x")
    assert launch.host == "0.0.0.0"
    assert list(launch.settings.models) == ["digits"]
    patience = launch.options["graceful_shutdown_timeout_s"]
    assert patience > launch.settings.limits.timeout_s


@pytest.mark.parametrize(
    ("path", "key", "text"),
    [
        ((), "http_option", "http_option is not a known key, did you mean 'http_options'?"),
        (("http_options",), "prt", "http_options.prt is not a known key, did you mean 'port'?"),
        (("applications", 0), "arg", "applications[0].arg is not a known key"),
        (("applications", 0, "args"), "num_slot", "args.num_slot is not a known key"),
        (("applications", 0, "args", "limits"), "timeout", "args.limits.timeout is not a known"),
        (("applications", 0, "deployments", 0), "num_replica", "did you mean 'num_replicas'?"),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_gpu", "'num_gpus'?"),
        (("applications", 0, "deployments", 0, "autoscaling_config"), "min_replica", "'min_re"),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config", "policy"),
            "policy_kwarg",
            "autoscaling_config.policy.policy_kwarg is not a known key",
        ),
    ],
)
def test_an_unknown_key_is_found_at_every_level(mapping, path, key, text):
    section = mapping
    for part in path:
        section = section[part]
    section[key] = 1
    with pytest.raises(ConfigError) as raised:
        check_serve_config(mapping, where="x.yaml")
    (problem,) = raised.value.problems
    assert problem.startswith("x.yaml: ")
    assert text in problem


def test_wrong_values_names_and_too_little_patience_are_found(mapping):
    deployment = mapping["applications"][0]["deployments"][0]
    deployment |= {"graceful_shutdown_timeout_s": 20, "name": "raypixl"}
    mapping["http_options"]["port"] = "many"
    with pytest.raises(ConfigError) as raised:
        check_serve_config(mapping, where="x")
    text = "\n".join(raised.value.problems)
    assert "http_options.port" in text
    assert "name must be 'raypixel', got 'raypixl', did you mean 'raypixel'?" in text
    assert "must be at least args.limits.timeout_s, 300, or accepted requests are cut" in text
    mapping["applications"][0]["import_path"] = "other.module:app"
    mapping["http_options"]["port"] = 80
    with pytest.raises(ConfigError, match="applications must be one of import_path raypixel"):
        from_config(check_serve_config(mapping, where="x"), where="x")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.2", False), ("example.org", False),
    ],
)  # fmt: skip
def test_keys_are_required_beyond_this_machine(host, is_ours):
    assert is_loopback(host) is is_ours
    require_keys(Keys(["a-key-of-this-test"]), host)
    if is_ours:
        require_keys(Keys(), host)
    else:
        with pytest.raises(ServingError, match=r"an API key must be given .* got none for the"):
            require_keys(Keys(), host)


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-of-the-file\n\n second-key-of-file \n")
    keys = read_keys(file, {"RAYPIXEL_API_KEYS": "third-key-in-environment, "})
    for key in ("first-key-of-the-file", "second-key-of-file", "third-key-in-environment"):
        assert keys.knows({"authorization": f"bearer {key}"})
    assert not keys.knows({"authorization": "Bearer # ours"})
    assert not keys.knows({})
    for text, problem in (("", "must hold an API key"), ("short\n", "must have 16 or more")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            read_keys(file, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none", {})


def test_keys_of_the_driver_are_handed_on_as_digests():
    driver, own = Keys(["first-key-of-the-driver"]), Keys(["a-key-of-the-replica"])
    both = pickle.loads(pickle.dumps(driver)) | own
    for key in ("first-key-of-the-driver", "a-key-of-the-replica"):
        assert both.knows({"x-api-key": key})
        assert key.encode() not in pickle.dumps(both)
    assert not both.knows({"x-api-key": "another-key-of-nobody"})
    assert not Keys() | Keys()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ActorDiedError(),
            "The actor died unexpectedly before finishing this task. (is the machine short of memory, or very busy?)",
        ),
        (RuntimeError("Traceback:\n  x\n\nRuntimeError: no port\n\n"), "RuntimeError: no port"),
        (GetTimeoutError("Get timed out"), "Get timed out"),
        (RuntimeError(""), "RuntimeError"),
    ],
)
def test_a_service_that_does_not_start_says_so_in_one_line(monkeypatch, error, line):
    def start(**options):
        raise error

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "shutdown", lambda: None)
    with pytest.raises(ServingError) as raised:
        app.start(Launch(Settings(models={"a": "x"})))
    assert str(raised.value) == f"the service does not start: {line}"


def test_models_are_named_after_their_folder_or_as_asked(monkeypatch):
    assert parse_models((), "runs/digits/") == {"digits": "runs/digits/"}
    assert parse_models((), "models:/best@champion") == {"best": "models:/best@champion"}
    assert list(parse_models(("a=x", "b=y=z"), "runs/c")) == ["c", "a", "b"]
    monkeypatch.setattr(zoo, "zoo_names", lambda: [])
    for texts, problem in ((("a",), "NAME=CHECKPOINT"), (("a=x", "a=y"), "twice"), ((), "none")):
        with pytest.raises(ConfigError, match=problem):
            parse_models(texts, None)


def test_what_would_fail_in_a_replica_fails_before_ray_starts(tmp_path, private_mlflow):
    settings = Settings(models={"a": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="must be a name of letters"):
        parse(Settings, {"models": {"a b": "x"}}, where="args")
    with pytest.raises(CheckpointError, match="must be a checkpoint directory, got nothing there"):
        check(Launch(settings), is_local=True, environment={})
    with pytest.raises(ServingError, match="an API key must be given"):
        check(Launch(settings, host="0.0.0.0"), is_local=True, environment={})
    registered = Settings(models={"a": "models:/none@champion"})
    with pytest.raises(TrackingError, match="models:/none@champion is not there"):
        check(Launch(registered), is_local=True, environment={})
    if not torch.cuda.is_available():
        on_gpu = settings.model_copy(update={"device": "cuda"})
        with pytest.raises(RaypixelError, match="device must be there, got 'cuda'"):
            check(Launch(on_gpu), is_local=True, environment={})


class Context:
    """What Ray Serve tells a policy, as far as ours looks."""

    def __init__(self, left, requests=0):
        self.aggregated_metrics = {"remaining_sub_pixels": left}
        self.total_num_requests = requests
        self.capacity_adjusted_min_replicas, self.capacity_adjusted_max_replicas = 1, 4


def test_replicas_follow_the_sub_pixels_that_are_left():
    policy = RemainingSubPixels(1000)
    assert policy(Context({"a": 2500})) == (3, {})
    assert policy(Context({"a": 1000, "b": 1500, "c": 0})) == (3, {})
    assert policy(Context({"a": 99_000})) == (4, {})
    assert policy(Context({})) == (1, {})
